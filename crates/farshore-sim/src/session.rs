//! One channel of one device, from `hello` until it ends.

use std::time::Duration;

use farshore_domain::name::Name;
use farshore_domain::reconcile::{MonoMs, Now};
use farshore_domain::time::UnixMs;
use farshore_protocol::agent_frame::Body as Out;
use farshore_protocol::server_frame::Body as In;
use farshore_protocol::{self as wire, FrameError, PING_SECONDS, PROTOCOL_VERSION, ServerFrame};
use farshore_trust::keyset::{self, SignedKeySet};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::channel::{Channel, message};
use crate::clock;
use crate::desired;
use crate::device::Device;
use crate::report;

/// A channel that has been silent for this long is dead.
const SILENCE_MS: i64 = 60_000;
/// `welcome` comes within this time, and a frame is sent within it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Live samples are asked for again after this long at most.
const MAX_LIVE_SECONDS: u32 = 600;

/// Why a channel ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("the fleet stops")]
    Stopping,
    #[error("a made-up outage of {for_ms} ms")]
    Outage { for_ms: u64 },
    #[error("the control plane said goodbye: {reason}")]
    Goodbye { reason: String, retry_after_ms: u64 },
    #[error("the channel was closed")]
    Closed,
    #[error("nothing was heard for too long")]
    Silent,
    #[error("the channel failed")]
    WebSocket(#[source] Box<WsError>),
    #[error("the control plane sent what is no frame")]
    Garbage(#[source] FrameError),
}

fn failed(error: WsError) -> End {
    End::WebSocket(Box::new(error))
}

/// Times of one channel, on the device's own clock.
#[derive(Debug)]
struct Times {
    heard: MonoMs,
    sent: MonoMs,
    heartbeat_ms: i64,
    heartbeat: MonoMs,
    batch_ms: i64,
    batch: MonoMs,
    sample_ms: i64,
    sampled: UnixMs,
    live_until: MonoMs,
    live_ms: i64,
    live: MonoMs,
    outage: Option<MonoMs>,
    renew: UnixMs,
}

struct Session<'a> {
    device: &'a mut Device,
    channel: Channel,
    times: Times,
    /// The report that was sent last.
    reported: Option<wire::StatusReport>,
}

/// Talks until the channel ends. `welcomed` says whether it got past `welcome`.
pub(crate) async fn run(device: &mut Device, mut channel: Channel, welcomed: &mut bool) -> End {
    let hello = match timeout(PATIENCE, greet(device, &mut channel)).await {
        Err(_) => return End::Silent,
        Ok(Err(end)) => return end,
        Ok(Ok(welcome)) => welcome,
    };
    *welcomed = true;
    let stats = device.shared.stats.clone();
    stats.connected(1);
    let times = device.times(&hello);
    let mut session = Session { device, channel, times, reported: None };
    let end = session.talk().await;
    stats.connected(-1);
    if matches!(end, End::Stopping | End::Goodbye { .. }) {
        // The other side may be gone: that it is told is a courtesy.
        let _ = timeout(Duration::from_secs(2), session.channel.close(None)).await;
    }
    end
}

async fn greet(device: &mut Device, channel: &mut Channel) -> Result<wire::Welcome, End> {
    let hello = device.hello();
    channel.send(message(Out::Hello(hello))).await.map_err(failed)?;
    loop {
        let Some(frame) = next(channel).await? else { continue };
        match frame.body {
            Some(In::Welcome(welcome)) => return Ok(welcome),
            Some(In::Goodbye(goodbye)) => return Err(said_goodbye(goodbye)),
            _ => {}
        }
    }
}

fn said_goodbye(goodbye: wire::Goodbye) -> End {
    End::Goodbye {
        reason: goodbye.reason.chars().take(100).collect(),
        retry_after_ms: u64::from(goodbye.retry_after_ms).min(3_600_000),
    }
}

/// The next message; `None` for one that carries no frame.
async fn next(channel: &mut Channel) -> Result<Option<ServerFrame>, End> {
    match channel.next().await {
        None | Some(Ok(Message::Close(_))) => Err(End::Closed),
        Some(Err(error)) => Err(failed(error)),
        Some(Ok(Message::Binary(bytes))) => ServerFrame::from_bytes(&bytes).map(Some).map_err(End::Garbage),
        Some(Ok(Message::Ping(_))) => {
            channel.flush().await.map_err(failed)?;
            Ok(None)
        }
        Some(Ok(_)) => Ok(None),
    }
}

impl Device {
    fn hello(&self) -> wire::Hello {
        let desired = self.machine.desired().is_some();
        wire::Hello {
            protocol_version: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: ["process", "manifest/v1", "desired/v1", "virtual"].map(str::to_owned).to_vec(),
            hardware_json: serde_json::to_string(&self.hardware()).unwrap_or_default(),
            // Without the state itself its generation is of no use: it is to be sent again.
            epoch: if desired { self.accepted.epoch } else { 0 },
            generation: if desired { self.accepted.generation } else { 0 },
            boot_id: self.shared.boot_id.clone(),
            trusted_keys_version: self.keys.as_ref().map_or(0, |keys| keys.version()),
            device_time_ms: clock::wall().0,
        }
    }

    fn times(&mut self, welcome: &wire::Welcome) -> Times {
        let now = clock::now();
        let seconds = |seconds: u32, default: i64| match seconds {
            0 => default,
            some => i64::from(some.min(86_400)) * 1_000,
        };
        for mark in &welcome.acknowledged {
            match mark.stream.as_str() {
                "events" => self.outbox.welcomed(mark.sequence),
                "host" => self.batches = self.batches.max(mark.sequence),
                _ => {}
            }
        }
        if !welcome.acknowledged.iter().any(|mark| mark.stream == "events") {
            self.outbox.welcomed(0);
        }
        let heartbeat_ms = seconds(welcome.heartbeat_seconds, 30_000);
        let batch_ms = seconds(welcome.batch_seconds, 60_000);
        let mut spread = |ms: i64| now.mono.plus_ms(self.dice.ms((1, u32::try_from(ms).unwrap_or(1_000))));
        let (heartbeat, batch) = (spread(heartbeat_ms), spread(batch_ms));
        let outage = self.outage();
        Times {
            heard: now.mono,
            sent: now.mono,
            heartbeat_ms,
            heartbeat,
            batch_ms,
            batch,
            sample_ms: seconds(welcome.sample_seconds, 10_000),
            sampled: self.sampled.unwrap_or(now.wall),
            live_until: now.mono,
            live_ms: 1_000,
            live: now.mono,
            outage: outage.map(|ms| now.mono.plus_ms(ms)),
            renew: self.identity.renew_at(),
        }
    }
}

impl Session<'_> {
    async fn talk(&mut self) -> End {
        loop {
            match self.work().await {
                Ok(()) => {}
                Err(end) => return end,
            }
            let pause = self.pause();
            let shared = self.device.shared.clone();
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => return End::Stopping,
                () = shared.changed.notified() => {}
                frame = next(&mut self.channel) => {
                    self.times.heard = clock::mono();
                    match frame {
                        Ok(Some(frame)) => if let Err(end) = self.hear(frame).await {
                            return end;
                        },
                        Ok(None) => {}
                        Err(end) => return end,
                    }
                }
                () = sleep(pause) => {}
            }
        }
    }

    /// How long nothing is to be done unless something is heard.
    fn pause(&self) -> Duration {
        let now = clock::now();
        let times = &self.times;
        let live = (now.mono < times.live_until).then_some(times.live);
        let due = [
            Some(times.heartbeat),
            Some(times.batch),
            Some(times.sent.plus_ms(PING_SECONDS as i64 * 1_000)),
            Some(times.heard.plus_ms(SILENCE_MS)),
            live,
            times.outage,
            self.device.next_event,
            self.device.machine.due(now.mono),
        ];
        let wait = due.into_iter().flatten().map(|at| at.since_ms(now.mono)).min().unwrap_or(1_000);
        let renew = times.renew.since_ms(now.wall);
        let wait = if renew > 0 { wait.min(renew) } else { wait };
        Duration::from_millis(u64::try_from(wait.max(0)).unwrap_or(0))
    }

    async fn send(&mut self, body: Out) -> Result<(), End> {
        self.times.sent = clock::mono();
        self.put(message(body)).await
    }

    async fn put(&mut self, message: Message) -> Result<(), End> {
        match timeout(PATIENCE, self.channel.send(message)).await {
            Err(_) => Err(End::Silent),
            Ok(sent) => sent.map_err(failed),
        }
    }

    /// Does everything that is due.
    async fn work(&mut self) -> Result<(), End> {
        let now = clock::now();
        if now.mono.since_ms(self.times.heard) >= SILENCE_MS {
            return Err(End::Silent);
        }
        if self.times.outage.is_some_and(|at| at <= now.mono) {
            let for_ms = self.device.outage_for_ms();
            return Err(End::Outage { for_ms });
        }
        if self.times.renew <= now.wall {
            self.device.renew().await;
            let next = self.device.identity.renew_at();
            self.times.renew = if next <= now.wall { now.wall.plus_ms(60_000) } else { next };
        }
        if self.device.machine.due(now.mono).is_some_and(|at| at <= now.mono) {
            self.device.step(now);
            self.report(now).await?;
        } else if self.reported.is_none() {
            self.report(now).await?;
        }
        self.device.make_up_events(now);
        while let Some(batch) = self.device.outbox.next() {
            self.device.shared.stats.events_sent(batch.events.len());
            self.send(Out::Events(batch)).await?;
        }
        if self.times.heartbeat <= now.mono {
            self.times.heartbeat = now.mono.plus_ms(self.times.heartbeat_ms);
            self.send(Out::Heartbeat(wire::Heartbeat { device_time_ms: now.wall.0 })).await?;
        }
        self.measure(now).await?;
        if now.mono.since_ms(self.times.sent) >= PING_SECONDS as i64 * 1_000 {
            self.times.sent = now.mono;
            self.put(Message::Ping(bytes::Bytes::new())).await?;
        }
        Ok(())
    }

    async fn report(&mut self, now: Now) -> Result<(), End> {
        let view = self.device.machine.view(self.device.shared.started);
        let report = report::status(&view, self.device.accepted);
        if self.reported.as_ref() == Some(&report) {
            return Ok(());
        }
        self.reported = Some(report.clone());
        self.send(Out::Status(wire::StatusReport { device_time_ms: now.wall.0, ..report })).await
    }

    async fn measure(&mut self, now: Now) -> Result<(), End> {
        if self.times.batch <= now.mono {
            self.times.batch = now.mono.plus_ms(self.times.batch_ms);
            let block = self.device.walk.block(self.times.sampled, now.wall, self.times.sample_ms);
            match block {
                Ok(Some(block)) => {
                    self.times.sampled = now.wall;
                    self.device.sampled = Some(now.wall);
                    self.device.batches += 1;
                    let sequence = self.device.batches;
                    self.send(Out::Metrics(wire::MetricBatch { stream: "host".to_owned(), sequence, block }))
                        .await?;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "made-up measurements do not fit into a block"),
            }
        }
        if now.mono < self.times.live_until && self.times.live <= now.mono {
            self.times.live = now.mono.plus_ms(self.times.live_ms);
            if let Ok(Some(block)) = self.device.walk.block(now.wall.plus_ms(-1), now.wall, 1) {
                self.send(Out::Metrics(wire::MetricBatch { stream: "host".to_owned(), sequence: 0, block }))
                    .await?;
            }
        }
        Ok(())
    }

    async fn hear(&mut self, frame: ServerFrame) -> Result<(), End> {
        match frame.body {
            Some(In::Desired(signed)) => self.desire(&signed).await,
            Some(In::TrustedKeys(keys)) => {
                self.trust(keys);
                Ok(())
            }
            Some(In::Live(live)) => {
                let now = clock::mono();
                let seconds = live.seconds.min(MAX_LIVE_SECONDS);
                self.times.live_until = now.plus_ms(i64::from(seconds) * 1_000);
                self.times.live_ms = i64::from(live.interval_ms.clamp(100, 60_000));
                self.times.live = now;
                Ok(())
            }
            Some(In::Operation(operation)) => self.operate(operation).await,
            // Nothing takes long here, so there is nothing to give up.
            Some(In::OperationCancel(_)) => Ok(()),
            Some(In::Acknowledged(mark)) => {
                if mark.stream == "events" {
                    let events = self.device.outbox.acknowledge(mark.sequence);
                    self.device.shared.stats.events_acknowledged(events);
                }
                Ok(())
            }
            Some(In::Goodbye(goodbye)) => Err(said_goodbye(goodbye)),
            Some(In::Welcome(_)) | None => Ok(()),
        }
    }

    async fn desire(&mut self, signed: &wire::SignedDesired) -> Result<(), End> {
        let now = clock::now();
        let device = &mut *self.device;
        let judged = desired::accept(
            signed,
            &device.identity,
            device.keys.as_deref(),
            &device.shared.groups[device.group].arch,
            device.accepted,
            device.machine.desired(),
            now,
        );
        match judged {
            Ok(accepted) => {
                device.accepted = accepted.at;
                device.shared.stats.desired_accepted();
                device.machine.desire(accepted.offers);
                Ok(())
            }
            Err(error) => {
                let state = farshore_domain::desired::DesiredState::parse(&signed.body).ok();
                let at = state.map_or_else(Default::default, |state| state.at());
                device.shared.stats.desired_refused();
                let reason = crate::device::chain(&error);
                tracing::warn!(device = %device.identity.name, reason, "a desired state is refused");
                self.send(Out::Refused(wire::DesiredRefused {
                    epoch: at.epoch,
                    generation: at.generation,
                    reason,
                }))
                .await
            }
        }
    }

    fn trust(&mut self, keys: wire::TrustedKeys) {
        let device = &mut *self.device;
        for set in keys.sets {
            let next = SignedKeySet { document: set.document, signature: set.signature };
            let known = device.keys.as_ref().map_or(0, |keys| keys.version());
            let newer = keyset::TrustedKeySet::reload(&next.document, device.identity.tenant)
                .is_ok_and(|offered| offered.version() > known);
            if !newer {
                continue;
            }
            match keyset::accept_next(device.keys.as_deref(), &next, device.identity.tenant) {
                Ok(set) => device.keys = Some(device.shared.share_keys(set)),
                Err(error) => {
                    let reason = crate::device::chain(&error);
                    tracing::warn!(device = %device.identity.name, reason, "trusted keys are refused");
                    return;
                }
            }
        }
    }

    async fn operate(&mut self, operation: wire::Operation) -> Result<(), End> {
        let device = &mut *self.device;
        if device.operations.contains(&operation.uid) {
            return Ok(());
        }
        device.operations.push_back(operation.uid.clone());
        if device.operations.len() > 16 {
            device.operations.pop_front();
        }
        let (state, text, output) = if clock::wall().0 > operation.expires_at_ms {
            ("expired", "it came too late".to_owned(), Vec::new())
        } else {
            match operation.kind.as_str() {
                "restart-app" => {
                    let there =
                        Name::new(operation.app.as_str()).is_ok_and(|app| device.machine.restart(&app));
                    if there {
                        ("succeeded", format!("{} is restarted", operation.app), Vec::new())
                    } else {
                        ("failed", format!("{:?} does not run here", operation.app), Vec::new())
                    }
                }
                "diagnostics" => {
                    let view = device.machine.view(device.shared.started);
                    let text = format!("{view:#?}\n");
                    ("succeeded", "this is a virtual device".to_owned(), text.into_bytes())
                }
                "logs" => {
                    let text = "a virtual device starts no process, so there is no output\n";
                    ("succeeded", "this is a virtual device".to_owned(), text.as_bytes().to_vec())
                }
                other => ("unsupported", format!("{other:?} is no operation of this agent"), Vec::new()),
            }
        };
        let (uid, state) = (operation.uid, state.to_owned());
        let output_total = output.len() as u64;
        let update =
            wire::OperationUpdate { uid, state, message: text, output, output_total, ..Default::default() };
        self.send(Out::OperationUpdate(update)).await
    }
}
