//! `farshore dev`.

use crate::cli::Session;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) async fn run(_: &Session, _: Arguments) -> Result<()> {
    Err(Failure::new(Exit::Failed, "can't run"))
}
