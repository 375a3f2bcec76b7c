//! From the policies of a tenant to what one device obeys, and where each value comes from.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{PolicySpec, Rules};
use crate::label::Labels;
use crate::name::Name;

/// A policy with its name and version.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    pub name: &'a Name,
    /// The object's version.
    pub version: i64,
    pub spec: &'a PolicySpec,
}

/// Which policy a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PolicyProvenance))]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    pub policy: Name,
    pub version: i64,
}

/// What a device obeys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = EffectivePolicy))]
#[serde(rename_all = "camelCase")]
pub struct Effective {
    pub rules: Rules,
    /// Where each value comes from, by its path: `restart.maxRestarts`.
    pub provenance: BTreeMap<String, Provenance>,
    /// Every policy that applies, the one that wins first.
    pub policies: Vec<Provenance>,
}

const ENERGY: &str = "schedule.energy";
const WINDOWS: &str = "schedule.windows";

/// One value of an effective policy that another mixture of policies changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Changed {
    /// `restart.maxRestarts`.
    pub path: String,
    /// As JSON; none where nobody says.
    pub from: Option<String>,
    pub to: Option<String>,
    /// The policy that says the new value; where nobody does, the one that said the old one.
    pub policy: Option<Name>,
}

impl Effective {
    /// What is different in `after`.
    ///
    /// # Errors
    /// When rules can't be written as JSON, which no stored policy leads to.
    pub fn changes_to(&self, after: &Self) -> Result<Vec<Changed>, serde_json::Error> {
        let values = |effective: &Self| -> Result<BTreeMap<String, Value>, serde_json::Error> {
            let mut found = Vec::new();
            leaves(&serde_json::to_value(&effective.rules)?, "", &mut found);
            Ok(found.into_iter().collect())
        };
        let (old, new) = (values(self)?, values(after)?);
        let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
        paths.sort_unstable();
        paths.dedup();
        let text = |value: Option<&Value>| value.map(ToString::to_string);
        let changed = paths.into_iter().filter(|path| old.get(*path) != new.get(*path)).map(|path| {
            let says = after.provenance.get(path).or_else(|| self.provenance.get(path));
            Changed {
                path: path.clone(),
                from: text(old.get(path)),
                to: text(new.get(path)),
                policy: says.map(|says| says.policy.clone()),
            }
        });
        Ok(changed.collect())
    }
}

/// The leaves of a JSON object by their path. A list is one value: lists are replaced, never joined.
fn leaves(value: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(field, &path, found);
            }
        }
        Value::Null => {}
        leaf => found.push((path.to_owned(), leaf.clone())),
    }
}

fn put(into: &mut Map<String, Value>, path: &str, leaf: Value) {
    match path.split_once('.') {
        None => {
            into.insert(path.to_owned(), leaf);
        }
        Some((first, rest)) => {
            let inner = into.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                put(inner, rest, leaf);
            }
        }
    }
}

/// Merges the policies that match `labels`, value by value: the highest priority wins, then the selector with more
/// requirements, then the name that sorts last.
///
/// # Errors
/// When a policy's rules can't be written as JSON or the merged ones can't be read, which no stored policy leads to.
pub fn effective<'a>(
    policies: impl IntoIterator<Item = Bound<'a>>,
    labels: &Labels,
) -> Result<Effective, serde_json::Error> {
    let mut matching: Vec<_> =
        policies.into_iter().filter(|policy| policy.spec.selector.matches(labels)).collect();
    matching.sort_by(|a, b| rank(b).cmp(&rank(a)));
    let mut provenance: BTreeMap<String, Provenance> = BTreeMap::new();
    let mut merged = Map::new();
    let from = |policy: &Bound<'_>| Provenance { policy: policy.name.clone(), version: policy.version };
    for policy in &matching {
        let mut found = Vec::new();
        leaves(&serde_json::to_value(&policy.spec.rules)?, "", &mut found);
        for (path, leaf) in found {
            // What is asked of cheap hours means nothing without the windows that say when they are.
            if path == ENERGY && provenance.get(WINDOWS).is_some_and(|first| *first != from(policy)) {
                continue;
            }
            if let Entry::Vacant(place) = provenance.entry(path) {
                put(&mut merged, place.key(), leaf);
                place.insert(from(policy));
            }
        }
    }
    let rules = serde_json::from_value(Value::Object(merged))?;
    Ok(Effective { rules, provenance, policies: matching.iter().map(from).collect() })
}

fn rank<'a>(policy: &Bound<'a>) -> (i32, usize, &'a Name) {
    (policy.spec.priority, policy.spec.selector.requirements().len(), policy.name)
}
