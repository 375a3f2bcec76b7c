//! A control plane in a temporary folder, and its API as an operator uses it.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_control::server::{Running, Server};
use farshore_control::settings::Settings;
use farshore_domain::digest::Digest;
use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use farshore_trust::certificate::chain_from_pem;
use farshore_trust::clock::FlooredClock;
use farshore_trust::key::{Algorithm, SigningKey};
use farshore_trust::keyset::{TrustedKey, document};
use farshore_trust::{blob, tls};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a test waits for something that should happen.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Plane {
    pub(crate) running: Running,
    settings: Settings,
    http: reqwest::Client,
    token: String,
    release_key: SigningKey,
    _folder: TempDir,
}

fn client(running: &Running) -> reqwest::Client {
    let roots = chain_from_pem(&running.ca_pem).unwrap();
    let clock = FlooredClock::new(farshore_control::clock::now, UnixMs(0));
    let mut config = tls::client_config(&roots, None, clock).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap()
}

/// Waits until `look` finds something.
pub(crate) async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not happen in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Plane {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("farshore-sim-").tempdir().unwrap();
        let flags: BTreeMap<String, String> = [
            ("data-dir", folder.path().to_str().unwrap()),
            ("api-listen", "127.0.0.1:0"),
            ("device-listen", "127.0.0.1:0"),
            ("server-names", "127.0.0.1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let settings = Settings::read(&flags, &|_| None).unwrap();
        let running = Server::start(settings.clone()).await.unwrap();
        let http = client(&running);
        let link = running.first_login.clone().unwrap();
        let (_, link) = link.split_once("#link=").unwrap();
        let mut plane = Self {
            http,
            running,
            settings,
            token: String::new(),
            release_key: SigningKey::generate(Algorithm::P256).unwrap(),
            _folder: folder,
        };
        let login = json!({"link": link, "password": "correct horse battery", "bearer": true});
        plane.token = plane.post("/api/login/link", login).await["token"].as_str().unwrap().to_owned();
        plane
    }

    /// Stops, and starts again on the same ports and data.
    pub(crate) async fn restart(self) -> Self {
        let Self { running, mut settings, token, release_key, _folder, .. } = self;
        settings.listen.api = running.api_addr;
        settings.listen.device = running.device_addr;
        running.shutdown().await;
        let running = Server::start(settings.clone()).await.unwrap();
        Self { http: client(&running), running, settings, token, release_key, _folder }
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Value {
        let request = if self.token.is_empty() { request } else { request.bearer_auth(&self.token) };
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{status}: {text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.answer(self.http.get(format!("{}{path}", self.running.api_url))).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        self.answer(self.http.post(format!("{}{path}", self.running.api_url)).json(&body)).await
    }

    /// A claim token's text.
    pub(crate) async fn claim_token(&self, name: &str, spec: Value) -> String {
        let token = json!({"metadata": {"name": name}, "spec": spec});
        let token = self.post("/api/claim-tokens", token).await;
        token["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Makes the devices trust the release key of this test.
    pub(crate) async fn trust_keys(&self) {
        let me = self.get("/api/me").await;
        let tenant: TenantId = me["tenantId"].as_str().unwrap().parse().unwrap();
        let key = TrustedKey { name: Name::new("release").unwrap(), key: self.release_key.public().clone() };
        let set = document(tenant, 1, &[key]).unwrap();
        let signature = blob::sign_detached(&self.release_key, &set).unwrap();
        let set = json!({"document": STANDARD.encode(&set), "signature": STANDARD.encode(signature)});
        self.post("/api/trusted-keys", set).await;
    }

    /// Uploads bytes and a signed release of app `web` that runs them.
    pub(crate) async fn release(&self, version: &str) {
        let bytes = format!("not really a program, version {version}").into_bytes();
        let digest = Digest::of(&bytes).to_string();
        let upload = json!({"digest": digest, "size": bytes.len(), "name": format!("web-{version}.tar")});
        let upload = self.post("/api/artifacts", upload).await;
        let address =
            format!("{}/api/artifacts/uploads/{}", self.running.api_url, upload["upload"].as_str().unwrap());
        let size = bytes.len();
        let piece = self
            .http
            .patch(address)
            .header("upload-offset", 0)
            .header("content-type", "application/octet-stream")
            .body(bytes);
        self.answer(piece).await;
        let manifest = json!({
            "schema": "farshore.dev/release/v1", "tenant": "default", "app": "web", "version": version,
            "platforms": [{"os": "linux", "arch": std::env::consts::ARCH,
                "artifact": {"digest": digest, "size": size, "format": "tar"}}],
            "run": {"command": ["bin/web"]},
            "soakSeconds": 1, "startTimeoutSeconds": 5,
            "restart": {"backoffMs": 100, "maxBackoffMs": 500, "maxRestarts": 2},
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let signature = blob::sign_detached(&self.release_key, &manifest).unwrap();
        let release =
            json!({"manifest": STANDARD.encode(&manifest), "signature": STANDARD.encode(signature)});
        self.post("/api/releases", release).await;
    }

    /// Creates and starts a rollout of `web` in `prod`.
    pub(crate) async fn roll_out(&self, name: &str, version: &str) {
        let spec = json!({
            "app": "web", "channel": "prod", "release": format!("web@{version}"),
            "waves": [{"percent": 40, "soakSeconds": 1}, {"percent": 100, "soakSeconds": 1}],
            "maxUnavailable": 50,
        });
        self.post("/api/rollouts", json!({"metadata": {"name": name}, "spec": spec})).await;
        let rollout = self.get(&format!("/api/rollouts/{name}")).await;
        if rollout["status"]["summary"]["startedAt"].is_null() {
            self.post(&format!("/api/rollouts/{name}:start"), json!({})).await;
        }
    }

    /// How many devices run each version of `web`.
    pub(crate) async fn versions(&self) -> BTreeMap<String, usize> {
        let devices = self.get("/api/devices?limit=1000").await;
        let mut versions = BTreeMap::new();
        for device in devices["items"].as_array().unwrap() {
            let app = device["status"]["apps"].as_array().and_then(|apps| apps.first().cloned());
            let version = app.and_then(|app| Some(app["activeVersion"].as_str()?.to_owned()));
            *versions.entry(version.unwrap_or_default()).or_default() += 1;
        }
        versions
    }

    /// Devices that the list shows with this state.
    pub(crate) async fn count(&self, query: &str) -> u64 {
        let devices = self.get(&format!("/api/devices?limit=1&{query}")).await;
        devices["metadata"]["total"].as_u64().unwrap()
    }
}
