//! The desired state that was accepted, and what is known of the manifests it refers to.

use std::collections::BTreeMap;

use farshore_domain::desired::{DesiredApp, DesiredRelease, DesiredState, Generation};
use farshore_domain::device::Hardware;
use farshore_domain::digest::Digest;
use farshore_domain::id::PermitId;
use farshore_domain::name::Name;
use farshore_domain::reconcile::{Installed, LivePermit, MonoMs, Now, Offer, Offered, Terms};
use farshore_domain::release::isolation::Isolation;
use farshore_domain::release::kind::Kind;
use farshore_domain::release::slot::{Activation, SLOTS_CAPABILITY};
use farshore_domain::release::{Manifest, ManifestError};
use farshore_domain::time::UnixMs;
use farshore_protocol as wire;
use farshore_trust::blob::verify_blob;
use farshore_trust::keyset::TrustedKeySet;
use farshore_trust::online::{self, SignedDesired};
use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::runner::{Signed, config_digest, isolation_remedy};

/// At most this many manifests come with one desired state.
const MAX_MANIFESTS: usize = 256;

/// As kept in the journal: the bytes that were signed, and what only this device knows of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredDesired {
    /// Body and signature.
    pub(crate) signed: Signed,
    pub(crate) accepted_at: UnixMs,
    /// Until when each permit counts, on this boot's clock.
    pub(crate) permits: BTreeMap<PermitId, MonoMs>,
    pub(crate) boot: String,
    /// The signer's certificates, for the runner, which checks them itself. Base64 of their DER.
    #[serde(default)]
    pub(crate) chain: Vec<String>,
}

/// The accepted desired state, ready for deciding.
#[derive(Debug)]
pub(crate) struct Desired {
    pub(crate) state: DesiredState,
    pub(crate) offers: Vec<Offer>,
}

/// Why a desired state was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefusedDesired {
    #[error("its signature is not good")]
    Signature(#[source] online::DesiredError),
    #[error("it can't be used")]
    State(#[source] farshore_domain::desired::DesiredError),
    #[error("it comes with more than {MAX_MANIFESTS} manifests")]
    TooMany,
}

/// Checks signature, addressee and order of a desired state.
pub(crate) fn check(
    frame: &wire::SignedDesired,
    identity: &Identity,
    accepted: Generation,
) -> Result<DesiredState, RefusedDesired> {
    if frame.manifests.len() > MAX_MANIFESTS {
        return Err(RefusedDesired::TooMany);
    }
    let signed = SignedDesired {
        body: frame.body.clone(),
        signature: frame.signature.clone(),
        chain: frame.chain.clone(),
    };
    let roots = &identity.credentials().roots;
    online::verify_desired(roots, &identity.registration.trust_domain, &signed, identity.clock.now())
        .map_err(RefusedDesired::Signature)?;
    let state = DesiredState::parse(&frame.body).map_err(RefusedDesired::State)?;
    let registration = &identity.registration;
    state.check_for(registration.tenant, registration.device, accepted).map_err(RefusedDesired::State)?;
    Ok(state)
}

/// The moments at which permits end here. `server_now` is the control plane's clock at this moment. A permit that was seen before never
/// ends later than it was first understood to.
pub(crate) fn permits(
    state: &DesiredState,
    known: &BTreeMap<PermitId, MonoMs>,
    server_now: UnixMs,
    now: Now,
) -> BTreeMap<PermitId, MonoMs> {
    let permits = state.apps.iter().filter_map(|app| app.permit);
    permits
        .map(|permit| {
            let left =
                permit.expires_at.since_ms(server_now).min(permit.expires_at.since_ms(state.issued_at));
            let until = now.mono.plus_ms(left);
            let until = known.get(&permit.uid).map_or(until, |known| until.min(*known));
            (permit.uid, until)
        })
        .collect()
}

/// Everything that a release must be before a byte of it is fetched.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) keys: Option<&'a TrustedKeySet>,
    pub(crate) tenant: &'a Name,
    pub(crate) hardware: &'a Hardware,
    /// What the executor can do, as far as it has said so.
    pub(crate) capabilities: Option<&'a [String]>,
}

impl Rules<'_> {
    /// The safe-mode releases of the policy, held to the same rules as any other; one that is not good is done without.
    pub(crate) fn safe(
        &self,
        state: &DesiredState,
        signed: &BTreeMap<Digest, Signed>,
        manifests: &mut BTreeMap<Digest, Manifest>,
    ) -> BTreeMap<Name, Installed> {
        let mut found = BTreeMap::new();
        let demanded = demanded(state);
        for safe in state.policy.iter().flat_map(|policy| &policy.safe_mode) {
            let release = &safe.release;
            match self.verify(&demanded, &safe.app, release, signed.get(&release.manifest)) {
                Ok(manifest) => {
                    let installed = Installed {
                        release: release.uid,
                        version: release.version.clone(),
                        manifest: release.manifest,
                        terms: Terms::of(&manifest),
                    };
                    manifests.insert(release.manifest, manifest);
                    found.insert(safe.app.clone(), installed);
                }
                Err(Offered::Refused { message, .. } | Offered::Unsupported { message }) => {
                    tracing::warn!(app = %safe.app, %message, "the safe-mode release is refused");
                }
                Err(Offered::Verified(_)) => {}
            }
        }
        found
    }

    /// Reads and verifies the manifest an app's desired release refers to.
    pub(crate) fn verify(
        &self,
        demanded: &Isolation,
        app: &Name,
        release: &DesiredRelease,
        signed: Option<&Signed>,
    ) -> Result<Manifest, Offered> {
        let refused = |code: &str, message: String| Offered::Refused { code: code.to_owned(), message };
        let Some(signed) = signed else {
            return Err(refused(
                "ManifestMissing",
                "its manifest did not come with the desired state".to_owned(),
            ));
        };
        let Some(keys) = self.keys else {
            return Err(refused("NoTrustedKeys", "this device has no trusted release keys yet".to_owned()));
        };
        if Digest::of(&signed.document) != release.manifest {
            return Err(refused("DigestMismatch", "the manifest is another one".to_owned()));
        }
        verify_blob(&keys.public_keys(), &signed.document, &signed.signature).map_err(|error| {
            refused("BadSignature", format!("the manifest's signature is not good: {}", crate::chain(&error)))
        })?;
        let manifest = Manifest::parse(&signed.document).map_err(|error| match error {
            ManifestError::Unsupported(_) => Offered::Unsupported { message: error.to_string() },
            _ => refused("BadManifest", error.to_string()),
        })?;
        if manifest.tenant != *self.tenant {
            return Err(refused("WrongTenant", format!("the release is for tenant {}", manifest.tenant)));
        }
        if manifest.app != *app || manifest.version != release.version {
            let text = format!("the manifest is of {} {}", manifest.app, manifest.version);
            return Err(refused("WrongRelease", text));
        }
        let kind = manifest.run.kind;
        if kind != Kind::Process && self.capabilities.is_some_and(|words| !words.contains(&kind.capability()))
        {
            let message = format!("this device does not run apps of kind {kind}");
            return Err(Offered::Unsupported { message });
        }
        let can = |word: &str| self.capabilities.is_none_or(|words| words.iter().any(|one| one == word));
        if manifest.run.slots.is_some() && !can(SLOTS_CAPABILITY) {
            let message = "this device's runner can't keep two instances of an app".to_owned();
            return Err(Offered::Unsupported { message });
        }
        if let Some(message) = cannot_part(&manifest, demanded, can) {
            return Err(Offered::Unsupported { message });
        }
        let Hardware { os, arch, variant, .. } = self.hardware;
        if manifest.artifact_for(os, arch, variant).is_none() {
            return Err(refused("WrongPlatform", format!("the release has nothing for {os}/{arch}")));
        }
        Ok(manifest)
    }

    /// The offers of a desired state. `manifests` gets those that are good.
    pub(crate) fn offers(
        &self,
        state: &DesiredState,
        permits: &BTreeMap<PermitId, MonoMs>,
        signed: &BTreeMap<Digest, Signed>,
        manifests: &mut BTreeMap<Digest, Manifest>,
    ) -> Vec<Offer> {
        let demanded = demanded(state);
        let offer = |app: &DesiredApp| {
            let mut has_slots = false;
            let manifest =
                match self.verify(&demanded, &app.app, &app.release, signed.get(&app.release.manifest)) {
                    Ok(manifest) => {
                        has_slots = manifest.run.slots.is_some();
                        let terms = Terms::of(&manifest);
                        manifests.insert(app.release.manifest, manifest);
                        Offered::Verified(terms)
                    }
                    Err(offered) => offered,
                };
            let permit = app
                .permit
                .and_then(|permit| Some(LivePermit { uid: permit.uid, until: *permits.get(&permit.uid)? }));
            Offer {
                app: app.app.clone(),
                release: app.release.clone(),
                manifest,
                permit,
                resumed: app.resumed,
                config: config_digest(&values(app)),
                needs: app.depends_on.clone(),
                beside: has_slots && app.activation != Some(Activation::Replace),
            }
        };
        state.apps.iter().map(offer).collect()
    }
}

/// Why an app can't be kept apart as its release and the device's policy ask, if so.
pub(super) fn cannot_part(
    manifest: &Manifest,
    demanded: &Isolation,
    can: impl Fn(&str) -> bool,
) -> Option<String> {
    if manifest.run.kind != Kind::Process {
        return None;
    }
    let isolation = manifest.run.isolation.clone().unwrap_or_default().tightened(demanded);
    if let Some(word) = isolation.needs().into_iter().find(|word| !can(word)) {
        let remedy = isolation_remedy(word);
        return Some(format!(
            "this device can't keep the app apart as its release or the device's policy asks: it has no {word}{remedy}"
        ));
    }
    isolation.cuts_off(&manifest.health).then(|| {
        "the device's policy takes the network from its apps, and this one's health checks ask over it"
            .to_owned()
    })
}

/// What the policy demands of every app.
fn demanded(state: &DesiredState) -> Isolation {
    state.policy.as_ref().map(|policy| policy.rules.isolation.clone()).unwrap_or_default()
}

/// The values of an app, without where they come from.
pub(crate) fn values(app: &DesiredApp) -> BTreeMap<String, String> {
    app.config.iter().map(|(key, value)| (key.clone(), value.value.clone())).collect()
}
