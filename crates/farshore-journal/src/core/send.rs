//! What goes next, and what has arrived.

use farshore_trust::sealed::{Batch, IngestPublicKey, SealError, seal};

use super::{Core, Loss, QUARANTINE};
use crate::clock::Now;
use crate::config::{Backfill, Class};
use crate::error::JournalError;
use crate::stats::LossReason;
use crate::stream::StreamName;

/// A sealed batch on its way: the bytes as they lie on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The stream.
    pub stream: StreamName,
    /// Its class.
    pub class: Class,
    /// The journal's epoch.
    pub epoch: u64,
    /// The batch's number.
    pub sequence: u64,
    /// Everything of this stream below this number has been settled: delivered, or lost and said so. What the other
    /// side keeps to know duplicates by, it may forget below.
    pub floor: u64,
    /// How many points.
    pub points: u32,
    /// The sealed bytes.
    pub bytes: Vec<u8>,
}

impl Outgoing {
    /// The id of the ingest key that it was sealed for.
    #[must_use]
    pub fn sealed_for(&self) -> Option<[u8; 8]> {
        Batch::read(&self.bytes).ok()?.header().for_ingest.map(|(id, _)| id)
    }
}

/// What a look at the other side's mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerMark {
    /// So many batches had arrived whose acknowledgement had not.
    Settled(u64),
    /// The other side has batches that this journal never wrote: its folder was set back to an older state. Numbers now
    /// go on behind what the other side has.
    Ahead,
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// What each class is owed.
    credit: [i64; 4],
    last: Option<StreamName>,
    served: u64,
}

/// Shares of the classes behind alerts.
const SHARES: [i64; 4] = [0, 4, 4, 1];
/// While a backlog drains, every so many batches one is taken from its other end, so that live data comes through (or, under
/// newest first, the backlog).
const OTHER_END_EVERY: u64 = 4;

impl Core {
    /// The next batch of at most `budget` bytes; it counts as on its way until it is acknowledged or released.
    #[cfg(test)]
    pub(crate) fn next_batch(&mut self, now: Now, budget: u64) -> Result<Option<Outgoing>, JournalError> {
        self.next_batch_of(now, budget, &Class::ALL)
    }

    /// The same of streams of these classes only.
    pub(crate) fn next_batch_of(
        &mut self,
        now: Now,
        budget: u64,
        classes: &[Class],
    ) -> Result<Option<Outgoing>, JournalError> {
        self.last_asked = Some(now.mono_ns);
        while let Some((name, sequence)) = self.choose(budget, classes) {
            let Some(stream) = self.streams.get_mut(&name) else { break };
            let floor = floor(stream);
            let Some(sealed) = stream.held.sealed().get(&sequence) else { break };
            let bytes = self.files.read(&sealed.name, super::MAX_FILE_BYTES);
            let bytes = bytes.map_err(|e| JournalError::io("read a batch", e))?;
            let whole = Batch::read(&bytes).is_ok_and(|batch| {
                batch.header().sequence == sequence && batch.header().stream == name.as_str()
            });
            if !whole {
                self.set_aside(now, &name, sequence)?;
                continue;
            }
            let points = sealed.kept.span.points;
            stream.held.set_in_flight(sequence, true);
            let epoch = Batch::read(&bytes).map_or(self.epoch, |batch| batch.header().epoch);
            return Ok(Some(Outgoing {
                class: stream.config.class,
                stream: name,
                epoch,
                sequence,
                floor,
                points,
                bytes,
            }));
        }
        Ok(None)
    }

    /// Batches that are gone, or whose times are about to be set right.
    fn not_to_send(&self, name: &StreamName) -> std::collections::HashSet<u64> {
        let mut numbers = self.going(name);
        if !self.corrections.is_empty() {
            numbers.extend(self.held_back(name));
        }
        numbers
    }

    fn choose(&mut self, budget: u64, classes: &[Class]) -> Option<(StreamName, u64)> {
        let ready: Vec<(Class, StreamName)> = self
            .streams
            .iter()
            .filter(|(_, stream)| classes.contains(&stream.config.class))
            .filter(|(name, stream)| {
                let going = self.not_to_send(name);
                let fits = |(n, s): (&u64, &super::Sealed)| {
                    !s.in_flight && s.kept.bytes <= budget && !going.contains(n)
                };
                stream.held.sealed().iter().any(fits)
            })
            .map(|(name, stream)| (stream.config.class, name.clone()))
            .collect();
        let class = self.class_of_turn(&ready)?;
        // Streams of one class take turns.
        let mut names: Vec<&StreamName> =
            ready.iter().filter(|(candidate, _)| *candidate == class).map(|(_, name)| name).collect();
        names.sort();
        let after = self.turns.last.as_ref();
        let name =
            names.iter().find(|name| Some(**name) > after).or_else(|| names.first()).map(|n| (*n).clone())?;
        self.turns.last = Some(name.clone());
        self.turns.served += 1;
        let other_end = self.turns.served.is_multiple_of(OTHER_END_EVERY);
        let stream = self.streams.get(&name)?;
        let going = self.not_to_send(&name);
        let mut fitting = stream
            .held
            .sealed()
            .iter()
            .filter(|(n, s)| !s.in_flight && s.kept.bytes <= budget && !going.contains(n))
            .map(|(n, _)| *n);
        let newest = (self.config.backfill == Backfill::Newest) != other_end;
        let sequence = if newest { fitting.next_back() } else { fitting.next() }?;
        Some((name, sequence))
    }

    /// Alerts before everything; the others by their shares.
    fn class_of_turn(&mut self, ready: &[(Class, StreamName)]) -> Option<Class> {
        if ready.iter().any(|(class, _)| *class == Class::Alert) {
            return Some(Class::Alert);
        }
        let waiting: Vec<Class> =
            Class::ALL.into_iter().filter(|class| ready.iter().any(|(c, _)| c == class)).collect();
        let share = |class: Class| SHARES.get(class as usize).copied().unwrap_or(1);
        let sum: i64 = waiting.iter().map(|class| share(*class)).sum();
        for class in &waiting {
            if let Some(credit) = self.turns.credit.get_mut(*class as usize) {
                *credit += share(*class);
            }
        }
        let class = waiting.into_iter().max_by_key(|class| {
            (self.turns.credit.get(*class as usize).copied().unwrap_or(0), std::cmp::Reverse(*class))
        })?;
        if let Some(credit) = self.turns.credit.get_mut(class as usize) {
            *credit -= sum;
        }
        Some(class)
    }

    /// Batches that are sealed from now on can be opened with this ingest key, too.
    pub(crate) fn seal_for(&self, ingest: &IngestPublicKey) -> Result<(), SealError> {
        self.keys.seal_for(ingest)
    }

    /// The same batch for the present ingest key: what was sealed before there was one, or for one that the other side does not have.
    pub(crate) fn reseal(&self, outgoing: &Outgoing) -> Result<Vec<u8>, SealError> {
        let batch = Batch::read(&outgoing.bytes)?;
        let contents = batch.open_on_device(&self.keys.device)?;
        let mut header = batch.header().clone();
        header.for_device = self.keys.for_device;
        header.for_ingest = self.keys.for_ingest();
        seal(&header, &self.keys.data, &contents)
    }

    /// The other side has stored it. Twice is as good as once.
    pub(crate) fn acknowledge(
        &mut self,
        now: Now,
        name: &StreamName,
        sequence: u64,
    ) -> Result<(), JournalError> {
        let there = self.streams.get(name).is_some_and(|stream| stream.held.sealed().contains_key(&sequence));
        if there { self.forget(now, name, sequence) } else { Ok(()) }
    }

    /// It did not arrive, or nobody knows: it may go again.
    pub(crate) fn release(&mut self, name: &StreamName, sequence: u64) {
        if let Some(stream) = self.streams.get_mut(name) {
            stream.held.set_in_flight(sequence, false);
        }
    }

    /// The link is gone: whatever was on its way may go again.
    pub(crate) fn release_all(&mut self) {
        for stream in self.streams.values_mut() {
            stream.held.land_all();
        }
    }

    /// The other side will never take it: it is set aside and said, and the stream goes on.
    pub(crate) fn refuse(&mut self, now: Now, name: &StreamName, sequence: u64) -> Result<(), JournalError> {
        self.set_aside_for(now, name, sequence, LossReason::Refused)
    }

    pub(crate) fn set_aside(
        &mut self,
        now: Now,
        name: &StreamName,
        sequence: u64,
    ) -> Result<(), JournalError> {
        self.set_aside_for(now, name, sequence, LossReason::CorruptBatch)
    }

    fn set_aside_for(
        &mut self,
        now: Now,
        name: &StreamName,
        sequence: u64,
        reason: LossReason,
    ) -> Result<(), JournalError> {
        let io = |e| JournalError::io("set a batch aside", e);
        let Some(sealed) = self.streams.get(name).and_then(|s| s.held.sealed().get(&sequence)).cloned()
        else {
            return Ok(());
        };
        let loss = Loss::new(name, sequence, reason, sealed.kept.span);
        self.report(now, &[loss])?;
        let Some(stream) = self.streams.get_mut(name) else { return Ok(()) };
        stream.keep_number(&*self.files, &self.keys, now, sequence)?;
        let aside = format!("{QUARANTINE}/{}-{sequence:016x}.batch", name.folder());
        self.files.rename(&sealed.name, &aside).map_err(io)?;
        stream.held.remove_sealed(sequence);
        self.files.sync_folder(&stream.folder).map_err(io)?;
        self.reported.remove(&(name.clone(), sequence, reason));
        self.trim_quarantine(&aside);
        Ok(())
    }

    /// What the other side says it has of this epoch: everything below `floor`, and these ranges above, both ends included.
    pub(crate) fn peer_mark(
        &mut self,
        now: Now,
        name: &StreamName,
        floor: u64,
        seen: &[(u64, u64)],
    ) -> Result<PeerMark, JournalError> {
        let Some(stream) = self.streams.get_mut(name) else { return Ok(PeerMark::Settled(0)) };
        let highest = seen.iter().map(|(_, to)| *to).max().unwrap_or(0).max(floor.saturating_sub(1));
        if highest >= stream.next_sequence {
            if let Some(open) = stream.open.take() {
                stream.close(open);
            }
            stream.next_sequence = highest + 1;
            return Ok(PeerMark::Ahead);
        }
        let settled: Vec<u64> = stream
            .held
            .sealed()
            .keys()
            .copied()
            .filter(|n| *n < floor || seen.iter().any(|(from, to)| (*from..=*to).contains(n)))
            .collect();
        for sequence in &settled {
            self.forget(now, name, *sequence)?;
        }
        Ok(PeerMark::Settled(settled.len() as u64))
    }
}

fn floor(stream: &super::Stream) -> u64 {
    let open = stream.open.as_ref().map(|open| open.sequence);
    stream.held.first().into_iter().chain(open).min().unwrap_or(stream.next_sequence)
}
