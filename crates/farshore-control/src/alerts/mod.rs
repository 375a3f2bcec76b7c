//! Alerts: rules that are looked at again and again, silences, and routes by which people and programs are told.
//!
//! Two drivers. The evaluator reads facts, lets `farshore_domain::alert` decide, and stores what changed together with the messages it
//! makes. The deliverer sends messages that are due. Each holds a lease, so that one replica does it; whatever is sent twice because
//! of a crash has the same id both times.

mod deliver;
mod driver;
mod email;
mod facts;
pub(crate) mod guard;
mod payload;
mod routes;
mod rules;
mod targets;
mod tell;
pub(crate) mod webhook;

use tokio::sync::Notify;

pub use driver::spawn;
pub use guard::Targets;
pub use routes::{AlertDocs, routes};

/// The drivers' ears.
#[derive(Debug, Default)]
pub struct Alerts {
    evaluate: Notify,
    deliver: Notify,
}

impl Alerts {
    /// Something that rules look at has changed.
    pub fn changed(&self) {
        self.evaluate.notify_one();
    }

    /// There may be something to send.
    fn queued(&self) {
        self.deliver.notify_one();
    }
}
