//! What comes over the channel, and what is made of it.

use std::collections::BTreeMap;

use farshore_domain::connectivity::Transition;
use farshore_domain::desired::DesiredState;
use farshore_domain::digest::Digest;
use farshore_domain::operation::{DRAIN_CAPABILITY, OPERATIONS_CAPABILITY};
use farshore_domain::policy::{POLICY_CAPABILITY, POLICY_CAPABILITY_2, POLICY_CAPABILITY_3};
use farshore_domain::reconcile::MonoMs;
use farshore_domain::time::{HOUR_MS, MINUTE_MS, UnixMs};
use farshore_protocol::{self as wire, agent_frame, server_frame};
use farshore_trust::keyset::{self, SignedKeySet, TrustedKeySet};
use rand::Rng as _;

use super::desired::{self, RefusedDesired, StoredDesired};
use super::usage::{Usage, is_metrics};
use super::{Agent, AgentError, Live, MAX_LIVE_SECONDS, MAX_SEQUENCE, Session, events, to_json};
use crate::clock;
use crate::executor::Executor;
use crate::journal::{EVENTS, INCIDENTS, Journal, OPERATIONS};
use crate::link::LinkEvent;
use crate::runner::{Signed, SignedState};

/// A clock that is off by more is told to be wrong.
const CLOCK_TOLERANCE_MS: i64 = 2 * MINUTE_MS;
/// A channel waits this long for the runner to say what it can do: both begin at the same time.
const HELLO_MS: i64 = 2_000;

/// What could not be verified is asked for again after this long, then after twice as long, and so on: the device's clock may have been wrong.
const ASK_AGAIN_MS: i64 = 10_000;
const ASK_AGAIN_MOST_MS: i64 = 10 * MINUTE_MS;

/// A desired state that could not be verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unverified {
    /// When it is asked for again.
    again: MonoMs,
    pause_ms: i64,
}

impl Unverified {
    fn now() -> Self {
        let now = clock::mono();
        let mut unverified = Self { again: now, pause_ms: ASK_AGAIN_MS / 2 };
        unverified.wait(now);
        unverified
    }

    /// Twice as long as before, give or take a quarter: a fleet does not hang up at once.
    fn wait(&mut self, now: MonoMs) {
        self.pause_ms = self.pause_ms.saturating_mul(2).min(ASK_AGAIN_MOST_MS);
        let quarter = self.pause_ms / 4;
        self.again = now.plus_ms(rand::rng().random_range(self.pause_ms - quarter..=self.pause_ms + quarter));
    }
}

impl<E: Executor, J: Journal> Agent<E, J> {
    pub(super) fn hear(&mut self, event: LinkEvent) -> Result<(), AgentError> {
        match event {
            LinkEvent::Open(outbox) => {
                let now = clock::mono();
                self.session = Some(Session {
                    outbox,
                    welcomed: false,
                    server_offset: 0,
                    sent: BTreeMap::new(),
                    incidents: false,
                    operations: false,
                    live_events: false,
                    heartbeat_ms: 30_000,
                    next_heartbeat: now.plus_ms(30_000),
                    reported: None,
                    told: None,
                    hello_by: now.plus_ms(HELLO_MS),
                });
                self.say_hello(now);
                Ok(())
            }
            LinkEvent::Closed { reason, cause } => {
                self.session = None;
                self.live = None;
                let told = self.connectivity.failed(cause, &reason, clock::now());
                self.link_reason = reason;
                self.tell_connectivity(told)
            }
            LinkEvent::Frame(frame) => self.frame(*frame),
        }
    }

    /// Begins the channel, once the runner has said what it can do; without it when it takes too long.
    pub(super) fn say_hello(&mut self, now: MonoMs) {
        let ready = self.capabilities.is_some();
        let due = |session: &Session| session.told.is_none() && (ready || now >= session.hello_by);
        if !self.session.as_ref().is_some_and(due) {
            return;
        }
        let hello = self.hello();
        if let Some(session) = &mut self.session {
            session.told = Some(hello.capabilities.clone());
        }
        self.send(agent_frame::Body::Hello(hello));
        self.tell_output_again();
    }

    /// What this device can do is said once on each channel. Where it can do something else now, a new channel says so.
    pub(super) fn tell_capabilities(&mut self) {
        self.say_hello(clock::mono());
        let can = self.abilities();
        let other = |session: &Session| session.told.as_ref().is_some_and(|told| *told != can);
        if self.session.as_ref().is_some_and(other) {
            tracing::info!("the device can do something else now; a new channel says so");
            self.session = None;
        }
    }

    /// What is wanted comes with the beginning of a channel.
    pub(super) fn ask_again(&mut self, now: MonoMs) {
        let welcomed = self.session.as_ref().is_some_and(|session| session.welcomed);
        if let Some(unverified) =
            self.unverified.as_mut().filter(|unverified| welcomed && unverified.again <= now)
        {
            unverified.wait(now);
            tracing::info!("a new channel asks again for what could not be verified");
            self.session = None;
        }
    }

    fn abilities(&self) -> Vec<String> {
        let mut capabilities = [
            "desired/v1",
            "manifest/v1",
            POLICY_CAPABILITY,
            POLICY_CAPABILITY_2,
            POLICY_CAPABILITY_3,
            OPERATIONS_CAPABILITY,
            DRAIN_CAPABILITY,
            "series/v1",
        ]
        .map(str::to_owned)
        .to_vec();
        capabilities.extend(self.capabilities.iter().flatten().cloned());
        capabilities.sort();
        capabilities.dedup();
        capabilities
    }

    fn hello(&self) -> wire::Hello {
        wire::Hello {
            protocol_version: wire::PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: self.abilities(),
            hardware_json: serde_json::to_string(&self.settings.hardware).unwrap_or_default(),
            epoch: self.accepted.epoch,
            generation: self.accepted.generation,
            boot_id: self.settings.boot_id.clone(),
            trusted_keys_version: self.keys.as_ref().map_or(0, TrustedKeySet::version),
            device_time_ms: clock::wall().0,
        }
    }

    fn frame(&mut self, frame: wire::ServerFrame) -> Result<(), AgentError> {
        let Some(body) = frame.body else { return Ok(()) };
        if !self.session.as_ref().is_some_and(|session| session.welcomed)
            && !matches!(body, server_frame::Body::Welcome(_))
        {
            tracing::warn!("a frame before welcome is not obeyed");
            return Ok(());
        }
        match body {
            server_frame::Body::Welcome(welcome) => self.welcome(&welcome),
            server_frame::Body::Desired(desired) => self.desire(desired),
            server_frame::Body::TrustedKeys(keys) => self.trust(keys),
            server_frame::Body::Live(live) => {
                self.look(&live);
                Ok(())
            }
            server_frame::Body::Operation(operation) => self.take_operation(operation),
            server_frame::Body::OperationCancel(cancel) => self.cancel_operation(&cancel),
            server_frame::Body::Acknowledged(acknowledged) => {
                let last = self.journal.streams()?.get(&acknowledged.stream).copied().unwrap_or(0);
                if acknowledged.sequence <= last {
                    self.journal.acknowledge(&acknowledged.stream, acknowledged.sequence)?;
                }
                Ok(())
            }
            // The link has closed it already.
            server_frame::Body::Goodbye(_) => Ok(()),
        }
    }

    fn welcome(&mut self, welcome: &wire::Welcome) -> Result<(), AgentError> {
        let now = clock::mono();
        let seconds = |given: u32, from: u32, to: u32| i64::from(given.clamp(from, to)) * 1000;
        if welcome.sample_seconds > 0 {
            self.sample_ms = seconds(welcome.sample_seconds, 1, 3600);
        }
        if welcome.batch_seconds > 0 {
            self.batch_ms = seconds(welcome.batch_seconds, 1, 3600);
        }
        self.next_sample = self.next_sample.min(now.plus_ms(self.sample_ms));
        self.batch_due = self.batch_due.min(now.plus_ms(self.batch_ms));
        let server_time = UnixMs(welcome.server_time_ms);
        // Believed as far as this device's own certificate reaches: a lie can't make every certificate look expired.
        if server_time < self.identity.credentials().not_after {
            self.identity.clock.raise_floor(server_time);
            if server_time.since_ms(self.kept_floor) > HOUR_MS {
                self.kept_floor = server_time;
                let bytes = to_json(&server_time, "the time's floor")?;
                self.keep(vec![("floor".to_owned(), Some(bytes))], Vec::new())?;
            }
        }
        let mut sent = BTreeMap::new();
        for acknowledged in welcome.acknowledged.iter().take(64) {
            let stream = acknowledged.stream.as_str();
            let ours = [EVENTS, INCIDENTS, OPERATIONS].contains(&stream) || is_metrics(stream);
            if ours && acknowledged.sequence <= MAX_SEQUENCE {
                self.journal.acknowledge(&acknowledged.stream, acknowledged.sequence)?;
                sent.insert(acknowledged.stream.clone(), acknowledged.sequence);
            }
        }
        if let Some(session) = &mut self.session {
            session.welcomed = true;
            session.server_offset = welcome.server_time_ms.saturating_sub(now.0);
            session.sent = sent;
            session.live_events =
                welcome.capabilities.iter().any(|capability| capability == "live-events/v1");
            session.incidents = welcome.capabilities.iter().any(|capability| capability == "incidents/v1");
            session.operations =
                welcome.capabilities.iter().any(|capability| capability == OPERATIONS_CAPABILITY);
            if welcome.heartbeat_seconds > 0 {
                session.heartbeat_ms = seconds(welcome.heartbeat_seconds, 1, 3600);
            }
            session.next_heartbeat = now.plus_ms(session.heartbeat_ms);
        }
        self.server_offset = Some(welcome.server_time_ms.saturating_sub(now.0));
        self.judge_clock(server_time)?;
        self.link_reason = String::new();
        let told = self.connectivity.connected(clock::now());
        self.tell_connectivity(told)?;
        tracing::info!(server_version = %welcome.server_version.chars().take(64).collect::<String>(), "connected");
        Ok(())
    }

    /// Keeps a transition as an event, and what it led to, in one step: told once, whatever happens in between.
    pub(super) fn tell_connectivity(&mut self, told: Option<Transition>) -> Result<(), AgentError> {
        let Some(told) = told else { return Ok(()) };
        let details = serde_json::json!({
            "from": told.from, "cause": told.to, "since": told.at, "lastedSeconds": told.lasted_ms / 1000,
        });
        let event = events::note(told.kind(), &told.text(), &details);
        tracing::info!(kind = told.kind(), "{}", event.message);
        self.black_box.hear(std::slice::from_ref(&event));
        let state = to_json(&self.connectivity, "the connectivity")?;
        let batch = (EVENTS.to_owned(), events::batch(vec![event]));
        self.keep(vec![("connectivity".to_owned(), Some(state))], vec![batch])
    }

    /// Says once that the device's clock is wrong, and once that it is right again.
    fn judge_clock(&mut self, server_time: UnixMs) -> Result<(), AgentError> {
        let ahead_ms = clock::wall().since_ms(server_time);
        let wrong = ahead_ms.saturating_abs() > CLOCK_TOLERANCE_MS;
        if wrong == self.clock_wrong {
            return Ok(());
        }
        let seconds = ahead_ms / 1000;
        let details = serde_json::json!({ "aheadSeconds": seconds });
        let event = if wrong {
            let which = if seconds > 0 { "ahead of" } else { "behind" };
            let text = format!(
                "the device's clock is {} s {which} the control plane's; windows and permits follow the control plane's",
                seconds.abs()
            );
            tracing::warn!("{text}");
            events::note("clock.wrong", &text, &details)
        } else {
            events::note("clock.right", "the device's clock is right again", &details)
        };
        // What can't be kept on a full disk is judged again with the next channel, and is no reason for one.
        let noted = self.note(event);
        if noted.is_ok() {
            self.clock_wrong = wrong;
        }
        self.survive(noted)
    }

    fn desire(&mut self, frame: wire::SignedDesired) -> Result<(), AgentError> {
        let state = match desired::check(&frame, &self.identity, self.accepted) {
            Ok(state) => state,
            Err(refused) => {
                let reason = crate::chain(&refused);
                tracing::warn!(%reason, "a desired state is refused");
                let unverified = matches!(refused, RefusedDesired::Signature(_));
                self.unverified = unverified.then(|| self.unverified.unwrap_or_else(Unverified::now));
                let claimed = DesiredState::parse(&frame.body).ok();
                let at = claimed.map(|state| state.at()).unwrap_or_default();
                let details = serde_json::json!({ "epoch": at.epoch, "generation": at.generation });
                let noted = self.note(events::note("desired.refused", &reason, &details));
                // Also on a full disk: to hang up would bring the same again at once.
                self.survive(noted)?;
                self.send(agent_frame::Body::Refused(wire::DesiredRefused {
                    epoch: at.epoch,
                    generation: at.generation,
                    reason,
                }));
                return Ok(());
            }
        };
        self.unverified = None;
        let now = clock::now();
        let offset = self.session.as_ref().map_or(0, |session| session.server_offset);
        let server_now = UnixMs(now.mono.0.saturating_add(offset));
        let none = BTreeMap::new();
        let known = self.stored.as_ref().map_or(&none, |stored| &stored.permits);
        let permits = desired::permits(&state, known, server_now, now);
        for manifest in frame.manifests {
            let signed = Signed { document: manifest.manifest, signature: manifest.signature };
            self.signed.insert(Digest::of(&signed.document), signed);
        }
        let mut wanted = self.installed();
        wanted.extend(state.apps.iter().map(|app| app.release.manifest));
        wanted.extend(
            state.policy.iter().flat_map(|policy| &policy.safe_mode).map(|safe| safe.release.manifest),
        );
        self.signed.retain(|digest, _| wanted.contains(digest));
        self.manifests.retain(|digest, _| wanted.contains(digest));
        let stored = StoredDesired {
            signed: Signed { document: frame.body, signature: frame.signature },
            accepted_at: now.wall,
            permits,
            boot: self.settings.boot_id.clone(),
            chain: SignedState::encode(&frame.chain),
        };
        let signed: Vec<&Signed> = self.signed.values().collect();
        let values = vec![
            ("desired".to_owned(), Some(to_json(&stored, "the desired state")?)),
            ("signed".to_owned(), Some(to_json(&signed, "the manifests")?)),
            // By itself, so that nothing older is taken even if the state can't be read one day.
            ("accepted".to_owned(), Some(to_json(&state.at(), "the generation")?)),
        ];
        self.keep(values, Vec::new())?;
        self.stored = Some(stored);
        self.offer_again()?;
        self.tell_runner();
        Ok(())
    }

    fn trust(&mut self, keys: wire::TrustedKeys) -> Result<(), AgentError> {
        let tenant = self.identity.registration.tenant;
        let mut changed = false;
        for set in keys.sets.into_iter().take(1024) {
            let next = SignedKeySet { document: set.document.clone(), signature: set.signature.clone() };
            let known = self.keys.as_ref().map_or(0, TrustedKeySet::version);
            match TrustedKeySet::reload(&next.document, tenant) {
                Ok(offered) if offered.version() <= known => continue,
                _ => {}
            }
            match keyset::accept_next(self.keys.as_ref(), &next, tenant) {
                Ok(set_now) => {
                    self.keys = Some(set_now);
                    self.key_sets.push(Signed { document: set.document, signature: set.signature });
                    changed = true;
                }
                Err(error) => {
                    let reason = crate::chain(&error);
                    tracing::warn!(%reason, "a set of trusted keys is refused");
                    self.note(events::note("keys.refused", &reason, &serde_json::json!({})))?;
                    break;
                }
            }
        }
        if changed {
            let bytes = to_json(&self.key_sets, "the trusted keys")?;
            self.keep(vec![("keys".to_owned(), Some(bytes))], Vec::new())?;
            self.capabilities = None;
            self.connect_executor();
            self.offer_again()?;
        }
        Ok(())
    }

    fn look(&mut self, live: &wire::LiveRequest) {
        let now = clock::mono();
        if live.seconds == 0 {
            self.live = None;
            return;
        }
        let until = now.plus_ms(i64::from(live.seconds.min(MAX_LIVE_SECONDS)) * 1000);
        let every_ms = i64::from(live.interval_ms.clamp(200, 60_000));
        match &mut self.live {
            Some(running) => (running.until, running.every_ms) = (until, every_ms),
            None => {
                let sampler = (self.samplers)();
                self.live = Some(Live { until, every_ms, next: now, sampler, usage: Usage::default() });
            }
        }
    }
}
