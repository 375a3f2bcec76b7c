//! A real server on free loopback ports in a temporary folder, and clients that speak to it over TLS.
//!
//! ```ignore
//! #[tokio::test(flavor = "multi_thread")]
//! async fn a_viewer_reads_and_does_not_write() {
//!     each_engine(async |fleet| {
//!         let viewer = fleet.role("viewer").await;
//!         viewer.get("/api/devices").await.expect(200);
//!         viewer.post("/api/claim-tokens", json!({"metadata": {"name": "t"}, "spec": {}})).await.problem(403, "forbidden");
//!     })
//!     .await;
//! }
//! ```

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use farshore_api::Problem;
use farshore_api::claim::Claimed;
use farshore_control::app::App;
use farshore_control::server::{Running, Server};
use farshore_control::settings::Settings;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use farshore_store::test_util::TestDatabase;
use farshore_trust::CertificateDer;
use farshore_trust::certificate::chain_from_pem;
use farshore_trust::clock::FlooredClock;
use farshore_trust::device::DeviceKey;
use farshore_trust::tls::{ClientIdentity, client_config};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The first admin's, in every test.
pub(crate) const ADMIN: &str = "admin@farshore.local";
pub(crate) const PASSWORD: &str = "correct horse battery";
/// How long a test waits for something that should happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A control plane with an admin who has logged in.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) running: Running,
    pub(crate) app: App,
    pub(crate) engine: &'static str,
    settings: Settings,
    folder: TempDir,
    database: TestDatabase,
    /// The platform admin of tenant `default`.
    pub(crate) admin: Client,
}

/// Runs the test on a fresh server on each engine there is.
pub(crate) async fn each_engine(test: impl AsyncFn(&Fleet)) {
    each_engine_with(|_| {}, test).await;
}

/// The same, with other settings.
pub(crate) async fn each_engine_with(change: impl Fn(&mut Settings), test: impl AsyncFn(&Fleet)) {
    for database in TestDatabase::each().await {
        eprintln!("engine: {}", database.engine);
        let fleet = Fleet::start(database, &change).await;
        Box::pin(test(&fleet)).await;
        fleet.stop().await;
    }
}

/// Settings for a server in this folder, on free ports of 127.0.0.1.
pub(crate) fn settings(folder: &TempDir, database: &TestDatabase) -> Settings {
    let flags: BTreeMap<String, String> = [
        ("data-dir", folder.path().to_str().unwrap()),
        ("api-listen", "127.0.0.1:0"),
        ("device-listen", "127.0.0.1:0"),
        ("server-names", "127.0.0.1,localhost"),
        ("first-admin", ADMIN),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut settings = Settings::read(&flags, &|_| None).unwrap();
    settings.data.database = database.options.clone();
    settings.check_pipelines = |text| {
        farshore_gateway::pipeline::Definition::parse(text).map(drop).map_err(|error| error.to_string())
    };
    settings
}

fn log() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(farshore_trust::provider::install);
}

impl Fleet {
    pub(crate) async fn start(database: TestDatabase, change: &impl Fn(&mut Settings)) -> Self {
        log();
        let folder = tempfile::Builder::new().prefix("farshore-it-").tempdir().unwrap();
        let mut settings = settings(&folder, &database);
        change(&mut settings);
        let running = Server::start(settings.clone()).await.unwrap();
        let link = running.first_login.clone().expect("the first start gives a link");
        let (_, link) = link.split_once("#link=").unwrap();
        let mut admin = Client::new(&running, Credentials::None);
        let me: Value = admin
            .post("/api/login/link", json!({"link": link, "password": PASSWORD, "bearer": true}))
            .await
            .expect(200)
            .json();
        admin.credentials = Credentials::Bearer(me["token"].as_str().unwrap().to_owned());
        Self { app: running.app.clone(), running, engine: database.engine, settings, folder, database, admin }
    }

    pub(crate) async fn stop(self) {
        self.running.shutdown().await;
        self.database.remove().await;
        self.folder.close().unwrap();
    }

    /// Stops the server and starts it again on the same data (and other ports).
    pub(crate) async fn restart(self) -> Self {
        let Self { running, settings, folder, database, mut admin, engine, .. } = self;
        running.shutdown().await;
        let running = Server::start(settings.clone()).await.unwrap();
        assert_eq!(running.first_login, None, "only the first start gives a link");
        let credentials = std::mem::replace(&mut admin.credentials, Credentials::None);
        let admin = Client::new(&running, credentials);
        Self { app: running.app.clone(), running, engine, settings, folder, database, admin }
    }

    /// Somebody who is not logged in.
    pub(crate) fn nobody(&self) -> Client {
        Client::new(&self.running, Credentials::None)
    }

    /// A program with an API token of this role in tenant `default`.
    pub(crate) async fn role(&self, role: &str) -> Client {
        self.role_in("default", role).await
    }

    /// The same in another tenant.
    pub(crate) async fn role_in(&self, tenant: &str, role: &str) -> Client {
        let name = format!("{role}-{}", uuid::Uuid::now_v7().simple());
        let token = json!({"metadata": {"name": name}, "spec": {"role": role}});
        let token: Value = self.admin.in_tenant(tenant).post("/api/tokens", token).await.expect(201).json();
        let secret = token["status"]["token"].as_str().unwrap();
        Client::new(&self.running, Credentials::Bearer(secret.to_owned()))
    }

    /// Another tenant.
    pub(crate) async fn tenant(&self, name: &str) {
        self.admin.post("/api/tenants", json!({"metadata": {"name": name}, "spec": {}})).await.expect(201);
    }

    /// A claim token of tenant `default`: the whole answer.
    pub(crate) async fn claim_token(&self, spec: Value) -> Value {
        self.claim_token_in("default", spec).await
    }

    pub(crate) async fn claim_token_in(&self, tenant: &str, spec: Value) -> Value {
        let name = format!("t-{}", uuid::Uuid::now_v7().simple());
        let token = json!({"metadata": {"name": name}, "spec": spec});
        self.admin.in_tenant(tenant).post("/api/claim-tokens", token).await.expect(201).json()
    }

    /// A device that was claimed in tenant `default`, with its certificate.
    pub(crate) async fn device(&self, hostname: &str) -> TestDevice {
        self.device_in("default", hostname).await
    }

    pub(crate) async fn device_in(&self, tenant: &str, hostname: &str) -> TestDevice {
        let token = self.claim_token_in(tenant, json!({})).await;
        let mut device = TestDevice::new(self);
        let claimed = device.claim(&secret_of(&token), hostname).await.expect(200).json();
        device.take(self, claimed);
        device
    }

    /// The server's root certificate.
    pub(crate) fn root(&self) -> CertificateDer<'static> {
        chain_from_pem(&self.running.ca_pem).unwrap().remove(0)
    }
}

/// The secret part of a claim token, from the answer to its creation.
pub(crate) fn secret_of(token: &Value) -> String {
    let text = token["status"]["token"].as_str().unwrap();
    let token: farshore_trust::token::ClaimToken = text.parse().unwrap();
    token.secret().expose().to_owned()
}

/// What a client sends to say who it is.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    None,
    Bearer(String),
    Cookie(String),
}

/// Somebody at the API port.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) credentials: Credentials,
    tenant: Option<String>,
    headers: HeaderMap,
}

fn tls_clock() -> FlooredClock {
    FlooredClock::new(farshore_control::clock::now, UnixMs(0))
}

fn http(mut config: rustls::ClientConfig, alpn: &[&[u8]]) -> reqwest::Client {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .timeout(Duration::from_secs(60))
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

impl Client {
    fn new(running: &Running, credentials: Credentials) -> Self {
        let roots = chain_from_pem(&running.ca_pem).unwrap();
        let config = client_config(&roots, None, tls_clock()).unwrap();
        Self {
            http: http(config, &[b"h2", b"http/1.1"]),
            url: running.api_url.clone(),
            credentials,
            tenant: None,
            headers: HeaderMap::new(),
        }
    }

    /// The same client, acting in another tenant.
    pub(crate) fn in_tenant(&self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..self.clone() }
    }

    /// The same client with other credentials.
    pub(crate) fn with(&self, credentials: Credentials) -> Self {
        Self { credentials, ..self.clone() }
    }

    /// The same client, sending one more header.
    pub(crate) fn header(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.insert(name, value.parse().unwrap());
        client
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request).await
    }

    /// A body that is what it is.
    pub(crate) async fn send_raw(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        Answer::of(self.request(method, path).header("content-type", kind).body(body)).await
    }

    /// A request to be sent otherwise; an SSE stream, for example.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let mut request =
            self.http.request(method, format!("{}{path}", self.url)).headers(self.headers.clone());
        match &self.credentials {
            Credentials::None => {}
            Credentials::Bearer(token) => request = request.bearer_auth(token),
            Credentials::Cookie(session) => {
                request = request.header("cookie", format!("__Host-farshore-session={session}"));
            }
        }
        if let Some(tenant) = &self.tenant {
            request = request.header("farshore-tenant", tenant);
        }
        request
    }

    /// The origin that the page's own requests carry.
    pub(crate) fn origin(&self) -> String {
        self.url.clone()
    }
}

/// A device at the device port.
#[derive(Debug)]
pub(crate) struct TestDevice {
    pub(crate) key: DeviceKey,
    /// Without the certificate until it was claimed.
    http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) claimed: Option<Claimed>,
}

impl TestDevice {
    /// With a new key, not claimed yet.
    pub(crate) fn new(fleet: &Fleet) -> Self {
        let config = client_config(&[fleet.root()], None, tls_clock()).unwrap();
        Self {
            key: DeviceKey::generate().unwrap(),
            http: http(config, &[b"http/1.1"]),
            url: fleet.running.device_url.clone(),
            claimed: None,
        }
    }

    /// Sends a claim with the secret part of a token.
    pub(crate) async fn claim(&self, secret: &str, hostname: &str) -> Answer {
        self.claim_with(secret, json!({"hardware": {"hostname": hostname, "os": "linux", "arch": "x86_64"}}))
            .await
    }

    /// Sends a claim with these further fields.
    pub(crate) async fn claim_with(&self, secret: &str, mut body: Value) -> Answer {
        body["token"] = secret.into();
        body["csr"] = self.key.csr_pem().unwrap().into();
        Answer::of(self.http.post(format!("{}/api/devices/claim", self.url)).json(&body)).await
    }

    /// Uses the certificate that the answer holds from now on.
    pub(crate) fn take(&mut self, fleet: &Fleet, claimed: Claimed) {
        self.use_certificate(fleet, &claimed.certificate);
        self.claimed = Some(claimed);
    }

    pub(crate) fn use_certificate(&mut self, fleet: &Fleet, chain_pem: &str) {
        self.http = http(self.tls(fleet, chain_pem), &[b"http/1.1"]);
    }

    /// A TLS configuration with this certificate, for a connection of the test's own.
    pub(crate) fn tls(&self, fleet: &Fleet, chain_pem: &str) -> rustls::ClientConfig {
        let chain = chain_from_pem(chain_pem).unwrap();
        let identity = ClientIdentity { chain: &chain, key: &self.key };
        client_config(&[fleet.root()], Some(identity), tls_clock()).unwrap()
    }

    pub(crate) fn claimed(&self) -> &Claimed {
        self.claimed.as_ref().expect("the device was claimed")
    }

    /// Its uid, as text.
    pub(crate) fn uid(&self) -> String {
        self.claimed().device.to_string()
    }

    pub(crate) fn name(&self) -> &Name {
        &self.claimed().name
    }

    /// Asks for the next certificate, for this key.
    pub(crate) async fn renew(&self, key: &DeviceKey) -> Answer {
        self.post("/api/devices/renew", json!({"csr": key.csr_pem().unwrap()})).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.http.get(format!("{}{path}", self.url))).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.http.post(format!("{}{path}", self.url)).json(&body)).await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        Self::try_of(request).await.expect("the server answers")
    }

    pub(crate) async fn try_of(request: reqwest::RequestBuilder) -> reqwest::Result<Self> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Self { status, headers, body: response.bytes().await? })
    }

    /// The answer has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The answer is a problem of this status and code, with everything a problem has.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Problem {
        let text = self.text();
        assert_eq!(self.status, status, "{text}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{text}");
        let value: Value = self.json();
        assert_eq!(value["code"], code, "{text}");
        let problem: Problem = serde_json::from_value(value).unwrap();
        assert_eq!(problem.status, status);
        assert!(!problem.detail.is_empty() && problem.request_id.is_some(), "{text}");
        problem
    }

    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// Asks again until the answer is `Some`, for as long as [`PATIENCE`] lasts.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
