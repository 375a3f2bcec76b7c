//! `farshore openapi`.

use crate::failure::{Failure, Result};
use crate::output;

pub(crate) fn run() -> Result<()> {
    let document = serde_json::to_string_pretty(&farshore_control::openapi::openapi())
        .map_err(|error| Failure::because("can't write the OpenAPI document", &error))?;
    output::print(&format!("{document}\n"))
}
