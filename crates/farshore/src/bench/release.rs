//! A signed release of `examples/edge-web-service`, for a bench with a real agent.

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
use serde_json::json;

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

/// Makes the devices trust a new key, and rolls `program` out as app `web` to all of them.
pub(crate) async fn roll_out(plane: &Plane, program: &Path, port: u16) -> Result<()> {
    let key = SigningKey::generate(Algorithm::P256)?;
    let me = plane.get("/api/me").await?;
    let tenant: TenantId = me["tenantId"].as_str().context("no tenant")?.parse()?;
    let tenant_name = me["tenant"].as_str().context("no tenant")?;
    let trusted = TrustedKey { name: Name::new("bench")?, key: key.public().clone() };
    let set = document(tenant, 1, &[trusted])?;
    let signature = blob::sign_detached(&key, &set)?;
    let set = json!({"document": STANDARD.encode(&set), "signature": STANDARD.encode(signature)});
    plane.post("/api/trusted-keys", &set).await?;

    let bytes = archive(program)?;
    let digest = Digest::of(&bytes).to_string();
    let size = bytes.len();
    let upload = json!({"digest": digest, "size": size, "name": "edge-web-service.tar"});
    let upload = plane.post("/api/artifacts", &upload).await?;
    let upload = upload["upload"].as_str().context("no upload")?;
    plane.patch(&format!("/api/artifacts/uploads/{upload}"), bytes).await?;
    let manifest = json!({
        "schema": "farshore.dev/release/v1", "tenant": tenant_name, "app": "web", "version": "1.0",
        "platforms": [{"os": "linux", "arch": std::env::consts::ARCH,
            "artifact": {"digest": digest, "size": size, "format": "tar"}}],
        "run": {"command": ["edge-web-service"], "env": {"PORT": port.to_string(), "APP_VERSION": "1.0"}},
        "health": [{"name": "http", "probe": {"type": "http", "port": port, "path": "/healthz"}}],
        "soakSeconds": 2, "startTimeoutSeconds": 30,
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let signature = blob::sign_detached(&key, &manifest)?;
    let release = json!({"manifest": STANDARD.encode(&manifest), "signature": STANDARD.encode(signature)});
    plane.post("/api/releases", &release).await?;
    plane.post("/api/apps", &json!({"metadata": {"name": "web"}, "spec": {}})).await?;
    plane.post("/api/placements", &json!({"metadata": {"name": "web"}, "spec": {"app": "web"}})).await?;
    let spec = json!({"app": "web", "channel": "prod", "release": "web@1.0",
        "waves": [{"percent": 100, "soakSeconds": 1}]});
    plane.post("/api/rollouts", &json!({"metadata": {"name": "bench"}, "spec": spec})).await?;
    let started = plane.get("/api/rollouts/bench").await?;
    if started["status"]["summary"]["startedAt"].is_null() {
        plane.post("/api/rollouts/bench:start", &json!({})).await?;
    }
    helper::until(
        "the release on every device",
        Duration::from_secs(120),
        async || plane.get("/api/rollouts/bench").await,
        |rollout| rollout["status"]["summary"]["phase"] == "succeeded",
    )
    .await
    .map(|_| ())
}
