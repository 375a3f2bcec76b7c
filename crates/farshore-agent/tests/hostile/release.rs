//! Releases of the recorder, signed.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use farshore_agent::runner::Signed;
use farshore_domain::digest::Digest;
use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use farshore_domain::release::MANIFEST_SCHEMA;
use farshore_trust::blob::sign_detached;
use farshore_trust::key::{Algorithm, SigningKey};
use farshore_trust::keyset::{TrustedKey, document};

/// The recorder with a number of its own behind it, so that no two releases hold the same program.
pub(crate) fn program() -> Vec<u8> {
    static COMPILED: OnceLock<Vec<u8>> = OnceLock::new();
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let compiled = COMPILED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("recorder.rs"), folder.path().join("recorder"));
        std::fs::write(&source, include_str!("recorder.rs")).unwrap();
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let options = ["--edition=2024", "-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols", "-o"];
        let done = Command::new(rustc).args(options).args([&target, &source]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read(target).unwrap()
    });
    let mut program = compiled.clone();
    program.extend(format!("number {:020}", NUMBER.fetch_add(1, Ordering::Relaxed)).bytes());
    program
}

/// Whoever signs releases.
#[derive(Debug)]
pub(crate) struct Signer {
    pub(crate) key: SigningKey,
    pub(crate) tenant: TenantId,
    pub(crate) tenant_name: Name,
}

/// A release: its artifact and its signed manifest.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) program: Digest,
    pub(crate) artifact: Vec<u8>,
    pub(crate) artifact_digest: Digest,
    pub(crate) signed: Signed,
    pub(crate) manifest: Digest,
    pub(crate) version: String,
}

impl Release {
    /// Made from the manifest, so that a test can name it.
    pub(crate) fn uid(&self) -> uuid::Uuid {
        uuid::Uuid::from_slice(&self.manifest.as_bytes()[..16]).unwrap()
    }
}

pub(crate) fn entry(path: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

impl Signer {
    pub(crate) fn new(tenant_name: &str) -> Self {
        Self {
            key: SigningKey::generate(Algorithm::P256).unwrap(),
            tenant: TenantId(uuid::Uuid::now_v7()),
            tenant_name: Name::new(tenant_name).unwrap(),
        }
    }

    pub(crate) fn sign(&self, document: Vec<u8>) -> Signed {
        let signature = sign_detached(&self.key, &document).unwrap().into_bytes();
        Signed { document, signature }
    }

    /// A set of trusted keys with one key, signed by this signer.
    pub(crate) fn set(&self, tenant: TenantId, version: u64, of: &SigningKey) -> Signed {
        let key = TrustedKey { name: Name::new("release").unwrap(), key: of.public().clone() };
        self.sign(document(tenant, version, &[key]).unwrap())
    }

    pub(crate) fn release(&self, version: &str) -> Release {
        self.release_of(version, None, |_| {})
    }

    pub(crate) fn changed(&self, version: &str, change: impl FnOnce(&mut serde_json::Value)) -> Release {
        self.release_of(version, None, change)
    }

    /// A release with this archive instead of a plain one; `change` edits its manifest before it is signed.
    pub(crate) fn release_of(
        &self,
        version: &str,
        archive: Option<Vec<u8>>,
        change: impl FnOnce(&mut serde_json::Value),
    ) -> Release {
        let program = program();
        let artifact = archive.unwrap_or_else(|| {
            let mut archive = entry("bin/app", 0o755, &program);
            archive.extend([0; 1024]);
            archive
        });
        let digest = Digest::of(&artifact);
        let mut manifest = serde_json::json!({
            "schema": MANIFEST_SCHEMA, "tenant": self.tenant_name, "app": "web", "version": version,
            "platforms": [{
                "os": "linux", "arch": std::env::consts::ARCH,
                "artifact": {"digest": digest, "size": artifact.len(), "format": "tar"},
            }],
            "run": {"command": ["bin/app", "run"], "stopTimeoutSeconds": 1},
            "health": [{"name": "fit", "intervalSeconds": 1, "failureThreshold": 2,
                "probe": {"type": "command", "command": ["bin/app", "check"]}}],
            "restart": {"backoffMs": 50, "maxBackoffMs": 400, "maxRestarts": 2},
            "soakSeconds": 0, "startTimeoutSeconds": 10,
        });
        change(&mut manifest);
        let signed = self.sign(serde_json::to_vec(&manifest).unwrap());
        Release {
            program: Digest::of(&program),
            manifest: Digest::of(&signed.document),
            artifact_digest: digest,
            signed,
            artifact,
            version: version.to_owned(),
        }
    }
}
