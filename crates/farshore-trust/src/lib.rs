//! Digests, signatures, certificates, tokens: issue and verify.
//!
//! Both sides use this crate. It opens no socket and reads no clock: time is an argument ([`farshore_domain::time::UnixMs`])
//! or a [`clock::FlooredClock`] that the caller feeds. Randomness is the operating system's, through *ring*. One file is
//! ever touched: the master key's ([`master`]).
//!
//! Layout: [`key`] holds keys; [`blob`] verifies what cosign signs with them and [`keyset`] says which of them a tenant
//! trusts. [`authority`] issues certificates for [`device`]s, ports and the [`online`] signer, whose private keys rest
//! under a [`master`] key; [`identity`] reads a device's certificate. [`token`] makes secrets that people and devices
//! carry, and [`tls`] puts all of this to use in a handshake.
//!
//! Trust never comes from the material that is being verified: the algorithm is the pinned key's, the roots are the
//! caller's, and a missing key or root refuses.

pub mod authority;
pub mod blob;
pub mod certificate;
pub mod clock;
pub mod device;
pub mod identity;
pub mod key;
pub mod keyset;
pub mod master;
pub mod online;
pub mod provider;
mod random;
pub mod sealed;
pub mod tls;
pub mod token;

pub use rustls_pki_types::CertificateDer;
