//! What everything in the control plane shares.

use std::sync::Arc;

use farshore_store::Store;

/// The control plane's shared parts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
}

impl App {
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { inner: Arc::new(Inner { store }) }
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }
}
