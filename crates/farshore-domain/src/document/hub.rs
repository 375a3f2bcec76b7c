//! The hub's side: what becomes of a device's change.

use serde_json::Value;

use super::exchange::{Change, Outcome, State};
use super::merge::{Base, Conflict, Winner, three_way};
use super::{DocumentError, MAX_LEAVES, Rule, Rules, Stamp, Stamps, patch, path, tidy};
use crate::time::UnixMs;

/// Who is named as the author of a device's edits.
pub const DEVICE: &str = "device";

/// A document as the hub has it; one that is not there has revision 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// Grows with each change of the value.
    pub revision: u64,
    pub value: Option<Value>,
    pub stamps: Stamps,
    /// The last change of the device that was taken: the life of its store, and the number.
    pub edge: Option<(u64, u64)>,
}

impl Held {
    /// Whether this change, or a later one, was taken.
    #[must_use]
    pub fn has_taken(&self, life: u64, number: u64) -> bool {
        self.edge.is_some_and(|(known, last)| known == life && number <= last)
    }

    /// The state without a reference to anything.
    #[must_use]
    pub fn state(&self) -> State {
        self.value.clone().map_or(State::Deleted, State::Value)
    }

    /// The document with a new value, written by `stamp.by`. Nothing happens when it is the same.
    pub fn write(&mut self, value: Option<Value>, stamp: &Stamp) -> bool {
        let changed = patch::changed(self.value.as_ref(), value.as_ref());
        if changed.is_empty() {
            return false;
        }
        for leaf in changed {
            self.stamps.note(&leaf, stamp.clone());
        }
        self.stamps.fit();
        self.value = value;
        self.revision += 1;
        true
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    pub held: Held,
    /// Whether there is a new revision.
    pub changed: bool,
    pub outcome: Outcome,
    /// The document now, for somebody who has what the change made of it.
    pub state: State,
    pub conflicts: Vec<Conflict>,
}

/// How the device's edits come in.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'r> {
    pub rules: &'r Rules,
    /// The device may not write here.
    pub read_only: bool,
    pub now: UnixMs,
}

/// Takes a change. `base` is the document at the revision that the change names.
///
/// # Errors
/// When the change is malformed.
pub fn take(
    held: &Held,
    life: u64,
    change: &Change,
    base: Base<'_>,
    terms: Terms<'_>,
) -> Result<Taken, DocumentError> {
    if held.has_taken(life, change.number) {
        let (held, state) = (held.clone(), held.state());
        return Ok(Taken { held, changed: false, outcome: Outcome::Before, state, conflicts: Vec::new() });
    }
    if change.times.len() > MAX_LEAVES {
        return Err(DocumentError::new(format!("a change has at most {MAX_LEAVES} times")));
    }
    let empty = Value::Object(serde_json::Map::new());
    let cloud = held.value.as_ref();
    let mut too_much = false;
    let edge = match &change.patch {
        None => None,
        Some(patch) if patch.is_object() => {
            let under = match base {
                Base::Known(base) => base,
                Base::Unknown => cloud,
            };
            match tidy(patch::apply(under.unwrap_or(&empty), patch)) {
                Ok(value) => Some(value),
                // Nobody knows what the device made it of, and sent again it is no smaller: what it changed is noted by itself.
                Err(_) if base == Base::Unknown => {
                    too_much = true;
                    Some(tidy(patch::apply(&empty, patch))?)
                }
                Err(error) => return Err(error),
            }
        }
        Some(_) => return Err(DocumentError::new("patch is a JSON object")),
    };
    let mut times = Stamps::default();
    for (place, at) in &change.times {
        path::check(place)?;
        times.note(place, Stamp { at: at.bounded(terms.now), by: DEVICE.to_owned() });
    }
    let (value, conflicts) = decide(base, (edge.as_ref(), &times), (cloud, &held.stamps), too_much, terms);
    let mut after = held.clone();
    after.edge = Some((life, change.number));
    let places = patch::changed(cloud, value.as_ref());
    let changed = !places.is_empty();
    for place in places {
        let stamp = times.latest(&place).cloned();
        let stamp = stamp.unwrap_or_else(|| Stamp {
            at: super::Hlc { ms: terms.now.0, count: 0 },
            by: if conflicts.is_empty() { DEVICE } else { "resolver" }.to_owned(),
        });
        after.stamps.note(&place, stamp);
    }
    after.stamps.fit();
    after.value = value;
    after.revision += u64::from(changed);
    let as_sent = edge == after.value;
    let state = match (&edge, &after.value) {
        (_, None) => State::Deleted,
        // What the device has is not known then, only what it changed.
        (_, Some(value)) if base == Base::Unknown => State::Value(value.clone()),
        _ if as_sent => State::AsSent,
        (Some(edge), Some(value)) => State::Patch(patch::diff(edge, value)),
        (None, Some(value)) => State::Value(value.clone()),
    };
    let outcome = match (as_sent, conflicts.is_empty()) {
        (_, false) => Outcome::Conflict,
        (true, true) => Outcome::Accepted,
        (false, true) => Outcome::Merged,
    };
    Ok(Taken { held: after, changed, outcome, state, conflicts })
}

fn decide(
    base: Base<'_>,
    (edge, times): (Option<&Value>, &Stamps),
    (cloud, stamps): (Option<&Value>, &Stamps),
    too_much: bool,
    terms: Terms<'_>,
) -> (Option<Value>, Vec<Conflict>) {
    let stays = |note: &str| {
        if edge == cloud {
            return (cloud.cloned(), Vec::new());
        }
        let known = match base {
            Base::Known(base) => base.cloned(),
            Base::Unknown => None,
        };
        let conflict = Conflict {
            path: String::new(),
            rule: Rule { strategy: super::Strategy::CloudWins, ..Rule::default() },
            base: known,
            edge: edge.cloned(),
            cloud: cloud.cloned(),
            edge_stamp: times.latest("").cloned(),
            cloud_stamp: stamps.latest("").cloned(),
            winner: Winner::Cloud,
            note: Some(note.to_owned()),
        };
        (cloud.cloned(), vec![conflict])
    };
    if terms.read_only {
        return stays("devices may only read this document");
    }
    if too_much {
        return stays(
            "the revision it was made on is not kept any more, and with the document of now it is more than one may hold: only what the device changed is noted",
        );
    }
    let merged = three_way(base, (edge, times), (cloud, stamps), terms.rules);
    match merged.value.map(tidy).transpose() {
        Ok(value) => (value, merged.conflicts),
        Err(_) => stays("both together are more than a document may hold"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document::{Hlc, Strategy};

    fn change(number: u64, base: Option<u64>, patch: Option<Value>, ms: i64) -> Change {
        let times = patch.as_ref().map_or_else(|| vec![String::new()], patch::leaves);
        Change {
            number,
            collection: "c".to_owned(),
            name: "n".to_owned(),
            base,
            patch,
            times: times.into_iter().map(|leaf| (leaf, Hlc { ms, count: 0 })).collect(),
        }
    }

    fn held(value: Value) -> Held {
        let mut held = Held::default();
        held.write(Some(value), &Stamp { at: Hlc { ms: 100, count: 0 }, by: "user:ann".to_owned() });
        held
    }

    #[test]
    fn a_change_sent_twice_has_one_effect_and_a_late_one_has_none() {
        let rules = Rules::default();
        let terms = Terms { rules: &rules, read_only: false, now: UnixMs(1_000) };
        let first = change(1, Some(0), Some(json!({"a": 1})), 10);
        let taken = take(&Held::default(), 7, &first, Base::Known(None), terms).unwrap();
        assert_eq!((taken.outcome, taken.held.revision, taken.state), (Outcome::Accepted, 1, State::AsSent));
        let second = change(2, Some(1), Some(json!({"a": 2})), 20);
        let base = taken.held.value.clone();
        let later = take(&taken.held, 7, &second, Base::Known(base.as_ref()), terms).unwrap();
        for again in [&first, &second] {
            let again = take(&later.held, 7, again, Base::Unknown, terms).unwrap();
            assert_eq!((again.outcome, again.changed), (Outcome::Before, false));
            assert_eq!(again.state, State::Value(json!({"a": 2})));
        }
        // Another life of the store begins to count anew.
        assert_ne!(take(&later.held, 8, &first, Base::Unknown, terms).unwrap().outcome, Outcome::Before);
    }

    #[test]
    fn a_clock_far_ahead_does_not_win_for_ever() {
        let rules = Rules::new(vec![Rule { strategy: Strategy::LastWriteWins, ..Rule::default() }]);
        let terms = Terms { rules: &rules, read_only: false, now: UnixMs(1_000) };
        let base = held(json!({"a": 0}));
        let year = change(1, Some(1), Some(json!({"a": 1})), 31_536_000_000);
        let taken = take(&base, 7, &year, Base::Known(base.value.as_ref()), terms).unwrap();
        assert_eq!(taken.held.stamps.latest("/a").unwrap().at, Hlc { ms: 1_000, count: 0 });
    }

    #[test]
    fn what_a_device_may_only_read_stays_and_its_edit_is_noted() {
        let rules = Rules::default();
        let terms = Terms { rules: &rules, read_only: true, now: UnixMs(1_000) };
        let base = held(json!({"a": 0}));
        let taken = take(
            &base,
            7,
            &change(1, Some(1), Some(json!({"a": 1})), 5),
            Base::Known(base.value.as_ref()),
            terms,
        )
        .unwrap();
        assert_eq!((taken.outcome, taken.changed), (Outcome::Conflict, false));
        assert_eq!(taken.state, State::Patch(json!({"a": 0})));
        assert_eq!(taken.conflicts[0].edge, Some(json!({"a": 1})));
    }

    #[test]
    fn what_gets_too_large_together_stays_as_it_was() {
        let half = "x".repeat(crate::document::MAX_BYTES * 2 / 3);
        let (rules, base) = (Rules::default(), held(json!({"cloud": half})));
        let terms = Terms { rules: &rules, read_only: false, now: UnixMs(1_000) };
        let made = change(1, Some(0), Some(json!({"edge": half})), 5);
        let taken = take(&base, 7, &made, Base::Known(None), terms).unwrap();
        assert_eq!((taken.held.value, taken.conflicts.len()), (base.value, 1));
    }

    #[test]
    fn what_gets_too_large_on_a_base_that_is_not_kept_is_decided_and_not_put_off() {
        let half = "x".repeat(crate::document::MAX_BYTES * 2 / 3);
        let (rules, base) = (Rules::default(), held(json!({"cloud": half})));
        let terms = Terms { rules: &rules, read_only: false, now: UnixMs(1_000) };
        let made = change(1, None, Some(json!({"edge": half})), 5);
        let taken = take(&base, 7, &made, Base::Unknown, terms).unwrap();
        assert_eq!(
            (taken.outcome, taken.changed, &taken.held.value),
            (Outcome::Conflict, false, &base.value)
        );
        assert_eq!(taken.state, State::Value(json!({"cloud": half})));
        let [conflict] = taken.conflicts.as_slice() else { panic!("{:?}", taken.conflicts) };
        assert_eq!((conflict.edge.as_ref(), &conflict.cloud), (Some(&json!({"edge": half})), &base.value));
        assert_eq!(conflict.winner, Winner::Cloud);
        // It counts as taken: the device does not send it for ever.
        assert!(taken.held.has_taken(7, 1));
    }

    #[test]
    fn malformed_changes_are_errors() {
        let rules = Rules::default();
        let terms = Terms { rules: &rules, read_only: false, now: UnixMs(1_000) };
        let mut wrong_time = change(1, None, Some(json!({"a": 1})), 1);
        wrong_time.times.insert("a".to_owned(), Hlc::default());
        for wrong in [change(1, None, Some(json!([1])), 1), wrong_time] {
            assert!(take(&Held::default(), 7, &wrong, Base::Unknown, terms).is_err());
        }
    }
}
