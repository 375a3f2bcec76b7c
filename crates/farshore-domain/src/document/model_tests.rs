//! A device and the hub through many histories: edits on both sides, requests and answers that are lost, come twice or late, crashes half-way, clocks
//! that are wrong.
//!
//! What must hold at the end of each: both sides have the same documents; what was acknowledged is there, or was overwritten by somebody who saw it, or is
//! in the conflict log.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::exchange::{Answer, Answered, Delta, DocumentName, Outcome, Request, State};
use super::hub::{Held, Terms, take};
use super::local::{Local, Step};
use super::merge::{Base, Conflict, Winner};
use super::{Hlc, Rule, Rules, Stamp, Strategy, path};
use crate::time::UnixMs;

const HISTORIES: u64 = 10_000;
const LONG_HISTORIES: u64 = 200_000;
/// Revisions that the hub of the model keeps of a document.
const KEPT: u64 = 4;
const LIFE: u64 = 7;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[derive(Debug, Default)]
struct Hub {
    documents: BTreeMap<DocumentName, (Held, u64)>,
    revisions: BTreeMap<(DocumentName, u64), (Option<Value>, u64)>,
    sequence: u64,
    clock: Hlc,
    conflicts: Vec<Conflict>,
}

impl Hub {
    fn put(&mut self, name: &DocumentName, held: Held, changed: bool) {
        let mut sequence = self.documents.get(name).map_or(0, |(_, sequence)| *sequence);
        if changed {
            self.sequence += 1;
            sequence = self.sequence;
            self.revisions.insert((name.clone(), held.revision), (held.value.clone(), sequence));
            let old = held.revision.saturating_sub(KEPT);
            self.revisions.retain(|(of, revision), _| of != name || *revision > old);
        }
        self.documents.insert(name.clone(), (held, sequence));
    }

    fn write(&mut self, name: &DocumentName, value: Option<Value>, now: UnixMs) {
        let mut held = self.documents.get(name).map(|(held, _)| held.clone()).unwrap_or_default();
        self.clock = self.clock.next(now);
        let changed = held.write(value, &Stamp { at: self.clock, by: "user:ann".to_owned() });
        self.put(name, held, changed);
    }

    fn exchange(&mut self, request: &Request, rules: &Rules, now: UnixMs, seen: &mut Coverage) -> Answer {
        let life = u64::from_str_radix(&request.life, 16).unwrap();
        let mut answer = Answer { from: request.cursor, ..Answer::default() };
        for change in &request.changes {
            let name = DocumentName { collection: change.collection.clone(), name: change.name.clone() };
            let (held, _) = self.documents.get(&name).cloned().unwrap_or_default();
            let stored;
            let base = match change.base {
                Some(0) => Base::Known(None),
                Some(base) if base == held.revision => Base::Known(held.value.as_ref()),
                Some(base) => match self.revisions.get(&(name.clone(), base)) {
                    Some((value, _)) => {
                        stored = value.clone();
                        Base::Known(stored.as_ref())
                    }
                    None => Base::Unknown,
                },
                None => Base::Unknown,
            };
            if base == Base::Unknown && !held.has_taken(life, change.number) {
                seen.count(if change.base.is_some() { "base not kept" } else { "contested" });
            }
            let taken = take(&held, life, change, base, Terms { rules, read_only: false, now }).unwrap();
            seen.count(match taken.outcome {
                Outcome::Accepted => "accepted",
                Outcome::Merged => "merged",
                Outcome::Conflict => "conflict",
                Outcome::Before => "before",
                Outcome::Later | Outcome::Unknown => panic!("the hub takes everything"),
            });
            for conflict in &taken.conflicts {
                *seen.conflicts.entry((conflict.rule.strategy, conflict.winner.as_str())).or_default() += 1;
            }
            for stamp in taken.held.stamps.0.values() {
                self.clock = self.clock.max(stamp.at);
            }
            answer.answers.push(Answered {
                number: change.number,
                collection: change.collection.clone(),
                name: change.name.clone(),
                outcome: taken.outcome,
                revision: taken.held.revision,
                state: taken.state,
                why: None,
            });
            self.conflicts.extend(taken.conflicts);
            self.put(&name, taken.held, taken.changed);
        }
        let mut changed: Vec<(&DocumentName, &(Held, u64))> = self
            .documents
            .iter()
            .filter(|(name, (_, sequence))| *sequence > request.cursor || request.want.contains(name))
            .collect();
        changed.sort_by_key(|(_, (_, sequence))| *sequence);
        answer.cursor = self.sequence;
        if changed.len() > 3 {
            changed.truncate(3);
            answer.more = true;
            answer.cursor =
                changed.iter().map(|(_, (_, sequence))| *sequence).max().unwrap().max(request.cursor);
        }
        for (name, (held, _)) in changed {
            let known = self
                .revisions
                .range((name.clone(), 0)..=(name.clone(), u64::MAX))
                .rfind(|(_, (_, sequence))| *sequence <= request.cursor)
                .map(|((_, revision), (value, _))| (*revision, value.as_ref()));
            let (from, state) = match (known, &held.value) {
                (Some((revision, Some(before))), Some(value)) if !request.want.contains(name) => {
                    seen.count("delta");
                    (Some(revision), State::Patch(super::patch::diff(before, value)))
                }
                _ => (None, held.state()),
            };
            answer.documents.push(Delta {
                collection: name.collection.clone(),
                name: name.name.clone(),
                revision: held.revision,
                from,
                state,
            });
        }
        self.clock = self.clock.max(Hlc { ms: now.0, count: 0 });
        answer.clock = self.clock;
        answer
    }
}

/// All of it is stored by the device, each step in one transaction; deleted documents, too, so that an answer from before brings none back.
#[derive(Clone, Debug, Default)]
struct Edge {
    documents: BTreeMap<DocumentName, Local>,
    cursor: u64,
    numbers: u64,
    clock: Hlc,
    want: BTreeMap<DocumentName, u64>,
}

impl Edge {
    fn edit(&mut self, name: &DocumentName, value: Option<Value>, now: UnixMs) {
        self.clock = self.clock.next(now);
        let local = self.documents.entry(name.clone()).or_default();
        if let Step::Want { revision } = local.edit(value, self.clock) {
            self.want.insert(name.clone(), revision);
        }
    }

    fn request(&mut self) -> Request {
        let on_its_way = |local: &Local| local.pending.as_ref().is_some_and(|pending| pending.sent.is_some());
        let mut names: Vec<DocumentName> = self
            .documents
            .iter()
            .filter(|(_, local)| local.pending.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        names.sort_by_key(|name| !on_its_way(&self.documents[name]));
        names.truncate(2);
        let changes = names
            .iter()
            .filter_map(|name| {
                self.numbers += 1;
                self.documents.get_mut(name)?.send(name, self.numbers)
            })
            .collect();
        Request {
            life: format!("{LIFE:016x}"),
            cursor: self.cursor,
            changes,
            want: self.want.keys().cloned().collect(),
            ..Request::default()
        }
    }

    fn hear(&mut self, answer: &Answer, seen: &mut Coverage) {
        self.clock = self.clock.observe(answer.clock);
        for answered in &answer.answers {
            let name = DocumentName { collection: answered.collection.clone(), name: answered.name.clone() };
            let Some(local) = self.documents.get_mut(&name) else { continue };
            if let Step::Want { revision } =
                local.answered(answered.number, answered.revision, answered.state.clone())
            {
                seen.count("passed over");
                self.want.insert(name, revision);
            }
        }
        if answer.from == self.cursor {
            for delta in &answer.documents {
                let name = DocumentName { collection: delta.collection.clone(), name: delta.name.clone() };
                let local = self.documents.entry(name.clone()).or_default();
                if let Step::Want { revision } = local.pulled(delta.revision, delta.from, delta.state.clone())
                {
                    seen.count("wanted whole");
                    self.want.insert(name, revision);
                }
            }
            self.cursor = answer.cursor;
        } else {
            seen.count("late answer");
        }
        let documents = &self.documents;
        self.want
            .retain(|name, revision| documents.get(name).is_some_and(|local| local.revision < *revision));
    }
}

#[derive(Debug, Default)]
struct Coverage {
    counts: BTreeMap<&'static str, u64>,
    conflicts: BTreeMap<(Strategy, &'static str), u64>,
}

impl Coverage {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

fn tokens(value: Option<&Value>, found: &mut BTreeSet<i64>) {
    match value {
        Some(Value::Number(number)) => {
            found.extend(number.as_i64());
        }
        Some(Value::Object(members)) => members.values().for_each(|member| tokens(Some(member), found)),
        _ => {}
    }
}

fn tokens_of(value: Option<&Value>) -> BTreeSet<i64> {
    let mut found = BTreeSet::new();
    tokens(value, &mut found);
    found
}

/// Each value that is written is written once.
#[derive(Debug, Default)]
struct Written {
    last: i64,
    values: BTreeSet<i64>,
    /// What somebody who saw it overwrote or deleted.
    superseded: BTreeSet<i64>,
}

impl Written {
    fn edit(&mut self, random: &mut Random, before: Option<&Value>) -> Option<Value> {
        const PLACES: [&str; 6] = ["/a", "/b", "/n/x", "/n/y", "/n", "/m/deep/er"];
        self.last += 1;
        let after = if before.is_some() && random.chance(6) {
            None
        } else {
            let at = PLACES[random.below(PLACES.len())];
            let value = (!random.chance(15)).then(|| json!(self.last));
            path::set(before, at, value).or_else(|| Some(json!({})))
        };
        let (old, new) = (tokens_of(before), tokens_of(after.as_ref()));
        self.superseded.extend(old.difference(&new));
        self.values.extend(new.difference(&old));
        after
    }
}

fn rule(path: &str, strategy: Strategy, resolver: Option<&str>) -> Rule {
    Rule { path: path.to_owned(), strategy, resolver: resolver.map(str::to_owned) }
}

fn rules(random: &mut Random) -> Rules {
    use Strategy::{CloudWins, Custom, EdgeWins, LastWriteWins, Manual, Merge};
    let whole = |strategy| vec![rule("", strategy, None)];
    Rules::new(match random.below(10) {
        0 => whole(LastWriteWins),
        1 => whole(CloudWins),
        2 => whole(EdgeWins),
        3 => whole(Merge),
        4 => whole(Manual),
        5 => vec![rule("", Custom, Some("edge != null && has(edge.a) ? edge : cloud"))],
        6 => vec![rule("", Custom, Some("edge.nothing"))],
        7 => vec![rule("/n", LastWriteWins, None), rule("/a", EdgeWins, None), rule("/b", Manual, None)],
        8 => vec![rule("", CloudWins, None), rule("/n/x", Custom, Some("edge == null ? cloud : edge"))],
        _ => Vec::new(),
    })
}

fn live(seed: u64, seen: &mut Coverage) {
    let random = &mut Random(seed);
    let rules = rules(random);
    let names: Vec<DocumentName> = (0..1 + random.below(4))
        .map(|n| DocumentName { collection: "c".to_owned(), name: n.to_string() })
        .collect();
    let (mut hub, mut edge, mut written) = (Hub::default(), Edge::default(), Written::default());
    let (mut now, mut skew) = (1_000_000_000_000_i64, 0_i64);
    let mut requests: Vec<Request> = Vec::new();
    let mut answers: Vec<Answer> = Vec::new();
    for _ in 0..20 + random.below(60) {
        now += i64::try_from(random.next() % 5_000).unwrap();
        let local_now = UnixMs((now + skew).max(0));
        let name = names[random.below(names.len())].clone();
        match random.below(12) {
            0..=2 => {
                let before = edge.documents.get(&name).and_then(|local| local.value.clone());
                let after = written.edit(random, before.as_ref());
                edge.edit(&name, after, local_now);
            }
            3 | 4 => {
                let before = hub.documents.get(&name).and_then(|(held, _)| held.value.clone());
                let after = written.edit(random, before.as_ref());
                hub.write(&name, after, UnixMs(now));
            }
            5 => {
                skew = [0, -86_400_000, 31_536_000_000, 20_000, -20_000, -now][random.below(6)];
                seen.count("skew");
            }
            6 => {
                // Made and stored; the connection broke before it was sent.
                edge.request();
                seen.count("request lost");
            }
            7 => {
                if random.chance(50) {
                    edge.clone().request();
                    seen.count("crash before a request was stored");
                }
            }
            8 if !requests.is_empty() => {
                // A request of before comes again, and its answer is late or lost.
                let again = requests[random.below(requests.len())].clone();
                answers.push(hub.exchange(&again, &rules, UnixMs(now), seen));
                seen.count("request again");
            }
            9 if !answers.is_empty() => {
                let late = answers.swap_remove(random.below(answers.len()));
                edge.hear(&late, seen);
            }
            _ => {
                let request = edge.request();
                let answer = hub.exchange(&request, &rules, UnixMs(now), seen);
                requests.push(request);
                match random.below(5) {
                    0 => {
                        answers.push(answer);
                        seen.count("answer lost or late");
                    }
                    1 => {
                        edge.clone().hear(&answer, seen);
                        seen.count("crash before an answer was stored");
                    }
                    2 => {
                        // Edited while the request was under way.
                        let before = edge.documents.get(&name).and_then(|local| local.value.clone());
                        let after = written.edit(random, before.as_ref());
                        edge.edit(&name, after, local_now);
                        edge.hear(&answer, seen);
                    }
                    _ => edge.hear(&answer, seen),
                }
            }
        }
    }
    // Nothing is lost any more.
    let mut rounds = 0;
    loop {
        let request = edge.request();
        let quiet = request.changes.is_empty() && request.want.is_empty();
        let answer = hub.exchange(&request, &rules, UnixMs(now), seen);
        let done = quiet && !answer.more && answer.documents.is_empty();
        edge.hear(&answer, seen);
        if done {
            break;
        }
        rounds += 1;
        assert!(rounds < 60, "seed {seed}: it does not come to an end");
    }
    let at_hub: BTreeMap<&DocumentName, &Value> =
        hub.documents.iter().filter_map(|(name, (held, _))| Some((name, held.value.as_ref()?))).collect();
    let at_edge: BTreeMap<&DocumentName, &Value> =
        edge.documents.iter().filter_map(|(name, local)| Some((name, local.value.as_ref()?))).collect();
    assert_eq!(at_hub, at_edge, "seed {seed}: the sides differ");
    for (name, local) in edge.documents.iter().filter(|(_, local)| !local.is_gone()) {
        assert_eq!((&local.pending, local.revision), (&None, hub.documents[name].0.revision), "seed {seed}");
    }
    let mut there = BTreeSet::new();
    at_hub.values().for_each(|value| tokens(Some(value), &mut there));
    let mut noted = BTreeSet::new();
    for conflict in &hub.conflicts {
        tokens(conflict.edge.as_ref(), &mut noted);
        tokens(conflict.cloud.as_ref(), &mut noted);
        assert!(conflict.winner != Winner::Open || conflict.edge != conflict.cloud);
    }
    for token in &written.values {
        // It is there, or somebody who saw it overwrote it; both or neither only by a conflict that was noted.
        let accounted = there.contains(token) != written.superseded.contains(token);
        assert!(
            accounted || noted.contains(token),
            "seed {seed}: {token} vanished, or came back, without a note"
        );
    }
}

#[test]
fn both_sides_converge_and_no_edit_vanishes_through_ten_thousand_histories() {
    let long = std::env::var_os("FARSHORE_TEST_LONG").is_some();
    let mut seen = Coverage::default();
    for seed in 0..if long { LONG_HISTORIES } else { HISTORIES } {
        live(seed, &mut seen);
    }
    for what in [
        "accepted",
        "merged",
        "conflict",
        "before",
        "base not kept",
        "contested",
        "delta",
        "wanted whole",
        "late answer",
        "request lost",
        "request again",
        "answer lost or late",
        "crash before a request was stored",
        "crash before an answer was stored",
        "skew",
    ] {
        assert!(seen.counts.get(what).is_some_and(|count| *count >= 100), "{what}: {seen:?}");
    }
    for (strategy, winners) in [
        (Strategy::LastWriteWins, &["edge", "cloud"][..]),
        (Strategy::CloudWins, &["cloud"]),
        (Strategy::EdgeWins, &["edge"]),
        (Strategy::Merge, &["edge", "cloud"]),
        (Strategy::Manual, &["open"]),
        (Strategy::Custom, &["resolver", "open"]),
    ] {
        for winner in winners {
            let count = seen.conflicts.get(&(strategy, winner)).copied().unwrap_or_default();
            assert!(count >= 100, "{strategy:?} {winner}: {seen:?}");
        }
    }
}
