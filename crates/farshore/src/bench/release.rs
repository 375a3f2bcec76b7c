//! A signed release of `examples/edge-web-service`, for a bench with a real agent.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_domain::digest::Digest;
use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use farshore_trust::blob;
use farshore_trust::key::{Algorithm, SigningKey};
use farshore_trust::keyset::{TrustedKey, document};
use serde_json::{Value, json};

use super::helper;
use super::plane::Plane;

fn archive(program: &Path) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let bytes = std::fs::read(program).with_context(|| format!("can't read {}", program.display()))?;
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, "edge-web-service", bytes.as_slice()).context("can't pack the program")?;
    tar.into_inner().context("can't pack the program")
}

/// Releases of one program as app `web`, signed with a key that the devices trust.
#[derive(Debug)]
pub(crate) struct Releases {
    key: SigningKey,
    tenant_name: String,
    digest: Digest,
    size: usize,
    port: u16,
    /// The waves of the rollouts that are begun.
    pub(crate) waves: Value,
}

impl Releases {
    /// Makes the devices trust a new key, uploads the program, and places app `web` on all of them.
    pub(crate) async fn new(plane: &Plane, program: &Path, port: u16) -> Result<Self> {
        let key = SigningKey::generate(Algorithm::P256)?;
        let me = plane.get("/api/me").await?;
        let tenant: TenantId = me["tenantId"].as_str().context("no tenant")?.parse()?;
        let tenant_name = me["tenant"].as_str().context("no tenant")?.to_owned();
        let trusted = TrustedKey { name: Name::new("bench")?, key: key.public().clone() };
        let set = document(tenant, 1, &[trusted])?;
        let signature = blob::sign_detached(&key, &set)?;
        let set = json!({"document": STANDARD.encode(&set), "signature": STANDARD.encode(signature)});
        plane.post("/api/trusted-keys", &set).await?;
        let bytes = archive(program)?;
        let (digest, size) = (Digest::of(&bytes), bytes.len());
        let upload = json!({"digest": digest.to_string(), "size": size, "name": "edge-web-service.tar"});
        let upload = plane.post("/api/artifacts", &upload).await?;
        let upload = upload["upload"].as_str().context("no upload")?;
        plane.patch(&format!("/api/artifacts/uploads/{upload}"), bytes).await?;
        plane.post("/api/apps", &json!({"metadata": {"name": "web"}, "spec": {}})).await?;
        plane.post("/api/placements", &json!({"metadata": {"name": "web"}, "spec": {"app": "web"}})).await?;
        Ok(Self { key, tenant_name, digest, size, port, waves: json!([{"percent": 100, "soakSeconds": 1}]) })
    }

    /// Signs a version, uploads it, and begins to roll it out. The rollout is named for the version.
    pub(crate) async fn begin(
        &mut self,
        plane: &Plane,
        version: &str,
        env: &[(&str, &str)],
    ) -> Result<String> {
        let port = self.port;
        let mut all = BTreeMap::from([("PORT", port.to_string()), ("APP_VERSION", version.to_owned())]);
        all.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let manifest = json!({
            "schema": "farshore.dev/release/v1", "tenant": self.tenant_name, "app": "web", "version": version,
            "platforms": [{"os": "linux", "arch": std::env::consts::ARCH,
                "artifact": {"digest": self.digest.to_string(), "size": self.size, "format": "tar"}}],
            "run": {"command": ["edge-web-service"], "env": all, "stopTimeoutSeconds": 2},
            "health": [{"name": "http", "probe": {"type": "http", "port": port, "path": "/healthz"},
                "intervalSeconds": 1, "failureThreshold": 2}],
            "soakSeconds": 1, "startTimeoutSeconds": 10,
            "restart": {"backoffMs": 100, "maxBackoffMs": 1000, "maxRestarts": 2},
        });
        let manifest = serde_json::to_vec(&manifest)?;
        let signature = blob::sign_detached(&self.key, &manifest)?;
        let release =
            json!({"manifest": STANDARD.encode(&manifest), "signature": STANDARD.encode(signature)});
        plane.post("/api/releases", &release).await?;
        let spec = json!({"app": "web", "channel": "prod", "release": format!("web@{version}"),
            "waves": self.waves});
        let name = format!("to-{}", version.replace('.', "-"));
        plane.post("/api/rollouts", &json!({"metadata": {"name": name}, "spec": spec})).await?;
        let started = plane.get(&format!("/api/rollouts/{name}")).await?;
        if started["status"]["summary"]["startedAt"].is_null() {
            plane.post(&format!("/api/rollouts/{name}:start"), &json!({})).await?;
        }
        Ok(name)
    }

    /// The same, until the rollout is over. Gives the phase it ended in.
    pub(crate) async fn roll_out(
        &mut self,
        plane: &Plane,
        version: &str,
        env: &[(&str, &str)],
    ) -> Result<String> {
        let name = self.begin(plane, version, env).await?;
        ended(plane, &name, Duration::from_secs(120)).await
    }
}

/// Waits until a rollout is over. Gives the phase it ended in.
pub(crate) async fn ended(plane: &Plane, rollout: &str, bound: Duration) -> Result<String> {
    let path = format!("/api/rollouts/{rollout}");
    let over = helper::until(
        "the end of a rollout",
        bound,
        async || plane.get(&path).await,
        |rollout| !rollout["status"]["summary"]["finishedAt"].is_null(),
    )
    .await?;
    Ok(over["status"]["summary"]["phase"].as_str().unwrap_or_default().to_owned())
}
