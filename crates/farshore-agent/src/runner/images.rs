//! Images of a release that come from a registry: from blobs that somebody else may write to an OCI layout inside the release, which only the runner writes.
//! From there on they are the same as images that came in the artifact.

use std::fs::File;
use std::path::{Path, PathBuf};

use farshore_domain::digest::Digest;
use farshore_domain::release::image::ImageRef;
use farshore_domain::release::{MAX_ARTIFACT_BYTES, Manifest};

use super::error::RunnerError;
use super::stage::{Hashing, check_digest, copy, open_plain};
use crate::file;
use crate::oci::{self, Document, MAX_DOCUMENT, MAX_INDEXES};

/// Beside what the artifact holds.
const FOLDER: &str = ".registry";

/// The layout of an image inside a release's folder.
pub(super) fn layout(release: &Path, image: &ImageRef) -> PathBuf {
    release.join(FOLDER).join(image.digest.hex())
}

fn said(image: &ImageRef, what: impl std::fmt::Display) -> RunnerError {
    RunnerError::Image(format!("{image}: {what}"))
}

/// Takes all images that a manifest names into the folder of its release, which is not yet in its place.
pub(super) fn take(manifest: &Manifest, blobs: Option<&Path>, release: &Path) -> Result<(), RunnerError> {
    let images = manifest.registry_images();
    if images.is_empty() {
        return Ok(());
    }
    let blobs = blobs.ok_or(RunnerError::NoImages)?;
    // An artifact that brings the folder with it would be half of another image.
    std::fs::create_dir(release.join(FOLDER)).map_err(|e| RunnerError::io("making a folder of images", e))?;
    images.iter().try_for_each(|image| take_one(image, blobs, &layout(release, image)))
}

fn take_one(image: &ImageRef, from: &Path, layout: &Path) -> Result<(), RunnerError> {
    let io = |e| RunnerError::io("keeping an image", e);
    let blobs = layout.join("blobs").join("sha256");
    file::make_folder(&blobs, 0o755).map_err(io)?;
    let place = Place { from, blobs: &blobs };
    let mut next = image.digest;
    let mut first = None;
    for _ in 0..=MAX_INDEXES {
        let bytes = place.document(next)?;
        let (document, media_type) = Document::parse(&bytes).map_err(|what| said(image, what))?;
        first.get_or_insert((media_type, bytes.len()));
        match document {
            Document::Index(index) => {
                next = oci::choose(&index.manifests).map_err(|what| said(image, what))?.digest;
            }
            Document::Image(manifest) => {
                let parts: Vec<_> = std::iter::once(manifest.config).chain(manifest.layers).collect();
                let total = parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.size));
                if total.is_none_or(|total| total > MAX_ARTIFACT_BYTES) {
                    return Err(said(image, format_args!("it has more than {MAX_ARTIFACT_BYTES} bytes")));
                }
                for part in parts {
                    place.blob(part.digest, part.size)?;
                }
                let (media_type, size) = first.unwrap_or_default();
                let index = serde_json::json!({"schemaVersion": 2, "manifests": [
                    {"mediaType": media_type, "digest": image.digest, "size": size},
                ]});
                let write = |name: &str, text: String| {
                    file::write_atomically(&layout.join(name), text.as_bytes(), 0o644).map_err(io)
                };
                write("index.json", index.to_string())?;
                return write("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}".to_owned());
            }
        }
    }
    Err(said(image, "its indexes lead to each other"))
}

/// From where to where.
struct Place<'a> {
    from: &'a Path,
    blobs: &'a Path,
}

impl Place<'_> {
    /// Copies a blob of this size; the copy is what its digest says.
    fn blob(&self, digest: Digest, size: u64) -> Result<(), RunnerError> {
        let mut file = open_plain(&self.from.join(digest.hex()))?;
        let found = file.metadata().map_err(|e| RunnerError::io("looking at an image", e))?.len();
        if found != size {
            return Err(RunnerError::WrongSize { expected: size, found });
        }
        let io = |e| RunnerError::io("keeping an image", e);
        let mut kept = File::create(self.blobs.join(digest.hex())).map_err(io)?;
        let whole = copy(&mut Hashing::new(&mut file, size), &mut kept).map_err(io)?;
        check_digest(digest, whole)?;
        kept.sync_all().map_err(io)
    }

    /// Copies a document, and reads the copy.
    fn document(&self, digest: Digest) -> Result<Vec<u8>, RunnerError> {
        let file = open_plain(&self.from.join(digest.hex()))?;
        let size = file.metadata().map_err(|e| RunnerError::io("looking at an image", e))?.len();
        if size > MAX_DOCUMENT {
            return Err(RunnerError::WrongSize { expected: MAX_DOCUMENT, found: size });
        }
        self.blob(digest, size)?;
        let read = file::read_capped(&self.blobs.join(digest.hex()), MAX_DOCUMENT);
        Ok(read.map_err(|e| RunnerError::io("reading an image", e))?.unwrap_or_default())
    }
}
