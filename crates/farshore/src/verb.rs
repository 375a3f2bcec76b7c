//! The verbs, one file each.

pub(crate) mod alert;
pub(crate) mod api_token;
pub(crate) mod apply;
pub(crate) mod artifact;
pub(crate) mod bench;
pub(crate) mod completion;
mod connectivity;
pub(crate) mod context;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod dev;
pub(crate) mod device;
pub(crate) mod diff;
pub(crate) mod document;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod forecast;
pub(crate) mod get;
pub(crate) mod help;
pub(crate) mod incident;
pub(crate) mod key;
pub(crate) mod login;
pub(crate) mod openapi;
pub(crate) mod operate;
pub(crate) mod pipeline;
pub(crate) mod release;
pub(crate) mod rollout;
pub(crate) mod serve;
pub(crate) mod sync;
pub(crate) mod token;
pub(crate) mod twin;
pub(crate) mod wait;

/// Reads `KEY=VALUE`.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no pair; write KEY=VALUE")),
    }
}
