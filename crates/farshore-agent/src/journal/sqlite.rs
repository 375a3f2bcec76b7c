//! The journal of a real device. WAL with `synchronous=FULL`: what was applied survives a power cut.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Batch, Change, EVENTS, INCIDENTS, Journal, JournalError, OPERATIONS, STATE};
use crate::reserve::Reserve;

/// The version of the tables below, in `user_version`.
const SCHEMA: i64 = 1;

const TABLES: &str = "
create table kept (key text primary key, value blob not null) without rowid;
create table streams (name text primary key, last integer not null, dropped integer not null) without rowid;
create table batches (id integer primary key, stream text not null, sequence integer not null, bytes blob not null);
create unique index batches_by_sequence on batches (stream, sequence);
";

/// The journal in a file.
#[derive(Debug)]
pub struct SqliteJournal {
    connection: Connection,
    bytes: u64,
    cap: u64,
    /// Given up so that what is to be done can be written down, which comes before it is done.
    reserve: Reserve,
}

impl SqliteJournal {
    /// Opens or makes the file; at most `cap` bytes of batches are kept.
    ///
    /// # Errors
    /// When it can't be used, or a newer version wrote it.
    pub fn open(path: &Path, cap: u64) -> Result<Self, JournalError> {
        if let Some(folder) = path.parent() {
            crate::file::make_folder(folder, 0o700).map_err(JournalError::Folder)?;
        }
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        // In KiB when negative: a device's memory is small, and so is this file.
        connection.pragma_update(None, "cache_size", -256)?;
        let sound: String = connection.query_row("pragma quick_check(1)", [], |row| row.get(0))?;
        if sound != "ok" {
            return Err(JournalError::Damaged(sound));
        }
        let version: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
        match version {
            0 => {
                let tx = connection.transaction()?;
                tx.execute_batch(TABLES)?;
                tx.pragma_update(None, "user_version", SCHEMA)?;
                tx.commit()?;
            }
            SCHEMA => {}
            newer => return Err(JournalError::Newer(newer)),
        }
        let bytes =
            connection.query_row("select coalesce(sum(length(bytes)), 0) from batches", [], |row| {
                row.get::<_, i64>(0)
            })?;
        let reserve = Reserve::at(path.with_file_name("reserve"));
        reserve.keep();
        Ok(Self { connection, bytes: bytes.unsigned_abs(), cap, reserve })
    }

    /// As [`SqliteJournal::open`]; a damaged file is moved aside (one is kept) and a new one begun, because a device must come back by
    /// itself: what runs tells the runner, what should run the control plane, and it knows how far its batches came.
    ///
    /// # Errors
    /// As [`SqliteJournal::open`], but for damage.
    pub fn open_or_renew(path: &Path, cap: u64) -> Result<Self, JournalError> {
        match Self::open(path, cap) {
            Err(error) if error.is_damage() => {
                tracing::error!(error = %crate::chain(&error), "the journal is damaged; a new one is begun");
                for suffix in ["-wal", "-shm", ""] {
                    let mut from = path.as_os_str().to_owned();
                    from.push(suffix);
                    let mut to = path.as_os_str().to_owned();
                    to.push(".damaged");
                    let moved = if suffix.is_empty() {
                        std::fs::rename(&from, &to)
                    } else {
                        std::fs::remove_file(&from)
                    };
                    match moved {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(JournalError::Folder(error));
                        }
                        _ => {}
                    }
                }
                Self::open(path, cap)
            }
            opened => opened,
        }
    }

    fn write(&mut self, change: &Change) -> Result<(), JournalError> {
        let tx = self.connection.transaction()?;
        let mut bytes = self.bytes;
        for (key, value) in &change.values {
            match value {
                Some(value) => tx
                    .prepare_cached("insert into kept values (?1, ?2) on conflict do update set value = ?2")?
                    .execute(params![key, value])?,
                None => tx.prepare_cached("delete from kept where key = ?1")?.execute([key])?,
            };
        }
        for (stream, batch) in &change.batches {
            let last: i64 = tx
                .prepare_cached(
                    "insert into streams values (?1, 1, 0) on conflict do update set last = last + 1 returning last",
                )?
                .query_row([stream], |row| row.get(0))?;
            tx.prepare_cached("insert into batches (stream, sequence, bytes) values (?1, ?2, ?3)")?
                .execute(params![stream, last, batch])?;
            bytes += batch.len() as u64;
        }
        while bytes > self.cap {
            let oldest = tx
                .prepare_cached(
                    "select id, stream, length(bytes) from batches
                     order by case stream when ?1 then 1 when ?2 then 2 when ?3 then 3 else 0 end, id limit 1",
                )?
                .query_row([EVENTS, INCIDENTS, OPERATIONS], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
                })
                .optional()?;
            let Some((id, stream, length)) = oldest else { break };
            tx.execute("delete from batches where id = ?1", [id])?;
            tx.execute("update streams set dropped = dropped + 1 where name = ?1", [stream])?;
            bytes = bytes.saturating_sub(length.unsigned_abs());
        }
        tx.commit()?;
        self.bytes = bytes;
        Ok(())
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Journal for SqliteJournal {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, JournalError> {
        let mut statement = self.connection.prepare_cached("select value from kept where key = ?1")?;
        Ok(statement.query_row([key], |row| row.get(0)).optional()?)
    }

    fn apply(&mut self, change: Change) -> Result<(), JournalError> {
        let intent = change.values.iter().any(|(key, _)| key == STATE);
        // What was given up for intents is not for everything else.
        if !intent && !self.reserve.is_kept() {
            return Err(JournalError::Folder(std::io::ErrorKind::StorageFull.into()));
        }
        match self.write(&change) {
            Err(error) if intent && error.is_full() && self.reserve.give_up() => self.write(&change),
            Err(error) => Err(error),
            Ok(()) => {
                self.reserve.keep();
                Ok(())
            }
        }
    }

    fn streams(&self) -> Result<BTreeMap<String, u64>, JournalError> {
        let mut statement = self.connection.prepare_cached("select name, last from streams")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn pending(&self, stream: &str, after: u64, limit: usize) -> Result<Vec<Batch>, JournalError> {
        let mut statement = self.connection.prepare_cached(
            "select sequence, bytes from batches where stream = ?1 and sequence > ?2 order by sequence limit ?3",
        )?;
        let rows = statement.query_map(params![stream, number(after), number(limit as u64)], |row| {
            Ok(Batch { sequence: row.get::<_, i64>(0)?.unsigned_abs(), bytes: row.get(1)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn acknowledge(&mut self, stream: &str, sequence: u64) -> Result<(), JournalError> {
        let tx = self.connection.transaction()?;
        let last: Option<i64> = tx
            .query_row("select last from streams where name = ?1", [stream], |row| row.get(0))
            .optional()?;
        let sequence = number(sequence);
        let mut freed = 0;
        match last {
            Some(last) if sequence <= last => {
                freed = tx.query_row(
                    "select coalesce(sum(length(bytes)), 0) from batches where stream = ?1 and sequence <= ?2",
                    params![stream, sequence],
                    |row| row.get::<_, i64>(0),
                )?;
                tx.execute(
                    "delete from batches where stream = ?1 and sequence <= ?2",
                    params![stream, sequence],
                )?;
            }
            _ => {
                tx.execute(
                    "insert into streams values (?1, ?2, 0) on conflict do update set last = last + ?2",
                    params![stream, sequence],
                )?;
                // Through the negative numbers, because the index holds at each single row.
                tx.execute(
                    "update batches set sequence = -(sequence + ?2) where stream = ?1",
                    params![stream, sequence],
                )?;
                tx.execute("update batches set sequence = -sequence where stream = ?1", [stream])?;
            }
        }
        tx.commit()?;
        self.bytes = self.bytes.saturating_sub(freed.unsigned_abs());
        Ok(())
    }

    fn trim(&mut self, stream: &str, through: u64, bytes: u64) -> Result<u64, JournalError> {
        let tx = self.connection.transaction()?;
        // The newest batches that fit stay; a running sum from the newest on says which.
        let (count, freed) = tx.query_row(
            "select count(*), coalesce(sum(length(bytes)), 0) from (
                 select sequence, bytes, sum(length(bytes)) over (order by sequence desc) as held
                 from batches where stream = ?1)
             where sequence <= ?2 or held > ?3",
            params![stream, number(through), number(bytes)],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )?;
        if count > 0 {
            // They are the oldest ones: both rules cut from that end.
            tx.execute(
                "delete from batches where id in (select id from batches where stream = ?1 order by sequence limit ?2)",
                params![stream, count],
            )?;
            tx.execute("update streams set dropped = dropped + ?2 where name = ?1", params![stream, count])?;
        }
        tx.commit()?;
        self.bytes = self.bytes.saturating_sub(freed.unsigned_abs());
        Ok(count.unsigned_abs())
    }

    fn dropped(&self) -> Result<BTreeMap<String, u64>, JournalError> {
        let mut statement =
            self.connection.prepare_cached("select name, dropped from streams where dropped > 0")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
