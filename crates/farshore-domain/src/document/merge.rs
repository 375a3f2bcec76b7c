//! Three-way merge, and what is noted of each conflict.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::resolver::{Inputs, MAX_WORK};
use super::{Rule, Rules, Stamp, Stamps, Strategy, path};

/// Most conflicts of one merge that are noted one by one; more are noted as one of the whole document.
pub const MAX_CONFLICTS: usize = 100;

/// What both sides started from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Base<'v> {
    /// `None`: there was no document.
    Known(Option<&'v Value>),
    /// It is not kept any more: whatever differs is a conflict.
    Unknown,
}

impl<'v> Base<'v> {
    fn member(self, name: &str) -> Self {
        match self {
            Self::Known(value) => {
                Self::Known(value.and_then(Value::as_object).and_then(|members| members.get(name)))
            }
            Self::Unknown => Self::Unknown,
        }
    }

    fn is(self, value: Option<&Value>) -> bool {
        matches!(self, Self::Known(base) if base == value)
    }

    const fn value(self) -> Option<&'v Value> {
        match self {
            Self::Known(value) => value,
            Self::Unknown => None,
        }
    }
}

/// Whose value a conflict ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Winner {
    Edge,
    Cloud,
    /// The value that the resolver gave.
    Resolver,
    /// Nobody's yet: the cloud's value stays until somebody chooses.
    Open,
}

impl Winner {
    /// As it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Cloud => "cloud",
            Self::Resolver => "resolver",
            Self::Open => "open",
        }
    }
}

/// A place that both sides changed, and how it was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    pub path: String,
    /// The rule that decided.
    pub rule: Rule,
    pub base: Option<Value>,
    pub edge: Option<Value>,
    pub cloud: Option<Value>,
    pub edge_stamp: Option<Stamp>,
    pub cloud_stamp: Option<Stamp>,
    pub winner: Winner,
    /// Why the resolver did not decide, or that the base was not kept.
    pub note: Option<String>,
}

/// Both sides in one.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    pub value: Option<Value>,
    pub conflicts: Vec<Conflict>,
}

/// The conflicts of a merge, as far as they are noted one by one.
#[derive(Default)]
struct Noted {
    conflicts: Vec<Conflict>,
    count: usize,
    /// Who won all of them; `Resolver` where neither side did, and `Open` where one of them waits for somebody.
    winner: Option<Winner>,
}

impl Noted {
    fn add(&mut self, winner: Winner, conflict: impl FnOnce() -> Conflict) {
        self.count += 1;
        self.winner = Some(match self.winner {
            None => winner,
            Some(before) if before == winner => winner,
            Some(before) if before == Winner::Open || winner == Winner::Open => Winner::Open,
            Some(_) => Winner::Resolver,
        });
        if self.count <= MAX_CONFLICTS {
            self.conflicts.push(conflict());
        }
    }
}

enum Decided {
    Take(Option<Value>),
    Descend,
}

/// What becomes of a place, given its path and what the base, the edge and the cloud say there.
type Decide<'a> = dyn FnMut(&str, Base<'_>, Option<&Value>, Option<&Value>) -> Decided + 'a;

/// Goes down where both sides differ from the base and from each other; `decide` is asked at each such place.
fn walk(
    at: &str,
    base: Base<'_>,
    edge: Option<&Value>,
    cloud: Option<&Value>,
    decide: &mut Decide<'_>,
) -> Option<Value> {
    if edge == cloud || base.is(edge) {
        return cloud.cloned();
    }
    if base.is(cloud) {
        return edge.cloned();
    }
    match decide(at, base, edge, cloud) {
        Decided::Take(value) => value,
        Decided::Descend => {
            let (Some(Value::Object(edge)), Some(Value::Object(cloud))) = (edge, cloud) else {
                return cloud.cloned();
            };
            let names: BTreeSet<&String> = edge.keys().chain(cloud.keys()).collect();
            let mut members = Map::new();
            for name in names {
                let (edge, cloud) = (edge.get(name), cloud.get(name));
                if let Some(value) = walk(&path::join(at, name), base.member(name), edge, cloud, decide) {
                    members.insert(name.clone(), value);
                }
            }
            Some(Value::Object(members))
        }
    }
}

const fn are_objects(edge: Option<&Value>, cloud: Option<&Value>) -> bool {
    matches!((edge, cloud), (Some(Value::Object(_)), Some(Value::Object(_))))
}

/// Merges what the device made of `base` with what the cloud made of it.
#[must_use]
pub fn three_way(
    base: Base<'_>,
    (edge, edge_stamps): (Option<&Value>, &Stamps),
    (cloud, cloud_stamps): (Option<&Value>, &Stamps),
    rules: &Rules,
) -> Merged {
    let mut noted = Noted::default();
    let mut work_left = MAX_WORK;
    let (whole_edge, whole_cloud) = (edge, cloud);
    let mut decide = |at: &str, base: Base<'_>, edge: Option<&Value>, cloud: Option<&Value>| {
        let rule = rules.at(at);
        if are_objects(edge, cloud) && (rule.strategy == Strategy::Merge || rules.below(at)) {
            return Decided::Descend;
        }
        let (edge_stamp, cloud_stamp) = (edge_stamps.latest(at), cloud_stamps.latest(at));
        let mut note =
            (base == Base::Unknown).then(|| "the revision it was made on is not kept any more".to_owned());
        let (winner, value) = match rule.strategy {
            Strategy::CloudWins => (Winner::Cloud, cloud.cloned()),
            Strategy::EdgeWins => (Winner::Edge, edge.cloned()),
            Strategy::LastWriteWins | Strategy::Merge => {
                let at = |stamp: Option<&Stamp>| stamp.map(|stamp| stamp.at);
                if at(edge_stamp) > at(cloud_stamp) {
                    (Winner::Edge, edge.cloned())
                } else {
                    (Winner::Cloud, cloud.cloned())
                }
            }
            Strategy::Manual => (Winner::Open, cloud.cloned()),
            Strategy::Custom => {
                let inputs = Inputs {
                    base: base.value(),
                    edge,
                    cloud,
                    edge_ms: edge_stamp.map(|stamp| stamp.at.ms),
                    cloud_ms: cloud_stamp.map(|stamp| stamp.at.ms),
                    path: at,
                };
                let resolved = match rules.resolver(at) {
                    Some(Ok(resolver)) => {
                        resolver.resolve(&inputs, &mut work_left).and_then(|value| fit(at, value))
                    }
                    Some(Err(error)) => Err(error.clone()),
                    None => Err(super::DocumentError::new("there is no resolver")),
                };
                match resolved {
                    Ok(value) => (Winner::Resolver, value),
                    Err(error) => {
                        note = Some(format!("the resolver failed: {error}"));
                        (Winner::Open, cloud.cloned())
                    }
                }
            }
        };
        noted.add(winner, || Conflict {
            path: at.to_owned(),
            rule: rule.clone(),
            base: base.value().cloned(),
            edge: edge.cloned(),
            cloud: cloud.cloned(),
            edge_stamp: edge_stamp.cloned(),
            cloud_stamp: cloud_stamp.cloned(),
            winner,
            note,
        });
        Decided::Take(value)
    };
    let value = walk("", base, edge, cloud, &mut decide);
    let Noted { mut conflicts, count, winner } = noted;
    if let Some(winner) = winner.filter(|_| count > MAX_CONFLICTS) {
        conflicts = vec![Conflict {
            path: String::new(),
            rule: rules.at("").clone(),
            base: base.value().cloned(),
            edge: whole_edge.cloned(),
            cloud: whole_cloud.cloned(),
            edge_stamp: edge_stamps.latest("").cloned(),
            cloud_stamp: cloud_stamps.latest("").cloned(),
            winner,
            note: Some(format!(
                "{count} places met; each was decided by its rule, and both are kept here whole"
            )),
        }];
    }
    Merged { value, conflicts }
}

/// What a resolver gave, as it can be in a document.
fn fit(at: &str, value: Option<Value>) -> Result<Option<Value>, super::DocumentError> {
    match value {
        Some(value) if at.is_empty() => super::tidy(value).map(Some),
        Some(value) => {
            // As a member, so that the same limits hold.
            let mut within = super::tidy(Value::Object([("v".to_owned(), value)].into_iter().collect()))?;
            Ok(within.as_object_mut().and_then(|members| members.remove("v")))
        }
        None => Ok(None),
    }
}

/// Puts edits that were made on `base` on top of another state, wherever that did not change the same; where it did, the edit stays and `true` is
/// returned.
#[must_use]
pub fn replay(base: Option<&Value>, edited: Option<&Value>, onto: Option<&Value>) -> (Option<Value>, bool) {
    let mut overlap = false;
    let mut decide = |_: &str, _: Base<'_>, edge: Option<&Value>, cloud: Option<&Value>| {
        if are_objects(edge, cloud) {
            return Decided::Descend;
        }
        overlap = true;
        Decided::Take(edge.cloned())
    };
    let value = walk("", Base::Known(base), edited, onto, &mut decide);
    (value, overlap)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document::Hlc;

    fn stamps(leaves: &[(&str, i64)], by: &str) -> Stamps {
        let mut stamps = Stamps::default();
        for (at, ms) in leaves {
            stamps.note(at, Stamp { at: Hlc { ms: *ms, count: 0 }, by: by.to_owned() });
        }
        stamps
    }

    fn rules(list: &[(&str, Strategy, Option<&str>)]) -> Rules {
        let rule = |(path, strategy, resolver): &(&str, Strategy, Option<&str>)| Rule {
            path: (*path).to_owned(),
            strategy: *strategy,
            resolver: resolver.map(str::to_owned),
        };
        Rules::new(list.iter().map(rule).collect())
    }

    fn check(
        list: &[(&str, Strategy, Option<&str>)],
        [base, edge, cloud]: [Value; 3],
        expected: Value,
        conflicts: &[(&str, Winner)],
    ) {
        let value = |value: &Value| Some(value.clone()).filter(|value| !value.is_null());
        let (base, edge, cloud) = (value(&base), value(&edge), value(&cloud));
        let merged = three_way(
            Base::Known(base.as_ref()),
            (edge.as_ref(), &stamps(&[("/a", 20), ("/b", 5)], "device")),
            (cloud.as_ref(), &stamps(&[("/a", 10), ("/b", 10)], "user:ann")),
            &rules(list),
        );
        assert_eq!(merged.value, value(&expected));
        let found: Vec<(&str, Winner)> =
            merged.conflicts.iter().map(|conflict| (conflict.path.as_str(), conflict.winner)).collect();
        assert_eq!(found, conflicts);
    }

    #[test]
    fn each_strategy_on_the_same_conflict() {
        use Strategy::{CloudWins, Custom, EdgeWins, LastWriteWins, Manual, Merge};
        let sides = || {
            [
                json!({"a": 1, "b": 1, "c": 1}),
                json!({"a": 2, "b": 2, "c": 1, "e": 1}),
                json!({"a": 3, "b": 3, "c": 4}),
            ]
        };
        let merged = json!({"a": 2, "b": 3, "c": 4, "e": 1});
        check(&[], sides(), merged.clone(), &[("/a", Winner::Edge), ("/b", Winner::Cloud)]);
        check(&[("", Merge, None)], sides(), merged, &[("/a", Winner::Edge), ("/b", Winner::Cloud)]);
        let (edge, cloud) = (sides()[1].clone(), sides()[2].clone());
        check(&[("", LastWriteWins, None)], sides(), edge.clone(), &[("", Winner::Edge)]);
        check(&[("", EdgeWins, None)], sides(), edge, &[("", Winner::Edge)]);
        check(&[("", CloudWins, None)], sides(), cloud.clone(), &[("", Winner::Cloud)]);
        check(&[("", Manual, None)], sides(), cloud.clone(), &[("", Winner::Open)]);
        let sum = Some(r#"{"a": edge.a + cloud.a - base.a}"#);
        check(&[("", Custom, sum)], sides(), json!({"a": 4}), &[("", Winner::Resolver)]);
        check(&[("", Custom, Some("edge.nothing"))], sides(), cloud.clone(), &[("", Winner::Open)]);
        check(&[("", Custom, Some("1 + 1"))], sides(), cloud, &[("", Winner::Open)]);
    }

    #[test]
    fn paths_have_rules_of_their_own() {
        use Strategy::{CloudWins, Custom, EdgeWins};
        let sides = [json!({"a": 1, "b": 1}), json!({"a": 2, "b": 2}), json!({"a": 3, "b": 3})];
        check(
            &[("", CloudWins, None), ("/b", EdgeWins, None)],
            sides.clone(),
            json!({"a": 3, "b": 2}),
            &[("/a", Winner::Cloud), ("/b", Winner::Edge)],
        );
        check(
            &[("/b", Custom, Some("edge + cloud"))],
            sides,
            json!({"a": 2, "b": 5}),
            &[("/a", Winner::Edge), ("/b", Winner::Resolver)],
        );
    }

    #[test]
    fn what_one_side_changed_is_no_conflict_and_neither_is_the_same_change() {
        let base = json!({"a": 1, "b": {"c": 1}});
        check(
            &[],
            [base.clone(), json!({"a": 2, "b": {"c": 1}}), base.clone()],
            json!({"a": 2, "b": {"c": 1}}),
            &[],
        );
        check(&[], [base.clone(), json!({"a": 9}), json!({"a": 9, "b": {"c": 1}})], json!({"a": 9}), &[]);
        check(&[], [base, json!(null), json!(null)], json!(null), &[]);
        check(&[], [json!(null), json!({"a": 1}), json!({"b": 1})], json!({"a": 1, "b": 1}), &[]);
    }

    #[test]
    fn deleting_what_the_other_side_changed_is_a_conflict() {
        let base = json!({"a": {"x": 1}, "b": 1});
        check(
            &[],
            [base.clone(), json!({"b": 1}), json!({"a": {"x": 2}, "b": 1})],
            json!({"b": 1}),
            &[("/a", Winner::Edge)],
        );
        check(&[], [base.clone(), json!(null), json!({"b": 7})], json!(null), &[("", Winner::Edge)]);
        check(
            &[("", Strategy::CloudWins, None)],
            [base, json!({"b": 2}), json!(null)],
            json!(null),
            &[("", Winner::Cloud)],
        );
    }

    #[test]
    fn without_a_base_every_difference_is_a_conflict() {
        let (edge, cloud) = (json!({"a": 1, "c": 1}), json!({"a": 2, "c": 1}));
        let none = Stamps::default();
        let merged = three_way(Base::Unknown, (Some(&edge), &none), (Some(&cloud), &none), &Rules::default());
        assert_eq!((merged.value, merged.conflicts.len()), (Some(cloud), 1));
        assert!(merged.conflicts[0].note.is_some());
    }

    #[test]
    fn too_many_conflicts_of_a_document_are_noted_as_one() {
        let side = |value: i64, count: usize| -> Value {
            Value::Object((0..count).map(|n| (format!("k{n:03}"), json!(value))).collect())
        };
        let none = Stamps::default();
        let merge = |count: usize, rules: &Rules| {
            let [base, edge, cloud] = [1, 2, 3].map(|value| side(value, count));
            three_way(Base::Known(Some(&base)), (Some(&edge), &none), (Some(&cloud), &none), rules)
        };
        let cloud = rules(&[("", Strategy::Merge, None)]);
        assert_eq!(merge(MAX_CONFLICTS, &cloud).conflicts.len(), MAX_CONFLICTS);
        for (list, winner) in [
            (cloud, Winner::Cloud),
            (rules(&[("/k000", Strategy::EdgeWins, None)]), Winner::Resolver),
            (rules(&[("/k000", Strategy::Manual, None)]), Winner::Open),
        ] {
            let merged = merge(MAX_CONFLICTS + 1, &list);
            let [one] = merged.conflicts.as_slice() else { panic!("{}", merged.conflicts.len()) };
            assert_eq!((one.path.as_str(), one.winner), ("", winner));
            assert_eq!((&one.edge, &one.cloud), (&Some(side(2, 101)), &Some(side(3, 101))));
            assert!(one.note.as_ref().unwrap().starts_with("101 places"));
        }
    }

    #[test]
    fn edits_go_on_top_of_another_state() {
        let (base, edited) = (json!({"a": 1, "b": 1}), json!({"a": 2, "b": 1}));
        let (value, overlap) = replay(Some(&base), Some(&edited), Some(&json!({"a": 1, "b": 3})));
        assert_eq!((value, overlap), (Some(json!({"a": 2, "b": 3})), false));
        let (value, overlap) = replay(Some(&base), Some(&edited), Some(&json!({"a": 7})));
        assert_eq!((value, overlap), (Some(json!({"a": 2})), true));
    }
}
