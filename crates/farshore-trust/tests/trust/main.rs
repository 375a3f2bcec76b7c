//! The crate from outside, with OpenSSL as the second opinion on every format that others read or write.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, helpers included")]

mod blobs;
mod certificates;
mod desired;
mod handshakes;
mod openssl;

use std::time::Duration;

use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::{DAY_MS, UnixMs};
use farshore_trust::authority::{Authority, Issuer, NewAuthority};
use farshore_trust::identity::TrustDomain;
use uuid::Uuid;

/// 2026-11-20T00:00:00Z
const NOW: UnixMs = UnixMs(1_795_132_800_000);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const TENANT: TenantId = TenantId(Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_0001));
const DEVICE: DeviceId = DeviceId(Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_0002));

fn domain() -> TrustDomain {
    TrustDomain::new("fleet.example").unwrap()
}

/// A new authority's issuer.
fn issuer() -> Issuer {
    issuer_made(NOW)
}

fn issuer_made(at: UnixMs) -> Issuer {
    let NewAuthority { root_cert, intermediate_cert, intermediate_key, .. } =
        Authority::generate(&domain(), at).unwrap();
    Issuer::new(domain(), root_cert, intermediate_cert, intermediate_key).unwrap()
}

fn days(n: i64) -> UnixMs {
    NOW.plus_ms(n * DAY_MS)
}
