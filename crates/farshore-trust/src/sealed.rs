//! Sealed batches: what is encrypted on a device, for the device and for the tenant's ingest key.
//!
//! A [`DataKey`] encrypts (XChaCha20-Poly1305). It travels with what it encrypted, wrapped twice: under the device's own
//! [`DeviceKey`] (a file, 0600), so that the device can read its backlog after a restart, and for the tenant's
//! [`IngestPublicKey`] (X25519, HKDF-SHA-256, XChaCha20-Poly1305), so that the control plane can and nothing between them.
//! Rotating either key touches nothing that was sealed before. The layout of a batch is in `docs/formats/batch.md`.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ring::hkdf;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::random::{self, RandomError};

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// A data key wrapped for the device.
pub const DEVICE_WRAP_BYTES: usize = NONCE_BYTES + KEY_BYTES + TAG_BYTES;
/// A data key wrapped for an ingest key.
pub const INGEST_WRAP_BYTES: usize = 32 + KEY_BYTES + TAG_BYTES;
const DIGEST_BYTES: usize = 32;
const MAGIC: &[u8; 4] = b"FSB1";
const FIXED_BYTES: usize = 4 + 2;
/// The largest header that is read.
const MAX_HEADER_BYTES: usize = 1024;
/// The largest batch.
pub const MAX_BATCH_BYTES: usize = 48 * 1024 * 1024;

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// No randomness.
    #[error("could not make a key")]
    Random(#[from] RandomError),
    /// The bytes are no batch, or were changed since they were sealed.
    #[error("the batch is damaged: {what}")]
    Damaged {
        /// What does not fit.
        what: &'static str,
    },
    /// It was sealed for another key, or the contents were changed.
    #[error("the batch cannot be opened: it was sealed for another key, or was changed")]
    NotForThisKey,
    /// Beyond the largest batch.
    #[error("a batch has at most {MAX_BATCH_BYTES} bytes")]
    TooLarge,
    /// The device key's file.
    #[error("couldn't {action} the device key file {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The device key's file can be read by others.
    #[error("the device key file {} can be read by others (mode {mode:o}): chmod 600 it", path.display())]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

type Secret = Zeroizing<[u8; KEY_BYTES]>;

fn cipher(key: &[u8; KEY_BYTES]) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.into())
}

fn encrypt(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    msg: &[u8],
) -> Result<Vec<u8>, SealError> {
    cipher(key).encrypt(&XNonce::from(*nonce), Payload { msg, aad }).map_err(|_| SealError::TooLarge)
}

fn decrypt(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    msg: &[u8],
) -> Result<Vec<u8>, SealError> {
    cipher(key).decrypt(&XNonce::from(*nonce), Payload { msg, aad }).map_err(|_| SealError::NotForThisKey)
}

/// The key under which data lies. One for each start of a journal.
pub struct DataKey(Secret);

/// The device's own key: what it needs to read its backlog again.
pub struct DeviceKey(Secret);

/// The tenant's key that opens batches. Its secret half never leaves the control plane.
pub struct IngestKey(StaticSecret);

/// The half of an [`IngestKey`] that devices have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IngestPublicKey([u8; 32]);

macro_rules! redacted {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    )*};
}
redacted!(DataKey, DeviceKey, IngestKey);

impl fmt::Debug for IngestPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IngestPublicKey({})", hex::encode(self.0))
    }
}

impl DataKey {
    /// A new key.
    ///
    /// # Errors
    /// [`SealError::Random`].
    pub fn generate() -> Result<Self, SealError> {
        Ok(Self(Zeroizing::new(random::bytes()?)))
    }

    /// Encrypts under a nonce that this key has not seen before.
    ///
    /// # Errors
    /// [`SealError::TooLarge`].
    pub fn encrypt(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        encrypt(&self.0, nonce, aad, plain)
    }

    /// Decrypts.
    ///
    /// # Errors
    /// [`SealError::NotForThisKey`] when anything was changed.
    pub fn decrypt(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        decrypt(&self.0, nonce, aad, sealed)
    }

    /// Wraps this key for the device itself.
    ///
    /// # Errors
    /// [`SealError::Random`].
    pub fn wrap_for_device(&self, device: &DeviceKey) -> Result<[u8; DEVICE_WRAP_BYTES], SealError> {
        let nonce: [u8; NONCE_BYTES] = random::bytes()?;
        let sealed = encrypt(&device.0, &nonce, b"farshore data key v1", &*self.0)?;
        let mut out = [0; DEVICE_WRAP_BYTES];
        out[..NONCE_BYTES].copy_from_slice(&nonce);
        out[NONCE_BYTES..].copy_from_slice(&sealed);
        Ok(out)
    }

    /// Wraps this key for whoever has the secret half of `ingest`.
    ///
    /// # Errors
    /// [`SealError::Random`], or [`SealError::NotForThisKey`] for a public key that is none.
    pub fn wrap_for_ingest(&self, ingest: &IngestPublicKey) -> Result<[u8; INGEST_WRAP_BYTES], SealError> {
        let once = StaticSecret::from(random::bytes::<32>()?);
        let once_public = PublicKey::from(&once).to_bytes();
        let key = agreed(&once, &ingest.0, &once_public, &ingest.0)?;
        // The key is used this once, so the nonce may be anything.
        let sealed = encrypt(&key, &[0; NONCE_BYTES], b"farshore data key v1", &*self.0)?;
        let mut out = [0; INGEST_WRAP_BYTES];
        out[..32].copy_from_slice(&once_public);
        out[32..].copy_from_slice(&sealed);
        Ok(out)
    }
}

/// The key that both sides of an X25519 agreement derive.
fn agreed(
    secret: &StaticSecret,
    public: &[u8; 32],
    once: &[u8; 32],
    ingest: &[u8; 32],
) -> Result<Secret, SealError> {
    let shared = secret.diffie_hellman(&PublicKey::from(*public));
    if !shared.was_contributory() {
        return Err(SealError::NotForThisKey);
    }
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"farshore ingest v1");
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    salt.extract(shared.as_bytes())
        .expand(&[once, ingest], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *key))
        .map_err(|_| SealError::NotForThisKey)?;
    Ok(key)
}

fn to_key(bytes: Vec<u8>) -> Result<DataKey, SealError> {
    let bytes = Zeroizing::new(bytes);
    let key: [u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| SealError::NotForThisKey)?;
    Ok(DataKey(Zeroizing::new(key)))
}

impl DeviceKey {
    /// Reads the key file, or makes one (0600) when there is none.
    ///
    /// # Errors
    /// [`SealError::TooOpen`] when others may read it; [`SealError::File`] when it cannot be read or is no key.
    pub fn open_or_create(path: &Path) -> Result<Self, SealError> {
        let failed = |action| move |source| SealError::File { action, path: path.to_owned(), source };
        if !path.exists() {
            let key: [u8; KEY_BYTES] = random::bytes()?;
            let text = Zeroizing::new(hex::encode(key));
            let temporary = path.with_extension("new");
            // What a crash left may be cut short.
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("make")(error)),
                _ => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)
                .map_err(failed("make"))?;
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write"))?;
            fs::rename(&temporary, path).map_err(failed("make"))?;
            let folder =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("make"))?;
        }
        Self::open(path)
    }

    /// Reads the key file.
    ///
    /// # Errors
    /// As [`open_or_create`](Self::open_or_create).
    pub fn open(path: &Path) -> Result<Self, SealError> {
        let failed = |action| move |source| SealError::File { action, path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(failed("open"))?;
        let mode = file.metadata().map_err(failed("open"))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SealError::TooOpen { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(128).read_to_string(&mut text).map_err(failed("read"))?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(text.trim(), &mut *key)
            .map_err(|error| failed("read")(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        Ok(Self(key))
    }

    /// Which key it is, without saying the key: 16 hex digits of a digest.
    #[must_use]
    pub fn id(&self) -> String {
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        digest.update(b"farshore device key id v1");
        digest.update(&*self.0);
        hex::encode(digest.finish().as_ref().get(..8).unwrap_or_default())
    }

    /// A key that is nowhere on disk.
    ///
    /// # Errors
    /// [`SealError::Random`].
    pub fn generate() -> Result<Self, SealError> {
        Ok(Self(Zeroizing::new(random::bytes()?)))
    }

    /// The data key that was wrapped for this device.
    ///
    /// # Errors
    /// [`SealError::NotForThisKey`].
    pub fn unwrap(&self, wrapped: &[u8; DEVICE_WRAP_BYTES]) -> Result<DataKey, SealError> {
        let (nonce, sealed) = wrapped.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::NotForThisKey)?;
        to_key(decrypt(&self.0, nonce, b"farshore data key v1", sealed)?)
    }
}

impl IngestKey {
    /// A new key.
    ///
    /// # Errors
    /// [`SealError::Random`].
    pub fn generate() -> Result<Self, SealError> {
        Ok(Self(StaticSecret::from(random::bytes::<32>()?)))
    }

    /// The key with these secret bytes.
    #[must_use]
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        Self(StaticSecret::from(secret))
    }

    /// The secret bytes, to be wrapped under the master key.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The half that devices get.
    #[must_use]
    pub fn public(&self) -> IngestPublicKey {
        IngestPublicKey(PublicKey::from(&self.0).to_bytes())
    }

    /// The data key that was wrapped for this key.
    ///
    /// # Errors
    /// [`SealError::NotForThisKey`].
    pub fn unwrap(&self, wrapped: &[u8; INGEST_WRAP_BYTES]) -> Result<DataKey, SealError> {
        let (once, sealed) = wrapped.split_first_chunk::<32>().ok_or(SealError::NotForThisKey)?;
        let key = agreed(&self.0, once, once, &self.public().0)?;
        to_key(decrypt(&key, &[0; NONCE_BYTES], b"farshore data key v1", sealed)?)
    }
}

impl IngestPublicKey {
    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What names it in a batch: its first eight bytes.
    #[must_use]
    pub fn id(&self) -> [u8; 8] {
        self.0.first_chunk().copied().unwrap_or_default()
    }
}

/// What stands in the clear at the head of a batch, and is authenticated with its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    /// Class of the stream, 0 (alert) to 3 (log).
    pub class: u8,
    /// Points were replaced by summaries.
    pub thinned: bool,
    /// The journal's life: another after a new image.
    pub epoch: u64,
    /// Number within the stream.
    pub sequence: u64,
    /// How many points.
    pub points: u32,
    /// Earliest time of a point, Unix nanoseconds.
    pub earliest_ns: i64,
    /// Latest.
    pub latest_ns: i64,
    /// Which boot of the device sealed it.
    pub boot: [u8; 16],
    /// What the wall clock said then, Unix nanoseconds.
    pub sealed_wall_ns: i64,
    /// What the clock that never goes back said then, nanoseconds since boot.
    pub sealed_mono_ns: i64,
    /// The stream.
    pub stream: String,
    /// The data key for the device.
    pub for_device: [u8; DEVICE_WRAP_BYTES],
    /// Which ingest key, and the data key for it. Absent before the device has one.
    pub for_ingest: Option<([u8; 8], [u8; INGEST_WRAP_BYTES])>,
}

impl BatchHeader {
    fn write(&self, nonce: &[u8; NONCE_BYTES], body: u32) -> Result<Vec<u8>, SealError> {
        let mut out = Vec::with_capacity(320);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0, 0]);
        let flags = u8::from(self.thinned) | u8::from(self.for_ingest.is_some()) << 1;
        out.extend_from_slice(&[self.class, flags]);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.points.to_le_bytes());
        out.extend_from_slice(&self.earliest_ns.to_le_bytes());
        out.extend_from_slice(&self.latest_ns.to_le_bytes());
        out.extend_from_slice(&self.boot);
        out.extend_from_slice(&self.sealed_wall_ns.to_le_bytes());
        out.extend_from_slice(&self.sealed_mono_ns.to_le_bytes());
        out.push(u8::try_from(self.stream.len()).map_err(|_| SealError::TooLarge)?);
        out.extend_from_slice(self.stream.as_bytes());
        out.extend_from_slice(&self.for_device);
        if let Some((id, wrapped)) = &self.for_ingest {
            out.extend_from_slice(id);
            out.extend_from_slice(wrapped);
        }
        out.extend_from_slice(nonce);
        out.extend_from_slice(&body.to_le_bytes());
        let length = u16::try_from(out.len()).map_err(|_| SealError::TooLarge)?;
        out[4..6].copy_from_slice(&length.to_le_bytes());
        Ok(out)
    }
}

/// Seals contents into a batch.
///
/// # Errors
/// [`SealError::TooLarge`], [`SealError::Random`].
pub fn seal(header: &BatchHeader, key: &DataKey, contents: &[u8]) -> Result<Vec<u8>, SealError> {
    let nonce: [u8; NONCE_BYTES] = random::bytes()?;
    if contents.len() > MAX_BATCH_BYTES - MAX_HEADER_BYTES {
        return Err(SealError::TooLarge);
    }
    let length = u32::try_from(contents.len() + TAG_BYTES).map_err(|_| SealError::TooLarge)?;
    let mut out = header.write(&nonce, length)?;
    let body = key.encrypt(&nonce, &out, contents)?;
    out.extend_from_slice(&body);
    let digest = ring::digest::digest(&ring::digest::SHA256, &out);
    out.extend_from_slice(digest.as_ref());
    Ok(out)
}

/// A batch whose checksum holds; not yet decrypted.
#[derive(Debug)]
pub struct Batch<'a> {
    header: BatchHeader,
    head: &'a [u8],
    nonce: &'a [u8; NONCE_BYTES],
    body: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Reads the header and checks the checksum over everything. Needs no key.
    ///
    /// # Errors
    /// [`SealError::Damaged`], [`SealError::TooLarge`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, SealError> {
        const SHORT: SealError = SealError::Damaged { what: "it ends early" };
        if bytes.len() > MAX_BATCH_BYTES {
            return Err(SealError::TooLarge);
        }
        let (content, digest) = bytes.split_last_chunk::<DIGEST_BYTES>().ok_or(SHORT)?;
        if content.first_chunk() != Some(MAGIC) {
            return Err(SealError::Damaged { what: "it does not begin as a batch of version 1" });
        }
        if ring::digest::digest(&ring::digest::SHA256, content).as_ref() != digest {
            return Err(SealError::Damaged { what: "the checksum is wrong" });
        }
        let mut rest = content.get(4..).ok_or(SHORT)?;
        let length = usize::from(u16::from_le_bytes(take(&mut rest)?));
        if !(FIXED_BYTES..=MAX_HEADER_BYTES).contains(&length) {
            return Err(SealError::Damaged { what: "the header has an impossible length" });
        }
        let (head, body) = content.split_at_checked(length).ok_or(SHORT)?;
        let mut rest = head.get(FIXED_BYTES..).ok_or(SHORT)?;
        let [class, flags] = take::<2>(&mut rest)?;
        let epoch = u64::from_le_bytes(take(&mut rest)?);
        let sequence = u64::from_le_bytes(take(&mut rest)?);
        let points = u32::from_le_bytes(take(&mut rest)?);
        let earliest_ns = i64::from_le_bytes(take(&mut rest)?);
        let latest_ns = i64::from_le_bytes(take(&mut rest)?);
        let boot = take(&mut rest)?;
        let sealed_wall_ns = i64::from_le_bytes(take(&mut rest)?);
        let sealed_mono_ns = i64::from_le_bytes(take(&mut rest)?);
        let [name] = take::<1>(&mut rest)?;
        let (name, after) = rest.split_at_checked(usize::from(name)).ok_or(SHORT)?;
        rest = after;
        let stream = str::from_utf8(name)
            .map_err(|_| SealError::Damaged { what: "the stream is not named in UTF-8" })?;
        let for_device = take(&mut rest)?;
        let for_ingest = if flags & 2 != 0 { Some((take(&mut rest)?, take(&mut rest)?)) } else { None };
        let (nonce, after) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SHORT)?;
        rest = after;
        let declared = u32::from_le_bytes(take(&mut rest)?);
        if !rest.is_empty() || declared as usize != body.len() || class > 3 || flags > 3 {
            return Err(SealError::Damaged { what: "the header does not fit" });
        }
        let header = BatchHeader {
            class,
            thinned: flags & 1 != 0,
            epoch,
            sequence,
            points,
            earliest_ns,
            latest_ns,
            boot,
            sealed_wall_ns,
            sealed_mono_ns,
            stream: stream.to_owned(),
            for_device,
            for_ingest,
        };
        Ok(Self { header, head, nonce, body })
    }

    /// What stands in the clear.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The contents, for the device that sealed it.
    ///
    /// # Errors
    /// [`SealError::NotForThisKey`].
    pub fn open_on_device(&self, key: &DeviceKey) -> Result<Vec<u8>, SealError> {
        key.unwrap(&self.header.for_device)?.decrypt(self.nonce, self.head, self.body)
    }

    /// The contents, for the tenant.
    ///
    /// # Errors
    /// [`SealError::NotForThisKey`].
    pub fn open(&self, key: &IngestKey) -> Result<Vec<u8>, SealError> {
        let (_, wrapped) = self.header.for_ingest.as_ref().ok_or(SealError::NotForThisKey)?;
        key.unwrap(wrapped)?.decrypt(self.nonce, self.head, self.body)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], SealError> {
    let (bytes, after) = rest.split_first_chunk::<N>().ok_or(SealError::Damaged { what: "it ends early" })?;
    *rest = after;
    Ok(*bytes)
}

/// Random bytes for those who cannot ask *ring*.
///
/// # Errors
/// [`SealError::Random`].
pub fn random_bytes<const N: usize>() -> Result<[u8; N], SealError> {
    Ok(random::bytes()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(key: &DataKey, device: &DeviceKey, ingest: Option<&IngestPublicKey>) -> BatchHeader {
        BatchHeader {
            class: 2,
            thinned: false,
            epoch: 7,
            sequence: 42,
            points: 3,
            earliest_ns: -1,
            latest_ns: 1,
            boot: [9; 16],
            sealed_wall_ns: 5,
            sealed_mono_ns: 6,
            stream: "data/line-1".into(),
            for_device: key.wrap_for_device(device).unwrap(),
            for_ingest: ingest.map(|ingest| (ingest.id(), key.wrap_for_ingest(ingest).unwrap())),
        }
    }

    #[test]
    fn device_and_tenant_open_a_batch_and_nobody_else() {
        let (key, device, ingest) =
            (DataKey::generate().unwrap(), DeviceKey::generate().unwrap(), IngestKey::generate().unwrap());
        let header = header(&key, &device, Some(&ingest.public()));
        let bytes = seal(&header, &key, b"contents").unwrap();
        let batch = Batch::read(&bytes).unwrap();
        assert_eq!(batch.header(), &header);
        assert_eq!(batch.open_on_device(&device).unwrap(), b"contents");
        assert_eq!(batch.open(&ingest).unwrap(), b"contents");
        let again = IngestKey::from_bytes(*ingest.to_bytes());
        assert_eq!(batch.open(&again).unwrap(), b"contents");
        assert!(matches!(batch.open(&IngestKey::generate().unwrap()), Err(SealError::NotForThisKey)));
        assert!(matches!(
            batch.open_on_device(&DeviceKey::generate().unwrap()),
            Err(SealError::NotForThisKey)
        ));
    }

    #[test]
    fn any_flipped_bit_is_noticed_with_and_without_a_key() {
        let (key, device) = (DataKey::generate().unwrap(), DeviceKey::generate().unwrap());
        let good = seal(&header(&key, &device, None), &key, b"contents").unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert!(Batch::read(&bytes).is_err(), "{at}");
            assert!(Batch::read(&good[..at]).is_err(), "{at}");
            // Someone who also puts the checksum right does not get past the key.
            if at < good.len() - 32 {
                let digest = ring::digest::digest(&ring::digest::SHA256, &bytes[..good.len() - 32]);
                bytes[good.len() - 32..].copy_from_slice(digest.as_ref());
                assert!(Batch::read(&bytes).and_then(|batch| batch.open_on_device(&device)).is_err(), "{at}");
            }
        }
    }

    #[test]
    fn the_device_key_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.key");
        let key = DataKey::generate().unwrap();
        let wrapped = key.wrap_for_device(&DeviceKey::open_or_create(&path).unwrap()).unwrap();
        let again = DeviceKey::open_or_create(&path).unwrap().unwrap(&wrapped).unwrap();
        assert_eq!(*again.0, *key.0);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(DeviceKey::open_or_create(&path), Err(SealError::TooOpen { mode: 0o640, .. })));
    }
}
