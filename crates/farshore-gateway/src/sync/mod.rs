//! From the journal to the cloud.
//!
//! An [`Uplink`] carries exchanges to a control plane; the sender decides when and what. After each start, and after each failure, the sender
//! first asks what has arrived: what was stored and never acknowledged goes from the journal, so that it has effect once. Then it sends what waits, in the
//! order that the journal gives: alerts first, the other classes by their shares, live data between a backlog. What the control plane refuses for good is
//! set aside and counted, and the stream goes on.

pub(crate) mod metered;
mod pace;
mod sender;
mod state;
mod turn;
mod uplink;

pub(crate) use pace::Backoff;
pub(crate) use sender::{Forced, Sender, ingest_key_on_disk};
pub(crate) use state::SyncState;
pub use uplink::{
    ConfigSeen, DeviceConfig, Exchange, ForcedSync, GivenPipelines, IngestKeyName, PipelineReport,
    ProcessingReport, RefusedReport, StepReport, StreamMark, StreamReport, SyncAnswer, SyncReport,
    SyncRequest, Uplink, UplinkError,
};
