//! What is done by hand to a gateway's journal: look into it, check it, take points out and put them back.

mod look;
mod transfer;

use std::path::PathBuf;

use farshore_journal::JournalError;

pub use look::{Checked, Inspection, check, inspect};
pub use transfer::{Exported, Form, Imported, export, import};

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ByHandError {
    #[error("the journal can't be used")]
    Journal(#[from] JournalError),
    #[error("can't {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is no export: {what}", path.display())]
    NoExport { path: PathBuf, what: String },
    #[error("the device's key in {} can't be used", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: farshore_trust::sealed::SealError,
    },
    #[error("batch {sequence} of stream {stream} was sealed with another device's key; give it with --key")]
    OtherKey { stream: String, sequence: u64 },
    #[error(
        "batch {sequence} of stream {stream} is damaged; look at it with `journal fsck`, or leave it out with --stream"
    )]
    Damaged { stream: String, sequence: u64 },
}
