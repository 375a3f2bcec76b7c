//! `farshore bench NAME`: measurements, started by `cargo xtask bench`.

use crate::failure::{Failure, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which one, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let name = arguments.rest.first().map_or("", String::as_str);
    Err(Failure::usage(format!("there is no bench {name:?}")))
}
