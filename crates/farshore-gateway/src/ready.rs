//! What `/ready` needs to know: who listens, and whether the journal can be written.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use farshore_journal::JournalError;

use crate::ingest::lock;

/// An answer of the disk holds for so long: supervisors may ask often, and each look costs a sync.
const FRESH_NS: i64 = 2_000_000_000;
/// A disk that takes longer does not take writes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which listeners there should be, and which there are.
#[derive(Debug, Default)]
pub(crate) struct Listening(Mutex<BTreeMap<&'static str, bool>>);

/// A listener that is up, until this goes.
#[derive(Debug)]
pub(crate) struct Up<'l> {
    listening: &'l Listening,
    name: &'static str,
}

impl Listening {
    pub(crate) fn up(&self, name: &'static str) -> Up<'_> {
        lock(&self.0).insert(name, true);
        Up { listening: self, name }
    }

    pub(crate) fn states(&self) -> BTreeMap<&'static str, bool> {
        lock(&self.0).clone()
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        lock(&self.listening.0).insert(self.name, false);
    }
}

/// Asks the disk, one at a time, and remembers the answer for a moment.
#[derive(Debug, Default)]
pub(crate) struct WriteProbe {
    last: tokio::sync::Mutex<Option<(i64, Result<(), String>)>>,
}

impl WriteProbe {
    pub(crate) async fn ask(
        &self,
        now_mono_ns: i64,
        probe: impl FnOnce() -> Result<(), JournalError> + Send + 'static,
    ) -> Result<(), String> {
        let mut last = self.last.lock().await;
        if let Some((at_ns, Ok(()))) = &*last
            && now_mono_ns.saturating_sub(*at_ns) < FRESH_NS
        {
            return Ok(());
        }
        let told = match tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(probe)).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the disk did not answer in {} s", PATIENCE.as_secs())),
        };
        *last = Some((now_mono_ns, told.clone()));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_whose_task_has_ended_is_told() {
        let listening = Listening::default();
        let up = listening.up("http");
        let _other = listening.up("mqtt");
        assert!(listening.states().values().all(|up| *up));
        drop(up);
        assert_eq!(listening.states(), BTreeMap::from([("http", false), ("mqtt", true)]));
    }

    #[tokio::test]
    async fn a_good_answer_holds_for_a_moment_and_a_bad_one_is_asked_again() {
        let probe = WriteProbe::default();
        assert_eq!(
            probe.ask(0, || Err(JournalError::DiskFull)).await.map_err(|e| e.contains("full")),
            Err(true)
        );
        assert_eq!(probe.ask(1, || Ok(())).await, Ok(()));
        assert_eq!(probe.ask(2, || Err(JournalError::DiskFull)).await, Ok(()));
        assert!(probe.ask(FRESH_NS + 2, || Err(JournalError::DiskFull)).await.is_err());
    }
}
