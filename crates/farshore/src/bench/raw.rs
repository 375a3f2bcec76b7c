//! Helpers: the handshakes of the device port without Farshore. The same TLS settings, a chain of the same shape (P-256 root,
//! intermediate, leaf, on both sides), connections from as many addresses, kept open to the end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::UnixMs;
use farshore_trust::authority::{Authority, Issuer};
use farshore_trust::certificate::{chain_from_pem, chain_to_pem};
use farshore_trust::clock::FlooredClock;
use farshore_trust::device::DeviceKey;
use farshore_trust::identity::TrustDomain;
use farshore_trust::tls::{self, ClientIdentity, ServerCertificate};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use uuid::Uuid;

use super::helper;

const FILE: &str = "raw.json";
const HOURS: Duration = Duration::from_secs(3_600);
/// As many at once as a virtual fleet begins.
const AT_ONCE: usize = 64;

#[derive(Debug, clap::Args)]
pub(crate) struct ServerArguments {
    #[arg(long)]
    folder: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ClientArguments {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    count: u32,
}

/// What the server says when it listens.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listening {
    pub(crate) port: u16,
}

/// What the client says when it is done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct Device {
    root: String,
    chain: String,
    key: String,
}

fn clock() -> FlooredClock {
    FlooredClock::new(crate::clock::now, UnixMs(0))
}

pub(crate) async fn serve(arguments: ServerArguments) -> Result<()> {
    let now = crate::clock::now();
    let domain = TrustDomain::new("bench.local")?;
    let new = Authority::generate(&domain, now)?;
    let issuer = Issuer::new(domain, new.root_cert, new.intermediate_cert, new.intermediate_key)?;
    let server = issuer.issue_server(&["127.0.0.1".to_owned()], now, HOURS)?;
    let key = DeviceKey::generate()?;
    let (tenant, device) = (TenantId(Uuid::from_u128(1)), DeviceId(Uuid::from_u128(2)));
    let issued = issuer.issue_device(key.csr_pem()?.as_bytes(), tenant, device, now, HOURS)?;
    let device = Device {
        root: chain_to_pem([issuer.root_cert()]),
        chain: issued.chain_pem(),
        key: key.to_pem().to_string(),
    };
    write(&arguments.folder.join(FILE), &device)?;
    let certificate = ServerCertificate::new(server.certificate.chain, &server.key)?;
    let roots = [issuer.root_cert().clone()];
    let config = tls::device_port_server_config(certificate, &roots, clock())?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("nothing to listen on")?;
    helper::answer(&Listening { port: listener.local_addr()?.port() })?;
    // Nothing is said: its end is the end of the bench.
    let mut over = helper::stdin_lines();
    let accept = async {
        loop {
            let (stream, _) = listener.accept().await.context("no connection")?;
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                stream.set_nodelay(true).context("no connection")?;
                let mut stream = acceptor.accept(stream).await.context("no handshake")?;
                let mut byte = [0];
                // Until the other side goes.
                stream.read(&mut byte).await.context("the connection broke")
            });
        }
    };
    tokio::select! {
        ended = accept => ended,
        _ = over.recv() => Ok(()),
    }
}

fn write(path: &Path, device: &Device) -> Result<()> {
    std::fs::write(path, serde_json::to_vec(device)?)
        .with_context(|| format!("can't write {}", path.display()))
}

pub(crate) async fn connect(arguments: ClientArguments) -> Result<()> {
    let text = std::fs::read(arguments.folder.join(FILE)).context("the server left no certificates")?;
    let device: Device = serde_json::from_slice(&text)?;
    let (roots, chain) = (chain_from_pem(&device.root)?, chain_from_pem(&device.chain)?);
    let key = DeviceKey::from_pem(&device.key)?;
    let mut config = tls::client_config(&roots, Some(ClientIdentity { chain: &chain, key: &key }), clock())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    let connector = TlsConnector::from(Arc::new(config));
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port));
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..arguments.count {
        let (connector, gate) = (connector.clone(), gate.clone());
        tasks.spawn(async move {
            let _turn = gate.acquire_owned().await.context("closed")?;
            let socket = TcpSocket::new_v4()?;
            let last = u8::try_from(number / 200 % 250).unwrap_or(0) + 1;
            socket.bind(SocketAddr::from((Ipv4Addr::new(127, 90, 0, last), 0)))?;
            let stream = socket.connect(target).await.context("no connection")?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("127.0.0.1").context("no name")?;
            connector.connect(name, stream).await.context("no handshake")
        });
    }
    let mut open = Vec::with_capacity(arguments.count as usize);
    while let Some(connected) = tasks.join_next().await {
        open.push(connected.context("a connection broke")??);
    }
    helper::answer(&Done { seconds: begin.elapsed().as_secs_f64() })?;
    // Held until the bench is over.
    while helper::stdin_lines().recv().await.is_some() {}
    drop(open);
    Ok(())
}
