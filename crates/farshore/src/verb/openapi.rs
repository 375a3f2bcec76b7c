//! `farshore openapi`.

use crate::exit::Exit;
use crate::failure::{Failure, Result};

pub(crate) fn run() -> Result<()> {
    Err(Failure::new(Exit::Failed, "can't print the OpenAPI document"))
}
