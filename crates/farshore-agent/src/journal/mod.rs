//! What a device must not forget: small values by key, and batches that wait for their acknowledgement.

mod memory;
mod sqlite;

use std::collections::BTreeMap;

pub use memory::MemoryJournal;
pub use sqlite::SqliteJournal;

/// The stream of what happened on the device. Dropped after measurements when the journal is full.
pub const EVENTS: &str = "events";
/// The stream of incidents and their evidence. Dropped last.
pub(crate) const INCIDENTS: &str = "incidents";
/// The key of what the reconciler remembers: its intents.
pub(crate) const STATE: &str = "state";
/// The stream of how operations go. Small, and dropped after everything else.
pub(crate) const OPERATIONS: &str = "operations";

/// Why something can't be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal can't be used")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the journal's folder can't be made")]
    Folder(#[source] std::io::Error),
    #[error("the journal was written by a newer version ({0})")]
    Newer(i64),
    #[error("the journal is damaged: {0}")]
    Damaged(String),
}

impl JournalError {
    /// Whether there was no room on the disk.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            other => crate::file::found_no_room(other),
        }
    }

    /// Whether what is on disk can't be used any more, so that only a new journal helps.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match self {
            Self::Damaged(_) => true,
            Self::Sqlite(error) => matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)),
            Self::Folder(_) | Self::Newer(_) => false,
        }
    }
}

/// Several changes that are kept together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Values to set; `None` deletes.
    pub values: Vec<(String, Option<Vec<u8>>)>,
    /// Batches to append to streams.
    pub batches: Vec<(String, Vec<u8>)>,
}

/// One batch that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub sequence: u64,
    pub bytes: Vec<u8>,
}

/// Where a device keeps what it must not forget. Durable before it returns, where the kind says so.
pub trait Journal: Send + 'static {
    /// A value.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, JournalError>;
    /// Makes changes. When the cap is exceeded, the oldest batches are dropped and counted: metrics first, incidents last.
    fn apply(&mut self, change: Change) -> Result<(), JournalError>;
    /// The streams that have had batches, with the last sequence of each.
    fn streams(&self) -> Result<BTreeMap<String, u64>, JournalError>;
    /// At most `limit` batches of a stream after `after`, in order.
    fn pending(&self, stream: &str, after: u64, limit: usize) -> Result<Vec<Batch>, JournalError>;
    /// Forgets everything up to `sequence`. A number beyond what was ever made here (this journal was lost and made anew) renumbers what waits.
    fn acknowledge(&mut self, stream: &str, sequence: u64) -> Result<(), JournalError>;
    /// Drops batches up to `through`, then the oldest until the stream holds at most `bytes`, and counts them as dropped. Returns how many there were.
    fn trim(&mut self, stream: &str, through: u64, bytes: u64) -> Result<u64, JournalError>;
    /// How many batches were dropped from each stream because the journal was full.
    fn dropped(&self) -> Result<BTreeMap<String, u64>, JournalError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(journal: &mut dyn Journal) {
        let batches = vec![("host".to_owned(), vec![1; 400]), (EVENTS.to_owned(), vec![2; 400])];
        journal.apply(Change { values: vec![("k".into(), Some(vec![7]))], batches }).unwrap();
    }

    fn check(mut journal: impl Journal) {
        fill(&mut journal);
        fill(&mut journal);
        assert_eq!(journal.get("k").unwrap(), Some(vec![7]));
        let sequences = |journal: &dyn Journal, stream: &str| {
            journal.pending(stream, 0, 10).unwrap().iter().map(|batch| batch.sequence).collect::<Vec<_>>()
        };
        assert_eq!(sequences(&journal, "host"), [1, 2]);
        journal.acknowledge("host", 1).unwrap();
        assert_eq!(sequences(&journal, "host"), [2]);
        // 1,600 bytes: metrics go before events, the oldest first, and it is counted.
        fill(&mut journal);
        assert_eq!(sequences(&journal, "host"), [3]);
        assert_eq!(sequences(&journal, EVENTS), [1, 2, 3]);
        fill(&mut journal);
        fill(&mut journal);
        assert_eq!(sequences(&journal, EVENTS), [2, 3, 4, 5]);
        assert_eq!(
            journal.dropped().unwrap(),
            BTreeMap::from([("host".to_owned(), 4), (EVENTS.to_owned(), 1)])
        );
        // The control plane knows more than this journal: it was lost once.
        journal.acknowledge(EVENTS, 50).unwrap();
        assert_eq!(sequences(&journal, EVENTS), [52, 53, 54, 55]);
        journal.acknowledge(EVENTS, 55).unwrap();
        assert_eq!(sequences(&journal, EVENTS).len(), 0);
        assert_eq!(journal.streams().unwrap()[EVENTS], 55);
        // What is too old or too much is dropped, and counted.
        (0..2).for_each(|_| fill(&mut journal));
        let host = sequences(&journal, "host");
        let before = journal.dropped().unwrap()["host"];
        assert_eq!(journal.trim("host", host[0], u64::MAX).unwrap(), 1);
        assert_eq!(sequences(&journal, "host"), host[1..]);
        assert_eq!(journal.trim("host", 0, 399).unwrap(), host.len() as u64 - 1);
        assert_eq!(sequences(&journal, "host").len(), 0);
        assert_eq!(journal.dropped().unwrap()["host"], before + host.len() as u64);
        journal.acknowledge(EVENTS, journal.streams().unwrap()[EVENTS]).unwrap();
        // Incidents outlive everything else.
        let incident = vec![(INCIDENTS.to_owned(), vec![3; 400])];
        journal.apply(Change { values: Vec::new(), batches: incident }).unwrap();
        (0..5).for_each(|_| fill(&mut journal));
        assert_eq!(
            (sequences(&journal, INCIDENTS), sequences(&journal, EVENTS)),
            (vec![1], vec![60, 61, 62])
        );
    }

    #[test]
    fn the_journal_keeps_numbers_drops_and_renumbers_in_memory() {
        check(MemoryJournal::new(1_600));
    }

    #[test]
    fn the_journal_keeps_numbers_drops_and_renumbers_in_sqlite() {
        let folder = tempfile::tempdir().unwrap();
        check(SqliteJournal::open(&folder.path().join("journal.db"), 1_600).unwrap());
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_a_new_one_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        for round in 0..2 {
            fill(&mut SqliteJournal::open(&path, 100_000).unwrap());
            let mut bytes = std::fs::read(&path).unwrap();
            // Once the header, once a page that only a check of the whole file finds.
            let from = if round == 0 { 0 } else { 4096 };
            bytes[from..from + 64].fill(0xa5);
            std::fs::write(&path, bytes).unwrap();
            assert!(SqliteJournal::open(&path, 100_000).unwrap_err().is_damage());
            let journal = SqliteJournal::open_or_renew(&path, 100_000).unwrap();
            assert_eq!(journal.get("k").unwrap(), None);
        }
        let kept = std::fs::read_dir(folder.path()).unwrap().flatten();
        let kept = kept.filter(|entry| entry.file_name().to_string_lossy().contains("damaged"));
        assert_eq!(kept.count(), 1, "the last damaged one only");
    }

    #[test]
    fn what_was_applied_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        fill(&mut SqliteJournal::open(&path, 100_000).unwrap());
        let journal = SqliteJournal::open(&path, 100_000).unwrap();
        assert_eq!(journal.pending(EVENTS, 0, 9).unwrap(), [Batch { sequence: 1, bytes: vec![2; 400] }]);
        assert_eq!(journal.get("k").unwrap(), Some(vec![7]));
    }
}
