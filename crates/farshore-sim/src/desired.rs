//! From a signed desired state to the reconciler's offers: every check an agent makes, in its order.

use std::collections::BTreeMap;

use farshore_domain::desired::{DesiredApp, DesiredError as OrderError, DesiredState, Generation};
use farshore_domain::digest::{Digest, Digester};
use farshore_domain::reconcile::{LivePermit, MonoMs, Now, Offer, Offered, Terms};
use farshore_domain::release::{Manifest, ManifestError};
use farshore_protocol as wire;
use farshore_trust::keyset::TrustedKeySet;
use farshore_trust::{blob, online};

use crate::identity::Identity;

/// Why a desired state is refused as a whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefusedState {
    #[error("its signature is not to be trusted")]
    Signature(#[source] online::DesiredError),
    #[error("it is not for here")]
    Order(#[source] OrderError),
    #[error("it is for a tenant of another name")]
    TenantName,
}

/// A state that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) at: Generation,
    pub(crate) offers: Vec<(Offer, BTreeMap<String, String>)>,
}

/// Checks signature, addressee and order, and then each app's manifest.
pub(crate) fn accept(
    signed: &wire::SignedDesired,
    identity: &Identity,
    keys: Option<&TrustedKeySet>,
    arch: &str,
    accepted: Generation,
    before: Option<&[Offer]>,
    now: Now,
) -> Result<Accepted, RefusedState> {
    let parts = online::SignedDesired {
        body: signed.body.clone(),
        signature: signed.signature.clone(),
        chain: signed.chain.clone(),
    };
    let realm = &identity.realm;
    online::verify_desired(&realm.roots, &realm.trust_domain, &parts, now.wall)
        .map_err(RefusedState::Signature)?;
    let state = DesiredState::parse(&signed.body).map_err(RefusedState::Order)?;
    state.check_for(identity.tenant, identity.device, accepted).map_err(RefusedState::Order)?;
    if state.tenant_name != realm.tenant_name {
        return Err(RefusedState::TenantName);
    }
    let by_digest: BTreeMap<Digest, &wire::SignedManifest> =
        signed.manifests.iter().map(|manifest| (Digest::of(&manifest.manifest), manifest)).collect();
    let at = state.at();
    let issued = state.issued_at;
    let offers = state
        .apps
        .into_iter()
        .map(|app| {
            let manifest = judge(&app, by_digest.get(&app.release.manifest).copied(), identity, keys, arch);
            let config: BTreeMap<String, String> =
                app.config.iter().map(|(key, value)| (key.clone(), value.value.clone())).collect();
            let permit = app.permit.map(|permit| {
                // From when it came here, so that a wrong clock can't stretch it; the same permit again is not a longer one.
                let left = permit.expires_at.since_ms(issued.max(now.wall)).max(0);
                let until = now.mono.plus_ms(left);
                let known = known_until(before, &app, permit.uid);
                LivePermit { uid: permit.uid, until: known.map_or(until, |known| known.min(until)) }
            });
            let offer = Offer {
                app: app.app,
                release: app.release,
                manifest,
                permit,
                resumed: app.resumed,
                config: config_digest(&config),
                needs: app.depends_on,
                // A virtual device has no ports.
                beside: false,
            };
            (offer, config)
        })
        .collect();
    Ok(Accepted { at, offers })
}

fn known_until(
    before: Option<&[Offer]>,
    app: &DesiredApp,
    permit: farshore_domain::id::PermitId,
) -> Option<MonoMs> {
    let offer = before?.iter().find(|offer| offer.app == app.app)?;
    offer.permit.filter(|known| known.uid == permit).map(|known| known.until)
}

fn refused(code: &str, message: impl Into<String>) -> Offered {
    Offered::Refused { code: code.to_owned(), message: message.into() }
}

fn judge(
    app: &DesiredApp,
    manifest: Option<&wire::SignedManifest>,
    identity: &Identity,
    keys: Option<&TrustedKeySet>,
    arch: &str,
) -> Offered {
    let Some(signed) = manifest else {
        return refused("ManifestMissing", "the release's manifest was not sent");
    };
    let Some(keys) = keys else {
        return refused("NoTrustedKeys", "this device trusts no release key yet");
    };
    if let Err(error) = blob::verify_blob(&keys.public_keys(), &signed.manifest, &signed.signature) {
        return refused("BadSignature", format!("the manifest's signature is refused: {error}"));
    }
    let manifest = match Manifest::parse(&signed.manifest) {
        Ok(manifest) => manifest,
        Err(ManifestError::Unsupported(what)) => return Offered::Unsupported { message: what },
        Err(error) => return refused("BadManifest", error.to_string()),
    };
    if manifest.tenant != identity.realm.tenant_name {
        return refused("WrongTenant", "the manifest is another tenant's");
    }
    if manifest.app != app.app || manifest.version != app.release.version {
        return refused("WrongRelease", "the manifest is of another app or version");
    }
    if manifest.artifact_for("linux", arch, "").is_none() {
        return refused("NoPlatform", format!("the release has nothing for linux/{arch}"));
    }
    Offered::Verified(Terms::of(&manifest))
}

/// One digest for one set of values. It never leaves the device.
fn config_digest(values: &BTreeMap<String, String>) -> Digest {
    let mut digester = Digester::default();
    for text in values.iter().flat_map(|(key, value)| [key, value]) {
        digester.update(&(text.len() as u64).to_be_bytes());
        digester.update(text.as_bytes());
    }
    digester.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use farshore_domain::desired::{Because, DESIRED_SCHEMA, DesiredRelease, Permit};
    use farshore_domain::id::{PermitId, ReleaseId};
    use farshore_domain::name::Name;
    use farshore_domain::time::UnixMs;
    use farshore_trust::key::{Algorithm, SigningKey};
    use farshore_trust::keyset::{SignedKeySet, TrustedKey, document};
    use uuid::Uuid;

    use super::*;
    use crate::identity::tests::{Issued, TENANT};

    struct Scene {
        issued: Issued,
        release_key: SigningKey,
        identity: Identity,
        keys: Arc<TrustedKeySet>,
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn manifest(tenant: &str, arch: &str) -> Vec<u8> {
        serde_json::to_vec(&serde_json::json!({
            "schema": "farshore.dev/release/v1", "tenant": tenant, "app": "web", "version": "1.0",
            "platforms": [{ "os": "linux", "arch": arch, "artifact":
                { "digest": Digest::of(b"bytes").to_string(), "size": 5, "format": "tar" } }],
            "run": { "command": ["bin/web"] }
        }))
        .unwrap()
    }

    impl Scene {
        fn new() -> Self {
            let issued = Issued::new();
            let release_key = SigningKey::generate(Algorithm::P256).unwrap();
            let trusted = TrustedKey { name: name("release"), key: release_key.public().clone() };
            let set = document(TENANT, 1, &[trusted]).unwrap();
            let signature = blob::sign_detached(&release_key, &set).unwrap().into_bytes();
            let chain = vec![SignedKeySet { document: set, signature }];
            let realm = issued.realm(chain);
            let keys = realm.keys.clone().unwrap();
            let identity = issued.device_in(realm, 1);
            Self { issued, release_key, identity, keys }
        }

        fn state(&self, device: u128, generation: u64, manifest: &[u8]) -> wire::SignedDesired {
            let app = DesiredApp {
                app: name("web"),
                release: DesiredRelease {
                    uid: ReleaseId(Uuid::from_u128(5)),
                    version: "1.0".parse().unwrap(),
                    manifest: Digest::of(manifest),
                },
                because: Because::Channel { channel: name("prod") },
                config: BTreeMap::new(),
                permit: Some(Permit {
                    uid: PermitId(Uuid::from_u128(6)),
                    expires_at: self.issued.now.plus_ms(600_000),
                    rollout: None,
                }),
                resumed: 0,
                depends_on: Vec::new(),
                activation: None,
            };
            let state = DesiredState {
                schema: DESIRED_SCHEMA.to_owned(),
                tenant: TENANT,
                tenant_name: name("acme"),
                device: farshore_domain::id::DeviceId(Uuid::from_u128(device)),
                epoch: 1,
                generation,
                issued_at: self.issued.now,
                apps: vec![app],
                policy: None,
                stopped: false,
            };
            let signer =
                self.issued.issuer.issue_online(self.issued.now, Duration::from_secs(3_600)).unwrap();
            let signed = online::sign_desired(&signer, serde_json::to_vec(&state).unwrap()).unwrap();
            let signature = blob::sign_detached(&self.release_key, manifest).unwrap().into_bytes();
            wire::SignedDesired {
                body: signed.body,
                signature: signed.signature,
                chain: signed.chain,
                manifests: vec![wire::SignedManifest { manifest: manifest.to_vec(), signature }],
            }
        }

        fn judge(&self, signed: &wire::SignedDesired, accepted: u64) -> Result<Accepted, RefusedState> {
            let accepted = Generation { epoch: 1, generation: accepted };
            let now = Now { mono: MonoMs(1_000), wall: self.issued.now };
            accept(signed, &self.identity, Some(&self.keys), "x86_64", accepted, None, now)
        }
    }

    #[test]
    fn a_good_state_is_accepted_and_its_permit_ends_on_the_devices_own_clock() {
        let scene = Scene::new();
        let signed = scene.state(1, 4, &manifest("acme", "x86_64"));
        let accepted = scene.judge(&signed, 4).unwrap();
        assert_eq!(accepted.at, Generation { epoch: 1, generation: 4 });
        let (offer, _) = &accepted.offers[0];
        assert!(matches!(offer.manifest, Offered::Verified(_)));
        assert_eq!(offer.permit.unwrap().until, MonoMs(601_000));
        // The same permit, told again later, does not last longer.
        let before: Vec<Offer> = accepted.offers.iter().map(|(offer, _)| offer.clone()).collect();
        let later = Now { mono: MonoMs(90_000), wall: UnixMs(0) };
        let wrong_clock = Now { wall: scene.issued.now, ..later };
        let at = Generation { epoch: 1, generation: 4 };
        let again =
            accept(&signed, &scene.identity, Some(&scene.keys), "x86_64", at, Some(&before), wrong_clock);
        assert_eq!(again.unwrap().offers[0].0.permit.unwrap().until, MonoMs(601_000));
    }

    #[test]
    fn a_state_that_is_forged_old_or_anothers_is_refused_as_a_whole() {
        let scene = Scene::new();
        let good = manifest("acme", "x86_64");
        let mut forged = scene.state(1, 4, &good);
        let at = forged.body.len() / 2;
        forged.body[at] ^= 1;
        assert!(matches!(scene.judge(&forged, 0), Err(RefusedState::Signature(_))));
        assert!(matches!(scene.judge(&scene.state(1, 3, &good), 4), Err(RefusedState::Order(_))));
        assert!(matches!(scene.judge(&scene.state(2, 9, &good), 4), Err(RefusedState::Order(_))));
        let other = Scene::new();
        assert!(matches!(scene.judge(&other.state(1, 9, &good), 4), Err(RefusedState::Signature(_))));
    }

    #[test]
    fn a_release_that_cannot_be_trusted_or_used_is_refused_with_its_reason() {
        let scene = Scene::new();
        let code = |signed: &wire::SignedDesired, keys: Option<&TrustedKeySet>| {
            let now = Now { mono: MonoMs(1_000), wall: scene.issued.now };
            let judged =
                accept(signed, &scene.identity, keys, "x86_64", Generation::default(), None, now).unwrap();
            match judged.offers[0].0.manifest.clone() {
                Offered::Verified(_) => "verified".to_owned(),
                Offered::Refused { code, .. } => code,
                Offered::Unsupported { .. } => "unsupported".to_owned(),
            }
        };
        let good = manifest("acme", "x86_64");
        let signed = scene.state(1, 1, &good);
        assert_eq!(code(&signed, Some(&scene.keys)), "verified");
        assert_eq!(code(&signed, None), "NoTrustedKeys");
        let mut swapped = signed.clone();
        swapped.manifests[0].signature = b"MEUCIQ==".to_vec();
        assert_eq!(code(&swapped, Some(&scene.keys)), "BadSignature");
        let mut missing = signed.clone();
        missing.manifests[0].manifest.push(b' ');
        assert_eq!(code(&missing, Some(&scene.keys)), "ManifestMissing");
        assert_eq!(code(&scene.state(1, 1, &manifest("other", "x86_64")), Some(&scene.keys)), "WrongTenant");
        assert_eq!(code(&scene.state(1, 1, &manifest("acme", "riscv")), Some(&scene.keys)), "NoPlatform");
        let newer = [good.strip_suffix(b"}").unwrap(), br#","sandbox":true}"#].concat();
        assert_eq!(code(&scene.state(1, 1, &newer), Some(&scene.keys)), "unsupported");
    }
}
