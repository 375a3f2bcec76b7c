//! The runner's own copy of whom to trust: the tenant and its release keys.
//!
//! Lies in the runner's folder, where `run` can't write. The first set is pinned when it comes; each later one must be signed by a
//! key of the one before. What can't be read refuses everything: there is no state in which unsigned code is run.

use std::path::{Path, PathBuf};

use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use farshore_trust::blob;
use farshore_trust::keyset::{self, KeySetError, SignedKeySet, TrustedKeySet};
use serde::{Deserialize, Serialize};

use super::error::RunnerError;
use super::wire::Signed;
use crate::file;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    tenant: TenantId,
    tenant_name: Name,
    set: Signed,
}

#[derive(Clone, Debug)]
struct Trusted {
    tenant_name: Name,
    set: TrustedKeySet,
}

/// Whom the runner trusts.
#[derive(Debug)]
pub(crate) struct Keys {
    path: PathBuf,
    trusted: Option<Trusted>,
}

impl Keys {
    pub(crate) fn load(folder: &Path) -> Result<Self, RunnerError> {
        let path = folder.join("trust.json");
        let read = file::read_capped(&path, 2 * 1024 * 1024)
            .map_err(|e| RunnerError::io("reading trust.json", e))?;
        let trusted = match read {
            None => None,
            Some(bytes) => {
                let stored: Stored = serde_json::from_slice(&bytes).map_err(|_| RunnerError::DamagedTrust)?;
                let set = TrustedKeySet::reload(&stored.set.document, stored.tenant)
                    .map_err(|_| RunnerError::DamagedTrust)?;
                Some(Trusted { tenant_name: stored.tenant_name, set })
            }
        };
        Ok(Self { path, trusted })
    }

    pub(crate) fn tenant_name(&self) -> Option<&Name> {
        self.trusted.as_ref().map(|trusted| &trusted.tenant_name)
    }

    pub(crate) fn version(&self) -> u64 {
        self.trusted.as_ref().map_or(0, |trusted| trusted.set.version())
    }

    /// Takes the sets that are new. Those already known are skipped, so the same may be told again.
    pub(crate) fn accept(
        &mut self,
        tenant: TenantId,
        name: &Name,
        sets: Vec<Signed>,
    ) -> Result<(), RunnerError> {
        if let Some(trusted) = &self.trusted
            && (trusted.set.tenant() != tenant || trusted.tenant_name != *name)
        {
            return Err(RunnerError::OtherTenant { pinned: trusted.tenant_name.clone() });
        }
        for signed in sets {
            let next =
                SignedKeySet { document: signed.document.clone(), signature: signed.signature.clone() };
            let offered = TrustedKeySet::reload(&next.document, tenant).map_err(RunnerError::Keys)?;
            if offered.version() <= self.version() {
                continue;
            }
            let current = self.trusted.as_ref().map(|trusted| &trusted.set);
            let set = keyset::accept_next(current, &next, tenant).map_err(RunnerError::Keys)?;
            let stored = Stored { version: 1, tenant, tenant_name: name.clone(), set: signed };
            let bytes = serde_json::to_vec(&stored).map_err(|_| RunnerError::DamagedTrust)?;
            file::write_atomically(&self.path, &bytes, 0o600)
                .map_err(|e| RunnerError::io("writing trust.json", e))?;
            self.trusted = Some(Trusted { tenant_name: name.clone(), set });
        }
        Ok(())
    }

    /// Checks that a trusted key signed exactly these bytes; the tenant's name for the check of what they say.
    pub(crate) fn verify(&self, signed: &Signed) -> Result<Name, RunnerError> {
        let trusted = self.trusted.as_ref().ok_or(RunnerError::Keys(KeySetError::NothingToAccept))?;
        blob::verify_blob(&trusted.set.public_keys(), &signed.document, &signed.signature)
            .map_err(RunnerError::Signature)?;
        Ok(trusted.tenant_name.clone())
    }
}
