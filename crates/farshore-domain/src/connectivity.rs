//! Is the control plane in reach, since when, and if not: what is in the way?
//!
//! On the device, [`diagnose`] makes a cause of what an attempt to connect ran into. [`Monitor`] makes transitions of attempts: online, and offline because of a
//! cause, each with its duration. A channel that is back within [`GRACE_MS`] was never away. [`history`] is the control plane's side: what it makes of what it was told.

pub mod history;

use serde::{Deserialize, Serialize};

use crate::reconcile::{MonoMs, Now};
use crate::time::UnixMs;
use crate::word_enum;

/// A channel that is made again within this long was not lost: control planes restart, proxies hang up.
pub const GRACE_MS: i64 = 10_000;

word_enum! {
    /// How a device stands to its control plane.
    Connectivity {
        Online = "online",
        /// No interface but loopback is up.
        Interface = "no-interface",
        /// The control plane's name has no address.
        Dns = "dns",
        /// The proxy that the device is told to use does not answer, or does not let it through.
        Proxy = "proxy",
        /// Somebody else answers in its place, in plain HTTP: a portal that wants a login.
        CaptivePortal = "captive-portal",
        /// The certificate does not lead to the pinned roots.
        Tls = "tls",
        /// A certificate is not valid at the time that the device believes in.
        Clock = "clock",
        /// Nobody answers at its address, or it answers that it does not serve this device now.
        ControlPlane = "control-plane",
        /// Not heard of. Only the control plane says so, until the device is back and says what it was.
        Silent = "silent",
    }
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    Resolve,
    Connect,
    /// The proxy: no address, no answer, or a refusal.
    Proxy,
    Tls(TlsFault),
    /// The channel itself: refused, closed, silent.
    Channel,
}

/// What was wrong with the TLS session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// Not valid yet, or not any more.
    Time,
    /// What answered speaks no TLS, but HTTP.
    AnsweredHttp,
    /// Anything else: another authority, another name, no TLS.
    Untrusted,
}

/// What is in the way. `interface`: whether one besides loopback is up, or the control plane is on this very machine.
#[must_use]
pub fn diagnose(failed: Failed, interface: bool) -> Connectivity {
    match failed {
        Failed::Resolve | Failed::Connect | Failed::Proxy if !interface => Connectivity::Interface,
        Failed::Resolve => Connectivity::Dns,
        Failed::Proxy => Connectivity::Proxy,
        Failed::Tls(TlsFault::Time) => Connectivity::Clock,
        Failed::Tls(TlsFault::AnsweredHttp) => Connectivity::CaptivePortal,
        Failed::Tls(TlsFault::Untrusted) => Connectivity::Tls,
        Failed::Connect | Failed::Channel => Connectivity::ControlPlane,
    }
}

/// How it stands, kept over restarts of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Monitor {
    pub state: Connectivity,
    /// Since when, on the device's wall clock.
    pub since: UnixMs,
    /// The same on the clock of this boot; none when it began in an earlier one.
    since_mono: Option<MonoMs>,
    /// What was in the way last, in words; empty when nothing is.
    pub message: String,
    /// A loss that is not told yet.
    losing: Option<Losing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Losing {
    cause: Connectivity,
    message: String,
    at: UnixMs,
    mono: MonoMs,
}

/// From one state to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: Connectivity,
    pub to: Connectivity,
    /// When it began.
    pub at: UnixMs,
    /// How long the state before lasted.
    pub lasted_ms: i64,
    pub message: String,
}

impl Transition {
    /// The event that tells of it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match (self.from, self.to) {
            (_, Connectivity::Online) => "connectivity.online",
            (Connectivity::Online, _) => "connectivity.offline",
            _ => "connectivity.cause",
        }
    }

    /// The same in a sentence.
    #[must_use]
    pub fn text(&self) -> String {
        let seconds = self.lasted_ms / 1000;
        match (self.from, self.to) {
            (from, Connectivity::Online) => format!("online again after {seconds} s without ({from})"),
            (Connectivity::Online, to) => {
                format!("offline ({to}) after {seconds} s online: {}", self.message)
            }
            (from, to) => format!("still offline, now {to} instead of {from}: {}", self.message),
        }
    }
}

impl Monitor {
    /// A device that has not connected yet.
    #[must_use]
    pub fn new(now: Now) -> Self {
        Self {
            state: Connectivity::ControlPlane,
            since: now.wall,
            since_mono: Some(now.mono),
            message: "not connected yet".to_owned(),
            losing: None,
        }
    }

    /// The device booted: its monotonic clock began anew. A loss that was under way is told.
    pub fn rebooted(&mut self) -> Option<Transition> {
        let told = self.losing.take().map(|losing| {
            let lasted_ms = losing.at.since_ms(self.since).max(0);
            self.turn_to(losing.cause, losing.message, losing.at, lasted_ms)
        });
        self.since_mono = None;
        told
    }

    /// The channel is open and welcomed.
    pub fn connected(&mut self, now: Now) -> Option<Transition> {
        if self.losing.take().is_some() || self.state == Connectivity::Online {
            return None;
        }
        let lasted_ms = self.lasted(now);
        let transition = self.turn_to(Connectivity::Online, String::new(), now.wall, lasted_ms);
        self.since_mono = Some(now.mono);
        Some(transition)
    }

    /// An attempt failed, or the channel ended, because of this.
    pub fn failed(&mut self, cause: Connectivity, message: &str, now: Now) -> Option<Transition> {
        if self.state == Connectivity::Online {
            let (at, mono) = self.losing.as_ref().map_or((now.wall, now.mono), |old| (old.at, old.mono));
            self.losing = Some(Losing { cause, message: message.to_owned(), at, mono });
            return self.tick(now);
        }
        message.clone_into(&mut self.message);
        if cause == self.state {
            return None;
        }
        let lasted_ms = self.lasted(now);
        let transition = self.turn_to(cause, message.to_owned(), now.wall, lasted_ms);
        self.since_mono = Some(now.mono);
        Some(transition)
    }

    /// Time passes: a loss that has lasted is told, from its beginning on.
    pub fn tick(&mut self, now: Now) -> Option<Transition> {
        let losing = self.losing.take_if(|losing| now.mono.since_ms(losing.mono) >= GRACE_MS)?;
        let began = Now { mono: losing.mono, wall: losing.at };
        let lasted_ms = self.lasted(began);
        let transition = self.turn_to(losing.cause, losing.message, losing.at, lasted_ms);
        self.since_mono = Some(losing.mono);
        Some(transition)
    }

    /// When [`Self::tick`] has something to say.
    #[must_use]
    pub fn due(&self) -> Option<MonoMs> {
        self.losing.as_ref().map(|losing| losing.mono.plus_ms(GRACE_MS))
    }

    fn lasted(&self, now: Now) -> i64 {
        match self.since_mono {
            Some(since) => now.mono.since_ms(since),
            None => now.wall.since_ms(self.since),
        }
        .max(0)
    }

    fn turn_to(&mut self, to: Connectivity, message: String, at: UnixMs, lasted_ms: i64) -> Transition {
        let from = std::mem::replace(&mut self.state, to);
        self.since = at;
        self.message.clone_from(&message);
        Transition { from, to, at, lasted_ms, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Now {
        Now { mono: MonoMs(seconds * 1000), wall: UnixMs(1_000_000 + seconds * 1000) }
    }

    #[test]
    fn each_failure_has_its_cause_and_without_an_interface_that_is_it() {
        for (failed, cause) in [
            (Failed::Resolve, Connectivity::Dns),
            (Failed::Connect, Connectivity::ControlPlane),
            (Failed::Proxy, Connectivity::Proxy),
            (Failed::Tls(TlsFault::Time), Connectivity::Clock),
            (Failed::Tls(TlsFault::AnsweredHttp), Connectivity::CaptivePortal),
            (Failed::Tls(TlsFault::Untrusted), Connectivity::Tls),
            (Failed::Channel, Connectivity::ControlPlane),
        ] {
            assert_eq!(diagnose(failed, true), cause);
        }
        assert_eq!(diagnose(Failed::Resolve, false), Connectivity::Interface);
        assert_eq!(diagnose(Failed::Connect, false), Connectivity::Interface);
        assert_eq!(diagnose(Failed::Proxy, false), Connectivity::Interface);
    }

    #[test]
    fn a_channel_that_is_back_at_once_was_never_away() {
        let mut monitor = Monitor::new(at(0));
        let first = monitor.connected(at(2)).expect("online");
        assert_eq!((first.kind(), first.lasted_ms), ("connectivity.online", 2_000));
        assert_eq!(monitor.failed(Connectivity::ControlPlane, "closed", at(100)), None);
        assert_eq!(monitor.connected(at(105)), None);
        assert_eq!((monitor.tick(at(200)), monitor.due()), (None, None));
        assert_eq!(monitor.since, at(2).wall);
    }

    #[test]
    fn an_outage_is_told_from_its_beginning_with_its_causes_and_its_length() {
        let mut monitor = Monitor::new(at(0));
        monitor.connected(at(0));
        assert_eq!(monitor.failed(Connectivity::ControlPlane, "closed", at(60)), None);
        assert_eq!(monitor.due(), Some(MonoMs(70_000)));
        // The newest cause counts when it is told.
        let lost = monitor.failed(Connectivity::Dns, "no such name", at(71)).expect("it has lasted");
        assert_eq!(
            (lost.kind(), lost.to, lost.at, lost.lasted_ms),
            ("connectivity.offline", Connectivity::Dns, at(60).wall, 60_000)
        );
        assert_eq!(monitor.failed(Connectivity::Dns, "still no such name", at(80)), None);
        let other =
            monitor.failed(Connectivity::CaptivePortal, "a login page", at(90)).expect("another cause");
        assert_eq!((other.kind(), other.lasted_ms), ("connectivity.cause", 30_000));
        let back = monitor.connected(at(100)).expect("online");
        assert_eq!(
            (back.kind(), back.from, back.lasted_ms),
            ("connectivity.online", Connectivity::CaptivePortal, 10_000)
        );
        assert!(back.text().contains("captive-portal"));
    }

    #[test]
    fn an_outage_lasts_over_a_reboot_and_a_loss_that_was_not_told_is_told_then() {
        let mut monitor = Monitor::new(at(0));
        monitor.connected(at(0));
        monitor.failed(Connectivity::Tls, "another authority", at(50));
        let kept: Monitor =
            serde_json::from_str(&serde_json::to_string(&monitor).expect("JSON")).expect("it");
        assert_eq!(kept, monitor);
        // Another boot's clock begins at nought.

        let told = monitor.rebooted().expect("told");
        assert_eq!((told.kind(), told.at, told.lasted_ms), ("connectivity.offline", at(50).wall, 50_000));
        let back = monitor.connected(Now { mono: MonoMs(5_000), wall: at(350).wall }).expect("online");
        assert_eq!(back.lasted_ms, 300_000);
    }
}
