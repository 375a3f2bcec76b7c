//! Why the runner did not do what it was asked.

use std::path::PathBuf;

use farshore_domain::config::ConfigError;
use farshore_domain::digest::Digest;
use farshore_domain::name::Name;
use farshore_domain::reconcile::NO_ROOM;
use farshore_domain::release::ManifestError;
use farshore_domain::release::kind::Kind;
use farshore_trust::blob::BlobError;
use farshore_trust::keyset::KeySetError;

use super::runtime::RuntimeError;
use super::unpack::UnpackError;

/// Why the runner did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error("{what} failed")]
    Io {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{0} is in use by another runner")]
    AlreadyRunning(PathBuf),
    #[error("this device is not rebooted from here: the runner has no --reboot-command")]
    NoReboot,
    #[error("the runner's trusted keys can't be read; nothing is staged until they can")]
    DamagedTrust,
    #[error("the trusted keys are not good")]
    Keys(#[source] KeySetError),
    #[error("this runner belongs to tenant {pinned}")]
    OtherTenant { pinned: Name },
    #[error("the manifest's signature is not good")]
    Signature(#[source] BlobError),
    #[error("the manifest can't be used")]
    Manifest(#[source] ManifestError),
    #[error("the release is for tenant {0}, not for this one")]
    WrongTenant(Name),
    #[error("the release has no artifact for {0}")]
    NoPlatform(String),
    #[error("version {offered} is below the floor {floor}")]
    BelowFloor { offered: String, floor: String },
    #[error("the artifact has {found} bytes, its manifest says {expected}")]
    WrongSize { expected: u64, found: u64 },
    #[error("the artifact's digest is {found}, its manifest says {expected}")]
    WrongDigest { expected: Digest, found: Digest },
    #[error("the artifact is not a plain file")]
    NoPlainFile,
    #[error("unpacking failed")]
    Unpack(#[source] UnpackError),
    #[error("release {0} is not staged")]
    NotStaged(Digest),
    #[error("{0} runs already")]
    Doubled(Name),
    #[error("{0} does not run")]
    NotRunning(Name),
    #[error("{0} has no slots")]
    NoSlots(Name),
    #[error("nothing of {0} runs in the current slot, beside which it could be started")]
    NothingBeside(Name),
    #[error("the config can't be used")]
    Config(#[source] ConfigError),
    #[error("the release holds no program {0:?} that can be executed")]
    NoProgram(String),
    #[error("the supervisor did not come up: {0}")]
    Shim(String),
    #[error("no user id is left for another app")]
    NoUser,
    #[error("no user is named {0:?}")]
    UnknownUser(String),
    #[error("the release has no command check named {0}")]
    NoCheck(Name),
    #[error("{path} can't be used")]
    Allowed {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("this device does not run apps of kind {0}; its administrator allows them in executors.json")]
    NoRuntime(Kind),
    #[error("{0} may not run as root here; the device's executors.json does not name it")]
    RootNotAllowed(Name),
    #[error("this device can't keep the app apart as its release or the device's policy asks: it has no {0}{remedy}", remedy = super::isolate::remedy(.0))]
    NoIsolation(&'static str),
    #[error("the device's policy takes the network from its apps, and this one's health checks ask over it")]
    CutOff,
    #[error("{what}")]
    Runtime {
        what: &'static str,
        #[source]
        source: RuntimeError,
    },
    #[error("{what} took longer than {} s, and is given up", after.as_secs())]
    Stuck { what: &'static str, after: std::time::Duration },
    #[error("this runner belongs to another device of its control plane")]
    OtherDevice,
    #[error("the image can't be used: {0}")]
    Image(String),
    #[error("the release names images of a registry, and none were fetched")]
    NoImages,
    #[error("the desired state is not good: {0}")]
    State(String),
    #[error("no desired state was told yet, so nothing is allowed")]
    NoState,
    #[error("not allowed: {0}")]
    NotAllowed(String),
}

impl RunnerError {
    pub(crate) fn io(what: &'static str, source: std::io::Error) -> Self {
        Self::Io { what, source }
    }

    /// One word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        if crate::file::found_no_room(self) {
            return NO_ROOM;
        }
        match self {
            Self::Io { .. } => "Io",
            Self::AlreadyRunning(_) => "AlreadyRunning",
            Self::DamagedTrust => "DamagedTrust",
            Self::Keys(_) => "BadTrustedKeys",
            Self::OtherTenant { .. } | Self::WrongTenant(_) => "WrongTenant",
            Self::Signature(_) => "BadSignature",
            Self::Manifest(ManifestError::Unsupported(_)) => "Unsupported",
            Self::Manifest(_) => "BadManifest",
            Self::NoPlatform(_) => "WrongPlatform",
            Self::BelowFloor { .. } => "BelowFloor",
            Self::WrongSize { .. } => "WrongSize",
            Self::WrongDigest { .. } => "DigestMismatch",
            Self::NoPlainFile => "NoPlainFile",
            Self::Unpack(UnpackError::Write { .. }) => "Io",
            Self::Unpack(_) => "BadArchive",
            Self::NotStaged(_) => "NotStaged",
            Self::Doubled(_) => "Doubled",
            Self::NoReboot => "Unsupported",
            Self::NotRunning(_) => "NotRunning",
            Self::NoSlots(_) => "NoSlots",
            Self::NothingBeside(_) => "NothingBeside",
            Self::Config(_) => "BadConfig",
            Self::NoProgram(_) => "NoProgram",
            Self::Shim(_) => "SupervisorFailed",
            Self::NoUser => "NoUser",
            Self::UnknownUser(_) => "UnknownUser",
            Self::NoCheck(_) => "NoCheck",
            Self::Allowed { .. } => "BadSettings",
            Self::NoRuntime(_) | Self::NoIsolation(_) | Self::CutOff => "Unsupported",
            Self::RootNotAllowed(_) => "RootNotAllowed",
            Self::Runtime { .. } => "RuntimeFailed",
            Self::Stuck { .. } => "RuntimeStuck",
            Self::OtherDevice => "OtherDevice",
            Self::Image(_) => "BadImage",
            Self::NoImages => "NoImages",
            Self::State(_) => "BadState",
            Self::NoState => "NoState",
            Self::NotAllowed(_) => "NotAllowed",
        }
    }

    /// Whether what was asked for is bad, so that asking again will not help.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Unpack(error) => error.is_evil(),
            Self::Keys(_)
            | Self::OtherTenant { .. }
            | Self::WrongTenant(_)
            | Self::Signature(_)
            | Self::Manifest(_)
            | Self::NoPlatform(_)
            | Self::BelowFloor { .. }
            | Self::WrongSize { .. }
            | Self::WrongDigest { .. }
            | Self::NoPlainFile
            | Self::Config(_)
            | Self::NoProgram(_)
            | Self::NoRuntime(_)
            | Self::NoIsolation(_)
            | Self::CutOff
            | Self::RootNotAllowed(_)
            | Self::NoCheck(_)
            | Self::OtherDevice
            | Self::Image(_)
            | Self::State(_)
            | Self::NotAllowed(_) => true,
            _ => false,
        }
    }

    /// The error with its causes, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        crate::chain(self)
    }
}
