//! Fetching artifacts: resumed where they were cut off, never more bytes than the signed manifest says, hashed as they come.
//!
//! Each release has a folder of its own: no two get in each other's way, and what is not wanted any more goes as a whole.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use farshore_domain::digest::{Digest, Digester};
use farshore_domain::release::ArtifactRef;
use http::header::{CONTENT_RANGE, RANGE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::http::HttpError;
use crate::identity::Identity;
use crate::registry::RegistryError;

/// A mirror that sends nothing for this long is given up; what came is kept.
const STALL: Duration = Duration::from_secs(30);

/// Why an artifact is not there.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    #[error("the artifact can't be asked for")]
    Http(#[source] HttpError),
    #[error("the control plane answered {0}")]
    Status(StatusCode),
    #[error("the answer broke off; what came is kept")]
    Broken(#[source] hyper::Error),
    #[error("nothing came for {} s; what came is kept", STALL.as_secs())]
    Stalled,
    #[error("{0} of {1} bytes came; what came is kept")]
    Short(u64, u64),
    #[error("more than the {0} bytes of the manifest came")]
    TooLong(u64),
    #[error("the bytes are not those of the manifest: their digest is {found}, not {expected}")]
    Digest { expected: Digest, found: Digest },
    #[error("the artifact can't be kept")]
    Io(#[source] std::io::Error),
    #[error("an image can't be fetched")]
    Registry(#[source] RegistryError),
}

impl DownloadError {
    /// One word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        if crate::file::found_no_room(self) {
            return farshore_domain::reconcile::NO_ROOM;
        }
        match self {
            Self::Digest { .. } => "DigestMismatch",
            Self::TooLong(_) => "WrongSize",
            Self::Io(_) => "Io",
            Self::Registry(RegistryError::Image { .. }) => "BadImage",
            Self::Registry(RegistryError::Settings { .. }) => "BadSettings",
            Self::Registry(_) => "RegistryFailed",
            _ => "DownloadFailed",
        }
    }

    /// Whether the bytes are bad, not the way to them.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::Digest { .. } | Self::TooLong(_) => true,
            Self::Registry(error) => error.is_refusal(),
            _ => false,
        }
    }
}

/// A folder of downloads and where they come from.
#[derive(Clone, Debug)]
pub struct Downloads {
    identity: Arc<Identity>,
    folder: PathBuf,
}

impl Downloads {
    /// Makes the folder. Parts that were begun before are kept and go on.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn new(identity: Arc<Identity>, folder: &Path) -> Result<Self, DownloadError> {
        crate::file::make_folder(folder, 0o755).map_err(DownloadError::Io)?;
        let folder = folder.canonicalize().map_err(DownloadError::Io)?;
        Ok(Self { identity, folder })
    }

    /// Those of one release, in a folder below this one.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn of(&self, manifest: Digest) -> Result<Self, DownloadError> {
        let folder = self.folder.join(manifest.hex());
        crate::file::make_folder(&folder, 0o755).map_err(DownloadError::Io)?;
        Ok(Self { identity: Arc::clone(&self.identity), folder })
    }

    /// Deletes this folder.
    ///
    /// # Errors
    /// When it can't be deleted.
    pub async fn clear(&self) -> Result<(), DownloadError> {
        delete(&self.folder).await
    }

    /// Deletes everything but the folders of these releases, as far as that goes.
    ///
    /// # Errors
    /// When the folder can't be read, or something in it can't be deleted.
    pub async fn keep_only(&self, wanted: &BTreeSet<Digest>) -> Result<(), DownloadError> {
        let wanted: BTreeSet<String> = wanted.iter().map(Digest::hex).collect();
        let mut entries = fs::read_dir(&self.folder).await.map_err(DownloadError::Io)?;
        let mut done = Ok(());
        while let Some(entry) = entries.next_entry().await.map_err(DownloadError::Io)? {
            if !entry.file_name().to_str().is_some_and(|name| wanted.contains(name)) {
                done = done.and(delete(&entry.path()).await);
            }
        }
        done
    }

    fn part(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{}.part", digest.hex()))
    }

    fn whole(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// Where everything lies, each under its digest.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Deletes what was fetched.
    ///
    /// # Errors
    /// When it can't be deleted.
    pub async fn forget(&self, digest: Digest) -> Result<(), DownloadError> {
        for path in [self.part(digest), self.whole(digest)] {
            match fs::remove_file(path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(DownloadError::Io(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What was fetched before, if it is small and still what its digest says.
    pub(crate) async fn read(&self, digest: Digest, most: u64) -> Result<Option<Vec<u8>>, DownloadError> {
        let path = self.whole(digest);
        let read = tokio::task::spawn_blocking(move || crate::file::read_capped(&path, most)).await;
        let bytes = read.map_err(|error| DownloadError::Io(std::io::Error::other(error)))?;
        Ok(bytes.map_err(DownloadError::Io)?.filter(|bytes| Digest::of(bytes) == digest))
    }

    /// Keeps something small, whose digest was checked.
    pub(crate) async fn keep(&self, digest: Digest, bytes: &[u8]) -> Result<(), DownloadError> {
        let (path, bytes) = (self.whole(digest), bytes.to_vec());
        let written =
            tokio::task::spawn_blocking(move || crate::file::write_atomically(&path, &bytes, 0o644)).await;
        written.map_err(|error| DownloadError::Io(std::io::Error::other(error)))?.map_err(DownloadError::Io)
    }

    /// Fetches the artifact and answers where it lies, its digest verified. `progress` counts the bytes.
    ///
    /// # Errors
    /// A [`DownloadError`]; what came is kept for the next attempt unless it is bad.
    pub async fn fetch(
        &self,
        artifact: &ArtifactRef,
        progress: &AtomicU64,
    ) -> Result<PathBuf, DownloadError> {
        let ask = async |from| self.ask(artifact, from).await;
        self.fetch_from(artifact.digest, artifact.size, progress, ask).await
    }

    /// Fetches these bytes from whoever answers `ask` with all of them from some byte on.
    pub(crate) async fn fetch_from(
        &self,
        digest: Digest,
        size: u64,
        progress: &AtomicU64,
        ask: impl AsyncFnOnce(u64) -> Result<http::Response<hyper::body::Incoming>, DownloadError>,
    ) -> Result<PathBuf, DownloadError> {
        let whole = self.whole(digest);
        if fs::metadata(&whole).await.is_ok_and(|found| found.len() == size) {
            // Verified before it got this name; the runner verifies again.
            progress.store(size, Ordering::Relaxed);
            return Ok(whole);
        }
        match self.fetch_part(digest, size, progress, ask).await {
            Ok(()) => {}
            Err(error) if error.is_refusal() => {
                self.forget(digest).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        fs::rename(self.part(digest), &whole).await.map_err(DownloadError::Io)?;
        crate::file::sync_folder(&self.folder).map_err(DownloadError::Io)?;
        Ok(whole)
    }

    async fn fetch_part(
        &self,
        digest: Digest,
        size: u64,
        progress: &AtomicU64,
        ask: impl AsyncFnOnce(u64) -> Result<http::Response<hyper::body::Incoming>, DownloadError>,
    ) -> Result<(), DownloadError> {
        let io = DownloadError::Io;
        let path = self.part(digest);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .await
            .map_err(io)?;
        let mut digester = Digester::default();
        let mut have = resume(&mut file, size, &mut digester).await?;
        progress.store(have, Ordering::Relaxed);
        if have < size {
            let response = ask(have).await?;
            match response.status() {
                StatusCode::PARTIAL_CONTENT if starts_at(&response, have) => {}
                // The range was not understood: from the beginning again.
                StatusCode::OK | StatusCode::PARTIAL_CONTENT
                    if have == 0 || response.status() == StatusCode::OK =>
                {
                    file.set_len(0).await.map_err(io)?;
                    file.rewind().await.map_err(io)?;
                    (have, digester) = (0, Digester::default());
                }
                status => return Err(DownloadError::Status(status)),
            }
            let mut body = response.into_body();
            let ended = loop {
                let frame = match timeout(STALL, body.frame()).await {
                    Err(_) => break Err(DownloadError::Stalled),
                    Ok(None) => break Ok(()),
                    Ok(Some(Err(error))) => break Err(DownloadError::Broken(error)),
                    Ok(Some(Ok(frame))) => frame,
                };
                let Ok(bytes) = frame.into_data() else { continue };
                if have + bytes.len() as u64 > size {
                    return Err(DownloadError::TooLong(size));
                }
                file.write_all(&bytes).await.map_err(io)?;
                digester.update(&bytes);
                have += bytes.len() as u64;
                progress.store(have, Ordering::Relaxed);
            };
            if have < size {
                // On disk before it counts as kept.
                file.flush().await.map_err(io)?;
                ended?;
                return Err(DownloadError::Short(have, size));
            }
        }
        file.flush().await.map_err(io)?;
        file.sync_all().await.map_err(io)?;
        let found = digester.finish();
        if found == digest { Ok(()) } else { Err(DownloadError::Digest { expected: digest, found }) }
    }

    async fn ask(
        &self,
        artifact: &ArtifactRef,
        from: u64,
    ) -> Result<http::Response<hyper::body::Incoming>, DownloadError> {
        let mut request = Request::get(format!("/api/artifacts/{}", artifact.digest));
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let request = request.body(Full::<Bytes>::default());
        let request = request.map_err(|error| DownloadError::Http(HttpError::Request(error)))?;
        let tls = self.identity.credentials().tls();
        self.identity.endpoint.send(tls, request).await.map_err(DownloadError::Http)
    }
}

/// Deletes a file or a folder; fine when there is none.
async fn delete(path: &Path) -> Result<(), DownloadError> {
    let deleted = match fs::symlink_metadata(path).await {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).await,
        Ok(_) => fs::remove_file(path).await,
        Err(error) => Err(error),
    };
    match deleted {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DownloadError::Io(error)),
        _ => Ok(()),
    }
}

/// Hashes what is there already; a part that is longer than it may be is begun anew.
async fn resume(file: &mut File, size: u64, digester: &mut Digester) -> Result<u64, DownloadError> {
    let length = file.metadata().await.map_err(DownloadError::Io)?.len();
    if length > size {
        file.set_len(0).await.map_err(DownloadError::Io)?;
        return Ok(0);
    }
    let mut buffer = vec![0; 64 * 1024];
    let mut have = 0;
    loop {
        let count = file.read(&mut buffer).await.map_err(DownloadError::Io)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(have) };
        digester.update(bytes);
        have += count as u64;
    }
}

fn starts_at(response: &http::Response<hyper::body::Incoming>, offset: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")).and_then(|range| range.split_once('-'));
    start.and_then(|(start, _)| start.trim().parse::<u64>().ok()) == Some(offset)
}
