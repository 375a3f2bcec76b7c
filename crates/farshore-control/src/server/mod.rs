//! The control plane, started and stopped: [`Server::start`] wires everything, top to bottom.

mod answer;
mod health;
mod idempotency;
mod listen;
mod metrics;
mod page;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use farshore_domain::digest::Digest;
use farshore_domain::id::TenantId;
use farshore_store::tenants::FirstStart;
use farshore_store::{Driver, SecretHash, Store, StoreError};
use farshore_trust::clock::FlooredClock;
use farshore_trust::master::{FileMasterKey, MasterKey, MasterKeyError};
use farshore_trust::token::{Secret, SecretKind};
use farshore_trust::{provider, tls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use answer::PeerAddress;
pub(crate) use health::HealthDocs;
pub(crate) use idempotency::idempotent;
pub use metrics::Metrics;

use crate::app::{App, Parts};
use crate::artifacts::ArtifactFolder;
use crate::authority::{self, Authority, OpenError, ServerCertificates};
use crate::clock::now;
use crate::route::{Route, router};
use crate::settings::{ListenSettings, Settings};
use crate::{access, artifacts, claims, fleet, releases, rollouts};

/// How long the first admin's link is good.
const FIRST_LINK_MS: i64 = farshore_domain::time::DAY_MS;

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the data folder {0} can't be made or written")]
    Folder(std::path::PathBuf, #[source] std::io::Error),
    #[error("the database can't be opened")]
    Store(#[from] StoreError),
    #[error("the master key can't be opened")]
    MasterKey(#[from] MasterKeyError),
    #[error("the certificate authority can't be opened")]
    Authority(#[from] OpenError),
    #[error("nothing can listen on {0}: is something else there?")]
    Listen(SocketAddr, #[source] std::io::Error),
    #[error("TLS can't be set up")]
    Tls(#[from] tls::TlsError),
    #[error("the operating system gives no randomness")]
    Random(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where this replica listens, and how others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub api: SocketAddr,
    pub device: SocketAddr,
    /// `https://…` without a slash at the end.
    pub api_url: String,
    pub device_url: String,
}

impl Addresses {
    fn new(listen: &ListenSettings, api: SocketAddr, device: SocketAddr) -> Self {
        let own = |port: u16| {
            let name = listen.server_names.first().map_or("localhost", String::as_str);
            let host = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
            if port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") }
        };
        Self {
            api,
            device,
            api_url: listen.api_url.clone().unwrap_or_else(|| own(api.port())),
            device_url: listen.device_url.clone().unwrap_or_else(|| own(device.port())),
        }
    }

    /// The page's address with a one-time link. Behind `#` it reaches no server's log.
    #[must_use]
    pub fn login_link(&self, link: &str) -> String {
        format!("{}/login#link={link}", self.api_url)
    }
}

/// Starts the control plane.
#[derive(Clone, Copy, Debug)]
pub struct Server;

/// The control plane at work. Dropping it stops nothing: call [`Running::shutdown`].
#[derive(Debug)]
pub struct Running {
    pub api_addr: SocketAddr,
    pub device_addr: SocketAddr,
    /// `https://…`
    pub api_url: String,
    pub device_url: String,
    /// Of the root certificate, as claim tokens and `farshore login --ca-fingerprint` carry it.
    pub ca_fingerprint: Digest,
    /// The root certificate in PEM.
    pub ca_pem: String,
    /// On the first start: the address where the first admin sets a password, once.
    pub first_login: Option<String>,
    pub app: App,
    drivers: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Opens everything, starts the drivers, and listens.
    pub async fn start(settings: Settings) -> Result<Running, StartError> {
        provider::install();
        let folder = settings.data.folder.clone();
        make_private_folder(&folder).map_err(|error| StartError::Folder(folder.clone(), error))?;
        let store = Store::open(&settings.data.database).await?;
        let master: Arc<dyn MasterKey> = Arc::new(FileMasterKey::open_or_create(&folder.join("master.key"))?);
        let authority = Authority::open(&store, master, &settings.identity, now()).await?;
        let certificates = Arc::new(ServerCertificates::issue(&authority, &settings.listen, now())?);
        let artifacts = ArtifactFolder::open(&folder.join("artifacts"))
            .map_err(|error| StartError::Folder(folder.join("artifacts"), error))?;
        let api_listener = bind(settings.listen.api).await?;
        let device_listener = bind(settings.listen.device).await?;
        let local =
            |listener: &TcpListener, asked| listener.local_addr().map_err(|e| StartError::Listen(asked, e));
        let addresses = Addresses::new(
            &settings.listen,
            local(&api_listener, settings.listen.api)?,
            local(&device_listener, settings.listen.device)?,
        );
        let first_login = first_start(&store, &settings, &addresses).await?;
        let api_tls = tls::api_server_config(certificates.api.clone())?;
        let device_tls = tls::device_port_server_config(
            certificates.device.clone(),
            std::slice::from_ref(authority.issuer().root_cert()),
            FlooredClock::new(now, farshore_domain::time::UnixMs(0)),
        )?;
        let limits = settings.limits;
        let shutdown = CancellationToken::new();
        let app = App::new(Parts {
            store,
            settings,
            artifacts,
            authority,
            addresses: addresses.clone(),
            shutdown: shutdown.clone(),
        });

        let tasks = TaskTracker::new();
        for driver in drivers(&app, certificates, &shutdown) {
            tasks.spawn(driver);
        }
        let api = listen::Port {
            name: "api",
            listener: api_listener,
            tls: Arc::new(api_tls),
            max_connections: limits.max_api_connections,
            max_handshakes: limits.max_handshakes,
            kind: listen::Kind::Api,
            router: answer::Answerer::new(&app, router(&app, api_routes()).fallback(page::page)),
        };
        let device = listen::Port {
            name: "device",
            listener: device_listener,
            tls: Arc::new(device_tls),
            max_connections: limits.max_device_connections,
            max_handshakes: limits.max_handshakes,
            kind: listen::Kind::Device,
            router: answer::Answerer::new(&app, router(&app, device_port_routes())),
        };
        for port in [api, device] {
            tasks.spawn(port.serve(app.clone(), tasks.clone(), shutdown.clone()));
        }
        tracing::info!(api = addresses.api_url, device = addresses.device_url, "the control plane listens");
        Ok(Running {
            api_addr: addresses.api,
            device_addr: addresses.device,
            api_url: addresses.api_url,
            device_url: addresses.device_url,
            ca_fingerprint: app.authority().root_fingerprint(),
            ca_pem: app.authority().roots_pem().concat(),
            first_login,
            app,
            drivers: shutdown,
            tasks,
        })
    }
}

/// Everything that works by itself.
fn drivers(
    app: &App,
    certificates: Arc<ServerCertificates>,
    shutdown: &CancellationToken,
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut drivers = vec![
        authority::spawn(app, certificates, shutdown.clone()),
        access::spawn(app, shutdown.clone()),
        fleet::spawn(app, shutdown.clone()),
        crate::events::spawn(app),
        crate::metrics::spawn(app),
        crate::series::spawn(app, shutdown),
        crate::sinks::spawn(app, shutdown),
    ];
    drivers.extend(crate::channel::spawn(app));
    drivers.extend(crate::alerts::spawn(app, shutdown));
    drivers
}

/// The rows of the API port.
#[must_use]
pub fn api_routes() -> Vec<Route> {
    [
        health::routes(),
        access::routes(),
        claims::routes(),
        artifacts::routes(),
        crate::install::routes(),
        releases::routes(),
        fleet::routes(),
        rollouts::routes(),
        crate::devices::routes(),
        crate::metrics::routes(),
        crate::events::routes(),
        crate::incidents::routes(),
        crate::alerts::routes(),
        crate::operations::routes(),
        crate::active_ops::routes(),
        crate::sync::routes(),
        crate::documents::routes(),
        crate::pipelines::routes(),
        crate::series::routes(),
        crate::sinks::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The rows of the device port.
#[must_use]
pub fn device_port_routes() -> Vec<Route> {
    [
        claims::device_port_routes(),
        artifacts::device_port_routes(),
        crate::channel::routes(),
        crate::sync::device_port_routes(),
        crate::documents::device_port_routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Running {
    /// Stops listening, lets requests under way finish for a while, and closes the database.
    pub async fn shutdown(self) {
        const GRACE: std::time::Duration = std::time::Duration::from_secs(10);
        self.drivers.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "some connections did not end in time");
        }
        self.app.store().close().await;
    }
}

fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()?
        } else {
            tokio::net::TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        // A storm of reconnecting devices waits here while handshakes take their turn.
        socket.listen(4_096)
    };
    listen().map_err(|error| StartError::Listen(address, error))
}

/// On an empty database: tenant, admin, and a link that is returned once.
async fn first_start(
    store: &Store,
    settings: &Settings,
    addresses: &Addresses,
) -> Result<Option<String>, StartError> {
    let (link, hash) =
        Secret::generate(SecretKind::LoginLink).map_err(|error| StartError::Random(Box::new(error)))?;
    let now = now();
    let first = FirstStart {
        tenant: &settings.first.tenant,
        email: &settings.first.admin,
        link: SecretHash(*hash.as_bytes()),
        link_expires_at: now.plus_ms(FIRST_LINK_MS),
    };
    let made: Option<(TenantId, _)> = store.system(Driver::Platform).first_start(&first, now).await?;
    Ok(made.map(|_| addresses.login_link(link.expose())))
}
