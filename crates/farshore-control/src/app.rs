//! What everything in the control plane shares.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use farshore_store::{Driver, Store, StoreError, StoreResult};
use farshore_trust::online::OnlineSigner;
use tokio::sync::Notify;

use crate::artifacts::{ArtifactFolder, Uploads};
use crate::channel::Hub;
use crate::fleet::Fleet;
use crate::settings::Settings;

/// The control plane's shared parts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    inner: Arc<Inner>,
}

/// What is opened before the control plane starts.
#[derive(Debug)]
pub struct Parts {
    pub store: Store,
    pub settings: Settings,
    pub artifacts: ArtifactFolder,
    pub online_signer: OnlineSigner,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    settings: Settings,
    artifacts: ArtifactFolder,
    uploads: Uploads,
    hub: Hub,
    fleet: Fleet,
    online_signer: Mutex<Arc<OnlineSigner>>,
    events_written: Notify,
    tenant_names: Mutex<BTreeMap<TenantId, Name>>,
}

impl App {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { store, settings, artifacts, online_signer } = parts;
        Self {
            inner: Arc::new(Inner {
                store,
                settings,
                artifacts,
                uploads: Uploads::default(),
                hub: Hub::default(),
                fleet: Fleet::default(),
                online_signer: Mutex::new(Arc::new(online_signer)),
                events_written: Notify::new(),
                tenant_names: Mutex::default(),
            }),
        }
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The folder of artifacts.
    #[must_use]
    pub fn artifacts(&self) -> &ArtifactFolder {
        &self.inner.artifacts
    }

    #[must_use]
    pub fn uploads(&self) -> &Uploads {
        &self.inner.uploads
    }

    /// The live device sessions of this replica.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.inner.hub
    }

    /// The driver of desired states: tell it what changed ([`Fleet::changed`]) and who reported ([`Fleet::reported`]).
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.inner.fleet
    }

    /// What desired states are signed with now.
    #[must_use]
    pub fn online_signer(&self) -> Arc<OnlineSigner> {
        self.inner.online_signer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Signs with another one from now on.
    pub fn replace_online_signer(&self, signer: OnlineSigner) {
        *self.inner.online_signer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(signer);
    }

    /// Events were committed: the sequencer may number them.
    pub fn events_written(&self) {
        self.inner.events_written.notify_one();
    }

    /// What [`App::events_written`] wakes.
    #[must_use]
    pub fn events_wake(&self) -> &Notify {
        &self.inner.events_written
    }

    /// A tenant's name, which never changes.
    pub async fn tenant_name(&self, tenant: TenantId) -> StoreResult<Name> {
        let known = |names: &BTreeMap<TenantId, Name>| names.get(&tenant).cloned();
        if let Some(name) = known(&self.inner.tenant_names.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(name);
        }
        let all = self.store().system(Driver::Assignments).tenant_ids().await?;
        let mut names = self.inner.tenant_names.lock().unwrap_or_else(PoisonError::into_inner);
        names.extend(all);
        known(&names).ok_or(StoreError::NotFound("tenant"))
    }
}
