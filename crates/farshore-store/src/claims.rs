//! Claims: how a device comes into a tenant, keeps its certificate, and is put out.
//!
//! A claim is answered by (token, public key): the same pair gets the same answer, however often it is sent, so that a device whose
//! connection was cut after the commit just asks again. The token's row is locked for the length of a claim, so that uses are
//! counted exactly; a key that was revoked never comes back.

use std::collections::BTreeMap;

use farshore_domain::claim::{ClaimAction, ClaimRule, decide_claim};
use farshore_domain::device::{Hardware, Lifecycle};
use farshore_domain::digest::Digest;
use farshore_domain::id::{ClaimTokenId, DeviceId, TenantId};
use farshore_domain::label::{self, Labels};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SecretHash, SystemDb, TenantDb, stored_name};
pub use crate::admissions::{DeviceRef, DeviceStanding};
use crate::claim_tokens::ClaimTokenRow;
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::objects::{self, ObjectKind};
use crate::{events, on};

/// SHA-256 of a key's SubjectPublicKeyInfo.
pub type KeyDigest = [u8; 32];

/// A device that asks to be claimed. The caller has checked that it holds the private key.
#[derive(Clone, Debug)]
pub struct ClaimAttempt<'a> {
    pub token: SecretHash,
    pub public_key: KeyDigest,
    pub hardware: &'a Hardware,
    /// Labels the device gives itself; those of the token win.
    pub labels: &'a Labels,
}

/// A certificate to be kept with the device.
#[derive(Clone, Debug)]
pub struct NewCertificate {
    pub serial: String,
    /// PEM: leaf, then intermediate.
    pub chain: String,
    pub issued_at: UnixMs,
    pub expires_at: UnixMs,
}

/// Issues a certificate for the key that was checked. Called inside the transaction, at most once.
pub type Issue<'a> = dyn Fn(TenantId, DeviceId) -> Result<NewCertificate, Box<dyn std::error::Error + Send + Sync>>
    + Send
    + Sync
    + 'a;

/// How a claim ended.
#[derive(Clone, Debug)]
pub enum ClaimOutcome {
    Claimed {
        tenant: TenantId,
        tenant_name: Name,
        device: DeviceId,
        name: Name,
        chain: String,
    },
    /// Held until a person approves.
    Pending {
        tenant: TenantId,
        device: DeviceId,
        name: Name,
    },
    Refused(ClaimRefusal),
}

/// Why a device is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimRefusal {
    UnknownToken,
    TokenExpired,
    TokenRevoked,
    TokenUsedUp,
    /// The key, or the device with it, was revoked or rejected.
    KeyRevoked,
    /// A claim rule says so.
    Rejected(Name),
    /// The token's labels and the device's own are too many together.
    TooManyLabels,
}

/// A device that asks for its next certificate, over a connection that proved the presented key.
#[derive(Clone, Debug)]
pub struct Renewal<'a> {
    pub tenant: TenantId,
    pub device: DeviceId,
    /// Of the certificate that was presented.
    pub presented_serial: &'a str,
    pub presented_key: KeyDigest,
    /// The key of the certificate it asks for.
    pub next_key: KeyDigest,
}

/// How a renewal ended.
#[derive(Clone, Debug)]
pub enum RenewalOutcome {
    Renewed { chain: String },
    Refused(RenewalRefusal),
}

/// Why a device gets no new certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalRefusal {
    /// No such device, or it is not claimed, or was revoked.
    NotClaimed,
    /// The presented certificate is not for the device's key.
    OtherKey,
    /// The next key was revoked, or is another device's.
    BadKey,
}

/// Labels that claim rules look at: the token's, and what the device says of its hardware under `hardware/`.
#[must_use]
pub fn rule_labels(token: &Labels, hardware: &Hardware) -> Labels {
    let mut labels: BTreeMap<String, String> =
        token.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    for (key, value) in [
        ("os", &hardware.os),
        ("arch", &hardware.arch),
        ("variant", &hardware.variant),
        ("model", &hardware.model),
        ("hostname", &hardware.hostname),
    ] {
        let word: String = value
            .chars()
            .take(63)
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
            .collect();
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        if !word.is_empty() && labels.len() < label::MAX_LABELS {
            labels.insert(format!("hardware/{key}"), word.to_owned());
        }
    }
    Labels::new(labels).unwrap_or_else(|_| token.clone())
}

/// The first choice for a device's name: its host name as a DNS-1123 label.
#[must_use]
pub fn name_from_hostname(hostname: &str) -> String {
    let first = hostname.split('.').next().unwrap_or("");
    let mut name = String::new();
    for c in first.chars() {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            name.push(c);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        if name.len() >= 48 {
            break;
        }
    }
    let name = name.trim_end_matches('-');
    if name.is_empty() || name == "localhost" { "device".to_owned() } else { name.to_owned() }
}

#[derive(sqlx::FromRow)]
struct Known {
    uid: Uuid,
    name: String,
    lifecycle: String,
    claim_token: Option<Uuid>,
    revoked_at: Option<i64>,
}

impl SystemDb {
    /// Answers a claim, in one transaction with the device's row, its certificate and its event.
    pub async fn claim(
        &self,
        attempt: &ClaimAttempt<'_>,
        issue: &Issue<'_>,
        now: UnixMs,
    ) -> StoreResult<ClaimOutcome> {
        let mut tx = self.read().await?;
        let found: Option<(Uuid, Uuid, String)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT k.tenant, k.uid, t.name FROM claim_tokens k JOIN tenants t ON t.uid = k.tenant WHERE k.hash = $1")
            .bind(&attempt.token.0[..]).fetch_optional(c).await)?;
        drop(tx);
        let Some((tenant, token, tenant_name)) = found else {
            return Ok(ClaimOutcome::Refused(ClaimRefusal::UnknownToken));
        };
        let db = self.tenant(TenantId(tenant));
        db.claim(ClaimTokenId(token), stored_name(tenant_name)?, attempt, issue, now).await
    }

    /// Issues a device's next certificate. The key may change, when the connection proved the current one; a retry after a lost answer, with the
    /// old certificate and the same new key, gets its certificate too.
    pub async fn renew_certificate(
        &self,
        renewal: &Renewal<'_>,
        issue: &Issue<'_>,
    ) -> StoreResult<RenewalOutcome> {
        let tenant = renewal.tenant;
        let mut tx = self.tenant(tenant).begin().await?;
        // A touch of the row first, so that renewal and revocation come one after the other.
        on!(&mut tx, c => sqlx::query("UPDATE devices SET public_key = public_key WHERE tenant = $1 AND uid = $2")
            .bind(tenant.0).bind(renewal.device.0).execute(c).await.map(affected))?;
        let row: Option<(Vec<u8>, String, String, Option<i64>)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT public_key, name, lifecycle, revoked_at FROM devices WHERE tenant = $1 AND uid = $2")
            .bind(tenant.0).bind(renewal.device.0).fetch_optional(c).await)?;
        let Some((current_key, name, lifecycle, revoked_at)) = row else {
            return Ok(RenewalOutcome::Refused(RenewalRefusal::NotClaimed));
        };
        let standing = DeviceStanding {
            name: stored_name(name)?,
            lifecycle: Lifecycle::from_word(&lifecycle),
            revoked: revoked_at.is_some(),
            public_key: current_key,
        };
        if !standing.is_welcome() {
            return Ok(RenewalOutcome::Refused(RenewalRefusal::NotClaimed));
        }
        if standing.public_key != renewal.presented_key {
            let (issued,): (i64,) = on!(&mut tx, c => sqlx::query_as(
                "SELECT COUNT(*) FROM certificates WHERE tenant = $1 AND serial = $2 AND device = $3")
                .bind(tenant.0).bind(renewal.presented_serial).bind(renewal.device.0).fetch_one(c).await)?;
            if issued == 0 || standing.public_key != renewal.next_key {
                return Ok(RenewalOutcome::Refused(RenewalRefusal::OtherKey));
            }
        }
        if standing.public_key != renewal.next_key {
            let (taken,): (i64,) = on!(&mut tx, c => sqlx::query_as(
                "SELECT (SELECT COUNT(*) FROM revoked_keys WHERE tenant = $1 AND public_key = $2)
                      + (SELECT COUNT(*) FROM devices WHERE tenant = $1 AND public_key = $2)")
                .bind(tenant.0).bind(&renewal.next_key[..]).fetch_one(c).await)?;
            if taken > 0 {
                return Ok(RenewalOutcome::Refused(RenewalRefusal::BadKey));
            }
            on!(&mut tx, c => sqlx::query("UPDATE devices SET public_key = $3 WHERE tenant = $1 AND uid = $2")
                .bind(tenant.0).bind(renewal.device.0).bind(&renewal.next_key[..]).execute(c).await.map(affected))?;
        }
        let chain = store_certificate(&mut tx, tenant, renewal.device, issue).await?;
        tx.commit().await?;
        Ok(RenewalOutcome::Renewed { chain })
    }
}

async fn store_certificate(
    tx: &mut Tx,
    tenant: TenantId,
    device: DeviceId,
    issue: &Issue<'_>,
) -> StoreResult<String> {
    let certificate = issue(tenant, device).map_err(StoreError::Certificate)?;
    on!(&mut *tx, c => sqlx::query(
        "INSERT INTO certificates (tenant, serial, device, chain, issued_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(tenant.0).bind(&certificate.serial).bind(device.0).bind(&certificate.chain)
        .bind(certificate.issued_at.0).bind(certificate.expires_at.0).execute(c).await.map(affected))?;
    on!(&mut *tx, c => sqlx::query("UPDATE devices SET certificate_expires_at = $3 WHERE tenant = $1 AND uid = $2")
        .bind(tenant.0).bind(device.0).bind(certificate.expires_at.0).execute(c).await.map(affected))?;
    Ok(certificate.chain)
}

impl TenantDb {
    async fn claim(
        &self,
        token: ClaimTokenId,
        tenant_name: Name,
        attempt: &ClaimAttempt<'_>,
        issue: &Issue<'_>,
        now: UnixMs,
    ) -> StoreResult<ClaimOutcome> {
        let mut tx = self.begin().await?;
        let token = self.lock_claim_token(&mut tx, token).await?;
        let (revoked,): (i64,) = on!(&mut tx, c => sqlx::query_as(
            "SELECT COUNT(*) FROM revoked_keys WHERE tenant = $1 AND public_key = $2")
            .bind(self.tenant.0).bind(&attempt.public_key[..]).fetch_one(c).await)?;
        if revoked > 0 {
            return Ok(ClaimOutcome::Refused(ClaimRefusal::KeyRevoked));
        }
        let known: Option<Known> = on!(&mut tx, c => sqlx::query_as(
            "SELECT uid, name, lifecycle, claim_token, revoked_at FROM devices WHERE tenant = $1 AND public_key = $2")
            .bind(self.tenant.0).bind(&attempt.public_key[..]).fetch_optional(c).await)?;
        // The same token and key get the same answer, also after the token has ended.
        let repeated = known.as_ref().is_some_and(|device| device.claim_token == Some(token.metadata.uid));
        if !repeated && let Some(refusal) = refuses(&token, known.is_some(), now) {
            return Ok(ClaimOutcome::Refused(refusal));
        }
        if let Some(device) = known {
            return self.claim_again(tx, device, tenant_name, issue, now).await;
        }
        let rules = objects::all_in::<ClaimRule>(&mut tx, self.tenant.0, ObjectKind::ClaimRule).await?;
        let labels = rule_labels(&token.device_labels, attempt.hardware);
        let (action, rule) = decide_claim(
            rules.iter().map(|stored| (&stored.metadata.name, &stored.spec)),
            &token.metadata.name,
            &labels,
        );
        let rule = rule.cloned();
        if action == ClaimAction::Reject {
            return self.reject_claim(tx, &token, attempt, rule, now).await;
        }
        let mut labels: BTreeMap<String, String> = attempt.labels.clone().into();
        labels.extend(token.device_labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())));
        let Ok(labels) = Labels::new(labels) else {
            return Ok(ClaimOutcome::Refused(ClaimRefusal::TooManyLabels));
        };
        let counted = on!(&mut tx, c => sqlx::query(
            "UPDATE claim_tokens SET used = used + 1
             WHERE tenant = $1 AND uid = $2 AND used < uses AND revoked_at IS NULL AND expires_at > $3")
            .bind(self.tenant.0).bind(token.metadata.uid).bind(now.0).execute(c).await.map(affected))?;
        if counted == 0 {
            return Ok(ClaimOutcome::Refused(ClaimRefusal::TokenUsedUp));
        }
        let held = action == ClaimAction::Hold;
        let lifecycle = if held { Lifecycle::Pending } else { Lifecycle::Claimed };
        let (device, name) = self.insert_device(&mut tx, &token, attempt, &labels, lifecycle, now).await?;
        let (kind, message) = if held {
            ("device.pending", format!("device {name} asks to be claimed and waits for an approval"))
        } else {
            ("device.claimed", format!("device {name} was claimed with token {}", token.metadata.name))
        };
        let payload = json!({"token": token.metadata.name, "rule": rule, "hardware": attempt.hardware});
        let mut event = self.event(kind, ("Device", device.0, name.as_str()), message, payload, now);
        event.actor = format!("device:{name}");
        events::append(&mut tx, self.tenant, &event).await?;
        if held {
            tx.commit().await?;
            return Ok(ClaimOutcome::Pending { tenant: self.tenant, device, name });
        }
        let chain = store_certificate(&mut tx, self.tenant, device, issue).await?;
        tx.commit().await?;
        Ok(ClaimOutcome::Claimed { tenant: self.tenant, tenant_name, device, name, chain })
    }

    async fn claim_again(
        &self,
        mut tx: Tx,
        device: Known,
        tenant_name: Name,
        issue: &Issue<'_>,
        now: UnixMs,
    ) -> StoreResult<ClaimOutcome> {
        let (uid, name) = (DeviceId(device.uid), stored_name(device.name)?);
        let lifecycle = Lifecycle::from_word(&device.lifecycle);
        let revoked = device.revoked_at.is_some();
        if lifecycle == Lifecycle::Pending && !revoked {
            return Ok(ClaimOutcome::Pending { tenant: self.tenant, device: uid, name });
        }
        if revoked || !lifecycle.may_connect() {
            return Ok(ClaimOutcome::Refused(ClaimRefusal::KeyRevoked));
        }
        // The latest certificate, while at least half of its life is left; else a new one.
        let latest: Option<(String, i64, i64)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT chain, issued_at, expires_at FROM certificates WHERE tenant = $1 AND device = $2
             ORDER BY issued_at DESC, expires_at DESC LIMIT 1")
            .bind(self.tenant.0).bind(device.uid).fetch_optional(c).await)?;
        let chain = match latest {
            Some((chain, issued, expires)) if expires - now.0 > (expires - issued) / 2 => chain,
            _ => {
                let chain = store_certificate(&mut tx, self.tenant, uid, issue).await?;
                tx.commit().await?;
                chain
            }
        };
        Ok(ClaimOutcome::Claimed { tenant: self.tenant, tenant_name, device: uid, name, chain })
    }

    async fn reject_claim(
        &self,
        mut tx: Tx,
        token: &ClaimTokenRow,
        attempt: &ClaimAttempt<'_>,
        rule: Option<Name>,
        now: UnixMs,
    ) -> StoreResult<ClaimOutcome> {
        let rule = rule.ok_or_else(|| StoreError::Corrupt("a claim was rejected by no rule".to_owned()))?;
        let name = name_from_hostname(&attempt.hardware.hostname);
        let mut event = self.event(
            "device.rejected",
            ("ClaimToken", token.metadata.uid, token.metadata.name.as_str()),
            format!("device {name} was rejected by claim rule {rule}"),
            json!({"rule": rule, "hardware": attempt.hardware}),
            now,
        );
        // One event for a device, however often it asks.
        let digest = Digest::of(&[token.metadata.uid.as_bytes(), &attempt.public_key[..]].concat());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.as_bytes()[..16]);
        event.uid = uuid::Builder::from_custom_bytes(bytes).into_uuid();
        event.actor = format!("device:{name}");
        events::append(&mut tx, self.tenant, &event).await?;
        tx.commit().await?;
        Ok(ClaimOutcome::Refused(ClaimRefusal::Rejected(rule)))
    }

    async fn insert_device(
        &self,
        tx: &mut Tx,
        token: &ClaimTokenRow,
        attempt: &ClaimAttempt<'_>,
        labels: &Labels,
        lifecycle: Lifecycle,
        now: UnixMs,
    ) -> StoreResult<(DeviceId, Name)> {
        let uid = Uuid::now_v7();
        let base = name_from_hostname(&attempt.hardware.hostname);
        // The tail of a UUIDv7 is random; its head is the time.
        let tail = uid.simple().to_string();
        for digits in [0, 4, 8, 12] {
            let name = match digits {
                0 => base.clone(),
                digits => format!("{base}-{}", &tail[tail.len() - digits..]),
            };
            let inserted = on!(&mut *tx, c => sqlx::query(
                "INSERT INTO devices (tenant, uid, name, labels, managed_by, created_at, location, channel, driver, lifecycle,
                     public_key, claim_token, hardware)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (tenant, name) DO NOTHING")
                .bind(self.tenant.0).bind(uid).bind(&name).bind(Json(labels)).bind("claim").bind(now.0)
                .bind(&token.location).bind(token.channel.as_str()).bind("agent").bind(lifecycle.word())
                .bind(&attempt.public_key[..]).bind(token.metadata.uid).bind(Json(attempt.hardware))
                .execute(c).await.map(affected))?;
            if inserted == 0 {
                continue;
            }
            for (key, value) in labels.iter() {
                on!(&mut *tx, c => sqlx::query("INSERT INTO device_labels (tenant, device, key, value) VALUES ($1, $2, $3, $4)")
                    .bind(self.tenant.0).bind(uid).bind(key).bind(value).execute(c).await.map(affected))?;
            }
            return Ok((DeviceId(uid), stored_name(name)?));
        }
        Err(StoreError::Conflict(format!("No free name was found for a device called {base:?}.")))
    }
}

fn refuses(token: &ClaimTokenRow, known: bool, now: UnixMs) -> Option<ClaimRefusal> {
    if token.revoked_at.is_some() {
        Some(ClaimRefusal::TokenRevoked)
    } else if token.expires_at <= now {
        Some(ClaimRefusal::TokenExpired)
    } else if !known && token.used >= token.uses {
        Some(ClaimRefusal::TokenUsedUp)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_becomes_a_device_name() {
        let check = |hostname: &str, expect: &str| {
            let name = name_from_hostname(hostname);
            assert_eq!(name, expect);
            assert!(Name::new(name).is_ok(), "{hostname}");
        };
        check("Kiosk_7.shop.example", "kiosk-7");
        check("", "device");
        check("localhost.localdomain", "device");
        check("--__--", "device");
        check("ünïcode", "n-code");
        check(&"a-".repeat(100), "a-".repeat(24).trim_end_matches('-'));
        check("../../etc/passwd", "device");
    }

    #[test]
    fn what_a_device_says_of_itself_is_always_a_label_or_nothing() {
        let token = Labels::try_from([("site", "riga")]).unwrap();
        let hardware = Hardware {
            os: "linux".to_owned(),
            model: " Raspberry Pi 4 \u{0}(Rev 1.2) ".to_owned(),
            arch: "🦀".repeat(1000),
            ..Hardware::default()
        };
        let labels = rule_labels(&token, &hardware);
        assert_eq!(labels.get("site"), Some("riga"));
        assert_eq!(labels.get("hardware/model"), Some("Raspberry-Pi-4---Rev-1.2"));
        assert_eq!(labels.get("hardware/arch"), None);
    }
}
