//! Documents on the device: apps read and write them here, with or without a network.
//!
//! A write is answered when it is durable. [`store`] keeps each document with what has not been acknowledged, [`task`] exchanges it with the control
//! plane, which decides conflicts; the steps between are those of `farshore_domain::document::local`.

mod store;
pub(crate) mod task;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use farshore_domain::document::exchange::{Answer, DocumentName, Outcome, Request};
use farshore_domain::document::{DESIRED, DocumentError, Hlc, REPORTED, Rule, TWIN, patch};
use farshore_domain::time::UnixMs;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::clock;
use store::Store;

/// Why a document could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentsError {
    #[error("{0}")]
    Invalid(#[from] DocumentError),
    #[error("there is no such document")]
    NotFound,
    /// Somebody else wrote it.
    #[error("the document is at version {current}, not {expected}")]
    Version { expected: u64, current: u64 },
    #[error("this device may only read the document")]
    ReadOnly,
    #[error("this device has {0} documents and takes no more")]
    TooMany(u64),
    #[error("the documents of this device have more than {0} bytes: delete some first")]
    Full(u64),
    #[error("the documents can't be stored")]
    Store(#[source] rusqlite::Error),
    #[error("a stored document can't be read")]
    Damaged(#[source] serde_json::Error),
    #[error("{0}")]
    Stopped(String),
}

impl DocumentsError {
    /// A word for programs.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::NotFound => "not found",
            Self::Version { .. } => "version mismatch",
            Self::ReadOnly => "read only",
            Self::TooMany(_) => "too many documents",
            Self::Full(_) => "insufficient storage",
            Self::Store(_) | Self::Damaged(_) | Self::Stopped(_) => "unavailable",
        }
    }

    /// Whether it is this device's fault, not the asker's.
    pub(crate) const fn is_fault(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Damaged(_) | Self::Stopped(_))
    }
}

impl From<rusqlite::Error> for DocumentsError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error)
    }
}

impl From<serde_json::Error> for DocumentsError {
    fn from(error: serde_json::Error) -> Self {
        Self::Damaged(error)
    }
}

/// A document as apps see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LocalDocument {
    pub collection: String,
    pub name: String,
    /// Grows with each change that apps can see, whichever document it is of.
    pub version: u64,
    /// The revision of the control plane that this device has seen; 0: none.
    pub revision: u64,
    /// Whether something of it was changed here that the control plane has not acknowledged.
    pub pending: bool,
    /// None: it was deleted.
    pub value: Option<Value>,
}

/// A document without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedDocument {
    pub collection: String,
    pub name: String,
    /// As of [`LocalDocument`].
    pub version: u64,
    pub revision: u64,
    pub pending: bool,
}

/// How the documents of this device stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DocumentsStatus {
    pub documents: u64,
    /// Documents with changes that the control plane has not acknowledged.
    pub pending: u64,
    /// Since when, in Unix milliseconds.
    pub pending_since: Option<i64>,
    /// When the control plane was heard the last time, in Unix milliseconds.
    pub synced_at: Option<i64>,
    /// Why the last exchange came to nothing, or what the control plane does not take.
    pub note: Option<String>,
}

/// The documents of this device. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Documents {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Mutex<Store>,
    /// The newest version, for those who wait for a change.
    version: watch::Sender<u64>,
    /// Something was written here.
    written: Notify,
    wish: Mutex<Option<Rule>>,
    heard: Mutex<(Option<i64>, Option<String>)>,
    /// Documents whose change the control plane does not take now, and why. They are left out until they are tried again.
    put_off: Mutex<BTreeMap<DocumentName, String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> UnixMs {
    UnixMs(clock::wall_ns().div_euclid(1_000_000))
}

impl Documents {
    /// Opens the documents in the gateway's folder.
    ///
    /// # Errors
    /// When they can't be used.
    pub(crate) fn open(folder: &Path) -> Result<Self, DocumentsError> {
        let store = Store::open(&folder.join("documents.db"))?;
        let version = watch::Sender::new(store.version());
        let heard = Mutex::default();
        let inner = Inner {
            store: Mutex::new(store),
            version,
            written: Notify::new(),
            wish: Mutex::default(),
            heard,
            put_off: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Off the runtime's threads, because each write waits for the disk.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, DocumentsError> + Send + 'static,
    ) -> Result<T, DocumentsError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            let mut store = lock(&inner.store);
            let done = work(&mut store);
            let version = store.version();
            inner.version.send_if_modified(|known| std::mem::replace(known, version) != version);
            done
        });
        done.await.map_err(|error| DocumentsError::Stopped(error.to_string()))?
    }

    /// # Errors
    /// When there is none.
    pub async fn get(&self, collection: &str, name: &str) -> Result<LocalDocument, DocumentsError> {
        farshore_domain::document::check_names(collection, name)?;
        let (collection, name) = (collection.to_owned(), name.to_owned());
        self.on_disk(move |store| store.get(&collection, &name)).await
    }

    /// Documents without their values, in the order of their names, after one; of one collection, if one is given.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn list(
        &self,
        collection: Option<&str>,
        after: (&str, &str),
        limit: usize,
    ) -> Result<Vec<ListedDocument>, DocumentsError> {
        let collection = collection.map(str::to_owned);
        let after = (after.0.to_owned(), after.1.to_owned());
        self.on_disk(move |store| store.list(collection.as_deref(), (&after.0, &after.1), limit)).await
    }

    /// What changed after a version, deletions too; waits until something does, at most for `wait`. These are fewer than `limit` where they are large: there
    /// may be more after the last one, if there is one.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn changes(
        &self,
        after: u64,
        limit: usize,
        wait: std::time::Duration,
    ) -> Result<Vec<LocalDocument>, DocumentsError> {
        let mut version = self.inner.version.subscribe();
        // A version from before a store that was begun anew is as good as none.
        let after = if after > *version.borrow() { 0 } else { after };
        let newer = version.wait_for(|version| *version > after);
        if tokio::time::timeout(wait, newer).await.is_err() && wait.is_zero() {
            return Ok(Vec::new());
        }
        self.on_disk(move |store| store.changes(after, limit)).await
    }

    /// The newest version of all documents.
    #[must_use]
    pub fn version(&self) -> u64 {
        *self.inner.version.borrow()
    }

    /// Waits until the newest version is newer than this one, and says which it is.
    pub(crate) async fn newer(&self, after: u64) -> u64 {
        let mut version = self.inner.version.subscribe();
        // Its sender lives as long as this does.
        version.wait_for(|version| *version > after).await.map_or(after, |version| *version)
    }

    /// The halves of the twin that are there, by their names. Waits for the disk: not for the runtime's threads.
    ///
    /// # Errors
    /// When they can't be read.
    pub(crate) fn twin(&self) -> Result<Value, DocumentsError> {
        let store = lock(&self.inner.store);
        let mut twin = serde_json::Map::new();
        for half in [DESIRED, REPORTED] {
            match store.get(TWIN, half) {
                Ok(LocalDocument { value: Some(value), .. }) => drop(twin.insert(half.to_owned(), value)),
                Ok(_) | Err(DocumentsError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Value::Object(twin))
    }

    /// Writes a document, or deletes it. It is durable when this returns.
    ///
    /// # Errors
    /// When it isn't written: nothing is changed then.
    pub async fn put(
        &self,
        collection: &str,
        name: &str,
        value: Option<Value>,
        expected: Option<u64>,
    ) -> Result<LocalDocument, DocumentsError> {
        self.edit(collection, name, expected, move |_| Ok(value)).await
    }

    /// Changes a document by a JSON Merge Patch; makes it when it is not there. It is durable when this returns.
    ///
    /// # Errors
    /// When it isn't written: nothing is changed then.
    pub async fn patch(
        &self,
        collection: &str,
        name: &str,
        change: Value,
        expected: Option<u64>,
    ) -> Result<LocalDocument, DocumentsError> {
        if !change.is_object() {
            return Err(DocumentError("a merge patch for a document is a JSON object".to_owned()).into());
        }
        self.edit(collection, name, expected, move |current| {
            let empty = Value::Object(serde_json::Map::new());
            Ok(Some(patch::apply(current.unwrap_or(&empty), &change)))
        })
        .await
    }

    async fn edit(
        &self,
        collection: &str,
        name: &str,
        expected: Option<u64>,
        change: impl FnOnce(Option<&Value>) -> Result<Option<Value>, DocumentsError> + Send + 'static,
    ) -> Result<LocalDocument, DocumentsError> {
        farshore_domain::document::check_names(collection, name)?;
        let (collection, name) = (collection.to_owned(), name.to_owned());
        let written =
            self.on_disk(move |store| store.edit(&collection, &name, expected, now(), change)).await?;
        self.inner.written.notify_one();
        Ok(written)
    }

    /// The rule that this device's program asks for; it holds where the tenant has set none for a collection.
    pub(crate) fn set_wish(&self, wish: Option<Rule>) {
        *lock(&self.inner.wish) = wish;
        self.inner.written.notify_one();
    }

    /// What is to be said to the control plane.
    pub(crate) async fn request(&self, wait_seconds: u32) -> Result<Request, DocumentsError> {
        let put_off = lock(&self.inner.put_off).clone();
        let mut request = self.on_disk(move |store| store.request(&put_off)).await?;
        request.wish.clone_from(&lock(&self.inner.wish));
        request.wait_seconds = wait_seconds;
        Ok(request)
    }

    /// Takes what the control plane said.
    pub(crate) async fn hear(&self, answer: Answer) -> Result<(), DocumentsError> {
        let answers: Vec<_> = answer
            .answers
            .iter()
            .map(|answered| {
                let name =
                    DocumentName { collection: answered.collection.clone(), name: answered.name.clone() };
                (name, answered.outcome, answered.why.clone())
            })
            .collect();
        self.on_disk(move |store| store.hear(answer, now())).await?;
        let mut put_off = lock(&self.inner.put_off);
        for (name, outcome, why) in answers {
            if matches!(outcome, Outcome::Later | Outcome::Unknown) {
                let why = why.unwrap_or_else(|| "the control plane does not take it now".to_owned());
                put_off.insert(name, why);
            } else {
                put_off.remove(&name);
            }
        }
        *lock(&self.inner.heard) = (Some(now().0), put_off.values().next().cloned());
        Ok(())
    }

    /// How many documents have a change that the control plane does not take now.
    pub(crate) fn put_off(&self) -> usize {
        lock(&self.inner.put_off).len()
    }

    /// What was put off goes with the next request.
    pub(crate) fn try_again(&self) {
        lock(&self.inner.put_off).clear();
    }

    pub(crate) fn failed(&self, why: String) {
        lock(&self.inner.heard).1 = Some(why);
    }

    /// How they stand.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn status(&self) -> Result<DocumentsStatus, DocumentsError> {
        let (documents, pending, pending_since) = self.on_disk(|store| store.counts()).await?;
        let (synced_at, note) = lock(&self.inner.heard).clone();
        Ok(DocumentsStatus { documents, pending, pending_since, synced_at, note })
    }

    pub(crate) async fn written(&self) {
        self.inner.written.notified().await;
    }
}

/// The next time of this device's clock.
fn tick(clock: Hlc, now: UnixMs) -> Hlc {
    clock.next(now)
}
