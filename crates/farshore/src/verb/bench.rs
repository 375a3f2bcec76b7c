//! `farshore bench NAME`: measurements, started by `cargo xtask bench`.

use crate::failure::{Failure, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which one, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    crate::bench::run(arguments.rest)
        .await
        .map_err(|error| Failure::because("the bench could not measure", error.as_ref()))
}
