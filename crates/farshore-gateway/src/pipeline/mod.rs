//! Processing on the device: pipelines that filter, change, gather and judge points as they come in, and act with no cloud in sight.
//!
//! [`Definition`] is what is written, checked as a whole. [`Engine`] runs it: pure, with the clock handed in. `runner` stands between the journal
//! and the engine: points come to it when they are durable, in the order in which the journal has them, and what the engine remembers is kept
//! together with the place in the journal up to which it has read.

mod allow;
mod bits;
#[cfg(test)]
mod crash;
mod definition;
mod delivered;
mod engine;
mod expr;
mod keep;
mod output;
mod processor;
mod report;
mod rule;
mod runner;
mod series;
mod sketch;
mod source;
mod step;
mod time;
mod trial;
mod webhook;
mod window;

pub use allow::{WebhookAllow, WebhookAllowError};
pub use definition::{Definition, DefinitionError, Severity};
pub(crate) use delivered::Delivered;
pub use engine::{Engine, EngineCounts, PipelineStatus, Saved, StepStatus};
pub(crate) use keep::Recovery;
pub(crate) use output::PROCESSED;
pub use output::{ALERT_MEASUREMENT, ALERTS, Alert, AlertState, Output};
pub use processor::{DataProcessor, Processed, Processing};
pub(crate) use report::report;
pub use runner::{ConfigStatus, ProcessingStatus};
pub(crate) use runner::{GIVE_UP_AFTER, MAX_CALLS, Runner, Settings, call_webhooks, forget};
pub use series::Context;
pub(crate) use source::{Places, Source};
pub use step::{Now, StepCounts};
pub(crate) use time::Span;
pub use trial::{RecordedSeries, RecordingError, Trial, TrialSummary, read_recording};
