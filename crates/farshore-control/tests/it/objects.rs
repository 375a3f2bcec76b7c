//! Objects that tests need and that take some steps: artifacts, signed releases, rollouts.

use axum::http::Method;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_domain::digest::Digest;
use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use farshore_trust::key::{Algorithm, SigningKey};
use farshore_trust::keyset::{TrustedKey, document};
use serde_json::{Value, json};

use crate::harness::{Client, Fleet};

/// A tenant's release key, which the tenant trusts.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) client: Client,
    pub(crate) tenant: String,
    key: SigningKey,
}

impl Publisher {
    /// Makes a key and has the tenant trust it.
    pub(crate) async fn new(fleet: &Fleet, tenant: &str) -> Self {
        let key = SigningKey::generate(Algorithm::P256).unwrap();
        let publisher = Self { client: fleet.admin.in_tenant(tenant), tenant: tenant.to_owned(), key };
        publisher.client.post("/api/trusted-keys", publisher.key_set(1).await).await.expect(201);
        publisher
    }

    /// The body that makes version `version` of the trusted keys, with this key alone.
    pub(crate) async fn key_set(&self, version: u64) -> Value {
        let me: Value = self.client.get("/api/me").await.expect(200).json();
        let tenant: TenantId = me["tenantId"].as_str().unwrap().parse().unwrap();
        let trusted = TrustedKey { name: Name::new("release").unwrap(), key: self.key.public().clone() };
        let document = document(tenant, version, &[trusted]).unwrap();
        let signature = STANDARD.encode(self.key.sign(&document).unwrap());
        json!({"document": STANDARD.encode(&document), "signature": STANDARD.encode(signature)})
    }

    /// Uploads bytes.
    pub(crate) async fn artifact(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let announced = json!({"digest": digest.to_string(), "size": bytes.len(), "name": "app.tar"});
        let answer = self.client.post("/api/artifacts", announced).await;
        if answer.status == 200 {
            return digest;
        }
        let upload: Value = answer.expect(201).json();
        let path = format!("/api/artifacts/uploads/{}", upload["upload"].as_str().unwrap());
        let upload = self.client.header("upload-offset", "0");
        upload.send_raw(Method::PATCH, &path, "application/octet-stream", bytes.to_vec()).await.expect(200);
        digest
    }

    /// The body that publishes a release of one Linux artifact.
    pub(crate) async fn signed_release(&self, app: &str, version: &str) -> Value {
        self.changed_release(app, version, |_| {}).await
    }

    /// The same, with a manifest that was changed before it was signed.
    pub(crate) async fn changed_release(
        &self,
        app: &str,
        version: &str,
        change: impl FnOnce(&mut Value),
    ) -> Value {
        let bytes = format!("{app} {version} of {}", self.tenant).into_bytes();
        let digest = self.artifact(&bytes).await;
        let mut manifest = json!({
            "schema": "farshore.dev/release/v1",
            "tenant": self.tenant,
            "app": app,
            "version": version,
            "platforms": [{"os": "linux", "arch": "x86_64",
                "artifact": {"digest": digest.to_string(), "size": bytes.len(), "format": "tar"}}],
            "run": {"command": ["bin/app"]},
        });
        change(&mut manifest);
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let signature = STANDARD.encode(self.key.sign(&manifest).unwrap());
        json!({"manifest": STANDARD.encode(&manifest), "signature": STANDARD.encode(signature)})
    }

    /// Publishes a release, and the app if need be.
    pub(crate) async fn release(&self, app: &str, version: &str) -> Value {
        let body = json!({"metadata": {"name": app}, "spec": {}});
        let answer = self.client.post("/api/apps", body).await;
        assert!(matches!(answer.status, 201 | 409), "{}", answer.text());
        self.client.post("/api/releases", self.signed_release(app, version).await).await.expect(201).json()
    }
}
