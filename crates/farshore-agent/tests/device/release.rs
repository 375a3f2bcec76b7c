//! Releases of small shell programs, signed.

use std::io::Read as _;

use farshore_agent::runner::Signed;
use farshore_domain::digest::Digest;
use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use farshore_domain::release::MANIFEST_SCHEMA;
use farshore_trust::blob::sign_detached;
use farshore_trust::key::{Algorithm, SigningKey};
use farshore_trust::keyset::{TrustedKey, document};

/// Whoever signs releases of a tenant.
pub(crate) struct Signer {
    pub(crate) key: SigningKey,
    pub(crate) tenant: TenantId,
    pub(crate) tenant_name: Name,
}

/// A release: its artifact and its signed manifest.
#[derive(Clone)]
pub(crate) struct Release {
    pub(crate) artifact: Vec<u8>,
    pub(crate) signed: Signed,
    pub(crate) manifest: Digest,
    pub(crate) artifact_digest: Digest,
    pub(crate) version: String,
}

/// Waits for ever, saying so.
pub(crate) const SLEEPER: &str = "#!/bin/sh\necho \"hello from $FARSHORE_VERSION\"\nexec sleep 1000\n";

pub(crate) fn tar(files: &[(&str, u32, &str)]) -> Vec<u8> {
    let files: Vec<_> =
        files.iter().map(|(path, mode, content)| (*path, *mode, content.as_bytes())).collect();
    tar_bytes(&files)
}

pub(crate) fn tar_bytes(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The same archive with one more file of so many bytes.
pub(crate) fn padded(archive: &[u8], bytes: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut old = tar::Archive::new(archive);
    for entry in old.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header().clone();
        builder.append(&header, entry).unwrap();
    }
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "padding", std::io::repeat(1).take(bytes as u64)).unwrap();
    builder.into_inner().unwrap()
}

impl Signer {
    /// The same release with another artifact.
    pub(crate) fn like(&self, release: &Release, artifact: Vec<u8>) -> Release {
        let old: serde_json::Value = serde_json::from_slice(&release.signed.document).unwrap();
        self.release_of(&release.version, artifact, |manifest| {
            let platforms = manifest["platforms"].clone();
            *manifest = old;
            manifest["platforms"] = platforms;
        })
    }

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

    /// The first set of trusted keys.
    pub(crate) fn first_set(&self) -> Signed {
        let key = TrustedKey { name: Name::new("release").unwrap(), key: self.key.public().clone() };
        self.sign(document(self.tenant, 1, &[key]).unwrap())
    }

    /// A release of `files`; `change` edits its manifest before it is signed.
    pub(crate) fn release(
        &self,
        version: &str,
        files: &[(&str, u32, &str)],
        change: impl FnOnce(&mut serde_json::Value),
    ) -> Release {
        self.release_of(version, tar(files), change)
    }

    pub(crate) fn release_of(
        &self,
        version: &str,
        artifact: Vec<u8>,
        change: impl FnOnce(&mut serde_json::Value),
    ) -> Release {
        let digest = Digest::of(&artifact);
        let mut manifest = serde_json::json!({
            "schema": MANIFEST_SCHEMA, "tenant": self.tenant_name, "app": "web", "version": version,
            "platforms": [{
                "os": "linux", "arch": std::env::consts::ARCH,
                "artifact": {"digest": digest, "size": artifact.len(), "format": "tar"},
            }],
            "run": {"command": ["bin/app"], "stopTimeoutSeconds": 2},
            "restart": {"backoffMs": 50, "maxBackoffMs": 400, "maxRestarts": 2},
            "soakSeconds": 1, "startTimeoutSeconds": 10,
        });
        change(&mut manifest);
        let signed = self.sign(serde_json::to_vec_pretty(&manifest).unwrap());
        Release {
            manifest: Digest::of(&signed.document),
            artifact_digest: digest,
            signed,
            artifact,
            version: version.to_owned(),
        }
    }
}
