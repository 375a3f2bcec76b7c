//! The key under which the control plane's private keys rest.
//!
//! [`MasterKey`] is the seam for a KMS or Vault; [`FileMasterKey`] is a file beside the database's backups, never in them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::random::{self, RandomError};

const VERSION: u8 = 1;
const TAG_BYTES: usize = 16;
/// The file holds this line's start and 32 bytes in base64.
const FILE_PREFIX: &str = "farshore-master-key-v1:";
/// The largest plaintext that is wrapped: keys and certificates, not data.
pub const MAX_PLAIN_BYTES: usize = 64 * 1024;

/// Why something couldn't be wrapped or unwrapped, or the key not be opened.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    #[error("at most {MAX_PLAIN_BYTES} bytes can be wrapped")]
    TooLarge,
    #[error("couldn't wrap")]
    Wrap(#[source] Option<RandomError>),
    #[error("couldn't unwrap: it was sealed by another master key, for another purpose, or was changed")]
    Unwrap,
    #[error("couldn't {action} the master key file {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the master key file {path} can be read by others (mode {mode:o}): chmod 600 it, and consider its key as known to them"
    )]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("{path} isn't a master key file")]
    BadFile { path: PathBuf },
}

/// Wraps small secrets. `purpose` is authenticated with them: what was wrapped for one purpose unwraps for no other.
pub trait MasterKey: fmt::Debug + Send + Sync {
    /// Encrypts `plain`.
    ///
    /// # Errors
    /// When it is too large or the key can't be reached.
    fn wrap(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, MasterKeyError>;

    /// Decrypts what [`MasterKey::wrap`] made for the same purpose.
    ///
    /// # Errors
    /// When it was made otherwise or changed since, or the key can't be reached.
    fn unwrap(&self, purpose: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, MasterKeyError>;
}

/// A master key in a file of mode 0600. Sealed form: a version byte, a random nonce of 12 bytes, ChaCha20-Poly1305 with
/// the purpose as associated data.
pub struct FileMasterKey {
    path: PathBuf,
    key: LessSafeKey,
}

impl FileMasterKey {
    /// Opens the key at `path`; makes one when there is none. When several programs do so at once, one key wins and all
    /// get that one.
    ///
    /// # Errors
    /// When the file can't be read or made, is open to others, or holds something else.
    pub fn open_or_create(path: &Path) -> Result<Self, MasterKeyError> {
        match Self::open(path) {
            Err(MasterKeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                create(path)?;
                Self::open(path)
            }
            opened => opened,
        }
    }

    /// Opens the key at `path`.
    ///
    /// # Errors
    /// When the file is missing, open to others, or holds something else.
    pub fn open(path: &Path) -> Result<Self, MasterKeyError> {
        let failed = |action| move |source| MasterKeyError::File { action, path: path.to_owned(), source };
        let bad = || MasterKeyError::BadFile { path: path.to_owned() };
        let file = File::open(path).map_err(failed("open"))?;
        let metadata = file.metadata().map_err(failed("look at"))?;
        if !metadata.is_file() {
            return Err(bad());
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(MasterKeyError::TooOpen { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(256));
        file.take(256).read_to_string(&mut text).map_err(failed("read"))?;
        let encoded = text.strip_prefix(FILE_PREFIX).ok_or_else(bad)?.trim_end();
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| bad())?);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| bad())?;
        Ok(Self { path: path.to_owned(), key: LessSafeKey::new(key) })
    }
}

/// Writes a new key beside `path`, makes it durable, and links it to `path` unless something is there already.
fn create(path: &Path) -> Result<(), MasterKeyError> {
    let failed = |action| move |source| MasterKeyError::File { action, path: path.to_owned(), source };
    let key = Zeroizing::new(random::bytes::<32>().map_err(|e| MasterKeyError::Wrap(Some(e)))?);
    let text = Zeroizing::new(format!("{FILE_PREFIX}{}\n", *Zeroizing::new(STANDARD.encode(*key))));
    let suffix = hex::encode(random::bytes::<8>().map_err(|e| MasterKeyError::Wrap(Some(e)))?);
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{suffix}"));
    let draft = PathBuf::from(draft);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    })();
    let removed = fs::remove_file(&draft);
    written.map_err(failed("create"))?;
    removed.map_err(failed("tidy up after"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("make durable"))
}

fn associated(purpose: &str) -> Aad<Vec<u8>> {
    Aad::from([b"farshore.dev/master/v1\n", purpose.as_bytes()].concat())
}

impl MasterKey for FileMasterKey {
    fn wrap(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, MasterKeyError> {
        if plain.len() > MAX_PLAIN_BYTES {
            return Err(MasterKeyError::TooLarge);
        }
        let nonce = random::bytes::<NONCE_LEN>().map_err(|e| MasterKeyError::Wrap(Some(e)))?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + plain.len() + TAG_BYTES);
        let mut body = Zeroizing::new(plain.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), associated(purpose), &mut body)
            .map_err(|_| MasterKeyError::Wrap(None))?;
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    fn unwrap(&self, purpose: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, MasterKeyError> {
        let rest = sealed.strip_prefix(&[VERSION]).ok_or(MasterKeyError::Unwrap)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(MasterKeyError::Unwrap)?;
        if body.len() > MAX_PLAIN_BYTES + TAG_BYTES {
            return Err(MasterKeyError::TooLarge);
        }
        let mut plain = Zeroizing::new(body.to_vec());
        let length = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), associated(purpose), &mut plain)
            .map_err(|_| MasterKeyError::Unwrap)?
            .len();
        plain.truncate(length);
        Ok(plain)
    }
}

impl fmt::Debug for FileMasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileMasterKey").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_unwraps_for_its_purpose_only_and_any_flipped_bit_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let key = FileMasterKey::open_or_create(&folder.path().join("master.key")).unwrap();
        let sealed = key.wrap("root", b"secret").unwrap();
        assert_eq!(key.unwrap("root", &sealed).unwrap().as_slice(), b"secret");
        assert!(key.unwrap("intermediate", &sealed).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(key.unwrap("root", &changed).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(key.unwrap("root", &sealed[..length]).is_err(), "{length} bytes");
        }
        assert!(key.wrap("root", &vec![0; MAX_PLAIN_BYTES + 1]).is_err());
        let other = FileMasterKey::open_or_create(&folder.path().join("other.key")).unwrap();
        assert!(other.unwrap("root", &sealed).is_err());
    }

    #[test]
    fn the_file_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let sealed: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| FileMasterKey::open_or_create(&path).unwrap().wrap("p", b"x").unwrap())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let key = FileMasterKey::open(&path).unwrap();
        for sealed in sealed {
            assert_eq!(key.unwrap("p", &sealed).unwrap().as_slice(), b"x");
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "drafts are left behind");
    }

    #[test]
    fn a_file_that_is_open_to_others_or_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        FileMasterKey::open_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(FileMasterKey::open_or_create(&path), Err(MasterKeyError::TooOpen { .. })),
                "{mode:o}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "farshore-master-key-v1:", "farshore-master-key-v1:AAAA\n", "something else"] {
            fs::write(&path, text).unwrap();
            assert!(
                matches!(FileMasterKey::open_or_create(&path), Err(MasterKeyError::BadFile { .. })),
                "{text}"
            );
        }
        assert!(FileMasterKey::open_or_create(folder.path()).is_err());
    }
}
