//! `Idempotency-Key`: a request that comes again gets the answer of the first time, and its points are not taken twice.
//!
//! The newest ten thousand keys are remembered, in memory and in a small journal of their own, in which a key is durable before its request is
//! answered: it outlives a restart. Only a crash in the moment between the two (the points durable, their key not yet, nothing answered) lets a
//! request be taken again.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use farshore_domain::digest::Digest;
use farshore_journal::{
    AtRest, Bounds, Class, Config, Journal, JournalError, Overflow, PointBatch, StreamConfig, StreamName,
    Value,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::ingest::lock;

const MAX_KEYS: usize = 10_000;
pub(super) const MAX_KEY_BYTES: usize = 255;
/// The folder of the keys' journal, within the gateway's.
const FOLDER: &str = "recent";
/// What the keys' journal says of its own losses: keys that are old enough to be forgotten. Nobody needs to hear of it.
const LOSSES: &str = "journal/losses";
/// As often as the keys' journal lets old keys go.
const TIDY_EVERY: u64 = MAX_KEYS as u64 / 4;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) status: StatusCode,
    pub(super) content_type: Option<&'static str>,
    pub(super) body: Bytes,
}

#[derive(Debug)]
struct Entry {
    /// Of the whole request.
    body: Digest,
    /// Nothing while the first request is still under way.
    said: Option<Said>,
}

#[derive(Debug)]
pub(crate) struct Recent {
    keys: Mutex<Keys>,
    journal: Journal,
    stream: StreamName,
    kept: AtomicU64,
}

#[derive(Debug, Default)]
struct Keys {
    entries: HashMap<String, Entry>,
    order: VecDeque<String>,
}

/// A key as it lies on the disk.
#[derive(Serialize, Deserialize)]
struct Written {
    key: String,
    body: Digest,
    status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    answer: String,
}

/// What a key means.
#[derive(Debug)]
pub(super) enum Key {
    /// It is new, and held for this request.
    New,
    /// It was used, for another request.
    Other,
    /// The first request is still under way.
    UnderWay,
    Again(Said),
}

pub(super) const JSON: &str = "application/json";
pub(super) const PROTOBUF: &str = "application/x-protobuf";

impl Written {
    fn read(self) -> Option<(String, Entry)> {
        let content_type = match self.content_type.as_deref() {
            None => None,
            Some(JSON) => Some(JSON),
            Some(PROTOBUF) => Some(PROTOBUF),
            Some(_) => return None,
        };
        let said = Said {
            status: StatusCode::from_u16(self.status).ok()?,
            content_type,
            body: STANDARD.decode(self.answer).ok()?.into(),
        };
        Some((self.key, Entry { body: self.body, said: Some(said) }))
    }
}

impl Recent {
    /// Opens the keys that a gateway remembers in its folder. Keys that can't be read are forgotten, and said.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn open(folder: &Path) -> Result<Self, JournalError> {
        let folder = folder.join(FOLDER);
        let mut keys = Keys::default();
        match known(&folder) {
            Ok(written) => {
                for (key, entry) in written.into_iter().filter_map(Written::read) {
                    keys.put(key, entry);
                }
            }
            Err(JournalError::NoJournal { .. }) => {}
            Err(error) => tracing::warn!(%error, "keys of requests are forgotten: they can't be read"),
        }
        let stream: StreamName = "keys".parse().map_err(|_| JournalError::Closed)?;
        let config = StreamConfig {
            bounds: Bounds { points: 2 * MAX_KEYS as u64, ..Bounds::NONE },
            overflow: Overflow::DropOldest,
            ..StreamConfig::of(Class::Log)
        };
        let journal = Journal::open(&folder, Config { default_stream: config, ..Config::default() })?;
        Ok(Self { keys: Mutex::new(keys), journal, stream, kept: AtomicU64::new(0) })
    }

    pub(super) fn claim(&self, key: &str, body: Digest) -> Key {
        let mut keys = lock(&self.keys);
        match keys.entries.get(key) {
            Some(entry) if entry.body != body => return Key::Other,
            Some(Entry { said: None, .. }) => return Key::UnderWay,
            Some(Entry { said: Some(said), .. }) => return Key::Again(said.clone()),
            None => {}
        }
        keys.put(key.to_owned(), Entry { body, said: None });
        Key::New
    }

    /// Remembers the answer: durable when this is done. A disk that does not take it costs the memory of it over a restart, not the answer.
    pub(super) async fn keep(&self, key: &str, said: &Said) {
        let body = {
            let mut keys = lock(&self.keys);
            let Some(entry) = keys.entries.get_mut(key) else { return };
            entry.said = Some(said.clone());
            entry.body
        };
        let written = Written {
            key: key.to_owned(),
            body,
            status: said.status.as_u16(),
            content_type: said.content_type.map(str::to_owned),
            answer: STANDARD.encode(&said.body),
        };
        if let Err(error) = self.write(&written).await {
            tracing::warn!(%error, "the key of a request is not remembered over a restart");
        }
        if self.kept.fetch_add(1, Ordering::Relaxed) % TIDY_EVERY == TIDY_EVERY - 1 {
            let journal = self.journal.clone();
            match tokio::task::spawn_blocking(move || tidy(&journal)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the journal of keys can't be tidied"),
                Err(error) => tracing::error!(%error, "the journal of keys can't be tidied"),
            }
        }
    }

    async fn write(&self, written: &Written) -> Result<(), JournalError> {
        // Text and numbers always have a form in JSON.
        let text = serde_json::to_string(written).unwrap_or_default();
        let mut batch = PointBatch::new();
        let series = batch.series("key", "", [])?;
        batch.push(series, clock::wall_ns(), Value::Text(text))?;
        self.journal.append(&self.stream, &batch).await.map(|_| ())
    }

    /// Gives a key free whose request is to come again.
    pub(super) fn free(&self, key: &str) {
        let mut keys = lock(&self.keys);
        if keys.entries.get(key).is_some_and(|entry| entry.said.is_none()) {
            keys.entries.remove(key);
            keys.order.retain(|other| other != key);
        }
    }

    pub(crate) fn close(&self) {
        self.journal.close();
    }
}

impl Keys {
    fn put(&mut self, key: String, entry: Entry) {
        while self.entries.len() >= MAX_KEYS {
            let Some(oldest) = self.order.pop_front() else { break };
            self.entries.remove(&oldest);
        }
        if self.entries.insert(key.clone(), entry).is_none() {
            self.order.push_back(key);
        }
    }
}

/// The keys on the disk, oldest first.
fn known(folder: &Path) -> Result<Vec<Written>, JournalError> {
    let rest = AtRest::open(folder)?;
    let mut written: Vec<(i64, Written)> = Vec::new();
    for part in rest.parts()?.into_iter().filter(|part| part.stream.as_str() == "keys") {
        let Some(contents) = rest.contents(&part)? else { continue };
        for (_, at_ns, value) in contents.points.points() {
            if let Value::Text(text) = value
                && let Ok(one) = serde_json::from_str(text)
            {
                written.push((at_ns, one));
            }
        }
    }
    written.sort_by_key(|(at_ns, _)| *at_ns);
    Ok(written.into_iter().map(|(_, one)| one).collect())
}

/// Forgets what the keys' journal says of keys that it let go.
fn tidy(journal: &Journal) -> Result<(), JournalError> {
    journal.seal_all()?;
    while let Some(next) = journal.next_batch(u64::MAX)? {
        if next.stream.as_str() != LOSSES {
            journal.release(&next.stream, next.sequence);
            break;
        }
        journal.acknowledge(&next.stream, next.sequence)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        Said { status: StatusCode::OK, content_type: Some(JSON), body: Bytes::from_static(b"{}") }
    }

    #[tokio::test]
    async fn a_key_is_taken_once_and_answered_again_also_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let recent = Recent::open(folder.path()).expect("a journal");
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        assert!(matches!(recent.claim("k", one), Key::New));
        assert!(matches!(recent.claim("k", one), Key::UnderWay));
        recent.keep("k", &said()).await;
        recent.free("k");
        assert!(matches!(recent.claim("k", one), Key::Again(_)));
        assert!(matches!(recent.claim("k", two), Key::Other));
        assert!(matches!(recent.claim("j", one), Key::New));
        recent.free("j");
        assert!(matches!(recent.claim("j", two), Key::New));
        // As after a crash: nothing was closed.
        recent.close();
        drop(recent);
        let recent = Recent::open(folder.path()).expect("a journal");
        assert!(matches!(recent.claim("k", one), Key::Again(answer) if answer == said()));
        assert!(matches!(recent.claim("k", two), Key::Other));
        assert!(matches!(recent.claim("j", two), Key::New), "it was never answered");
    }

    #[tokio::test]
    async fn the_oldest_keys_go_from_memory_and_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let recent = Recent::open(folder.path()).expect("a journal");
        let body = Digest::of(b"");
        for number in 0..=MAX_KEYS {
            recent.claim(&number.to_string(), body);
        }
        assert_eq!(lock(&recent.keys).entries.len(), MAX_KEYS);
        assert!(matches!(recent.claim("0", body), Key::New));
        // On the disk, many at once.
        let mut batch = PointBatch::new();
        let series = batch.series("key", "", []).expect("a series");
        for number in 0..1_000 {
            batch.push(series, number, Value::Text("{}".into())).expect("room");
        }
        for _ in 0..30 {
            recent.journal.append(&recent.stream, &batch).await.expect("durable");
        }
        let journal = recent.journal.clone();
        tokio::task::spawn_blocking(move || tidy(&journal)).await.expect("done").expect("tidied");
        assert!(recent.journal.stats().pending_points() <= 2 * MAX_KEYS as u64);
    }
}
