//! One virtual device: a task that is claimed, connects, and comes back whatever happens.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use farshore_domain::desired::Generation;
use farshore_domain::device::Hardware;
use farshore_domain::reconcile::{MonoMs, Now};
use farshore_domain::time::UnixMs;
use farshore_trust::keyset::TrustedKeySet;
use tokio::time::sleep;

use crate::channel::{ChannelError, Route};
use crate::claim::{self, ClaimError};
use crate::clock;
use crate::dice::Dice;
use crate::fleet::Shared;
use crate::identity::Identity;
use crate::machine::{Machine, Surroundings};
use crate::options::{DICE_DEVICE, DICE_OUTAGE};
use crate::outbox::Outbox;
use crate::report;
use crate::session::{self, End};
use crate::store::{Kept, Place};
use crate::walk::Walk;

/// The first pause before another attempt is at most this long.
const FIRST_BACKOFF_MS: u32 = 1_000;
/// A device that is not let in asks again after at least this long.
const REFUSED_MS: u64 = 30_000;

/// An error with its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// A claimed device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) shared: Arc<Shared>,
    /// Position of its group.
    pub(crate) group: usize,
    number: u32,
    /// Its key in seeded choices.
    key: u64,
    pub(crate) identity: Identity,
    url: String,
    route: Route,
    pub(crate) keys: Option<Arc<TrustedKeySet>>,
    pub(crate) accepted: Generation,
    pub(crate) machine: Machine,
    pub(crate) walk: Walk,
    pub(crate) dice: Dice,
    outage_dice: Option<Dice>,
    pub(crate) outbox: Outbox,
    /// The number of the metric batch that was sent last, and until when it went.
    pub(crate) batches: u64,
    pub(crate) sampled: Option<UnixMs>,
    pub(crate) next_event: Option<MonoMs>,
    /// The operations that were done last.
    pub(crate) operations: VecDeque<String>,
}

/// Where a device stands in its fleet.
#[derive(Clone, Debug)]
pub(crate) struct Berth {
    pub(crate) group: usize,
    pub(crate) number: u32,
    /// Counts through the whole fleet.
    pub(crate) key: u64,
}

fn hardware(shared: &Shared, group: usize, number: u32) -> Hardware {
    let group = &shared.groups[group];
    Hardware {
        hostname: format!("{}-{number:0width$}", group.name, width = digits(group.count)),
        os: "linux".to_owned(),
        arch: group.arch.clone(),
        variant: String::new(),
        kernel: "virtual".to_owned(),
        os_name: "Farshore virtual device".to_owned(),
        model: group.model.clone(),
        cpus: 4,
        memory_bytes: 4 * 1024 * 1024 * 1024,
    }
}

fn digits(count: u32) -> usize {
    count.max(100).to_string().len()
}

/// The life of one device, until the fleet stops. What it remembers is kept then.
pub(crate) async fn live(shared: Arc<Shared>, berth: Berth, kept: Option<Kept>) {
    let source = source(&shared, berth.key);
    let kept = match kept {
        Some(kept) => kept,
        None => match Box::pin(claimed(&shared, &berth, source)).await {
            Some(kept) => kept,
            None => return,
        },
    };
    let url = shared.options.device_url.clone().unwrap_or_else(|| kept.url.clone());
    let route = match Route::parse(&url) {
        Ok(route) => route.from(source),
        Err(error) => {
            tracing::error!(error = chain(&error), "a virtual device has nowhere to connect to");
            return;
        }
    };
    let mut device = Device::new(shared, &berth, kept, route);
    device.run().await;
    let place = device.place();
    if let Err(error) = device.shared.keep.memory(&place, device.accepted, &device.machine.memory()) {
        tracing::warn!(error = chain(&error), "what a virtual device remembers is lost");
    }
}

/// Addresses `127.<block>.x.y`, so that the pairs of addresses and ports do not run out.
fn source(shared: &Shared, key: u64) -> Ipv4Addr {
    let slot = key / u64::from(shared.options.devices_per_address.max(1));
    let x = u8::try_from(slot / 250 % 250).unwrap_or(0);
    let y = u8::try_from(slot % 250).unwrap_or(0) + 1;
    Ipv4Addr::new(127, shared.options.address_block.max(1), x, y)
}

/// Claims until it is done or the fleet stops.
async fn claimed(shared: &Arc<Shared>, berth: &Berth, source: Ipv4Addr) -> Option<Kept> {
    let token = shared.tokens.get(berth.group)?.clone()?;
    let group = &shared.groups[berth.group];
    let hardware = hardware(shared, berth.group, berth.number);
    let url = shared.options.device_url.clone().unwrap_or_else(|| token.url().to_owned());
    let route = Route::parse(&url).ok()?.from(source);
    let mut dice = Dice::new(shared.options.seed, &[DICE_DEVICE, berth.key, 1]);
    // The same key in each attempt: a claim that was cut after its commit is then answered the same way.
    let key = farshore_trust::device::DeviceKey::generate().ok()?;
    for attempt in 0.. {
        let outcome = {
            let _turn = shared.connecting.acquire().await.ok()?;
            tokio::select! {
                () = shared.stop.cancelled() => return None,
                outcome = claim::claim_at(&route, &token, &key, &hardware, &group.labels) => outcome,
            }
        };
        let wait = match outcome {
            Ok(mut identity) => {
                shared.keep.share(&mut identity);
                let kept = Kept { identity, url, accepted: Generation::default(), memory: None };
                if let Err(error) = shared.keep.device(&(group.name.clone(), berth.number), &kept) {
                    tracing::warn!(error = chain(&error), "a claimed virtual device is not kept");
                }
                shared.stats.claimed();
                return Some(kept);
            }
            Err(ClaimError::Pending { retry_after_ms }) => retry_after_ms,
            Err(error) => {
                tracing::warn!(device = hardware.hostname, error = chain(&error), "not claimed");
                shared.stats.claim_failed();
                match &error {
                    ClaimError::Port(ChannelError::Refused { status, retry_after_ms, .. })
                        if status.is_client_error() && status.as_u16() != 429 =>
                    {
                        REFUSED_MS + retry_after_ms
                    }
                    _ => backoff(&mut dice, attempt, shared.options.max_backoff_ms),
                }
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return None,
            () = sleep(Duration::from_millis(wait)) => {}
        }
    }
    None
}

/// Full jitter: anywhere between nothing and a bound that doubles.
fn backoff(dice: &mut Dice, attempt: u32, max_ms: u32) -> u64 {
    let bound = FIRST_BACKOFF_MS.saturating_mul(1 << attempt.min(16)).min(max_ms.max(1));
    dice.between(0, bound.into())
}

impl Device {
    fn new(shared: Arc<Shared>, berth: &Berth, kept: Kept, route: Route) -> Self {
        let options = &shared.options;
        let labels = &shared.groups[berth.group].labels;
        let at =
            Surroundings { seed: options.seed, device: berth.key, labels, behaviours: &options.behaviours };
        let outage_dice = options
            .behaviours
            .has_outages(options.seed, berth.key)
            .then(|| Dice::new(options.seed, &[DICE_OUTAGE, berth.key, 1]));
        Self {
            machine: Machine::new(at, kept.memory),
            walk: Walk::new(options.seed, berth.key, clock::wall()),
            dice: Dice::new(options.seed, &[DICE_DEVICE, berth.key, 2]),
            keys: kept.identity.realm.keys.clone(),
            identity: kept.identity,
            url: kept.url,
            accepted: kept.accepted,
            group: berth.group,
            number: berth.number,
            key: berth.key,
            route,
            outage_dice,
            outbox: Outbox::default(),
            batches: 0,
            sampled: None,
            next_event: None,
            operations: VecDeque::new(),
            shared,
        }
    }

    fn place(&self) -> Place {
        (self.shared.groups[self.group].name.clone(), self.number)
    }

    pub(crate) fn hardware(&self) -> Hardware {
        hardware(&self.shared, self.group, self.number)
    }

    async fn run(&mut self) {
        let shared = self.shared.clone();
        let mut attempt = 0;
        loop {
            let mut welcomed = false;
            let ended = Box::pin(self.connect(&mut welcomed)).await;
            attempt = if welcomed { 0 } else { attempt + 1 };
            let again = backoff(&mut self.dice, attempt, shared.options.max_backoff_ms);
            let wait = match &ended {
                Ok(End::Stopping) => return,
                Ok(End::Outage { for_ms }) => *for_ms,
                Ok(End::Goodbye { retry_after_ms, reason }) => {
                    let refused = if reason == "revoked" { REFUSED_MS } else { 0 };
                    retry_after_ms + refused + again
                }
                Err(ChannelError::Refused { status, retry_after_ms, .. }) => {
                    shared.stats.refused();
                    let forbidden = matches!(status.as_u16(), 401 | 403);
                    retry_after_ms + if forbidden { REFUSED_MS } else { 0 } + again
                }
                _ => again,
            };
            match &ended {
                Ok(end) => {
                    tracing::debug!(device = %self.identity.name, why = chain(end), wait, "no channel")
                }
                Err(error) => {
                    tracing::debug!(device = %self.identity.name, why = chain(error), wait, "no channel");
                }
            }
            if !self.wait(wait).await {
                return;
            }
        }
    }

    async fn connect(&mut self, welcomed: &mut bool) -> Result<End, ChannelError> {
        let shared = self.shared.clone();
        let channel = {
            let Ok(_turn) = shared.connecting.acquire().await else { return Ok(End::Stopping) };
            if shared.stop.is_cancelled() {
                return Ok(End::Stopping);
            }
            if self.identity.renewal_is_due(clock::wall()) {
                self.renew().await;
            }
            let opened = tokio::select! {
                () = shared.stop.cancelled() => return Ok(End::Stopping),
                // In a box, so that it is not part of the device for ever.
                opened = Box::pin(self.route.open(self.identity.tls.clone())) => opened,
            };
            shared.stats.handshake(opened.is_ok());
            opened?
        };
        Ok(session::run(self, channel, welcomed).await)
    }

    /// Waits without a channel; the machine goes on. `false`: the fleet stops.
    async fn wait(&mut self, ms: u64) -> bool {
        let shared = self.shared.clone();
        let until = clock::mono().plus_ms(i64::try_from(ms).unwrap_or(i64::MAX));
        loop {
            let now = clock::now();
            if self.machine.due(now.mono).is_some_and(|at| at <= now.mono) {
                self.step(now);
            }
            let left = until.since_ms(now.mono);
            if left <= 0 {
                return !shared.stop.is_cancelled();
            }
            let due = self.machine.due(now.mono).map_or(left, |at| at.since_ms(now.mono).clamp(1, left));
            tokio::select! {
                () = shared.stop.cancelled() => return false,
                () = sleep(Duration::from_millis(u64::try_from(due).unwrap_or(1))) => {}
            }
        }
    }

    /// Lets the machine go on.
    pub(crate) fn step(&mut self, now: Now) {
        let shared = self.shared.clone();
        let at = Surroundings {
            seed: shared.options.seed,
            device: self.key,
            labels: &shared.groups[self.group].labels,
            behaviours: &shared.options.behaviours,
        };
        for event in self.machine.step(at, now) {
            let event = report::event(event, &mut self.dice, now.wall);
            self.outbox.push(event);
        }
    }

    /// The next certificate. When that fails, the present one goes on until it is tried again.
    pub(crate) async fn renew(&mut self) {
        match Box::pin(claim::renew(&self.route, &self.identity)).await {
            Ok((identity, _)) => {
                self.identity = identity;
                let kept = Kept {
                    identity: self.identity.clone(),
                    url: self.url.clone(),
                    accepted: self.accepted,
                    memory: None,
                };
                if let Err(error) = self.shared.keep.device(&self.place(), &kept) {
                    tracing::warn!(error = chain(&error), "a renewed certificate is not kept");
                }
            }
            Err(error) => {
                tracing::warn!(device = %self.identity.name, error = chain(&error), "not renewed");
            }
        }
    }

    /// After how many milliseconds of connection the next outage begins.
    pub(crate) fn outage(&mut self) -> Option<i64> {
        let outages = self.shared.options.behaviours.outages?;
        let (low, high) = outages.every_seconds;
        Some(self.outage_dice.as_mut()?.ms((low.saturating_mul(1_000), high.saturating_mul(1_000))))
    }

    /// How long the outage that begins now lasts.
    pub(crate) fn outage_for_ms(&mut self) -> u64 {
        let Some(outages) = self.shared.options.behaviours.outages else { return 0 };
        let (low, high) = outages.for_seconds;
        let ms = self
            .outage_dice
            .as_mut()
            .map_or(0, |dice| dice.between(u64::from(low) * 1_000, u64::from(high) * 1_000));
        ms.max(1)
    }

    /// Events for the sake of load, evenly spread around their rate.
    pub(crate) fn make_up_events(&mut self, now: Now) {
        let rate = self.shared.stats.event_rate();
        if rate <= 0.0 {
            self.next_event = None;
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "clamped to an hour")]
        let mean_ms = (1_000.0 / rate).clamp(1.0, 3_600_000.0) as u32;
        let Some(at) = self.next_event else {
            self.next_event = Some(now.mono.plus_ms(self.dice.ms((0, mean_ms))));
            return;
        };
        if at > now.mono {
            return;
        }
        self.next_event = Some(now.mono.plus_ms(self.dice.ms((mean_ms / 2, mean_ms + mean_ms / 2))));
        self.outbox.push(farshore_protocol::DeviceEvent {
            uid: report::event_uid(&mut self.dice, now.wall),
            at_ms: now.wall.0,
            kind: "host.event".to_owned(),
            app: String::new(),
            message: "a virtual device made this up".to_owned(),
            detail_json: "{}".to_owned(),
        });
    }
}
