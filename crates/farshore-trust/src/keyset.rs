//! A tenant's release keys, and how they change.
//!
//! A set is a JSON document whose exact bytes are signed (any form of [`crate::blob`], so that cosign can make it) by a key of
//! the set before it. A device walks the sets one by one, from the last one it accepted; the first is trusted when the
//! device is claimed. A server that holds no release key can therefore not put a key of its own into a set.

use std::collections::BTreeSet;

use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use serde::{Deserialize, Serialize};

use crate::blob::{self, BlobError};
use crate::key::{KeyError, PublicKey};

/// The document's `schema`.
pub const SCHEMA: &str = "farshore.dev/trusted-keys/v1";
/// The largest document that is read.
pub const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// The most keys a set holds.
pub const MAX_KEYS: usize = 64;

/// Why a set of keys was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    #[error("a set of trusted keys has at most {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
    #[error("the document isn't a set of trusted keys")]
    BadDocument(#[source] serde_json::Error),
    #[error("the document's schema isn't {SCHEMA}")]
    UnknownSchema,
    #[error("the set belongs to another tenant")]
    WrongTenant,
    #[error("a set holds 1 to {MAX_KEYS} keys, this one {0}")]
    KeyCount(usize),
    #[error("key {name} couldn't be read")]
    BadKey {
        name: Name,
        #[source]
        source: KeyError,
    },
    #[error("the set names {0} twice")]
    DuplicateName(Name),
    #[error("key {0} is in the set already, under another name")]
    DuplicateKey(Name),
    #[error("expected version {expected} of the set, got {got}")]
    WrongVersion { expected: u64, got: u64 },
    #[error("the set isn't signed by a key of the set before it (of itself, for the first)")]
    NotSigned(#[source] BlobError),
    #[error("no set to accept")]
    NothingToAccept,
    #[error("the set couldn't be written")]
    Write(#[source] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: String,
    tenant: TenantId,
    version: u64,
    keys: Vec<DocumentKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentKey {
    name: Name,
    pem: String,
}

/// A key with the name people gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    pub name: Name,
    pub key: PublicKey,
}

/// A set that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKeySet {
    tenant: TenantId,
    version: u64,
    keys: Vec<TrustedKey>,
}

/// A set as it travels: the exact bytes, and a signature file over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedKeySet {
    pub document: Vec<u8>,
    pub signature: Vec<u8>,
}

impl TrustedKeySet {
    /// Reads a document that was accepted before and has been kept where only this program writes. Signatures are **not**
    /// checked: what comes from elsewhere goes through [`accept_next`].
    ///
    /// # Errors
    /// When it isn't a well-formed set of this tenant.
    pub fn reload(document: &[u8], tenant: TenantId) -> Result<Self, KeySetError> {
        if document.len() > MAX_DOCUMENT_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let document: Document = serde_json::from_slice(document).map_err(KeySetError::BadDocument)?;
        if document.schema != SCHEMA {
            return Err(KeySetError::UnknownSchema);
        }
        if document.tenant != tenant {
            return Err(KeySetError::WrongTenant);
        }
        if document.keys.is_empty() || document.keys.len() > MAX_KEYS {
            return Err(KeySetError::KeyCount(document.keys.len()));
        }
        let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
        let mut keys = Vec::with_capacity(document.keys.len());
        for DocumentKey { name, pem } in document.keys {
            let key = PublicKey::from_pem(&pem)
                .map_err(|source| KeySetError::BadKey { name: name.clone(), source })?;
            if !names.insert(name.clone()) {
                return Err(KeySetError::DuplicateName(name));
            }
            // Distinct keys count, not entries: one key under two names is still one key.
            if !ids.insert(key.key_id()) {
                return Err(KeySetError::DuplicateKey(name));
            }
            keys.push(TrustedKey { name, key });
        }
        Ok(Self { tenant, version: document.version, keys })
    }

    #[must_use]
    pub const fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Counts from 1.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    #[must_use]
    pub fn keys(&self) -> &[TrustedKey] {
        &self.keys
    }

    /// The keys alone, for [`blob::verify_blob`].
    #[must_use]
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.keys.iter().map(|key| key.key.clone()).collect()
    }
}

/// Writes the document of a set, to be signed.
///
/// # Errors
/// When [`TrustedKeySet::reload`] would refuse it.
pub fn document(tenant: TenantId, version: u64, keys: &[TrustedKey]) -> Result<Vec<u8>, KeySetError> {
    let keys = keys.iter().map(|key| DocumentKey { name: key.name.clone(), pem: key.key.to_pem() }).collect();
    let document = serde_json::to_vec(&Document { schema: SCHEMA.to_owned(), tenant, version, keys })
        .map_err(KeySetError::Write)?;
    TrustedKeySet::reload(&document, tenant)?;
    Ok(document)
}

/// Accepts `next` after `current`: exactly one version later and signed by a key of `current`. Without `current`, version
/// 1 signed by one of its own keys (which proves that somebody holds it) is trusted on first use.
///
/// # Errors
/// Whatever else it is; `current` then stays in force.
pub fn accept_next(
    current: Option<&TrustedKeySet>,
    next: &SignedKeySet,
    tenant: TenantId,
) -> Result<TrustedKeySet, KeySetError> {
    if current.is_some_and(|current| current.tenant != tenant) {
        return Err(KeySetError::WrongTenant);
    }
    let set = TrustedKeySet::reload(&next.document, tenant)?;
    let expected = match current {
        None => 1,
        Some(current) => current.version.saturating_add(1),
    };
    if set.version != expected {
        return Err(KeySetError::WrongVersion { expected, got: set.version });
    }
    let signers = current.unwrap_or(&set).public_keys();
    blob::verify_blob(&signers, &next.document, &next.signature).map_err(KeySetError::NotSigned)?;
    Ok(set)
}

/// Accepts `chain` in order, set by set.
///
/// # Errors
/// At the first set that [`accept_next`] refuses, or when the chain is empty.
pub fn accept_chain(
    current: Option<&TrustedKeySet>,
    chain: &[SignedKeySet],
    tenant: TenantId,
) -> Result<TrustedKeySet, KeySetError> {
    let mut accepted = None;
    for next in chain {
        accepted = Some(accept_next(accepted.as_ref().or(current), next, tenant)?);
    }
    accepted.ok_or(KeySetError::NothingToAccept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Algorithm, SigningKey};

    const TENANT: TenantId = TenantId(farshore_uuid(1));

    const fn farshore_uuid(n: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(n)
    }

    fn named(name: &str, key: &SigningKey) -> TrustedKey {
        TrustedKey { name: Name::new(name).unwrap(), key: key.public().clone() }
    }

    fn signed(version: u64, keys: &[&SigningKey], signer: &SigningKey) -> SignedKeySet {
        let keys: Vec<_> = keys.iter().enumerate().map(|(n, key)| named(&format!("key-{n}"), key)).collect();
        let document = document(TENANT, version, &keys).unwrap();
        let signature = blob::sign_detached(signer, &document).unwrap().into_bytes();
        SignedKeySet { document, signature }
    }

    #[test]
    fn a_device_that_was_away_walks_fifty_versions() {
        let mut keys = vec![SigningKey::generate(Algorithm::Ed25519).unwrap()];
        let mut chain = vec![signed(1, &[&keys[0]], &keys[0])];
        for version in 2..=50 {
            keys.push(
                SigningKey::generate(if version % 2 == 0 { Algorithm::P256 } else { Algorithm::Ed25519 })
                    .unwrap(),
            );
            let [.., old, new] = keys.as_slice() else { unreachable!() };
            chain.push(signed(version, &[new], old));
        }
        let set = accept_chain(None, &chain, TENANT).unwrap();
        assert_eq!((set.version(), set.keys().len()), (50, 1));
        assert_eq!(set.keys()[0].key, *keys[49].public());
        assert!(accept_chain(None, &chain[1..], TENANT).is_err());
        chain.remove(20);
        assert!(matches!(
            accept_chain(None, &chain, TENANT),
            Err(KeySetError::WrongVersion { expected: 21, got: 22 })
        ));
        assert!(matches!(accept_chain(None, &[], TENANT), Err(KeySetError::NothingToAccept)));
    }

    #[test]
    fn only_a_key_of_the_set_before_can_sign_the_next() {
        let [a, b, stranger] = [(); 3].map(|()| SigningKey::generate(Algorithm::P256).unwrap());
        let one = accept_next(None, &signed(1, &[&a], &a), TENANT).unwrap();
        accept_next(Some(&one), &signed(2, &[&a, &b], &a), TENANT).unwrap();
        // b is in the new set only: it can't let itself in.
        assert!(matches!(
            accept_next(Some(&one), &signed(2, &[&a, &b], &b), TENANT),
            Err(KeySetError::NotSigned(_))
        ));
        assert!(matches!(
            accept_next(Some(&one), &signed(2, &[&stranger], &stranger), TENANT),
            Err(KeySetError::NotSigned(_))
        ));
        // A first set by somebody who doesn't hold its keys.
        assert!(matches!(
            accept_next(None, &signed(1, &[&a], &stranger), TENANT),
            Err(KeySetError::NotSigned(_))
        ));
        // Bytes that were changed after signing.
        let mut changed = signed(2, &[&b], &a);
        changed.document.push(b' ');
        assert!(matches!(accept_next(Some(&one), &changed, TENANT), Err(KeySetError::NotSigned(_))));
    }

    #[test]
    fn older_equal_and_skipped_versions_and_other_tenants_are_refused() {
        let a = SigningKey::generate(Algorithm::P256).unwrap();
        let one = accept_next(None, &signed(1, &[&a], &a), TENANT).unwrap();
        let two = accept_next(Some(&one), &signed(2, &[&a], &a), TENANT).unwrap();
        for version in [0, 1, 2, 4, u64::MAX] {
            assert!(
                matches!(
                    accept_next(Some(&two), &signed(version, &[&a], &a), TENANT),
                    Err(KeySetError::WrongVersion { .. })
                ),
                "{version}"
            );
        }
        assert!(matches!(
            accept_next(None, &signed(2, &[&a], &a), TENANT),
            Err(KeySetError::WrongVersion { .. })
        ));
        let other = TenantId(farshore_uuid(2));
        assert!(matches!(accept_next(None, &signed(1, &[&a], &a), other), Err(KeySetError::WrongTenant)));
        assert!(matches!(
            accept_next(Some(&one), &signed(2, &[&a], &a), other),
            Err(KeySetError::WrongTenant)
        ));
    }

    #[test]
    fn empty_and_duplicate_keys_are_refused() {
        let a = SigningKey::generate(Algorithm::P256).unwrap();
        assert!(matches!(document(TENANT, 1, &[]), Err(KeySetError::KeyCount(0))));
        assert!(matches!(
            document(TENANT, 1, &[named("a", &a), named("b", &a)]),
            Err(KeySetError::DuplicateKey(_))
        ));
        let b = SigningKey::generate(Algorithm::P256).unwrap();
        assert!(matches!(
            document(TENANT, 1, &[named("a", &a), named("a", &b)]),
            Err(KeySetError::DuplicateName(_))
        ));
        let json = String::from_utf8(document(TENANT, 1, &[named("a", &a)]).unwrap()).unwrap();
        for bad in [
            json.replace("keys/v1", "keys/v2"),
            json.replace("\"version\":1", "\"version\":1,\"version\":2"),
            format!("{json}{{}}"),
            json.replace("BEGIN", "BEGUN"),
        ] {
            assert!(TrustedKeySet::reload(bad.as_bytes(), TENANT).is_err(), "{bad}");
        }
    }
}
