//! Events: numbered by one sequencer, read in pages, followed over SSE.
//!
//! - [`sequencer`] numbers committed events a moment after they are written, and publishes them.
//! - [`feed`] is where streams get them from: one broadcast for each tenant that somebody follows.
//! - [`stream`] joins what the database has with what comes, so that a reader who resumes misses nothing and sees nothing twice.

pub mod feed;
mod routes;
pub mod sequencer;
pub mod stream;

pub use feed::Feed;
pub use routes::{EventDocs, routes};
pub use sequencer::spawn;

use farshore_api::event::{Event, Subject};
use farshore_store::events::EventRow;

/// A stored event as the API shows it.
#[must_use]
pub fn view(row: EventRow) -> Event {
    Event {
        uid: row.uid,
        sequence: row.sequence,
        at: row.at,
        kind: row.kind,
        subject: Subject { kind: row.subject_kind, uid: row.subject, name: row.subject_name },
        actor: row.actor,
        message: row.message,
        payload: row.payload,
    }
}
