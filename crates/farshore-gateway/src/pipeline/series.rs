//! Short ids for series, and what is known of the device they belong to.

use std::collections::{BTreeMap, HashMap};

use farshore_journal::SeriesKey;
use serde::Deserialize;

use super::expr::{Known, Source};

/// A series within an engine.
pub(super) type Id = u32;

/// Series that came in or were made by steps.
#[derive(Debug)]
pub(super) struct Table {
    ids: HashMap<SeriesKey, Id>,
    keys: Vec<SeriesKey>,
    most: usize,
}

impl Table {
    pub(super) fn new(most: usize) -> Self {
        Self { ids: HashMap::new(), keys: Vec::new(), most }
    }

    /// The id of a series; nothing when there is no room for another.
    pub(super) fn id(&mut self, key: &SeriesKey) -> Option<Id> {
        if let Some(id) = self.ids.get(key) {
            return Some(*id);
        }
        if self.keys.len() >= self.most {
            return None;
        }
        let id = Id::try_from(self.keys.len()).ok()?;
        self.keys.push(key.clone());
        self.ids.insert(key.clone(), id);
        Some(id)
    }

    pub(super) fn key(&self, id: Id) -> Option<&SeriesKey> {
        self.keys.get(id as usize)
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it is time to make room.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.keys.len() >= self.most - self.most / 10
    }
}

/// Something for each series that needs it, found by its id.
#[derive(Debug)]
pub(super) struct PerSeries<T>(Vec<Option<T>>);

impl<T> Default for PerSeries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> PerSeries<T> {
    /// What is there, or what is made now.
    pub(super) fn or_make(&mut self, id: Id, make: impl FnOnce() -> T) -> Option<&mut T> {
        let index = id as usize;
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || None);
        }
        Some(self.0.get_mut(index)?.get_or_insert_with(make))
    }

    pub(super) fn put(&mut self, id: Id, value: T) {
        self.or_make(id, || value);
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Id, &mut T)> {
        self.0
            .iter_mut()
            .enumerate()
            .filter_map(|(index, slot)| Some((Id::try_from(index).ok()?, slot.as_mut()?)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.0
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((Id::try_from(index).ok()?, slot.as_ref()?)))
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// What is known of the device: its labels, and its twin.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The twin as a JSON object; its values are found by their path, `limits.high`.
    #[serde(default)]
    pub twin: serde_json::Value,
}

impl Context {
    /// A value of the twin as a text.
    pub(super) fn twin_text(&self, path: &str) -> Option<String> {
        match self.twin_value(path)? {
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Null | serde_json::Value::Object(_) | serde_json::Value::Array(_) => None,
            plain => Some(plain.to_string()),
        }
    }

    fn twin_value(&self, path: &str) -> Option<&serde_json::Value> {
        path.split('.').try_fold(&self.twin, |value, part| value.get(part))
    }

    /// What an expression finds under a name, for the points of a series.
    pub(super) fn known(&self, key: &SeriesKey, source: &Source) -> Option<Known> {
        Some(match source {
            Source::Measurement => Known::Text(key.measurement().into()),
            Source::Field => Known::Text(key.field().into()),
            Source::Tag(name) => Known::Text(key.tag(name)?.into()),
            Source::Label(name) => Known::Text(self.labels.get(name)?.as_str().into()),
            Source::Twin(path) => match self.twin_value(path)? {
                serde_json::Value::Bool(flag) => Known::Bool(*flag),
                serde_json::Value::Number(number) => Known::Number(number.as_f64()?),
                serde_json::Value::String(text) => Known::Text(text.as_str().into()),
                _ => return None,
            },
        })
    }
}
