//! The documents in a file. WAL with `synchronous=FULL`: what was answered survives a power cut.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use farshore_domain::document::exchange::{
    Answer, DocumentName, MAX_CHANGES, MAX_EXCHANGE_BYTES, Outcome, Request, Reset,
};
use farshore_domain::document::local::{Local, Step};
use farshore_domain::document::{Hlc, MAX_DOCUMENTS, Side, may_write, tidy};
use farshore_domain::time::UnixMs;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde_json::Value;

use super::{DocumentsError, ListedDocument, LocalDocument, tick};

/// The version of the tables below, in `user_version`.
const SCHEMA: i64 = 1;
/// Deleted documents that whoever follows the changes can still hear of.
const MAX_GONE: i64 = 1_000;
/// About so many bytes of stored documents are read for one answer, and one document more.
const MAX_READ_BYTES: usize = 1024 * 1024;
/// Bytes of the whole store beyond which apps write nothing more. What the control plane sends is taken: it has bounds of its own.
const MAX_STORE_BYTES: u64 = 256 * 1024 * 1024;

const TABLES: &str = "
create table kept (key text primary key, value text not null) without rowid;
create table documents (
    collection text not null, name text not null,
    -- What farshore_domain::document::local::Local is, as JSON.
    local text not null,
    -- 0: as the control plane has it; 1: changed here; 2: a change is on its way.
    pending integer not null,
    pending_since integer,
    gone integer not null,
    version integer not null,
    -- The walk through all documents in which it was met last.
    walk integer not null,
    primary key (collection, name)
) without rowid;
create unique index documents_by_version on documents (version);
create index documents_pending on documents (pending) where pending > 0;
create table wanted (collection text not null, name text not null, revision integer not null, primary key (collection, name)) without rowid;
";

/// What holds for the store as a whole.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Kept {
    life: String,
    cursor: u64,
    /// The number of the last change that was sent.
    number: u64,
    version: u64,
    clock: Hlc,
    walk: u64,
    /// Documents that are not met in this walk were deleted while nobody remembered it.
    sweeping: bool,
    read_only: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    kept: Kept,
    max_bytes: u64,
}

impl Store {
    /// Opens or makes the file. A damaged one is moved aside (one is kept) and a new one begun: the control plane has what it acknowledged.
    pub(super) fn open(path: &Path) -> Result<Self, DocumentsError> {
        match Self::open_sound(path) {
            Err(DocumentsError::Store(error)) if is_damage(&error) => {
                tracing::error!(%error, path = %path.display(), "the documents are damaged; the file is moved aside and a new one begun");
                for suffix in ["-wal", "-shm", ""] {
                    let with = |more: &str| {
                        let mut name = path.as_os_str().to_owned();
                        name.push(suffix);
                        name.push(more);
                        name
                    };
                    let moved = std::fs::rename(with(""), with(".damaged"));
                    if let Err(error) = moved
                        && error.kind() != ErrorKind::NotFound
                    {
                        return Err(DocumentsError::Stopped(format!(
                            "the damaged file can't be moved aside: {error}"
                        )));
                    }
                }
                Self::open_sound(path)
            }
            opened => opened,
        }
    }

    fn open_sound(path: &Path) -> Result<Self, DocumentsError> {
        // Nobody else may read it; SQLite makes the files beside it with the same rights.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(DocumentsError::Stopped(format!("the documents' file can't be made: {error}")));
            }
            _ => {}
        }
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        // In KiB when negative: a device's memory is small.
        connection.pragma_update(None, "cache_size", -512)?;
        let sound: String = connection.query_row("pragma quick_check(1)", [], |row| row.get(0))?;
        if sound != "ok" {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(rusqlite::Error::SqliteFailure(code, Some(sound)).into());
        }
        let schema: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
        match schema {
            0 => {
                let kept = Kept {
                    life: format!("{:016x}", uuid::Uuid::new_v4().as_u64_pair().0),
                    cursor: 0,
                    number: 0,
                    version: 0,
                    clock: Hlc::default(),
                    walk: 0,
                    sweeping: false,
                    read_only: Vec::new(),
                };
                let tx = connection.transaction()?;
                tx.execute_batch(TABLES)?;
                keep(&tx, &kept)?;
                tx.pragma_update(None, "user_version", SCHEMA)?;
                tx.commit()?;
            }
            SCHEMA => {}
            _ => {
                return Err(DocumentsError::Stopped(
                    "the documents were written by a later version".to_owned(),
                ));
            }
        }
        let kept: String =
            connection.query_row("select value from kept where key = 'store'", [], |row| row.get(0))?;
        Ok(Self { kept: serde_json::from_str(&kept)?, connection, max_bytes: MAX_STORE_BYTES })
    }

    pub(super) const fn version(&self) -> u64 {
        self.kept.version
    }

    pub(super) fn get(&self, collection: &str, name: &str) -> Result<LocalDocument, DocumentsError> {
        let found = self.rows(
            "select collection, name, local, version from documents where collection = ?1 and name = ?2 and gone = 0",
            params![collection, name],
        )?;
        found.into_iter().next().ok_or(DocumentsError::NotFound)
    }

    pub(super) fn list(
        &self,
        collection: Option<&str>,
        after: (&str, &str),
        limit: usize,
    ) -> Result<Vec<ListedDocument>, DocumentsError> {
        let mut statement = self.connection.prepare_cached(
            "select collection, name, version, json_extract(local, '$.revision'), pending > 0 from documents
             where gone = 0 and (?1 is null or collection = ?1) and (collection, name) > (?2, ?3) order by collection, name limit ?4",
        )?;
        let rows =
            statement.query_map(params![collection, after.0, after.1, number(limit as u64)], |row| {
                Ok(ListedDocument {
                    collection: row.get(0)?,
                    name: row.get(1)?,
                    version: row.get::<_, i64>(2)?.unsigned_abs(),
                    revision: row.get::<_, i64>(3)?.unsigned_abs(),
                    pending: row.get(4)?,
                })
            })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn changes(&self, after: u64, limit: usize) -> Result<Vec<LocalDocument>, DocumentsError> {
        self.rows(
            "select collection, name, local, version from documents where version > ?1 order by version limit ?2",
            params![number(after), number(limit as u64)],
        )
    }

    fn rows(&self, sql: &str, params: impl rusqlite::Params) -> Result<Vec<LocalDocument>, DocumentsError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        let mut found = Vec::new();
        let mut room = MAX_READ_BYTES;
        while let Some(row) = rows.next()? {
            let local: String = row.get(2)?;
            if local.len() > room && !found.is_empty() {
                break;
            }
            room = room.saturating_sub(local.len());
            let version = row.get::<_, i64>(3)?.unsigned_abs();
            found.push(shown(row.get(0)?, row.get(1)?, &serde_json::from_str(&local)?, version));
        }
        Ok(found)
    }

    /// (documents, pending, since when)
    pub(super) fn counts(&self) -> Result<(u64, u64, Option<i64>), DocumentsError> {
        let documents: i64 =
            self.connection
                .query_row("select count(*) from documents where gone = 0", [], |row| row.get(0))?;
        let (pending, since): (i64, Option<i64>) = self.connection.query_row(
            "select count(*), min(pending_since) from documents where pending > 0",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok((documents.unsigned_abs(), pending.unsigned_abs(), since))
    }

    pub(super) fn edit(
        &mut self,
        collection: &str,
        name: &str,
        expected: Option<u64>,
        now: UnixMs,
        change: impl FnOnce(Option<&Value>) -> Result<Option<Value>, DocumentsError>,
    ) -> Result<LocalDocument, DocumentsError> {
        if !may_write(Side::Edge, collection, name) || self.kept.read_only.iter().any(|one| one == collection)
        {
            return Err(DocumentsError::ReadOnly);
        }
        let mut kept = self.kept.clone();
        let tx = self.connection.transaction()?;
        let found = read(&tx, collection, name)?;
        let current =
            found.as_ref().filter(|(local, _)| local.value.is_some()).map_or(0, |(_, version)| *version);
        if let Some(expected) = expected.filter(|expected| *expected != current) {
            return Err(DocumentsError::Version { expected, current });
        }
        let (mut local, version) = found.unwrap_or_default();
        let is_new = local.value.is_none();
        let value = change(local.value.as_ref())?.map(tidy).transpose()?;
        if is_new && value.is_none() {
            return Err(DocumentsError::NotFound);
        }
        // Deleting must stay possible, and makes room.
        if value.is_some() && used_bytes(&tx)? > self.max_bytes {
            return Err(DocumentsError::Full(self.max_bytes));
        }
        if is_new {
            let count: i64 =
                tx.query_row("select count(*) from documents where gone = 0", [], |row| row.get(0))?;
            if count.unsigned_abs() >= MAX_DOCUMENTS {
                return Err(DocumentsError::TooMany(MAX_DOCUMENTS));
            }
        }
        kept.clock = tick(kept.clock, now);
        match local.edit(value, kept.clock) {
            Step::Ignored => return Ok(shown(collection.to_owned(), name.to_owned(), &local, version)),
            Step::Want { revision } => want(&tx, collection, name, revision)?,
            Step::Settled | Step::Changed => {}
        }
        kept.version += 1;
        write(&tx, collection, name, &local, kept.version, kept.walk, now)?;
        keep(&tx, &kept)?;
        tx.commit()?;
        let version = kept.version;
        self.kept = kept;
        Ok(shown(collection.to_owned(), name.to_owned(), &local, version))
    }

    /// What is on its way goes again as it was, then what else was changed; without the documents that are put off.
    pub(super) fn request(
        &mut self,
        put_off: &BTreeMap<DocumentName, String>,
    ) -> Result<Request, DocumentsError> {
        let mut kept = self.kept.clone();
        let tx = self.connection.transaction()?;
        let mut changes = Vec::new();
        // Only the names: documents are read one by one, for as long as there is room.
        let pending: Vec<DocumentName> = {
            let mut statement = tx.prepare_cached(
                "select collection, name from documents where pending > 0 order by pending desc",
            )?;
            let rows = statement
                .query_map([], |row| Ok(DocumentName { collection: row.get(0)?, name: row.get(1)? }))?;
            // What is put off takes no place of what else was changed.
            rows.filter(|row| row.as_ref().map_or(true, |name| !put_off.contains_key(name)))
                .take(MAX_CHANGES)
                .collect::<Result<_, _>>()?
        };
        let mut budget = MAX_EXCHANGE_BYTES;
        for document in pending {
            let (local, version, walk, since): (String, i64, i64, Option<i64>) = tx
                .prepare_cached(
                    "select local, version, walk, pending_since from documents where collection = ?1 and name = ?2",
                )?
                .query_row([&document.collection, &document.name], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })?;
            let mut local: Local = serde_json::from_str(&local)?;
            let was_sent = local.pending.as_ref().is_some_and(|pending| pending.sent.is_some());
            let Some(change) = local.send(&document, kept.number + 1) else { continue };
            let bytes = serde_json::to_string(&change)?.len();
            if bytes > budget && !changes.is_empty() {
                break;
            }
            budget = budget.saturating_sub(bytes);
            if !was_sent {
                kept.number += 1;
                write(
                    &tx,
                    &document.collection,
                    &document.name,
                    &local,
                    version.unsigned_abs(),
                    walk.unsigned_abs(),
                    UnixMs(since.unwrap_or_default()),
                )?;
            }
            changes.push(change);
        }
        let want: Vec<DocumentName> = {
            let mut statement = tx.prepare_cached("select collection, name from wanted limit 100")?;
            let rows = statement
                .query_map([], |row| Ok(DocumentName { collection: row.get(0)?, name: row.get(1)? }))?;
            rows.collect::<Result<_, _>>()?
        };
        if kept != self.kept {
            keep(&tx, &kept)?;
            tx.commit()?;
            self.kept = kept;
        } else {
            drop(tx);
        }
        let (_, pending, pending_since) = self.counts()?;
        Ok(Request {
            life: self.kept.life.clone(),
            cursor: self.kept.cursor,
            changes,
            want,
            pending,
            pending_since,
            ..Request::default()
        })
    }

    pub(super) fn hear(&mut self, answer: Answer, now: UnixMs) -> Result<(), DocumentsError> {
        let mut kept = self.kept.clone();
        let tx = self.connection.transaction()?;
        kept.clock = kept.clock.observe(answer.clock);
        kept.read_only = answer.read_only;
        for answered in answer.answers {
            if matches!(answered.outcome, Outcome::Later | Outcome::Unknown) {
                continue;
            }
            let (collection, name) = (&answered.collection, &answered.name);
            let Some((mut local, version)) = read(&tx, collection, name)? else { continue };
            let before = local.value.clone();
            let step = local.answered(answered.number, answered.revision, answered.state);
            settle(&tx, &mut kept, (collection, name), &local, version, (&before, step), now)?;
        }
        if answer.from == kept.cursor {
            match answer.reset {
                Some(reset) => begin_anew(&tx, &mut kept, reset, now)?,
                None => {
                    for delta in answer.documents {
                        let (collection, name) = (&delta.collection, &delta.name);
                        let (mut local, version) = read(&tx, collection, name)?.unwrap_or_default();
                        let before = local.value.clone();
                        let step = local.pulled(delta.revision, delta.from, delta.state);
                        settle(&tx, &mut kept, (collection, name), &local, version, (&before, step), now)?;
                    }
                    kept.cursor = answer.cursor;
                    if kept.sweeping && !answer.more {
                        sweep(&tx, &mut kept, now)?;
                    }
                }
            }
        }
        // Whoever follows the changes hears of the last ones that were deleted.
        tx.execute(
            "delete from documents where gone = 1 and version <= (
                 select version from documents where gone = 1 order by version desc limit 1 offset ?1)",
            [MAX_GONE],
        )?;
        if kept != self.kept {
            keep(&tx, &kept)?;
        }
        tx.commit()?;
        self.kept = kept;
        Ok(())
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
    )
}

/// Pages that are free again don't count.
fn used_bytes(tx: &Transaction<'_>) -> Result<u64, DocumentsError> {
    let pragma = |name: &str| tx.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok(pages.saturating_mul(pragma("page_size")?).unsigned_abs())
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn shown(collection: String, name: String, local: &Local, version: u64) -> LocalDocument {
    LocalDocument {
        collection,
        name,
        version,
        revision: local.revision,
        pending: local.pending.is_some(),
        value: local.value.clone(),
    }
}

fn keep(tx: &Transaction<'_>, kept: &Kept) -> Result<(), DocumentsError> {
    tx.prepare_cached("insert into kept values ('store', ?1) on conflict do update set value = ?1")?
        .execute([serde_json::to_string(kept)?])?;
    Ok(())
}

fn read(tx: &Transaction<'_>, collection: &str, name: &str) -> Result<Option<(Local, u64)>, DocumentsError> {
    let found: Option<(String, i64)> = tx
        .prepare_cached("select local, version from documents where collection = ?1 and name = ?2")?
        .query_row([collection, name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        Some((local, version)) => Ok(Some((serde_json::from_str(&local)?, version.unsigned_abs()))),
        None => Ok(None),
    }
}

fn write(
    tx: &Transaction<'_>,
    collection: &str,
    name: &str,
    local: &Local,
    version: u64,
    walk: u64,
    now: UnixMs,
) -> Result<(), DocumentsError> {
    let pending = local.pending.as_ref().map_or(0, |pending| if pending.sent.is_some() { 2 } else { 1 });
    tx.prepare_cached(
        "insert into documents (collection, name, local, pending, pending_since, gone, version, walk)
         values (?1, ?2, ?3, ?4, case when ?4 > 0 then ?5 end, ?6, ?7, ?8)
         on conflict do update set local = ?3, pending = ?4,
             pending_since = case when ?4 > 0 then coalesce(documents.pending_since, ?5) end, gone = ?6, version = ?7, walk = ?8",
    )?
    .execute(params![
        collection,
        name,
        serde_json::to_string(local)?,
        pending,
        now.0,
        local.is_gone(),
        number(version),
        number(walk),
    ])?;
    Ok(())
}

/// Asks for a document whole, until it is as new as this revision.
fn want(tx: &Transaction<'_>, collection: &str, name: &str, revision: u64) -> Result<(), DocumentsError> {
    tx.prepare_cached(
        "insert into wanted values (?1, ?2, ?3) on conflict do update set revision = max(revision, ?3)",
    )?
    .execute(params![collection, name, number(revision)])?;
    Ok(())
}

/// Keeps a document after a step.
fn settle(
    tx: &Transaction<'_>,
    kept: &mut Kept,
    (collection, name): (&str, &str),
    local: &Local,
    version: u64,
    (before, step): (&Option<Value>, Step),
    now: UnixMs,
) -> Result<(), DocumentsError> {
    if let Step::Want { revision } = step {
        want(tx, collection, name, revision)?;
    } else {
        tx.prepare_cached("delete from wanted where collection = ?1 and name = ?2 and revision <= ?3")?
            .execute(params![collection, name, number(local.revision)])?;
    }
    let never_seen = version == 0;
    if never_seen && local.is_gone() {
        return Ok(());
    }
    let version = if never_seen || *before != local.value {
        kept.version += 1;
        kept.version
    } else {
        version
    };
    write(tx, collection, name, local, version, kept.walk, now)
}

/// The cursor is of no use any more.
fn begin_anew(
    tx: &Transaction<'_>,
    kept: &mut Kept,
    reset: Reset,
    now: UnixMs,
) -> Result<(), DocumentsError> {
    tracing::warn!(?reset, "the documents are compared with those of the control plane from the beginning");
    kept.cursor = 0;
    kept.walk += 1;
    kept.sweeping = reset == Reset::Forgotten;
    // Revisions that were waited for may never come again, and everything is told anew.
    tx.execute("delete from wanted", [])?;
    if reset == Reset::Forgotten {
        return Ok(());
    }
    // What was deleted may be there again; its revision here would hide that.
    tx.execute("delete from documents where gone = 1 and pending = 0", [])?;
    let names: Vec<(String, String)> = {
        let mut statement = tx.prepare("select collection, name from documents")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    for (collection, name) in names {
        let Some((mut local, version)) = read(tx, &collection, &name)? else { continue };
        if may_write(Side::Edge, &collection, &name) && !kept.read_only.contains(&collection) {
            local.hub_restored(kept.clock);
        } else {
            // What the control plane alone writes is what it says.
            local.revision = 0;
        }
        write(tx, &collection, &name, &local, version, kept.walk, now)?;
    }
    Ok(())
}

/// What was not met from the beginning to the end, and was not changed here, was deleted.
fn sweep(tx: &Transaction<'_>, kept: &mut Kept, now: UnixMs) -> Result<(), DocumentsError> {
    let names: Vec<(String, String)> = {
        let mut statement = tx
            .prepare("select collection, name from documents where gone = 0 and pending = 0 and walk < ?1")?;
        let rows = statement.query_map([number(kept.walk)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    for (collection, name) in names {
        let Some((local, _)) = read(tx, &collection, &name)? else { continue };
        let gone = Local { revision: local.revision, ..Local::default() };
        kept.version += 1;
        write(tx, &collection, &name, &gone, kept.version, kept.walk, now)?;
    }
    kept.sweeping = false;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("documents.db")).expect("a store");
        (folder, store)
    }

    fn put(store: &mut Store, name: &str, value: Option<Value>) -> Result<LocalDocument, DocumentsError> {
        store.edit("c", name, None, UnixMs(1), |_| Ok(value))
    }

    #[test]
    fn large_documents_are_told_in_parts_and_listed_without_values() {
        let (_folder, mut store) = store();
        let large = json!({"x": "x".repeat(100 * 1024)});
        for number in 0..30 {
            put(&mut store, &format!("{number:02}"), Some(large.clone())).expect("written");
        }
        let (mut after, mut parts, mut names) = (0, 0, Vec::new());
        loop {
            let part = store.changes(after, 500).expect("read");
            let Some(last) = part.last() else { break };
            after = last.version;
            parts += 1;
            assert!(serde_json::to_string(&part).expect("JSON").len() <= MAX_READ_BYTES);
            names.extend(part.into_iter().map(|document| document.name));
        }
        assert_eq!((names.len(), parts > 2), (30, true));
        let listed = store.list(None, ("c", "27"), 500).expect("read");
        assert_eq!(
            listed.iter().map(|one| (one.name.as_str(), one.pending)).collect::<Vec<_>>(),
            [("28", true), ("29", true)]
        );
        let request = store.request(&BTreeMap::new()).expect("a request");
        assert_eq!((request.changes.len(), request.pending), (5, 30));
        // What is on its way goes again as it was.
        assert_eq!(store.request(&BTreeMap::new()).expect("a request").changes, request.changes);
    }

    #[test]
    fn a_full_store_takes_nothing_but_deletions() {
        let (_folder, mut store) = store();
        let value = Some(json!({"x": "x".repeat(100 * 1024)}));
        store.max_bytes = 300 * 1024;
        let mut written = 0;
        while put(&mut store, &format!("{written}"), value.clone()).is_ok() {
            written += 1;
            assert!(written < 10, "it has no bound");
        }
        let refused = put(&mut store, "0", Some(json!({"x": 1})));
        assert!(matches!(refused, Err(DocumentsError::Full(_))), "{refused:?}");
        assert_eq!(put(&mut store, "0", None).expect("deleted").value, None);
        assert_eq!(store.get("c", "1").expect("there").value, value);
    }
}
