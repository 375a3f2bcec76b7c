//! `Idempotency-Key`: a request that comes again gets the answer of the first time, and its points are not taken twice.
//!
//! Keys are kept in memory, the newest ten thousand. A key does not outlive the process: after a restart, a request whose answer was lost
//! is taken again. (Points of the same series and time are one point for the cloud.)

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;
use farshore_domain::digest::Digest;
use http::StatusCode;

use crate::ingest::lock;

const MAX_KEYS: usize = 10_000;
pub(super) const MAX_KEY_BYTES: usize = 255;

/// What was answered.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) status: StatusCode,
    pub(super) content_type: Option<&'static str>,
    pub(super) body: Bytes,
}

#[derive(Debug)]
struct Entry {
    body: Digest,
    /// Nothing while the first request is still under way.
    said: Option<Said>,
}

#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Keys>);

#[derive(Debug, Default)]
struct Keys {
    entries: HashMap<String, Entry>,
    order: VecDeque<String>,
}

/// What a key means.
#[derive(Debug)]
pub(super) enum Key {
    /// It is new, and held for this request.
    New,
    /// It was used, for another body.
    Other,
    /// The first request is still under way.
    UnderWay,
    Again(Said),
}

impl Recent {
    pub(super) fn claim(&self, key: &str, body: Digest) -> Key {
        let mut keys = lock(&self.0);
        match keys.entries.get(key) {
            Some(entry) if entry.body != body => return Key::Other,
            Some(Entry { said: None, .. }) => return Key::UnderWay,
            Some(Entry { said: Some(said), .. }) => return Key::Again(said.clone()),
            None => {}
        }
        while keys.entries.len() >= MAX_KEYS {
            let Some(oldest) = keys.order.pop_front() else { break };
            keys.entries.remove(&oldest);
        }
        keys.entries.insert(key.to_owned(), Entry { body, said: None });
        keys.order.push_back(key.to_owned());
        Key::New
    }

    /// Keeps the answer, or gives the key free when the request is to come again.
    pub(super) fn settle(&self, key: &str, said: Option<Said>) {
        let mut keys = lock(&self.0);
        match said {
            Some(said) => {
                if let Some(entry) = keys.entries.get_mut(key) {
                    entry.said = Some(said);
                }
            }
            None => {
                keys.entries.remove(key);
                keys.order.retain(|other| other != key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        Said { status: StatusCode::NO_CONTENT, content_type: None, body: Bytes::new() }
    }

    #[test]
    fn a_key_is_taken_once_and_answered_again() {
        let recent = Recent::default();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        assert!(matches!(recent.claim("k", one), Key::New));
        assert!(matches!(recent.claim("k", one), Key::UnderWay));
        recent.settle("k", Some(said()));
        assert!(matches!(recent.claim("k", one), Key::Again(_)));
        assert!(matches!(recent.claim("k", two), Key::Other));
        assert!(matches!(recent.claim("j", one), Key::New));
        recent.settle("j", None);
        assert!(matches!(recent.claim("j", two), Key::New));
    }

    #[test]
    fn the_oldest_keys_go() {
        let recent = Recent::default();
        for number in 0..=MAX_KEYS {
            recent.claim(&number.to_string(), Digest::of(b""));
            recent.settle(&number.to_string(), Some(said()));
        }
        assert_eq!(lock(&recent.0).entries.len(), MAX_KEYS);
        assert!(matches!(recent.claim("0", Digest::of(b"")), Key::New));
    }
}
