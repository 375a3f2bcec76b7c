//! `chaos-agent`: `kill -9` of `run`, `runner` and the control plane at seeded moments while releases are rolled out.
//!
//! One real agent, one control plane, one app. Each rollout is of the next version, every third one of a version that
//! does not stay healthy. While it goes on, processes are killed and started again; then everything must come to rest: the rollout
//! is over, and exactly one process of the right version answers. An observer outside all of them looks at every process that
//! runs from the agent's folder: there is never more than one, and its program is one that was signed.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use farshore_domain::digest::Digest;
use farshore_sim::Dice;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use super::device::{Agent, Role, end_apps, processes_of_apps};
use super::figures::Figures;
use super::helper;
use super::plane::Plane;
use super::release::{self, Releases};

/// Everything must have come to rest this long after the last kill.
const REST: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often something is killed
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// How often during one rollout
    #[arg(long, default_value_t = 5)]
    per_rollout: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The agent
    #[arg(long, env = "FARSHORE_AGENT_BIN")]
    agent: PathBuf,
    /// The folder with the program edge-web-service
    #[arg(long, env = "FARSHORE_BIN_DIR")]
    programs: PathBuf,
}

/// What the observer saw.
#[derive(Debug, Default)]
struct Seen {
    /// Moments with more than one process of the app.
    doubled: u32,
    /// Processes whose program was not the signed one.
    unverified: u32,
    /// Of every process, whether its program was looked at.
    known: BTreeMap<u32, bool>,
    looks: u64,
}

/// Looks until the task is ended.
async fn observe(folder: PathBuf, signed: Digest, seen: Arc<Mutex<Seen>>) {
    loop {
        let apps: Vec<_> = processes_of_apps(&folder)
            .unwrap_or_default()
            .into_iter()
            .filter(|process| !process.supervises)
            .collect();
        let mut fresh = Vec::new();
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.looks += 1;
            // A second look, without those that were just ending.
            let alive = apps.iter().filter(|process| is_alive(process.pid)).count();
            seen.doubled += u32::from(alive > 1);
            fresh.extend(apps.iter().filter(|process| !seen.known.contains_key(&process.pid)).map(|p| p.pid));
        }
        for pid in fresh {
            // The file of the process itself, whatever its name has become.
            let Ok(bytes) = tokio::fs::read(format!("/proc/{pid}/exe")).await else { continue };
            let good = Digest::of(&bytes) == signed;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.known.insert(pid, good);
            seen.unverified += u32::from(!good);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Whether the process has not ended: one that waits for its parent to look has.
fn is_alive(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = text.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The version that answers on the app's port.
async fn answers(port: u16) -> Option<String> {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(Duration::from_secs(2), ask).await.ok()?
}

/// The bytes of the program, as they lie in the archive.
fn signed_program(programs: &Path) -> Result<Digest> {
    let path = programs.join("edge-web-service");
    let bytes = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    Ok(Digest::of(&bytes))
}

struct Stage {
    plane: Plane,
    agent: Agent,
    dice: Dice,
    killed: BTreeMap<&'static str, u32>,
}

impl Stage {
    /// Kills something at a random moment, and starts it again after a random pause.
    async fn strike(&mut self) -> Result<()> {
        sleep(Duration::from_millis(self.dice.between(0, 1_500))).await;
        let pause = Duration::from_millis(self.dice.between(0, 600));
        let name = match self.dice.between(0, 3) {
            0 => {
                self.plane.kill().await?;
                sleep(pause).await;
                self.plane.start_again().await?;
                "plane"
            }
            1 => {
                self.agent.kill(Role::Runner).await?;
                sleep(pause).await;
                self.agent.start_again(Role::Runner)?;
                "runner"
            }
            2 => {
                self.agent.kill(Role::Run).await?;
                sleep(pause).await;
                self.agent.start_again(Role::Run)?;
                "run"
            }
            _ => {
                self.agent.kill(Role::Run).await?;
                self.agent.kill(Role::Runner).await?;
                sleep(pause).await;
                self.agent.start_again(Role::Runner)?;
                self.agent.start_again(Role::Run)?;
                "both"
            }
        };
        *self.killed.entry(name).or_default() += 1;
        Ok(())
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<Figures> {
    let folder = tempfile::Builder::new().prefix("farshore-bench-").tempdir().context("no folder")?;
    let home = folder.path().join("agent");
    let outcome = chaos(&arguments, folder.path(), &home).await;
    end_apps(&home).await?;
    if outcome.is_err() {
        let log = std::fs::read_to_string(home.join("agent.log")).unwrap_or_default();
        let from = log.len().saturating_sub(4_000);
        eprintln!("the agent said last:\n{}", log.get(from..).unwrap_or(&log));
    }
    outcome
}

async fn chaos(arguments: &Arguments, folder: &Path, home: &Path) -> Result<Figures> {
    let plane = Plane::start(&folder.join("plane")).await?;
    let token = plane.claim_token("bench", 1).await?;
    let agent = Agent::start(&arguments.agent, home, Some(&token))?;
    helper::until(
        "the agent online",
        Duration::from_secs(60),
        async || plane.devices("reachability=online").await,
        |count| *count > 0,
    )
    .await?;
    let port = TcpListener::bind("127.0.0.1:0").context("no port")?.local_addr()?.port();
    let program = arguments.programs.join("edge-web-service");
    let mut releases = Releases::new(&plane, &program, port).await?;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let signed = signed_program(&arguments.programs)?;
    let observer = tokio::spawn(observe(home.to_owned(), signed, seen.clone()));
    let first = releases.roll_out(&plane, "1.0", &[]).await?;
    if first != "succeeded" {
        bail!("the first release did not get onto the agent: the rollout {first}");
    }
    let mut stage = Stage { plane, agent, dice: Dice::new(arguments.seed, &[]), killed: BTreeMap::new() };
    let (mut lost, mut stuck, mut kills, mut rounds) = (0u32, 0u32, 0, 0u32);
    let mut runs = "1.0".to_owned();
    let begin = Instant::now();
    while kills < arguments.kills {
        rounds += 1;
        let version = format!("1.{rounds}");
        let bad = rounds % 3 == 0;
        let env: &[(&str, &str)] = if bad { &[("CRASH_AFTER_MS", "300")] } else { &[] };
        let rollout = releases.begin(&stage.plane, &version, env).await?;
        for _ in 0..arguments.per_rollout.min(arguments.kills - kills) {
            stage.strike().await?;
            kills += 1;
        }
        match release::ended(&stage.plane, &rollout, REST).await {
            Ok(phase) => {
                let wanted = if bad { "failed" } else { "succeeded" };
                if phase != wanted {
                    eprintln!("round {rounds}: {rollout} {phase}, where {wanted} was to be expected");
                    stuck += 1;
                }
                if phase == "succeeded" {
                    runs.clone_from(&version);
                }
            }
            Err(error) => {
                eprintln!("round {rounds}: {rollout}: {error:#}");
                stuck += 1;
                break;
            }
        }
        let right = helper::until(
            "the right version answering",
            REST,
            async || Ok(answers(port).await),
            |answer| answer.as_ref().is_some_and(|text| speaks_for(text, &runs)),
        )
        .await;
        if right.is_err() {
            eprintln!("round {rounds}: {runs} does not answer");
            lost += 1;
            break;
        }
    }
    let took = begin.elapsed();
    observer.abort();
    let Stage { mut plane, agent, killed, .. } = stage;
    agent.stop().await?;
    plane.stop().await?;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut figures = Figures::default();
    figures.put("rounds", rounds);
    figures.put("kills", kills);
    for (name, count) in killed {
        figures.put(&format!("kills_{name}"), count);
    }
    figures.put("seed", arguments.seed);
    figures.put("lost", lost);
    figures.put("stuck", stuck);
    figures.put("duplicated", seen.doubled);
    figures.put("unverified_executed", seen.unverified);
    figures.put("processes_seen", seen.known.len());
    figures.put("observer_looks", seen.looks);
    figures.put_seconds("took_seconds", took);
    Ok(figures)
}

/// Whether the page says this version, and not one that begins the same way.
fn speaks_for(page: &str, version: &str) -> bool {
    page.match_indices(version).any(|(at, _)| {
        let after = page.get(at + version.len()..).and_then(|rest| rest.chars().next());
        let before = page.get(..at).and_then(|rest| rest.chars().next_back());
        let joins = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || c == '.');
        !joins(before) && !after.is_some_and(|c| c.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_page_speaks_for_its_own_version_only() {
        let page = "HTTP/1.0 200 OK\r\n\r\n<h1>edge-web-service 1.1.</h1>";
        assert!(super::speaks_for(page, "1.1"));
        assert!(!super::speaks_for(&page.replace("1.1.", "1.12"), "1.1"));
        assert!(!super::speaks_for(&page.replace("1.1.", "11.1"), "1.1"));
    }
}
