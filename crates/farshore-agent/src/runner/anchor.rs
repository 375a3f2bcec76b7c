//! The runner's own copy of what the control plane has signed for this device, so that `run` can't ask for more than the policy allows.
//!
//! Whom to believe is pinned when it is told first (by a `run` that has just claimed) and never changed: the roots of a claim stay those of the
//! claim. What can't be read, or is older than what was seen before, allows nothing.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_domain::desired::{DesiredState, Generation};
use farshore_domain::digest::Digest;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::policy::{OperationRules, RemoteOperation};
use farshore_domain::release::isolation::Isolation;
use farshore_domain::time::UnixMs;
use farshore_trust::identity::TrustDomain;
use farshore_trust::online::{self, SignedDesired};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::error::RunnerError;
use super::wire::Signed;
use crate::file;

const MAX_ROOTS: usize = 16;
const MAX_CHAIN: usize = 8;

/// Who signs for which device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Anchor {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub trust_domain: TrustDomain,
    /// Certificates in base64 of their DER.
    pub roots: Vec<String>,
}

impl Anchor {
    #[must_use]
    pub fn new(
        tenant: TenantId,
        device: DeviceId,
        trust_domain: TrustDomain,
        roots: &[CertificateDer<'_>],
    ) -> Self {
        let roots = roots.iter().map(|root| STANDARD.encode(root.as_ref())).collect();
        Self { tenant, device, trust_domain, roots }
    }

    fn roots(&self) -> Result<Vec<CertificateDer<'static>>, RunnerError> {
        let read = |root: &String| STANDARD.decode(root).map(CertificateDer::from);
        self.roots.iter().map(read).collect::<Result<_, _>>().map_err(|_| RunnerError::DamagedTrust)
    }
}

/// A desired state as it was signed, with the signer's chain in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedState {
    pub signed: Signed,
    pub chain: Vec<String>,
}

impl SignedState {
    /// A chain in base64.
    #[must_use]
    pub fn encode(chain: &[Vec<u8>]) -> Vec<String> {
        chain.iter().map(|der| STANDARD.encode(der)).collect()
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    version: u32,
    anchor: Anchor,
    /// The newest desired state; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<Signed>,
}

/// What was signed for this device.
#[derive(Debug)]
pub(crate) struct Anchored {
    path: PathBuf,
    stored: Option<Stored>,
    state: Option<(DesiredState, Digest)>,
}

impl Anchored {
    pub(crate) fn load(folder: &Path) -> Result<Self, RunnerError> {
        let path = folder.join("anchor.json");
        let read = file::read_capped(&path, 4 * 1024 * 1024);
        let Some(bytes) = read.map_err(|e| RunnerError::io("reading anchor.json", e))? else {
            return Ok(Self { path, stored: None, state: None });
        };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|_| RunnerError::DamagedTrust)?;
        // A state of another version's words allows nothing, and is no reason not to run apps.
        let state = stored.state.as_ref().and_then(|state| {
            Some((DesiredState::parse(&state.document).ok()?, Digest::of(&state.document)))
        });
        Ok(Self { path, stored: Some(stored), state })
    }

    fn keep(&mut self, stored: Stored) -> Result<(), RunnerError> {
        let bytes = serde_json::to_vec(&stored).map_err(|_| RunnerError::DamagedTrust)?;
        file::write_atomically(&self.path, &bytes, 0o600)
            .map_err(|e| RunnerError::io("writing anchor.json", e))?;
        self.stored = Some(stored);
        Ok(())
    }

    /// Pins whom to believe, and takes a desired state that is not older than the one before.
    pub(crate) fn accept(
        &mut self,
        anchor: Anchor,
        state: Option<SignedState>,
        wall: UnixMs,
    ) -> Result<(), RunnerError> {
        match &self.stored {
            Some(stored) if stored.anchor != anchor => return Err(RunnerError::OtherDevice),
            Some(_) => {}
            None => {
                if anchor.roots.is_empty() || anchor.roots.len() > MAX_ROOTS {
                    return Err(RunnerError::DamagedTrust);
                }
                anchor.roots()?;
                self.keep(Stored { version: 1, anchor: anchor.clone(), state: None })?;
            }
        }
        let Some(SignedState { signed, chain }) = state else { return Ok(()) };
        let digest = Digest::of(&signed.document);
        if self.state.as_ref().is_some_and(|(_, known)| *known == digest) {
            return Ok(());
        }
        if chain.len() > MAX_CHAIN {
            return Err(RunnerError::State("its chain is too long".to_owned()));
        }
        let chain: Vec<Vec<u8>> = chain
            .iter()
            .map(|der| STANDARD.decode(der))
            .collect::<Result<_, _>>()
            .map_err(|error| RunnerError::State(error.to_string()))?;
        // A device whose clock is behind does not take what has expired long ago.
        let floor = self.state.as_ref().map_or(UnixMs(0), |(state, _)| state.issued_at);
        let travelled =
            SignedDesired { body: signed.document.clone(), signature: signed.signature.clone(), chain };
        online::verify_desired(&anchor.roots()?, &anchor.trust_domain, &travelled, wall.max(floor))
            .map_err(|error| RunnerError::State(crate::chain(&error)))?;
        let state =
            DesiredState::parse(&signed.document).map_err(|error| RunnerError::State(error.to_string()))?;
        let accepted = self.state.as_ref().map_or(Generation::default(), |(state, _)| state.at());
        state
            .check_for(anchor.tenant, anchor.device, accepted)
            .map_err(|error| RunnerError::State(error.to_string()))?;
        self.keep(Stored { version: 1, anchor, state: Some(signed) })?;
        self.state = Some((state, digest));
        Ok(())
    }

    /// What the signed policy says of operations. Without a policy: what the default allows, which is no command.
    pub(crate) fn rules(&self) -> Result<OperationRules, RunnerError> {
        let (state, _) = self.state.as_ref().ok_or(RunnerError::NoState)?;
        Ok(state.policy.as_ref().map(|policy| policy.rules.operations.clone()).unwrap_or_default())
    }

    /// The least isolation that the signed policy asks of every app; none without a policy.
    pub(crate) fn isolation(&self) -> Isolation {
        let policy = self.state.as_ref().and_then(|(state, _)| state.policy.as_ref());
        policy.map(|policy| policy.rules.isolation.clone()).unwrap_or_default()
    }

    /// Whether the signed policy lets this device be rebooted: because somebody asks, or as the last step of healing.
    pub(crate) fn may_reboot(&self) -> Result<(), RunnerError> {
        let (state, _) = self.state.as_ref().ok_or(RunnerError::NoState)?;
        let rules = state.policy.as_ref().map(|policy| &policy.rules);
        let may = rules.is_some_and(|rules| {
            rules.operations.allow(RemoteOperation::Reboot) || rules.rollback.reboot == Some(true)
        });
        if may {
            return Ok(());
        }
        Err(RunnerError::NotAllowed("the device's policy does not allow a reboot".to_owned()))
    }
}
