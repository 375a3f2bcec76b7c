//! Uploading artifacts in pieces: what is there already is not sent, and what broke off goes on where it was.

use std::path::Path;

use bytes::Bytes;
use farshore_api::artifact::{NewArtifact, Upload};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::client::{Client, typed};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::release::pack::Packed;
use crate::release::progress::Progress;

/// Bytes in one piece.
const PIECE: u64 = 4 * 1024 * 1024;
/// How often a broken piece is sent again in a row.
const TRIES: u32 = 5;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uploaded {
    /// It was there already.
    Present,
    Sent,
}

/// Uploads one file.
pub(crate) async fn upload(client: &Client, file: &Packed, quiet: bool) -> Result<Uploaded> {
    let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let what = format!("can't upload {}", file.path.display());
    let new = NewArtifact { digest: file.digest, size: file.size, name: name.clone() };
    let mut state: Upload = client.post_as(&what, "/api/artifacts", &new).await?;
    if state.complete {
        return Ok(Uploaded::Present);
    }
    let progress = (!quiet).then(|| Progress::bytes(&name, file.size));
    let mut source = open(&what, &file.path).await?;
    let path = format!("/api/artifacts/uploads/{}", state.upload);
    let mut failures = 0;
    while !state.complete {
        if state.offset >= file.size {
            return Err(
                Failure::new(Exit::Failed, what).why("the server has every byte and still wants more")
            );
        }
        let piece = read(&what, &mut source, state.offset, PIECE.min(file.size - state.offset)).await?;
        let length = piece.len() as u64;
        match client.patch(&what, &path, state.offset, piece).await {
            Ok(answer) => {
                let next: Upload = typed(&what, answer)?;
                if next.offset != state.offset + length {
                    return Err(Failure::new(Exit::Failed, what).why("the server lost count of the bytes"));
                }
                (state, failures) = (next, 0);
            }
            // What the server answered with is final; what broke on the way is asked for and sent again.
            Err(failure) if failure.code().is_some() || failures >= TRIES => return Err(failure),
            Err(_) => {
                failures += 1;
                state = typed(&what, client.get(&what, &path, &[]).await?)?;
            }
        }
        if let Some(progress) = &progress {
            progress.at(state.offset);
        }
    }
    if let Some(progress) = progress {
        progress.done();
    }
    Ok(Uploaded::Sent)
}

async fn open(what: &str, path: &Path) -> Result<tokio::fs::File> {
    tokio::fs::File::open(path).await.map_err(|error| Failure::because(what, &error))
}

async fn read(what: &str, source: &mut tokio::fs::File, offset: u64, length: u64) -> Result<Bytes> {
    let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
    source.seek(std::io::SeekFrom::Start(offset)).await.map_err(|error| Failure::because(what, &error))?;
    source
        .read_exact(&mut piece)
        .await
        .map_err(|error| Failure::because(what, &error).why("did the file change?"))?;
    Ok(piece.into())
}
