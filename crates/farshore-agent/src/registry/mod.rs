//! Images from registries, by the distribution API (<https://github.com/opencontainers/distribution-spec>): each is named by its digest, so that nothing a
//! registry says needs to be believed. What is fetched lies among the downloads, each blob under its digest, and the runner takes it from there.

mod login;
mod session;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use farshore_domain::digest::Digest;
use farshore_domain::release::MAX_ARTIFACT_BYTES;
use farshore_domain::release::image::ImageRef;

use crate::download::{DownloadError, Downloads};
use crate::oci::{self, Document, MAX_DOCUMENT, MAX_INDEXES};
use session::Session;

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct Registries {
    /// Names and passwords, as `docker login` and `skopeo login` write them; none where there is no file.
    pub logins: PathBuf,
    /// Root certificates in PEM.
    pub roots: PathBuf,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            logins: PathBuf::from("/etc/farshore/registries.json"),
            roots: PathBuf::from("/etc/ssl/certs/ca-certificates.crt"),
        }
    }
}

/// Why a registry gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{path} can't be used: {what}")]
    Settings { path: PathBuf, what: String },
    #[error("{registry} wants to know who this is; write a name and password into {}", logins.display())]
    Unauthorized { registry: String, logins: PathBuf },
    #[error("{registry} does not let this device have it ({status})")]
    Forbidden { registry: String, status: u16 },
    #[error("{registry} has no {what}")]
    Missing { registry: String, what: String },
    #[error("{registry} answered {status}")]
    Status { registry: String, status: u16 },
    #[error("{registry} is busy, and asks to wait for {seconds} s")]
    Busy { registry: String, seconds: u64 },
    #[error("{registry} asks for something that is not understood: {what}")]
    Strange { registry: String, what: String },
    /// Bad bytes of the right digest: it was signed like that.
    #[error("the image {image} can't be used: {what}")]
    Image { image: String, what: String },
}

impl RegistryError {
    /// Whether the image is bad, not the way to it.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Image { .. })
    }
}

impl Registries {
    /// Fetches what an image is made of for this device, into the downloads. All of its blobs.
    ///
    /// # Errors
    /// A [`DownloadError`]; what came is kept for the next attempt unless it is bad.
    pub async fn pull(&self, image: &ImageRef, downloads: &Downloads) -> Result<Vec<Digest>, DownloadError> {
        let bad =
            |what: String| DownloadError::Registry(RegistryError::Image { image: image.to_string(), what });
        let mut session = Session::new(self, image)?;
        let mut blobs = Vec::new();
        let mut next = image.digest;
        for _ in 0..=MAX_INDEXES {
            let bytes = match downloads.read(next, MAX_DOCUMENT).await? {
                Some(bytes) => bytes,
                None => {
                    let bytes = session.manifest(next).await?;
                    downloads.keep(next, &bytes).await?;
                    bytes
                }
            };
            blobs.push(next);
            match Document::parse(&bytes).map_err(bad)?.0 {
                Document::Index(index) => next = oci::choose(&index.manifests).map_err(bad)?.digest,
                Document::Image(manifest) => {
                    if manifest.config.size > MAX_DOCUMENT {
                        return Err(bad("its config is too large".to_owned()));
                    }
                    let parts: Vec<_> = std::iter::once(manifest.config).chain(manifest.layers).collect();
                    let total = parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.size));
                    if total.is_none_or(|total| total > MAX_ARTIFACT_BYTES) {
                        return Err(bad(format!("it has more than {MAX_ARTIFACT_BYTES} bytes")));
                    }
                    for part in parts {
                        let ask = async |from| session.blob(part.digest, from).await;
                        downloads.fetch_from(part.digest, part.size, &AtomicU64::new(0), ask).await?;
                        blobs.push(part.digest);
                    }
                    return Ok(blobs);
                }
            }
        }
        Err(bad("its indexes lead to each other".to_owned()))
    }
}
