//! A little of the disk that is kept back: a file that is given up for what must go on when the disk is full.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::file::{self, ROOM_BYTES, Room};

/// The file, as large as the room that a start needs.
#[derive(Clone, Debug)]
pub(crate) struct Reserve(PathBuf);

impl Reserve {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Makes it where it is not, and there is room for more than it.
    pub(crate) fn keep(&self) {
        if self.0.exists() || Room::at(&self.0).is_none_or(|room| room.bytes < 2 * ROOM_BYTES) {
            return;
        }
        // Written, and not only made long: what is to be given up must take room.
        let bytes = vec![0xa5; usize::try_from(ROOM_BYTES).unwrap_or_default()];
        if let Err(error) = file::write_atomically(&self.0, &bytes, 0o600) {
            tracing::debug!(%error, "nothing can be kept back");
        }
    }

    /// Whether it is there, by now.
    pub(crate) fn is_kept(&self) -> bool {
        self.keep();
        self.0.exists()
    }

    /// Gives it up, if it is there.
    pub(crate) fn give_up(&self) -> bool {
        match fs::remove_file(&self.0) {
            Ok(()) => {
                tracing::warn!(path = %self.0.display(), "the disk is full: what was kept back is used");
                true
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "what was kept back can't be used");
                }
                false
            }
        }
    }
}
