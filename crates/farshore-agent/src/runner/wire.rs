//! What is said over the runner's socket: one request, one reply, each a length (`u32`, big endian) and that much JSON.
//!
//! The verbs are a closed list. Nothing in them names a program: what is executed comes from a manifest whose signature the
//! runner itself has checked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::anchor::{Anchor, SignedState};
use super::runbook::{Ended, Order};
use farshore_domain::digest::Digest;
use farshore_domain::id::{ReleaseId, TenantId};
use farshore_domain::name::Name;
use farshore_domain::policy::Bounds;
use farshore_domain::reconcile::Observed;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// At most this many bytes in one frame: a manifest with its signature in base64, or all of an app's config.
pub const MAX_FRAME_BYTES: usize = 2 * 1024 * 1024;
/// At most this many bytes of log are answered.
pub(super) const MAX_LOG_BYTES: u32 = 512 * 1024;

/// Exact bytes with the signature over them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    #[serde(with = "base64_bytes")]
    pub document: Vec<u8>,
    #[serde(with = "base64_bytes")]
    pub signature: Vec<u8>,
}

/// What `run` may ask of the runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    // With braces, because only then is an unknown field refused.
    Hello {},
    /// Key sets, oldest first. The first one ever is pinned, later ones must be signed by those before.
    Trust {
        tenant: TenantId,
        name: Name,
        sets: Vec<Signed>,
    },
    List {},
    /// Verify and unpack. The artifact lies at a path that `run` may write.
    Stage {
        manifest: Signed,
        artifact: PathBuf,
        /// Where the blobs of images lie that a registry has, each under its digest. Left out when the release names none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        images: Option<PathBuf>,
    },
    /// Start a staged release; refused while anything of the app runs.
    Start {
        app: Name,
        manifest: Digest,
        release: ReleaseId,
        instance: u64,
        config: BTreeMap<String, String>,
        /// What the device's policy says about running it. Left out when it says nothing, so that an older runner takes it.
        #[serde(default, skip_serializing_if = "Bounds::is_empty")]
        bounds: Bounds,
        /// In the slot that is not the current one, while the other one runs.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        beside: bool,
    },
    /// Stop everything of it.
    Stop {
        app: Name,
    },
    /// Stop one instance of it.
    StopOne {
        app: Name,
        instance: u64,
    },
    /// Make the slot of this instance the current one, and send the traffic to it.
    Switch {
        app: Name,
        instance: u64,
    },
    /// Stop it and delete everything but the floor.
    Remove {
        app: Name,
    },
    /// Delete releases other than these and the one that runs.
    Discard {
        app: Name,
        keep: Vec<Digest>,
    },
    /// The release has proven itself; its floor counts from now on.
    Commit {
        app: Name,
        manifest: Digest,
    },
    /// Run a command check of the running release, by its name.
    Probe {
        app: Name,
        check: Name,
        /// Left out: of what runs in the current slot.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<u64>,
    },
    Logs {
        app: Name,
        bytes: u32,
    },
    /// Whom to believe about what this device should have, and the newest of what they signed.
    Obey {
        anchor: Anchor,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<SignedState>,
    },
    /// Run a runbook of the signed policy, or a command where that allows any. [`Reply::Output`] as it comes, [`Reply::Ended`] at last.
    Exec {
        order: Order,
    },
    /// Delete rotated log files that were last written so long ago; all of them without a number.
    CutLogs {
        app: Name,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        older_than_seconds: Option<u32>,
    },
    /// Reboot the device, where the runner's settings name the program that does it.
    Reboot {},
    /// Tell what the kernel tells, as frames of [`Glance`](crate::eyes::Glance), until the connection is closed.
    Watch {
        look: crate::eyes::Look,
    },
    /// Who tells which signal of the kernel.
    Sources {},
}

/// What the runner answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    Done,
    Hello {
        capabilities: Vec<String>,
        tenant: Option<Name>,
        trusted_keys_version: u64,
    },
    Apps {
        apps: BTreeMap<Name, Observed>,
    },
    Probed {
        good: bool,
        message: String,
    },
    Logs {
        text: String,
    },
    /// Base64.
    Output {
        bytes: String,
    },
    Ended(Ended),
    Sources {
        sources: crate::eyes::Sources,
    },
    /// It was not done. `refused`: because of what was asked for, so asking again will not help.
    Failed {
        code: String,
        message: String,
        refused: bool,
    },
}

/// Why no frame was read or written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    #[error("a frame has at most {MAX_FRAME_BYTES} bytes; this one has {0}")]
    TooLarge(usize),
    #[error("the frame is not understood")]
    Garbage(#[source] serde_json::Error),
}

/// Reads one frame; `None` when the other side has closed.
pub(crate) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, WireError> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return Err(WireError::TooLarge(length));
    }
    // Grows with what arrives, so that a length alone costs nothing.
    let mut bytes = Vec::with_capacity(length.min(16 * 1024));
    from.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() != length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    serde_json::from_slice(&bytes).map(Some).map_err(WireError::Garbage)
}

/// Writes one frame.
pub(crate) async fn write<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    frame: &T,
) -> Result<(), WireError> {
    let body = serde_json::to_vec(frame).map_err(WireError::Garbage)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_FRAME_BYTES);
    let length = length.ok_or(WireError::TooLarge(body.len()))?;
    to.write_all(&length.to_be_bytes()).await?;
    to.write_all(&body).await?;
    to.flush().await?;
    Ok(())
}

/// The digest by which two configs are compared.
#[must_use]
pub fn config_digest(values: &BTreeMap<String, String>) -> Digest {
    let mut digester = farshore_domain::digest::Digester::default();
    for (key, value) in values {
        for text in [key, value] {
            digester.update(&(text.len() as u64).to_be_bytes());
            digester.update(text.as_bytes());
        }
    }
    digester.finish()
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}
