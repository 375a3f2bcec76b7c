//! Events on their way: numbered batches, one in flight, forgotten when acknowledged.

use std::collections::VecDeque;

use farshore_protocol as wire;

/// At most this many events wait; the oldest goes first.
const MAX_WAITING: usize = 256;
/// At most this many events in one batch.
const MAX_BATCH: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<wire::DeviceEvent>,
    /// The batch that was sent last and is not acknowledged, and whether it was sent on this channel.
    flying: Option<(wire::EventBatch, bool)>,
    acknowledged: u64,
    /// Dropped because too many were waiting.
    pub(crate) dropped: u64,
}

impl Outbox {
    pub(crate) fn push(&mut self, event: wire::DeviceEvent) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(event);
    }

    /// A new channel: what is stored is known, what was in flight may not have arrived.
    pub(crate) fn welcomed(&mut self, acknowledged: u64) {
        self.acknowledge(acknowledged);
        // The server may know of more than this process does: an earlier life of this device.
        self.acknowledged = acknowledged;
        if let Some((batch, sent)) = &mut self.flying {
            batch.sequence = acknowledged + 1;
            *sent = false;
        }
    }

    /// Everything up to this batch is stored. Gives how many events that were in flight.
    pub(crate) fn acknowledge(&mut self, sequence: u64) -> usize {
        self.acknowledged = self.acknowledged.max(sequence);
        let done = self.flying.take_if(|(batch, _)| batch.sequence <= sequence);
        done.map_or(0, |(batch, _)| batch.events.len())
    }

    /// The batch to send now, if any.
    pub(crate) fn next(&mut self) -> Option<wire::EventBatch> {
        if self.flying.is_none() && !self.waiting.is_empty() {
            let count = self.waiting.len().min(MAX_BATCH);
            let events = self.waiting.drain(..count).collect();
            let batch = wire::EventBatch { sequence: self.acknowledged + 1, events };
            self.flying = Some((batch, false));
        }
        match &mut self.flying {
            Some((batch, sent)) if !*sent => {
                *sent = true;
                Some(batch.clone())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str) -> wire::DeviceEvent {
        wire::DeviceEvent { kind: kind.to_owned(), ..Default::default() }
    }

    #[test]
    fn one_batch_flies_at_a_time_and_is_sent_again_on_the_next_channel() {
        let mut outbox = Outbox::default();
        outbox.welcomed(7);
        outbox.push(event("a"));
        let first = outbox.next().unwrap();
        assert_eq!((first.sequence, first.events.len()), (8, 1));
        outbox.push(event("b"));
        assert!(outbox.next().is_none());
        outbox.welcomed(7);
        assert_eq!(outbox.next().unwrap(), first);
        assert_eq!(outbox.acknowledge(8), 1);
        let second = outbox.next().unwrap();
        assert_eq!((second.sequence, second.events[0].kind.as_str()), (9, "b"));
    }

    #[test]
    fn what_arrived_before_the_cut_is_not_sent_again() {
        let mut outbox = Outbox::default();
        outbox.welcomed(0);
        outbox.push(event("a"));
        outbox.next().unwrap();
        outbox.welcomed(1);
        assert!(outbox.next().is_none());
    }

    #[test]
    fn too_many_events_cost_the_oldest_and_are_counted() {
        let mut outbox = Outbox::default();
        for n in 0..=MAX_WAITING {
            outbox.push(event(&n.to_string()));
        }
        assert_eq!(outbox.dropped, 1);
        assert_eq!(outbox.next().unwrap().events[0].kind, "1");
    }
}
