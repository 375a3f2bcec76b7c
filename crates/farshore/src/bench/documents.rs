//! `documents`: many documents are written on a device without a network and then synced to the control plane, and to a device that has none; then nothing
//! new, and one change on either side. The device is a real `farshore-agent gateway`; between it and the control plane every byte is counted.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::figures::Figures;
use super::helper;
use super::plane::{Plane, http_client};
use super::process;

/// Apps that write at the same time.
const WRITERS: u32 = 8;
const BOUND: Duration = Duration::from_secs(300);
/// After the last byte, nothing more comes of what was done before.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Documents of the device
    #[arg(long, default_value_t = 10_000)]
    documents: u32,
    /// The agent that is measured
    #[arg(long, env = "FARSHORE_AGENT_BIN")]
    agent: PathBuf,
}

/// About 200 bytes, as the settings of one thing have.
fn document(number: u32, volume: u32) -> Value {
    json!({
        "number": number, "name": format!("till {number}"), "volume": volume, "on": number.is_multiple_of(2),
        "place": {"floor": number % 7, "shelf": number % 40}, "languages": ["lv", "en", "de"],
        "note": "settings of one thing, as an app on the device writes them",
    })
}

pub(crate) async fn run(arguments: Arguments) -> Result<Figures> {
    let folder = tempfile::Builder::new().prefix("farshore-bench-").tempdir().context("no folder")?;
    let mut plane = Plane::start(&folder.path().join("plane")).await?;
    let relay = Relay::start(plane.device_address()?).await?;
    let count = arguments.documents;
    let mut figures = Figures::default();
    figures.put("documents", count);

    let site = Site::new(&arguments.agent, folder.path(), "documents", &plane, &relay).await?;
    let gateway = site.gateway(false).await?;
    let begin = Instant::now();
    gateway.write(count).await?;
    figures.put_seconds("documents_write_seconds", begin.elapsed());
    gateway.stop().await?;

    relay.reset();
    let begin = Instant::now();
    let gateway = site.gateway(true).await?;
    gateway.until("all documents in the cloud", |status| status.synced && status.pending == 0).await?;
    figures.put_seconds("documents_first_sync_seconds", begin.elapsed());
    figures.put("documents_first_sync_bytes", relay.bytes());
    figures.put("documents_gateway_rss_bytes", process::rss_bytes(gateway.pid()?)?);
    figures.put("documents_server_rss_bytes", process::rss_bytes(plane.process()?)?);
    gateway.stop().await?;

    site.forget()?;
    relay.reset();
    let begin = Instant::now();
    let gateway = site.gateway(true).await?;
    gateway.until("all documents on the device", |status| status.documents == u64::from(count)).await?;
    figures.put_seconds("documents_first_sync_down_seconds", begin.elapsed());
    figures.put("documents_first_sync_down_bytes", relay.bytes());
    gateway.stop().await?;

    let (gateway, took) = nothing_new(&site, &relay).await?;
    figures.put_seconds("documents_noop_seconds", took);
    figures.put("documents_noop_bytes", relay.bytes());
    one_change(&mut figures, &plane, &gateway, &relay).await?;
    gateway.stop().await?;

    // The same for a device without any document: what an exchange costs by itself.
    let empty = Site::new(&arguments.agent, folder.path(), "empty", &plane, &relay).await?;
    let (gateway, _) = nothing_new(&empty, &relay).await?;
    gateway.stop().await?;
    let (gateway, took) = nothing_new(&empty, &relay).await?;
    figures.put_seconds("documents_noop_seconds_empty", took);
    figures.put("documents_noop_bytes_empty", relay.bytes());
    gateway.stop().await?;
    plane.stop().await?;
    Ok(figures)
}

/// A gateway starts and has nothing to say.
async fn nothing_new(site: &Site, relay: &Relay) -> Result<(Gateway, Duration)> {
    relay.reset();
    let begin = Instant::now();
    let gateway = site.gateway(true).await?;
    gateway.until("nothing new", |status| status.synced && status.pending == 0).await?;
    let took = begin.elapsed();
    relay.quiet().await?;
    Ok((gateway, took))
}

/// One document is changed on the device, and one in the cloud.
async fn one_change(figures: &mut Figures, plane: &Plane, gateway: &Gateway, relay: &Relay) -> Result<()> {
    relay.reset();
    let begin = Instant::now();
    gateway.put(0, 11).await?;
    let in_cloud = "/api/devices/documents/documents/things/0";
    let seen = async || plane.get(in_cloud).await;
    helper::until("the change in the cloud", BOUND, seen, |seen| seen["value"]["volume"] == 11).await?;
    figures.put_seconds("documents_change_up_seconds", begin.elapsed());
    relay.quiet().await?;
    figures.put("documents_change_up_bytes", relay.bytes());
    relay.reset();
    let begin = Instant::now();
    plane.put("/api/devices/documents/documents/things/1", &document(1, 12)).await?;
    let seen = async || gateway.get("/documents/things/1").await;
    helper::until("the change on the device", BOUND, seen, |seen| seen["volume"] == 12).await?;
    figures.put_seconds("documents_change_down_seconds", begin.elapsed());
    relay.quiet().await?;
    figures.put("documents_change_down_bytes", relay.bytes());
    Ok(())
}

/// A device: a folder, and a gateway key.
struct Site {
    agent: PathBuf,
    folder: PathBuf,
    key: String,
    url: String,
    http: reqwest::Client,
}

impl Site {
    async fn new(agent: &Path, folder: &Path, name: &str, plane: &Plane, relay: &Relay) -> Result<Self> {
        let new = json!({"metadata": {"name": name}, "spec": {"device": name}});
        let key = plane.post("/api/gateway-keys", &new).await?;
        let key = key["status"]["key"].as_str().context("no gateway key")?.to_owned();
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).context("no folder")?;
        let http = http_client(plane.fingerprint().parse().context("no fingerprint")?)?;
        let url = format!("https://{}", relay.address);
        Ok(Self { agent: agent.to_owned(), folder, key, url, http })
    }

    async fn gateway(&self, with_network: bool) -> Result<Gateway> {
        let mut command = Command::new(&self.agent);
        command
            .arg("gateway")
            .env_clear()
            .env("LOCAL_DB_PATH", self.folder.join("journal"))
            .env("FARSHORE_STATE_DIR", self.folder.join("state"))
            .env("GATEWAY_HTTP_LISTEN", "127.0.0.1:0")
            .env("GATEWAY_MQTT_LISTEN", "127.0.0.1:0")
            .env("LOG_LEVEL", "warn")
            .current_dir(&self.folder);
        if with_network {
            command.env("CLOUD_API_KEY", &self.key).env("CLOUD_API_URL", &self.url);
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.context("no log")?);
        let mut child = command.kill_on_drop(true).spawn().context("the gateway can't be started")?;
        let mut ready = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut ready).await?;
        let Some(at) = ready.strip_prefix("ready ") else {
            let said = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            bail!("the gateway did not start: {said}");
        };
        let at: Value = serde_json::from_str(at).context("the gateway says no addresses")?;
        let url = format!("http://{}", at["http"].as_str().context("no HTTP")?);
        Ok(Gateway { child, url, http: self.http.clone() })
    }

    /// The device loses its documents, and what it knew of the cloud's.
    fn forget(&self) -> Result<()> {
        for file in ["documents.db", "documents.db-wal", "documents.db-shm"] {
            match std::fs::remove_file(self.folder.join("journal").join(file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context("the documents can't be removed");
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// How the documents of a device stand.
#[derive(Debug)]
struct Status {
    documents: u64,
    pending: u64,
    /// It has heard of the control plane since it started.
    synced: bool,
}

struct Gateway {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Gateway {
    fn pid(&self) -> Result<u32> {
        self.child.id().context("the gateway ended")
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.context("no answer")?;
        let text = answer.error_for_status().context("refused")?.text().await.context("half an answer")?;
        serde_json::from_str(&text).context("no JSON")
    }

    async fn put(&self, number: u32, volume: u32) -> Result<()> {
        put(&self.http, &self.url, number, volume).await
    }

    async fn write(&self, documents: u32) -> Result<()> {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (http, url) = (self.http.clone(), self.url.clone());
            writers.spawn(async move {
                for number in (writer..documents).step_by(WRITERS as usize) {
                    put(&http, &url, number, 5).await?;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(written) = writers.join_next().await {
            written.context("a writer broke")??;
        }
        Ok(())
    }

    async fn until(&self, what: &str, done: impl Fn(&Status) -> bool) -> Result<()> {
        let look = async || {
            // A collection that is not there: the status alone.
            let said = self.get("/documents/none").await?;
            let status = &said["status"];
            let number = |name: &str| status[name].as_u64().with_context(|| format!("no {name}"));
            let synced = !status["synced_at"].is_null();
            Ok(Status { documents: number("documents")?, pending: number("pending")?, synced })
        };
        helper::until(what, BOUND, look, done).await.map(|_| ())
    }

    /// Asks it to stop and waits.
    async fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()?).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.context("no process")?, rustix::process::Signal::TERM)
            .context("the gateway can't be asked to stop")?;
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        let ended = ended.context("the gateway does not stop")?.context("the gateway can't be waited for")?;
        if !ended.success() {
            bail!("the gateway ended with {ended}");
        }
        Ok(())
    }
}

async fn put(http: &reqwest::Client, url: &str, number: u32, volume: u32) -> Result<()> {
    let url = format!("{url}/documents/things/{number}");
    let answer = http.put(url).json(&document(number, volume)).send().await.context("no answer")?;
    answer.error_for_status().context("a document is refused")?;
    Ok(())
}

/// Hands bytes on to the control plane's device port, and counts them.
struct Relay {
    address: SocketAddr,
    bytes: Arc<AtomicU64>,
    /// Ends with the bench.
    _relayed: JoinSet<()>,
}

impl Relay {
    async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no port")?;
        let address = listener.local_addr().context("no address")?;
        let bytes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&bytes);
        let mut relayed = JoinSet::new();
        relayed.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(relay(from, to, Arc::clone(&counter)));
            }
        });
        Ok(Self { address, bytes, _relayed: relayed })
    }

    fn reset(&self) {
        self.bytes.store(0, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits until no byte has come for a while.
    async fn quiet(&self) -> Result<()> {
        let begin = Instant::now();
        let mut seen = (self.bytes(), Instant::now());
        while seen.1.elapsed() < QUIET {
            if begin.elapsed() > BOUND {
                bail!("gateway and control plane do not come to rest");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            if self.bytes() != seen.0 {
                seen = (self.bytes(), Instant::now());
            }
        }
        Ok(())
    }
}

/// Until one side ends; then both ends are closed.
async fn relay(from: TcpStream, to: SocketAddr, bytes: Arc<AtomicU64>) {
    let Ok(to) = TcpStream::connect(to).await else { return };
    for stream in [&from, &to] {
        if stream.set_nodelay(true).is_err() {
            return;
        }
    }
    let ((mut from_read, mut from_write), (mut to_read, mut to_write)) = (from.into_split(), to.into_split());
    tokio::select! {
        () = copy(&mut from_read, &mut to_write, &bytes) => {}
        () = copy(&mut to_read, &mut from_write, &bytes) => {}
    }
}

async fn copy(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    bytes: &AtomicU64,
) {
    let mut buffer = vec![0; 64 * 1024];
    // An end and an error are the same to both sides: the connection is closed.
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        bytes.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(buffer.get(..read).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}
