//! Which uploads a request is sending to right now: two at once would mix their bytes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

/// The uploads under way in this process.
#[derive(Clone, Debug, Default)]
pub struct Uploads(Arc<Mutex<BTreeSet<Uuid>>>);

/// Holds an upload until it is dropped.
#[derive(Debug)]
pub struct Entered {
    uploads: Uploads,
    upload: Uuid,
}

impl Uploads {
    /// Takes the upload, unless another request has it.
    #[must_use]
    pub fn enter(&self, upload: Uuid) -> Option<Entered> {
        let fresh = self.0.lock().is_ok_and(|mut set| set.insert(upload));
        fresh.then(|| Entered { uploads: self.clone(), upload })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Ok(mut set) = self.uploads.0.lock() {
            set.remove(&self.upload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_at_a_time_sends_to_an_upload() {
        let uploads = Uploads::default();
        let first = uploads.enter(Uuid::nil());
        assert!(
            first.is_some() && uploads.enter(Uuid::nil()).is_none() && uploads.enter(Uuid::max()).is_some()
        );
        drop(first);
        assert!(uploads.enter(Uuid::nil()).is_some());
    }
}
