//! Documents and the twin for clients of the MQTT endpoint.
//!
//! Whoever subscribes to `$documents/COLLECTION/NAME` or `$twin/desired` (wildcards too) is told what there is, as retained messages, and then of each
//! change. A connection follows the store by itself, by version: one that reads slowly hears of the newest state, and none misses one. Messages to
//! `…/put`, `…/patch` and `…/delete` are acknowledged when what they ask for is durable. What is refused is told to who sent it: on [`REFUSED`], and to clients of
//! version 5 with the acknowledgement.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use farshore_domain::document::{MAX_BYTES, TWIN};
use serde_json::json;

use super::connection::{ConnectionError, QUOTA_EXCEEDED, Settled};
use super::hub::matches;
use crate::documents::{Documents, DocumentsError, LocalDocument};
use crate::gateway::Shared;

/// Where refusals are told.
pub(super) const REFUSED: &str = "$documents/refused";
/// Documents that are read at once for one connection; of large ones there are fewer.
const PAGE: usize = 64;
/// Before documents are read again that could not be read.
const PAUSE: Duration = Duration::from_secs(5);

const UNSPECIFIC: u8 = 0x83;
const NOT_ALLOWED: u8 = 0x87;
const TOPIC_INVALID: u8 = 0x90;
const PAYLOAD_INVALID: u8 = 0x99;

/// Topics that are the documents': no readings, whatever they say.
pub(super) fn is_for_documents(topic: &str) -> bool {
    matches!(topic.split('/').next(), Some("$documents" | "$twin"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Put,
    Patch,
    Delete,
}

/// What a topic asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'t> {
    collection: &'t str,
    name: &'t str,
    verb: Verb,
    /// Only when the document is at this version.
    expected: Option<u64>,
}

fn asked(topic: &str) -> Option<Asked<'_>> {
    let mut parts = topic.split('/');
    let collection = match parts.next()? {
        "$twin" => TWIN,
        "$documents" => parts.next()?,
        _ => return None,
    };
    let name = parts.next()?;
    let verb = match parts.next()? {
        "put" => Verb::Put,
        "patch" => Verb::Patch,
        "delete" => Verb::Delete,
        _ => return None,
    };
    let expected = match parts.next() {
        None => None,
        Some(version) => Some(version.parse().ok()?),
    };
    parts.next().is_none().then_some(Asked { collection, name, verb, expected })
}

fn topic(document: &LocalDocument) -> String {
    match document.collection.as_str() {
        TWIN => format!("$twin/{}", document.name),
        collection => format!("$documents/{collection}/{}", document.name),
    }
}

/// Why a message is not done.
struct Refusal {
    reason: u8,
    code: &'static str,
    message: String,
    /// It may be done when it comes again.
    again: bool,
}

impl Refusal {
    fn new(reason: u8, code: &'static str, message: String) -> Self {
        Self { reason, code, message, again: false }
    }
}

impl From<DocumentsError> for Refusal {
    fn from(error: DocumentsError) -> Self {
        let reason = match &error {
            DocumentsError::Invalid(_) => PAYLOAD_INVALID,
            DocumentsError::ReadOnly => NOT_ALLOWED,
            DocumentsError::TooMany(_) | DocumentsError::Full(_) => QUOTA_EXCEEDED,
            _ => UNSPECIFIC,
        };
        let again = error.is_fault();
        if again {
            tracing::error!(%error, source = ?std::error::Error::source(&error), "a document was not written");
        }
        Self { reason, code: error.code(), message: error.to_string(), again }
    }
}

/// Does what a message asks for; its acknowledgement waits for that.
pub(super) async fn write(
    shared: &Shared,
    (client, connection): (Arc<str>, u64),
    id: Option<(u16, u64)>,
    topic: String,
    payload: Vec<u8>,
) -> Settled {
    let Err(refusal) = carry_out(&shared.documents, &topic, &payload).await else {
        return Settled::document(id, 0, Ok(()));
    };
    tracing::info!(topic, %client, why = refusal.message, "a document is not written");
    // Nobody else is told: topics and names of other clients are theirs.
    let told = json!({"topic": topic, "error": refusal.code, "message": refusal.message});
    shared.hub.tell_one(connection, REFUSED, told.to_string().as_bytes());
    let result = if refusal.again { Err(ConnectionError::Document(refusal.message)) } else { Ok(()) };
    Settled::document(id, refusal.reason, result)
}

async fn carry_out(documents: &Documents, topic: &str, payload: &[u8]) -> Result<(), Refusal> {
    let asked = asked(topic).ok_or_else(|| {
        let message = "documents are written to $documents/COLLECTION/NAME/VERB and $twin/reported/VERB; VERB is put, patch or delete, /VERSION may follow";
        Refusal::new(TOPIC_INVALID, "not found", message.to_owned())
    })?;
    let Asked { collection, name, verb, expected } = asked;
    if verb == Verb::Delete {
        documents.put(collection, name, None, expected).await?;
        return Ok(());
    }
    // Spaces don't count.
    if payload.len() > 2 * MAX_BYTES {
        let message = format!("a document has at most {MAX_BYTES} bytes");
        return Err(Refusal::new(PAYLOAD_INVALID, "request too large", message));
    }
    let value = serde_json::from_slice(payload).map_err(|error| {
        Refusal::new(PAYLOAD_INVALID, "invalid", format!("the message is no JSON: {error}"))
    })?;
    match verb {
        Verb::Put => documents.put(collection, name, Some(value), expected).await?,
        _ => documents.patch(collection, name, value, expected).await?,
    };
    Ok(())
}

/// What one connection is told.
pub(super) struct Telling {
    documents: Documents,
    filters: Vec<Followed>,
    /// Goes on when a connection has something else to do.
    reading: Option<Pin<Box<dyn Future<Output = Page> + Send>>>,
}

struct Followed {
    filter: String,
    /// The version up to which it was told.
    after: u64,
    /// What was there when it was subscribed to has at most this version.
    there: u64,
}

/// Documents in the order of their versions, without a gap after `after` and up to `until`.
#[derive(Debug)]
pub(super) struct Page {
    after: u64,
    until: u64,
    documents: Vec<LocalDocument>,
}

impl Telling {
    pub(super) const fn new(documents: Documents) -> Self {
        Self { documents, filters: Vec::new(), reading: None }
    }

    /// Begins with what there is, also for a filter that is known.
    pub(super) fn subscribe(&mut self, filter: &str) {
        if !is_for_documents(filter) || filter == REFUSED {
            return;
        }
        self.unsubscribe(filter);
        let there = self.documents.version();
        self.filters.push(Followed { filter: filter.to_owned(), after: 0, there });
        // It may wait for a version that is newer than what this filter has to be told.
        self.reading = None;
    }

    /// Goes on behind a version, for a client that was away.
    pub(super) fn resume(&mut self, filter: &str, after: u64) {
        if is_for_documents(filter) && filter != REFUSED {
            self.filters.push(Followed { filter: filter.to_owned(), after, there: 0 });
        }
    }

    /// The version up to which a filter was told.
    pub(super) fn told(&self, filter: &str) -> u64 {
        self.filters.iter().find(|known| known.filter == filter).map_or(0, |known| known.after)
    }

    pub(super) fn unsubscribe(&mut self, filter: &str) {
        self.filters.retain(|known| known.filter != filter);
    }

    /// The next documents, when there are some. Nothing is lost when this is given up.
    pub(super) async fn next(&mut self) -> Page {
        let Some(after) = self.filters.iter().map(|filter| filter.after).min() else {
            return std::future::pending().await;
        };
        let documents = &self.documents;
        let reading = self.reading.get_or_insert_with(|| Box::pin(read(documents.clone(), after)));
        let page = reading.await;
        self.reading = None;
        page
    }

    /// Hands on what of it somebody asked for: topic, message, and whether it was there already. Says how many those were.
    pub(super) fn tell(&mut self, page: &Page, mut say: impl FnMut(&str, &[u8], bool)) -> u64 {
        let mut told = 0;
        for document in &page.documents {
            let topic = topic(document);
            let wanted = self.filters.iter().filter(|filter| {
                (page.after..document.version).contains(&filter.after) && matches(&filter.filter, &topic)
            });
            // One message, however many of the filters it is for.
            let Some(there) =
                wanted.map(|filter| document.version <= filter.there).reduce(|all, one| all && one)
            else {
                continue;
            };
            say(&topic, json!(document).to_string().as_bytes(), there);
            told += 1;
        }
        for filter in self.filters.iter_mut().filter(|filter| filter.after >= page.after) {
            filter.after = filter.after.max(page.until);
        }
        told
    }
}

async fn read(documents: Documents, after: u64) -> Page {
    loop {
        let newest = documents.newer(after).await;
        match documents.changes(after, PAGE, Duration::ZERO).await {
            Ok(documents) => {
                // The newest one may be gone for good.
                let until = documents.last().map_or(newest, |last| last.version);
                return Page { after, until, documents };
            }
            Err(error) => {
                tracing::warn!(%error, source = ?std::error::Error::source(&error), "documents can't be read; who subscribed to them is told later");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_documents_and_of_readings() {
        let wanted = |collection, name, verb, expected| Some(Asked { collection, name, verb, expected });
        for (topic, expected) in [
            ("$documents/settings/main/put", wanted("settings", "main", Verb::Put, None)),
            ("$documents/settings/main/patch/12", wanted("settings", "main", Verb::Patch, Some(12))),
            ("$documents/settings/main/delete", wanted("settings", "main", Verb::Delete, None)),
            ("$twin/reported/patch", wanted(TWIN, "reported", Verb::Patch, None)),
            ("$documents/settings/main", None),
            ("$documents/settings/main/put/x", None),
            ("$documents/settings/main/put/1/2", None),
            ("$documents/settings/main/drop", None),
            ("$documents", None),
            ("$twin", None),
        ] {
            assert_eq!(asked(topic), expected, "{topic}");
            assert!(is_for_documents(topic), "{topic}");
        }
        for reading in ["documents/a/b/put", "$SYS/x", "hall/$twin/put", ""] {
            assert!(!is_for_documents(reading) && asked(reading).is_none(), "{reading}");
        }
    }

    fn document(collection: &str, name: &str, version: u64) -> LocalDocument {
        let (collection, name) = (collection.to_owned(), name.to_owned());
        LocalDocument { collection, name, version, revision: 0, pending: false, value: None }
    }

    #[test]
    fn each_filter_is_told_what_it_has_not_heard_and_each_document_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut telling = Telling::new(Documents::open(folder.path()).expect("documents"));
        let followed = |filter: &str, after, there| Followed { filter: filter.to_owned(), after, there };
        telling.filters = vec![
            followed("$documents/c/+", 4, 2),
            followed("$documents/c/new", 0, 9),
            followed("$twin/#", 4, 0),
        ];
        let mut said = Vec::new();
        let page =
            Page { after: 0, until: 3, documents: vec![document("c", "new", 2), document("c", "x", 3)] };
        let count = telling.tell(&page, |topic, _, there| said.push((topic.to_owned(), there)));
        assert_eq!((count, said.as_slice()), (1, &[("$documents/c/new".to_owned(), true)][..]));
        said.clear();
        // Read for the first filter, before the second one came.
        let documents = vec![document("c", "new", 5), document("twin", "desired", 6), document("d", "x", 7)];
        let page = Page { after: 4, until: 7, documents };
        telling.tell(&page, |topic, _, there| said.push((topic.to_owned(), there)));
        assert_eq!(said, [("$documents/c/new".to_owned(), false), ("$twin/desired".to_owned(), false)]);
        let after: Vec<u64> = telling.filters.iter().map(|filter| filter.after).collect();
        assert_eq!(after, [7, 3, 7]);
        said.clear();
        let page = Page { after: 3, until: 5, documents: vec![document("c", "new", 5)] };
        telling.tell(&page, |topic, _, there| said.push((topic.to_owned(), there)));
        assert_eq!(said, [("$documents/c/new".to_owned(), true)]);
    }
}
