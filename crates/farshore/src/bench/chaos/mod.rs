//! `chaos-agent`: everything around a real agent breaks at seeded moments while releases are rolled out onto it.
//!
//! One agent with its three roles (`run`, runner, gateway), one control plane, one app. While a release is rolled out, the network is partitioned or
//! loses what goes one way, the disk fills up, the clock jumps, the processor is overrun, processes end by the thousand ([`world`]), and roles are
//! killed with `kill -9` in the middle of it. Every third release does not stay healthy. Then everything is mended and has to come to rest:
//! the rollout is over, exactly one process of the right version answers, and the control plane says the same. Between rollouts, the app is killed
//! while the network is away: the agent heals it alone.
//!
//! What has to hold is judged from outside, by [`observer`] and by what arrives of the readings that the gateway acknowledged ([`readings`]).

mod observer;
mod readings;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use farshore_domain::digest::Digest;
use farshore_sim::Dice;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::time::sleep;

use super::device::{Agent, Place, Role, end_apps, processes_of_apps};
use super::figures::Figures;
use super::plane::Plane;
use super::release::Releases;
use observer::Seen;
use readings::Readings;
use world::{AGENT_CLOCK, CLOCKS, CONDITIONS, Condition, GATEWAY_CLOCK, World};

/// Everything must have come to rest this long after the last fault.
const REST: Duration = Duration::from_secs(120);
/// An app that was killed is there again so soon, with nobody to ask.
const HEALED: Duration = Duration::from_secs(30);
/// A unit starts a role again this long after it ended by itself.
const UNIT: Duration = Duration::from_secs(1);
/// Where the app listens, in the agent's own network.
const APP: u16 = 8080;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often something breaks
    #[arg(long, default_value_t = 200)]
    faults: u32,
    /// How often during one rollout
    #[arg(long, default_value_t = 4)]
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

/// Whom `kill -9` meets.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Plane,
    Run,
    Runner,
    /// `run` and runner together.
    Both,
    Gateway,
}

impl Victim {
    const ALL: [Self; 5] = [Self::Plane, Self::Run, Self::Runner, Self::Both, Self::Gateway];

    fn word(self) -> &'static str {
        match self {
            Self::Plane => "plane",
            Self::Run => "run",
            Self::Runner => "runner",
            Self::Both => "both",
            Self::Gateway => "gateway",
        }
    }
}

/// The bytes of the program, as they lie in the archive.
fn signed_program(programs: &Path) -> Result<Digest> {
    let path = programs.join("edge-web-service");
    let bytes = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    Ok(Digest::of(&bytes))
}

/// The version that answers on the app's port.
async fn answers() -> Option<String> {
    readings::ask(&format!("http://127.0.0.1:{APP}/")).await
}

/// How it went.
#[derive(Debug, Default)]
struct Tally {
    rounds: u32,
    /// Rollouts that did not end, or apps that never were as they should be.
    stuck: u32,
    lost: u32,
    /// Bad releases that stayed, and good ones that did not.
    bad_stayed: u32,
    good_given_up: u32,
    healed_alone: u32,
    not_healed: u32,
    /// Roles that ended without being killed.
    ended_by_themselves: u32,
    conditions: BTreeMap<&'static str, u32>,
    killed: BTreeMap<&'static str, u32>,
}

struct Stage {
    plane: Plane,
    agent: Agent,
    gateway: Child,
    world: World,
    readings: Readings,
    /// Where the gateway is started.
    place: Place,
    program: PathBuf,
    dice: Dice,
    tally: Tally,
    tended: Instant,
}

fn spawn_gateway(place: &Place, program: &Path, home: &Path) -> Result<Child> {
    let mut command = place.command(program, home)?;
    command
        .arg("gateway")
        .env("FARSHORE_STATE_DIR", home.join("state"))
        .env("LOCAL_DB_PATH", home.join("readings"))
        .env("GATEWAY_HTTP_LISTEN", format!("127.0.0.1:{}", readings::PORT))
        .env("GATEWAY_MQTT_LISTEN", "off")
        // Many small batches: more moments at which a fault can hurt.
        .env("SYNC_STRATEGY", "on-change")
        .env("MAX_RETRY_ATTEMPTS", "1000");
    command.spawn().context("the gateway can't be started")
}

impl Stage {
    /// Something breaks, and something is killed in the middle of it, at random moments; then it is mended.
    async fn strike(&mut self) -> Result<()> {
        let pick = |dice: &mut Dice, of: usize| usize::try_from(dice.between(0, of as u64)).unwrap_or(0);
        // One more than there are: nothing.
        let condition = CONDITIONS.get(pick(&mut self.dice, CONDITIONS.len())).copied();
        let condition = condition.map(|condition| match condition {
            Condition::Clock(first) => {
                Condition::Clock(CLOCKS.get(pick(&mut self.dice, CLOCKS.len() - 1)).copied().unwrap_or(first))
            }
            other => other,
        });
        let victim = Victim::ALL.get(pick(&mut self.dice, Victim::ALL.len())).copied();
        let victim = victim.or(if condition.is_none() { Some(Victim::Both) } else { None });
        let before = Duration::from_millis(self.dice.between(0, 700));
        let into = Duration::from_millis(self.dice.between(0, 900));
        let pause = Duration::from_millis(self.dice.between(0, 600));
        let after = Duration::from_millis(self.dice.between(0, 1_500));
        let sizes = [self.dice.between(1, 200), self.dice.between(1, 200)];
        sleep(before).await;
        if let Some(condition) = condition {
            *self.tally.conditions.entry(condition.word()).or_default() += 1;
            self.world.begin(condition)?;
        }
        let first = self.readings.send(sizes[0])?;
        sleep(into).await;
        let second = self.readings.send(sizes[1])?;
        if let Some(victim) = victim {
            *self.tally.killed.entry(victim.word()).or_default() += 1;
            self.kill(victim).await?;
            sleep(pause).await;
            self.start_again(victim).await?;
        }
        sleep(after).await;
        if let Some(condition) = condition {
            self.world.end(condition)?;
        }
        self.readings.finish(first).await?;
        self.readings.finish(second).await?;
        self.tend()
    }

    async fn kill(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Plane => self.plane.kill().await,
            Victim::Run => self.agent.kill(Role::Run).await,
            Victim::Runner => self.agent.kill(Role::Runner).await,
            Victim::Both => {
                self.agent.kill(Role::Run).await?;
                self.agent.kill(Role::Runner).await
            }
            Victim::Gateway => self.gateway.kill().await.context("the gateway can't be killed"),
        }
    }

    async fn start_again(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Plane => self.plane.start_again().await,
            Victim::Run => self.agent.start_again(Role::Run),
            Victim::Runner => self.agent.start_again(Role::Runner),
            Victim::Both => {
                self.agent.start_again(Role::Runner)?;
                self.agent.start_again(Role::Run)
            }
            Victim::Gateway => {
                self.gateway = spawn_gateway(&self.place, &self.program, &self.world.home())?;
                Ok(())
            }
        }
    }

    /// Starts again what has ended by itself, as the units of a device do.
    fn tend(&mut self) -> Result<()> {
        if self.tended.elapsed() < UNIT {
            return Ok(());
        }
        self.tended = Instant::now();
        for role in [Role::Run, Role::Runner] {
            if self.agent.has_ended(role)? {
                self.tally.ended_by_themselves += 1;
                self.agent.start_again(role)?;
            }
        }
        if self.gateway.try_wait().context("the gateway can't be asked after")?.is_some() {
            self.tally.ended_by_themselves += 1;
            self.gateway = spawn_gateway(&self.place, &self.program, &self.world.home())?;
        }
        Ok(())
    }

    /// Waits for something; `false` when it does not happen in time.
    async fn until(
        &mut self,
        bound: Duration,
        mut look: impl AsyncFnMut(&Self) -> Result<bool>,
    ) -> Result<bool> {
        let begin = Instant::now();
        loop {
            self.tend()?;
            if look(self).await? {
                return Ok(true);
            }
            if begin.elapsed() > bound {
                return Ok(false);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until a rollout is over. Gives the phase it ended in, or nothing.
    async fn ended(&mut self, rollout: &str) -> Result<Option<String>> {
        let path = format!("/api/rollouts/{rollout}");
        let mut phase = None;
        self.until(REST, async |stage| {
            let summary = stage.plane.get(&path).await?["status"]["summary"].take();
            if summary["finishedAt"].is_null() {
                return Ok(false);
            }
            phase = summary["phase"].as_str().map(str::to_owned);
            Ok(true)
        })
        .await?;
        Ok(phase)
    }

    /// Waits until this version answers on the device, and the control plane says so, too.
    async fn at_rest(&mut self, version: &str) -> Result<bool> {
        self.until(REST, async |stage| {
            if !answers().await.is_some_and(|text| speaks_for(&text, version)) {
                return Ok(false);
            }
            let list = stage.plane.get("/api/devices?limit=1").await?;
            let status = &list["items"][0]["status"];
            let app = &status["apps"][0];
            Ok(status["reachability"] == "online"
                && app["activeVersion"] == version
                && app["committed"] == true)
        })
        .await
    }

    /// The app is killed while nobody can be asked: it has to come back by itself, in the same version.
    async fn heal_alone(&mut self, version: &str) -> Result<()> {
        let apps = processes_of_apps(&self.world.home())?;
        let Some(app) = apps.into_iter().find(|process| !process.supervises) else {
            self.tally.not_healed += 1;
            return Ok(());
        };
        self.world.begin(Condition::Partition)?;
        let pid = i32::try_from(app.pid).ok().and_then(Pid::from_raw).context("no process")?;
        // Gone already is as good.
        _ = kill_process(pid, Signal::KILL);
        let home = self.world.home();
        let healed = self
            .until(HEALED, async |_| {
                let apps = processes_of_apps(&home)?;
                let another = apps.iter().any(|process| !process.supervises && process.pid != app.pid);
                Ok(another && answers().await.is_some_and(|text| speaks_for(&text, version)))
            })
            .await?;
        self.world.end(Condition::Partition)?;
        self.tally.healed_alone += u32::from(healed);
        self.tally.not_healed += u32::from(!healed);
        Ok(())
    }

    /// One rollout, broken into; the version that runs afterwards.
    async fn round(&mut self, releases: &mut Releases, strikes: u32, runs: String) -> Result<Option<String>> {
        self.tally.rounds += 1;
        let round = self.tally.rounds;
        let version = format!("1.{round}");
        let bad = round.is_multiple_of(3);
        let env: &[(&str, &str)] = if bad { &[("CRASH_AFTER_MS", "300")] } else { &[] };
        let rollout = releases.begin(&self.plane, &version, env).await?;
        for _ in 0..strikes {
            self.strike().await?;
        }
        let Some(phase) = self.ended(&rollout).await? else {
            eprintln!(
                "round {round}: the rollout does not end: {}",
                self.plane.get(&format!("/api/rollouts/{rollout}")).await?["status"]
            );
            self.tally.stuck += 1;
            return Ok(None);
        };
        let right = match (phase.as_str(), bad) {
            ("succeeded", false) => version,
            ("succeeded", true) => {
                self.tally.bad_stayed += 1;
                version
            }
            (_, false) => {
                let shown = self.plane.get(&format!("/api/rollouts/{rollout}")).await?;
                let why = &shown["status"]["summary"]["reasons"];
                eprintln!("round {round}: a good release was given up ({phase}): {why}");
                self.tally.good_given_up += 1;
                runs
            }
            (_, true) => runs,
        };
        if !self.at_rest(&right).await? {
            eprintln!(
                "round {round}: {right} does not answer; the device: {}",
                self.plane.get("/api/devices?limit=1").await?["items"][0]["status"]
            );
            self.tally.lost += 1;
            return Ok(None);
        }
        Ok(Some(right))
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<Figures> {
    world::enter()?;
    let folder = tempfile::Builder::new().prefix("farshore-bench-").tempdir().context("no folder")?;
    let root = folder.path().canonicalize().context("no folder")?;
    let log = root.join("agent.log");
    let outcome = chaos(&arguments, &root).await;
    end_apps(&root.join("device")).await?;
    let well = outcome.as_ref().is_ok_and(|(_, well)| *well);
    if !well {
        let log = std::fs::read_to_string(log).unwrap_or_default();
        let from = log.len().saturating_sub(8_000);
        eprintln!("the agent said last:\n{}", log.get(from..).unwrap_or(&log));
    }
    outcome.map(|(figures, _)| figures)
}

async fn chaos(arguments: &Arguments, root: &Path) -> Result<(Figures, bool)> {
    let world = World::new(root)?;
    let home = world.home();
    let plane = Plane::start_on(world::PLANE.parse().context("no address")?, &root.join("plane")).await?;
    let token = plane.claim_token("bench", 1).await?;
    let place = Place { wrap: World::wrap(), env: world.env(AGENT_CLOCK), log: Some(root.join("agent.log")) };
    let agent = Agent::start_in(place.clone(), &arguments.agent, &home, Some(&token))?;
    super::helper::until(
        "the agent online",
        Duration::from_secs(60),
        async || plane.devices("reachability=online").await,
        |count| *count > 0,
    )
    .await?;
    let mut releases = Releases::new(&plane, &arguments.programs.join("edge-web-service"), APP).await?;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let signed = signed_program(&arguments.programs)?;
    let observer = tokio::spawn(observer::observe(home.clone(), signed, seen.clone()));
    let first = releases.roll_out(&plane, "1.0", &[]).await?;
    if first != "succeeded" {
        bail!("the first release did not get onto the agent: the rollout {first}");
    }
    let place = Place { env: world.env(GATEWAY_CLOCK), ..place };
    let gateway = spawn_gateway(&place, &arguments.agent, &home)?;
    super::helper::until(
        "the gateway",
        Duration::from_secs(30),
        async || Ok(readings::waiting().await),
        Option::is_some,
    )
    .await?;
    let mut stage = Stage {
        plane,
        agent,
        gateway,
        world,
        readings: Readings::new(&root.join("bodies"))?,
        place,
        program: arguments.agent.clone(),
        dice: Dice::new(arguments.seed, &[]),
        tally: Tally::default(),
        tended: Instant::now(),
    };
    let begin = Instant::now();
    let mut left = arguments.faults;
    let mut runs = Some("1.0".to_owned());
    while let Some(version) = runs.take().filter(|_| left > 0) {
        let strikes = arguments.per_rollout.clamp(1, left);
        left -= strikes;
        runs = stage.round(&mut releases, strikes, version).await?;
        if let Some(version) = &runs {
            stage.heal_alone(version).await?;
        }
    }
    if let Some(version) = &runs
        && !stage.at_rest(version).await?
    {
        eprintln!("{version} did not come back to rest at the end");
        stage.tally.lost += 1;
    }
    readings::drained(REST).await?;
    let outcome = stage.readings.judge(&stage.plane).await?;
    let took = begin.elapsed();
    observer.abort();
    let Stage { mut plane, agent, mut gateway, tally, .. } = stage;
    gateway.kill().await.context("the gateway can't be killed")?;
    agent.stop().await?;
    plane.stop().await?;

    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut figures = Figures::default();
    let bad = [
        // Invariant 1: nothing unverified is executed.
        ("unverified_executed", seen.unverified),
        ("duplicated", seen.doubled),
        // Invariant 4: nothing is stuck for ever.
        ("stuck", tally.stuck),
        ("lost", tally.lost),
        ("bad_releases_that_stayed", tally.bad_stayed),
        // Invariant 6: what was acknowledged is there, once.
        ("readings_lost", u32::try_from(outcome.lost).unwrap_or(u32::MAX)),
        ("readings_doubled", u32::try_from(outcome.doubled).unwrap_or(u32::MAX)),
        // Invariant 8: never an older generation.
        ("generations_that_went_back", seen.went_back),
        // Invariant 10: it heals without a control plane.
        ("not_healed_alone", tally.not_healed),
    ];
    let well = bad.iter().all(|(_, count)| *count == 0);
    for (name, count) in bad {
        figures.put(name, count);
    }
    figures.put("seed", arguments.seed);
    figures.put("faults", arguments.faults - left);
    figures.put("rounds", tally.rounds);
    for (name, count) in tally.conditions {
        figures.put(&format!("faults_{name}"), count);
    }
    for (name, count) in tally.killed {
        figures.put(&format!("kills_{name}"), count);
    }
    figures.put("good_releases_given_up", tally.good_given_up);
    figures.put("healed_alone", tally.healed_alone);
    figures.put("roles_ended_by_themselves", tally.ended_by_themselves);
    figures.put("readings_acknowledged", outcome.acknowledged);
    figures.put("readings_bodies", outcome.bodies);
    figures.put("generations_seen", seen.generations);
    figures.put("processes_seen", seen.known.len());
    figures.put("observer_looks", seen.looks);
    figures.put_seconds("took_seconds", took);
    Ok((figures, well))
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
