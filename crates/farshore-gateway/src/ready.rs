//! What `/ready` and `/health` need to know: who listens, whether the journal can be written, and whether it takes what comes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore_journal::{JournalError, StreamName};
use tokio::sync::watch;

use crate::clock;
use crate::gateway::Shared;
use crate::ingest::lock;

/// An answer of the disk holds for so long: supervisors may ask often, and each look costs a sync.
const FRESH_NS: i64 = 2_000_000_000;
/// A disk that takes longer does not take writes.
const PATIENCE: Duration = Duration::from_secs(5);
/// A stream that refused readings counts as refusing until it takes some again, or until nobody was refused for so long: producers come again
/// after half of it.
const REFUSES_NS: i64 = 60_000_000_000;
/// How often it is looked whether what was refused could be taken again.
const LOOK: Duration = Duration::from_secs(2);
/// Streams whose refusals are remembered.
const MAX_REFUSING: usize = 64;

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
            Ok(Ok(Err(error))) => Err(why(&error)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the disk did not answer in {} s", PATIENCE.as_secs())),
        };
        *last = Some((now_mono_ns, told.clone()));
        told
    }
}

fn why(error: &JournalError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Whether readings are taken: what the journal said to the last append of each stream, and the disk to the last probe.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    /// Nothing is refused: nobody has to look further.
    refuses: AtomicBool,
    trouble: Mutex<Trouble>,
}

#[derive(Debug)]
struct Refusal {
    /// The last time.
    at_mono_ns: i64,
    why: String,
    /// It is the disk, and not a bound that was set.
    disk: bool,
}

#[derive(Debug, Default)]
struct Trouble {
    /// Streams that refuse readings.
    streams: BTreeMap<StreamName, Refusal>,
    /// Why the last probe failed.
    disk: Option<String>,
}

impl Taking {
    /// The journal's answer to an append.
    pub(crate) fn answered<T>(
        &self,
        now_mono_ns: i64,
        stream: &StreamName,
        answer: &Result<T, JournalError>,
    ) {
        match answer {
            Ok(_) if !self.refuses.load(Ordering::Relaxed) => {}
            Ok(_) => self.change(|trouble| drop(trouble.streams.remove(stream))),
            // It passes by itself in a moment, or a probe finds what is wrong.
            Err(JournalError::Busy) => {}
            // What only this append is to blame for keeps no other one out.
            Err(error) if error.retry_after().is_none() => {}
            Err(error) => self.change(|trouble| {
                if trouble.streams.len() < MAX_REFUSING || trouble.streams.contains_key(stream) {
                    let disk = !matches!(error, JournalError::Full { .. });
                    let refusal = Refusal { at_mono_ns: now_mono_ns, why: why(error), disk };
                    trouble.streams.insert(stream.clone(), refusal);
                }
            }),
        }
    }

    /// The disk's answer to a probe.
    pub(crate) fn probed(&self, answer: &Result<(), String>) {
        if answer.is_err() || self.refuses.load(Ordering::Relaxed) {
            self.change(|trouble| trouble.disk = answer.clone().err());
        }
    }

    fn change(&self, change: impl FnOnce(&mut Trouble)) {
        let mut trouble = lock(&self.trouble);
        change(&mut trouble);
        self.refuses.store(trouble.disk.is_some() || !trouble.streams.is_empty(), Ordering::Relaxed);
    }

    /// Why readings are refused at this moment; nothing while they are taken.
    pub(crate) fn refusal(&self, now_mono_ns: i64) -> Option<String> {
        if !self.refuses.load(Ordering::Relaxed) {
            return None;
        }
        self.change(|trouble| {
            trouble.streams.retain(|_, refusal| now_mono_ns.saturating_sub(refusal.at_mono_ns) < REFUSES_NS);
        });
        let trouble = lock(&self.trouble);
        let newest = trouble.streams.values().max_by_key(|refusal| refusal.at_mono_ns);
        trouble.disk.clone().or_else(|| newest.map(|refusal| refusal.why.clone()))
    }

    /// Whether only the disk can say when readings are taken again.
    fn asks_disk(&self) -> bool {
        if !self.refuses.load(Ordering::Relaxed) {
            return false;
        }
        let trouble = lock(&self.trouble);
        trouble.disk.is_some() || trouble.streams.values().any(|refusal| refusal.disk)
    }
}

/// Asks the disk again while it refuses readings, so that the gateway is well again without anybody who sends or asks.
pub(crate) async fn watch(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            // Whoever told it is gone: the gateway ends.
            _ = stopped.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let taking = &shared.ingest.taking;
        if taking.refusal(clock::mono_ns()).is_some()
            && taking.asks_disk()
            && let Err(why) = shared.can_write().await
        {
            tracing::debug!(why, "the journal can't be written yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_refuses_is_told_until_it_takes_again_or_nobody_was_refused_for_a_minute() {
        let taking = Taking::default();
        let [one, other] = ["data/a", "data/b"].map(|name| name.parse::<StreamName>().expect("a name"));
        let full = || Err::<(), _>(JournalError::DiskFull);
        assert_eq!(taking.refusal(0), None);
        taking.answered(0, &one, &full());
        taking.answered(0, &other, &Ok(()));
        assert!(
            taking.refusal(1).is_some_and(|why| why.contains("disk is full")),
            "another stream's luck is its own"
        );
        taking.answered(2, &one, &Ok(()));
        assert_eq!(taking.refusal(2), None);
        taking.answered(3, &one, &full());
        assert!(taking.refusal(REFUSES_NS + 2).is_some());
        assert_eq!(taking.refusal(REFUSES_NS + 3), None);
        let large = Err::<(), _>(JournalError::TooLarge { bytes: 2, max: 1 });
        taking.answered(4, &one, &large);
        taking.answered(4, &one, &Err::<(), _>(JournalError::Busy));
        assert_eq!(taking.refusal(4), None, "that is no fault of the journal");
        taking.answered(5, &one, &Err::<(), _>(JournalError::Full { stream: one.clone() }));
        assert!(taking.refusal(5).is_some() && !taking.asks_disk(), "each look at the disk wears it");
        taking.answered(5, &other, &full());
        assert!(taking.asks_disk());
    }

    #[test]
    fn a_disk_that_fails_is_told_until_it_answers_again() {
        let taking = Taking::default();
        let stream: StreamName = "data/a".parse().expect("a name");
        taking.probed(&Err("the disk is full".to_owned()));
        taking.answered(0, &stream, &Ok(()));
        assert_eq!(taking.refusal(i64::MAX).as_deref(), Some("the disk is full"));
        taking.answered(0, &stream, &Err::<(), _>(JournalError::DiskFull));
        taking.probed(&Ok(()));
        assert!(taking.refusal(1).is_some(), "there is room for a probe and not for readings");
        assert_eq!(taking.refusal(REFUSES_NS), None);
    }

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
