//! What is logged: `FARSHORE_LOG` is a level, or levels of parts with commas between, such as `info,farshore_gateway=debug`.
//!
//! No regular expressions, as `tracing-subscriber` has for the fields of spans: they would be half a megabyte of every device.

use tracing_subscriber::filter::{LevelFilter, Targets};

const VARIABLE: &str = "FARSHORE_LOG";

/// The filter, from the environment or, without a word there, of `level`.
pub(crate) fn filter(level: &str) -> Targets {
    let usual = || Targets::new().with_default(level.parse().unwrap_or(LevelFilter::INFO));
    let Some(wanted) = std::env::var_os(VARIABLE).filter(|wanted| !wanted.is_empty()) else {
        return usual();
    };
    let filter = wanted.to_str().and_then(|wanted| wanted.parse().ok());
    filter.unwrap_or_else(|| {
        eprintln!(
            "farshore-agent: {VARIABLE} is no level and no list of levels: {}",
            wanted.to_string_lossy()
        );
        usual()
    })
}
