//! What one would run instead of the agent, where the machine has it: idle, measured the same way.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, Command};
use tokio::time::{MissedTickBehavior, interval};

use super::figures::Figures;
use super::process::{self, Cores};

/// What they need until they are at rest.
const WARM_UP: Duration = Duration::from_secs(10);
/// As often as Prometheus asks where nobody says.
const SCRAPE: Duration = Duration::from_secs(15);

/// What the agent's measurements take of collectd's plugins, each 10 s, and nothing that writes them.
const COLLECTD: &str = "FQDNLookup false
Interval 10
LoadPlugin cpu
LoadPlugin memory
LoadPlugin df
LoadPlugin disk
LoadPlugin interface
LoadPlugin load
LoadPlugin processes
";

struct Peer {
    name: &'static str,
    child: Child,
    /// Asked for its metrics, as it is made for.
    scrape: Option<String>,
}

/// Measures each peer that is installed, for `seconds`.
pub(super) async fn measure(figures: &mut Figures, folder: &Path, seconds: u64) -> Result<()> {
    let mut peers = Vec::new();
    let port = TcpListener::bind("127.0.0.1:0").context("no port")?.local_addr()?.port();
    let listen = format!("127.0.0.1:{port}");
    let arguments = [format!("--web.listen-address={listen}")];
    if let Some(child) = start("prometheus-node-exporter", &arguments)? {
        peers.push(Peer { name: "node_exporter", child, scrape: Some(format!("http://{listen}/metrics")) });
    }
    let file = folder.join("collectd.conf");
    let base = format!("BaseDir {folder:?}\nPIDFile {:?}\n{COLLECTD}", folder.join("collectd.pid"));
    std::fs::write(&file, base).context("no configuration")?;
    if let Some(child) = start("collectd", &["-f".to_owned(), "-C".to_owned(), file.display().to_string()])? {
        peers.push(Peer { name: "collectd", child, scrape: None });
    }
    let file = folder.join("mosquitto.conf");
    let port = TcpListener::bind("127.0.0.1:0").context("no port")?.local_addr()?.port();
    std::fs::write(&file, format!("listener {port} 127.0.0.1\nallow_anonymous true\n"))
        .context("no configuration")?;
    if let Some(child) = start("mosquitto", &["-c".to_owned(), file.display().to_string()])? {
        peers.push(Peer { name: "mosquitto", child, scrape: None });
    }
    let mut measured = Vec::new();
    rest(WARM_UP, &peers).await?;
    for peer in &peers {
        let pid = peer.child.id().with_context(|| format!("{} ended", peer.name))?;
        measured.push((peer.name, pid, Cores::begin(pid)?));
    }
    rest(Duration::from_secs(seconds), &peers).await?;
    for (name, pid, cores) in measured {
        figures.put(&format!("{name}_rss_bytes"), process::rss_bytes(pid)?);
        figures.put(&format!("{name}_pss_bytes"), process::pss_bytes(pid)?);
        figures.put_ms(&format!("{name}_cpu_percent"), cores.end()? * 100.0);
    }
    for mut peer in peers {
        peer.child.kill().await.with_context(|| format!("{} can't be ended", peer.name))?;
    }
    Ok(())
}

/// `None` where it is not installed.
fn start(program: &str, arguments: &[String]) -> Result<Option<Child>> {
    let places = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
    let Some(found) = places.iter().map(|place| Path::new(place).join(program)).find(|path| path.is_file())
    else {
        eprintln!("{program} is not installed and left out");
        return Ok(None);
    };
    let mut command = Command::new(found);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true).process_group(0);
    Ok(Some(command.spawn().with_context(|| format!("{program} can't be started"))?))
}

/// Leaves them alone, but for scrapes.
async fn rest(time: Duration, peers: &[Peer]) -> Result<()> {
    let http = reqwest::Client::builder().timeout(BOUND).build().context("no client")?;
    let end = tokio::time::Instant::now() + time;
    let mut ticks = interval(SCRAPE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    while tokio::time::timeout_at(end, ticks.tick()).await.is_ok() {
        for url in peers.iter().filter_map(|peer| peer.scrape.as_ref()) {
            let answer = http.get(url).send().await.with_context(|| format!("no answer from {url}"))?;
            if !answer.status().is_success() {
                bail!("{url} answered {}", answer.status());
            }
            answer.bytes().await.context("half an answer")?;
        }
    }
    Ok(())
}

const BOUND: Duration = Duration::from_secs(10);
