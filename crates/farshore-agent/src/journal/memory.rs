//! A journal in memory, for virtual devices: gone with the process.

use std::collections::{BTreeMap, VecDeque};

use super::{Batch, Change, EVENTS, INCIDENTS, Journal, JournalError, OPERATIONS};

/// A journal in memory, at most so many bytes of batches.
#[derive(Debug)]
pub struct MemoryJournal {
    values: BTreeMap<String, Vec<u8>>,
    streams: BTreeMap<String, Stream>,
    bytes: usize,
    cap: usize,
}

#[derive(Debug, Default)]
struct Stream {
    last: u64,
    dropped: u64,
    batches: VecDeque<Batch>,
}

impl MemoryJournal {
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self { values: BTreeMap::new(), streams: BTreeMap::new(), bytes: 0, cap }
    }

    fn shrink(&mut self) {
        while self.bytes > self.cap {
            let kept = |name: &str| match name {
                EVENTS => 1,
                INCIDENTS => 2,
                OPERATIONS => 3,
                _ => 0,
            };
            let fullest = self
                .streams
                .iter_mut()
                .filter(|(_, stream)| !stream.batches.is_empty())
                .max_by_key(|(name, stream)| (std::cmp::Reverse(kept(name)), stream.batches.len()));
            let Some((_, stream)) = fullest else { return };
            if let Some(batch) = stream.batches.pop_front() {
                self.bytes -= batch.bytes.len();
                stream.dropped += 1;
            }
        }
    }
}

impl Journal for MemoryJournal {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(self.values.get(key).cloned())
    }

    fn apply(&mut self, change: Change) -> Result<(), JournalError> {
        for (key, value) in change.values {
            match value {
                Some(value) => self.values.insert(key, value),
                None => self.values.remove(&key),
            };
        }
        for (stream, bytes) in change.batches {
            self.bytes += bytes.len();
            let stream = self.streams.entry(stream).or_default();
            stream.last += 1;
            stream.batches.push_back(Batch { sequence: stream.last, bytes });
        }
        self.shrink();
        Ok(())
    }

    fn streams(&self) -> Result<BTreeMap<String, u64>, JournalError> {
        Ok(self.streams.iter().map(|(name, stream)| (name.clone(), stream.last)).collect())
    }

    fn pending(&self, stream: &str, after: u64, limit: usize) -> Result<Vec<Batch>, JournalError> {
        let batches = self.streams.get(stream).into_iter().flat_map(|stream| &stream.batches);
        Ok(batches.filter(|batch| batch.sequence > after).take(limit).cloned().collect())
    }

    fn acknowledge(&mut self, stream: &str, sequence: u64) -> Result<(), JournalError> {
        let stream = self.streams.entry(stream.to_owned()).or_default();
        if sequence > stream.last {
            stream.last += sequence;
            for batch in &mut stream.batches {
                batch.sequence += sequence;
            }
            return Ok(());
        }
        while let Some(batch) = stream.batches.pop_front_if(|batch| batch.sequence <= sequence) {
            self.bytes -= batch.bytes.len();
        }
        Ok(())
    }

    fn trim(&mut self, stream: &str, through: u64, bytes: u64) -> Result<u64, JournalError> {
        let Some(stream) = self.streams.get_mut(stream) else { return Ok(0) };
        let mut held: u64 = stream.batches.iter().map(|batch| batch.bytes.len() as u64).sum();
        let mut dropped = 0;
        while let Some(batch) = stream.batches.pop_front_if(|batch| batch.sequence <= through || held > bytes)
        {
            held = held.saturating_sub(batch.bytes.len() as u64);
            self.bytes -= batch.bytes.len();
            stream.dropped += 1;
            dropped += 1;
        }
        Ok(dropped)
    }

    fn dropped(&self) -> Result<BTreeMap<String, u64>, JournalError> {
        let dropped = self.streams.iter().filter(|(_, stream)| stream.dropped > 0);
        Ok(dropped.map(|(name, stream)| (name.clone(), stream.dropped)).collect())
    }
}
