//! The device's side: a document as it is there, with what the hub has not acknowledged.
//!
//! Each function is one step from one state that is stored to the next, so a crash is always between two steps. A change that was sent is kept as it
//! was sent until its answer comes, and is sent again unchanged; edits made meanwhile wait behind it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::exchange::{Change, DocumentName, State};
use super::merge::replay;
use super::{Hlc, Stamp, Stamps, hub, patch, path};

/// A document on the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Local {
    /// The hub's revision that the device has seen; 0: none.
    pub revision: u64,
    /// What apps see; none: it was deleted.
    pub value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Box<Pending>>,
}

/// What was changed here and not acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The document at `revision`.
    pub base: Option<Value>,
    /// Some edits were made without having seen `revision`: the hub decides about them as about conflicts.
    #[serde(default)]
    pub contested: bool,
    /// The hub may know nothing of what is here: send the whole.
    #[serde(default)]
    pub resend: bool,
    /// When each leaf was changed.
    pub times: BTreeMap<String, Hlc>,
    #[serde(default)]
    pub sent: Option<Sent>,
    /// The newest revision that came and was passed over, because the answer to what was changed here will say what the document is then.
    #[serde(default)]
    pub passed: u64,
}

/// A change that is on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    pub number: u64,
    pub base: Option<u64>,
    pub patch: Option<Value>,
    /// What it made of the document.
    pub value: Option<Value>,
    pub times: BTreeMap<String, Hlc>,
}

/// What a step did to what apps see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing was done.
    Ignored,
    /// The state was changed, apps see the same.
    Settled,
    /// Apps see something else.
    Changed,
    /// This revision was not taken, because its patch is for another one or it came at the wrong time: ask for the whole document until `revision` is as new.
    Want { revision: u64 },
}

fn empty() -> Value {
    Value::Object(Map::new())
}

impl Local {
    /// Whether nothing would be lost without this row.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        self.value.is_none() && self.pending.is_none()
    }

    /// An app writes the document, or deletes it.
    pub fn edit(&mut self, value: Option<Value>, at: Hlc) -> Step {
        let changed = patch::changed(self.value.as_ref(), value.as_ref());
        if changed.is_empty() {
            return Step::Ignored;
        }
        let before = std::mem::replace(&mut self.value, value);
        let pending =
            self.pending.get_or_insert_with(|| Box::new(Pending { base: before, ..Pending::default() }));
        let mut times = stamps(&pending.times);
        for leaf in changed {
            times.note(&leaf, Stamp { at, by: String::new() });
        }
        times.fit();
        pending.times = times.0.into_iter().map(|(leaf, stamp)| (leaf, stamp.at)).collect();
        self.settle(Step::Changed)
    }

    /// Forgets that something was changed when it is as the hub has it. What was passed over meanwhile is wanted then.
    fn settle(&mut self, step: Step) -> Step {
        let Some(pending) = self.pending.as_ref() else { return step };
        let passed = pending.passed;
        if pending.sent.is_none() && !pending.resend && pending.base == self.value {
            self.pending = None;
            if passed > self.revision {
                return Step::Want { revision: passed };
            }
        }
        step
    }

    /// The change to be sent: the one that is on its way, or all that was changed since as `number`.
    pub fn send(&mut self, name: &DocumentName, number: u64) -> Option<Change> {
        let pending = self.pending.as_mut()?;
        let sent = pending.sent.get_or_insert_with(|| {
            let from = if pending.resend { None } else { pending.base.as_ref() };
            Sent {
                number,
                base: (!pending.contested && !pending.resend).then_some(self.revision),
                patch: self.value.as_ref().map(|value| patch::diff(from.unwrap_or(&empty()), value)),
                value: self.value.clone(),
                times: fit(std::mem::take(&mut pending.times)),
            }
        });
        Some(Change {
            number: sent.number,
            collection: name.collection.clone(),
            name: name.name.clone(),
            base: sent.base,
            patch: sent.patch.clone(),
            times: sent.times.clone(),
        })
    }

    /// The hub has answered a change.
    pub fn answered(&mut self, number: u64, revision: u64, state: State) -> Step {
        let Some(pending) = self.pending.as_mut() else { return Step::Ignored };
        let Some(sent) = pending.sent.take_if(|sent| sent.number == number) else { return Step::Ignored };
        let after = match state {
            State::AsSent => sent.value.clone(),
            State::Patch(change) => Some(patch::apply(sent.value.as_ref().unwrap_or(&empty()), &change)),
            State::Value(value) => Some(value),
            State::Deleted => None,
        };
        let (value, overlap) = replay(sent.value.as_ref(), self.value.as_ref(), after.as_ref());
        pending.resend = false;
        // Later edits of what the hub had decided otherwise were made without having seen that.
        pending.contested = overlap;
        pending.base = after;
        let passed = std::mem::take(&mut pending.passed);
        self.revision = revision;
        let step = self.see(value);
        if passed > revision { Step::Want { revision: passed } } else { step }
    }

    /// Something came from the hub.
    pub fn pulled(&mut self, revision: u64, from: Option<u64>, state: State) -> Step {
        if revision <= self.revision {
            return Step::Ignored;
        }
        // The answer to what is on its way will say what the document is then.
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.sent.is_some()) {
            pending.passed = pending.passed.max(revision);
            return Step::Ignored;
        }
        let base = self.pending.as_ref().map_or(self.value.as_ref(), |pending| pending.base.as_ref());
        let after = match state {
            State::Value(value) => Some(value),
            State::Deleted => None,
            State::Patch(change) if from == Some(self.revision) => {
                Some(patch::apply(base.unwrap_or(&empty()), &change))
            }
            State::Patch(_) | State::AsSent => return Step::Want { revision },
        };
        let Some(pending) = self.pending.as_mut() else {
            self.revision = revision;
            return self.see(after);
        };
        if pending.resend {
            pending.base = after;
            self.revision = revision;
            return Step::Settled;
        }
        let (value, overlap) = replay(pending.base.as_ref(), self.value.as_ref(), after.as_ref());
        if overlap && !pending.contested {
            // Sent against the revision it was made on, for the hub to decide.
            pending.passed = pending.passed.max(revision);
            return Step::Ignored;
        }
        pending.base = after;
        self.revision = revision;
        self.see(value)
    }

    fn see(&mut self, value: Option<Value>) -> Step {
        let step = if self.value == value { Step::Settled } else { Step::Changed };
        self.value = value;
        if let Some(pending) = self.pending.as_mut() {
            let differs = patch::changed(pending.base.as_ref(), self.value.as_ref());
            pending.times.retain(|place, _| {
                differs.iter().any(|leaf| path::within(leaf, place) || path::within(place, leaf))
            });
        }
        self.settle(step)
    }

    /// The hub was restored to an earlier state and may have forgotten what it acknowledged.
    pub fn hub_restored(&mut self, at: Hlc) {
        self.revision = 0;
        let pending = self
            .pending
            .get_or_insert_with(|| Box::new(Pending { base: self.value.clone(), ..Pending::default() }));
        pending.sent = None;
        // Revisions from before the restore mean nothing any more.
        pending.passed = 0;
        pending.resend = true;
        pending.times.entry(String::new()).or_insert(at);
    }
}

/// Most bytes of all places together that a change names times for.
const MAX_PLACES_BYTES: usize = 64 * 1024;

/// The times of a change; where their places are too long to be sent, the newest for all.
fn fit(times: BTreeMap<String, Hlc>) -> BTreeMap<String, Hlc> {
    let bytes: usize = times.keys().map(String::len).sum();
    if bytes <= MAX_PLACES_BYTES && times.keys().all(|place| path::check(place).is_ok()) {
        return times;
    }
    times.into_values().max().map(|newest| (String::new(), newest)).into_iter().collect()
}

/// The times of a change as stamps of the device.
fn stamps(times: &BTreeMap<String, Hlc>) -> Stamps {
    let stamp = |at: Hlc| Stamp { at, by: hub::DEVICE.to_owned() };
    Stamps(times.iter().map(|(leaf, at)| (leaf.clone(), stamp(*at))).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(ms: i64) -> Hlc {
        Hlc { ms, count: 0 }
    }

    fn name() -> DocumentName {
        DocumentName { collection: "c".to_owned(), name: "n".to_owned() }
    }

    #[test]
    fn an_edit_that_is_taken_back_is_none() {
        let mut local = Local { revision: 1, value: Some(json!({"a": 1})), pending: None };
        assert_eq!(local.edit(Some(json!({"a": 2})), at(1)), Step::Changed);
        assert!(local.pending.is_some());
        local.edit(Some(json!({"a": 1})), at(2));
        assert_eq!(local.pending, None);
        assert_eq!(local.edit(Some(json!({"a": 1})), at(3)), Step::Ignored);
    }

    #[test]
    fn what_is_on_its_way_is_sent_again_as_it_was_and_later_edits_wait() {
        let mut local = Local::default();
        local.edit(Some(json!({"a": 1})), at(1));
        let first = local.send(&name(), 1).unwrap();
        assert_eq!((first.base, first.patch.clone()), (Some(0), Some(json!({"a": 1}))));
        local.edit(Some(json!({"a": 1, "b": 2})), at(2));
        assert_eq!(local.send(&name(), 2).unwrap(), first);
        assert_eq!(local.answered(9, 1, State::AsSent), Step::Ignored);
        assert_eq!(local.answered(1, 1, State::Patch(json!({"c": 3}))), Step::Changed);
        assert_eq!(local.value, Some(json!({"a": 1, "b": 2, "c": 3})));
        let second = local.send(&name(), 2).unwrap();
        assert_eq!((second.base, second.patch), (Some(1), Some(json!({"b": 2}))));
        assert_eq!(second.times, [("/b".to_owned(), at(2))].into());
        local.answered(2, 2, State::AsSent);
        assert_eq!(local.pending, None);
    }

    #[test]
    fn an_edit_of_what_the_cloud_changed_is_sent_against_what_it_was_made_on() {
        let mut local = Local { revision: 1, value: Some(json!({"a": 1, "b": 1})), pending: None };
        local.edit(Some(json!({"a": 2, "b": 1})), at(1));
        assert_eq!(local.pulled(2, Some(1), State::Patch(json!({"b": 9}))), Step::Changed);
        assert_eq!((local.revision, local.value.clone()), (2, Some(json!({"a": 2, "b": 9}))));
        assert_eq!(local.pulled(3, Some(2), State::Patch(json!({"a": 7}))), Step::Ignored);
        assert_eq!(local.send(&name(), 1).unwrap().base, Some(2));
        // The hub let the cloud's value win, and the app wrote again before it knew.
        local.edit(Some(json!({"a": 3, "b": 9})), at(5));
        local.answered(1, 3, State::Patch(json!({"a": 7})));
        let again = local.send(&name(), 2).unwrap();
        assert_eq!((again.base, again.patch), (None, Some(json!({"a": 3}))));
    }

    #[test]
    fn a_patch_for_another_revision_is_not_taken() {
        let mut local = Local { revision: 4, value: Some(json!({"a": 1})), pending: None };
        assert_eq!(local.pulled(6, Some(5), State::Patch(json!({"a": 2}))), Step::Want { revision: 6 });
        assert_eq!(local.pulled(4, None, State::Deleted), Step::Ignored);
        assert_eq!(local.pulled(6, None, State::Deleted), Step::Changed);
        assert!(local.is_gone());
    }

    #[test]
    fn places_that_are_too_long_share_a_time() {
        let mut local = Local::default();
        local.edit(Some(json!({"x".repeat(2_000): 1, "b": 2})), at(3));
        assert_eq!(local.send(&name(), 1).unwrap().times, [(String::new(), at(3))].into());
    }

    #[test]
    fn after_a_restored_hub_the_whole_is_sent() {
        let mut local = Local { revision: 4, value: Some(json!({"a": 1, "b": 2})), pending: None };
        local.hub_restored(at(9));
        local.pulled(2, None, State::Value(json!({"a": 0, "c": 1})));
        let change = local.send(&name(), 1).unwrap();
        assert_eq!((change.base, change.patch), (None, Some(json!({"a": 1, "b": 2}))));
    }
}
