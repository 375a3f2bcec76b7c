//! A device and its four separate states, which are never merged into one.

use serde::{Deserialize, Serialize};

use crate::time::UnixMs;

/// Writes an enum whose values are lower-case words on the wire, readable by a version that does not know all of them.
#[macro_export]
macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)*
            /// A value from another version.
            #[serde(rename = "unknown", other)]
            Unknown,
        }

        impl $name {
            /// All known values, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word on the wire, in the database and on the page.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* Self::Unknown => "unknown" }
            }

            /// The value of a word; `Unknown` for any other text.
            #[must_use]
            pub fn from_word(word: &str) -> Self {
                match word { $($word => Self::$variant,)* _ => Self::Unknown }
            }
        }

        // Derived, the schema would show the names of the variants.
        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some([$($word,)* "unknown"]))
                    .into()
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $name {}

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

word_enum! {
    /// Whether the control plane hears from the device.
    Reachability {
        /// A channel is open and its last heartbeat is younger than three heartbeat intervals.
        Online = "online",
        /// No open channel, or a late heartbeat, for less than five minutes.
        Stale = "stale",
        /// Not heard from for five minutes or more.
        Offline = "offline",
    }
}

word_enum! {
    /// What the device says of its apps; the worst app counts.
    Health {
        Healthy = "healthy",
        /// Running, with failing checks that have not reached their threshold, or restarting.
        Degraded = "degraded",
        Failing = "failing",
    }
}

word_enum! {
    /// Whether the device has what it should have.
    Conformance {
        /// Everything desired is active.
        Conforming = "conforming",
        /// On its way: downloading, staged, waiting for a permit, soaking.
        Converging = "converging",
        /// Something else is active and nothing is under way.
        Diverged = "diverged",
        /// Went back by itself and keeps the last good release until somebody resumes it.
        Held = "held",
        /// A specification asks for something this agent does not know.
        Unsupported = "unsupported",
    }
}

word_enum! {
    /// Where the device stands in its life.
    Lifecycle {
        /// Asked to be claimed; waits for an approval.
        Pending = "pending",
        Claimed = "claimed",
        /// Gets no new assignments.
        Cordoned = "cordoned",
        Draining = "draining",
        Drained = "drained",
        Decommissioning = "decommissioning",
        /// Revoked; its key can't come back.
        Decommissioned = "decommissioned",
    }
}

impl Lifecycle {
    /// Whether a device in this state may use the device port. One whose state is not known to this version may not.
    #[must_use]
    pub const fn may_connect(self) -> bool {
        matches!(
            self,
            Self::Claimed | Self::Cordoned | Self::Draining | Self::Drained | Self::Decommissioning
        )
    }
}

word_enum! {
    /// What one app on one device is doing.
    AppPhase {
        /// Nothing of it is there yet.
        Absent = "absent",
        Downloading = "downloading",
        /// Verified and unpacked beside the running release; waits for a permit or for nothing at all.
        Staged = "staged",
        Starting = "starting",
        /// Started; its checks must stay good for the soak time.
        Soaking = "soaking",
        Running = "running",
        /// Not healthy after its restarts.
        Failing = "failing",
        RollingBack = "rolling-back",
        /// Went back; keeps the earlier release.
        Held = "held",
        Stopping = "stopping",
        Stopped = "stopped",
        /// Refused: signature, digest, platform, floor, tenant.
        Refused = "refused",
        Unsupported = "unsupported",
    }
}

/// After this long without a word from it, a device is `offline`.
pub const OFFLINE_AFTER_MS: i64 = 5 * 60 * 1000;

/// How reachable a device is, from what its sessions tell.
#[must_use]
pub fn reachability(
    connected: bool,
    last_seen: Option<UnixMs>,
    heartbeat_ms: i64,
    now: UnixMs,
) -> Reachability {
    let Some(seen) = last_seen else { return Reachability::Offline };
    let silent_ms = now.since_ms(seen);
    if connected && silent_ms <= heartbeat_ms.saturating_mul(3) {
        Reachability::Online
    } else if silent_ms < OFFLINE_AFTER_MS {
        Reachability::Stale
    } else {
        Reachability::Offline
    }
}

/// What a device knows of its own hardware and system; told at claim and in `hello`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Hardware {
    pub hostname: String,
    /// `linux`.
    pub os: String,
    /// As Rust spells it: `x86_64`, `aarch64`, `arm`.
    pub arch: String,
    /// For example `v7`; empty when there is only one.
    pub variant: String,
    pub kernel: String,
    pub os_name: String,
    pub model: String,
    pub cpus: u32,
    pub memory_bytes: u64,
}

/// Where one signal of the device's kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Sense {
    /// `ebpf`, `netlink`, `proc`, or `none`.
    pub by: String,
    /// Where that is read, and where it is not eBPF, why not.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_fades_from_online_over_stale_to_offline() {
        let at = |ms| reachability(true, Some(UnixMs(0)), 30_000, UnixMs(ms));
        assert_eq!(at(90_000), Reachability::Online);
        assert_eq!(at(90_001), Reachability::Stale);
        assert_eq!(at(OFFLINE_AFTER_MS), Reachability::Offline);
        assert_eq!(reachability(false, Some(UnixMs(0)), 30_000, UnixMs(1)), Reachability::Stale);
        assert_eq!(reachability(false, None, 30_000, UnixMs(1)), Reachability::Offline);
    }

    #[test]
    fn a_word_of_a_newer_version_is_read_as_unknown() {
        assert_eq!(serde_json::from_str::<Health>("\"glowing\"").unwrap(), Health::Unknown);
        assert_eq!(serde_json::to_string(&AppPhase::RollingBack).unwrap(), "\"rolling-back\"");
    }
}
