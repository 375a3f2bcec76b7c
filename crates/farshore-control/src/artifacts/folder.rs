//! The folder of artifacts: bytes by digest, and uploads under way.
//!
//! `artifacts/sha256/<two digits>/<hex>` holds finished bytes, shared by all tenants that uploaded the same; who may see them is the
//! database's affair. `uploads/<uid>.part` grows as pieces come. A piece is synced before it is acknowledged, a finished
//! file is hashed whole, synced and renamed, and only then known.

use std::io;
use std::path::{Path, PathBuf};

use farshore_domain::digest::{Digest, Digester};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use uuid::Uuid;

/// Where artifacts lie.
#[derive(Clone, Debug)]
pub struct ArtifactFolder {
    root: PathBuf,
}

/// Why a finished upload was not taken.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    #[error("the uploaded bytes have the digest {actual}, not {expected}")]
    WrongDigest { expected: Digest, actual: Digest },
    #[error("the artifact folder can't be used")]
    Io(#[from] io::Error),
}

impl ArtifactFolder {
    /// Opens the folder; makes it when missing.
    pub fn open(root: &Path) -> io::Result<Self> {
        for part in ["artifacts/sha256", "uploads"] {
            std::fs::create_dir_all(root.join(part))?;
        }
        Ok(Self { root: root.to_owned() })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let (head, _) = hex.split_at(2);
        self.root.join("artifacts/sha256").join(head).join(&hex)
    }

    fn part(&self, upload: Uuid) -> PathBuf {
        self.root.join("uploads").join(format!("{upload}.part"))
    }

    /// Opens an artifact's bytes and says how many there are.
    pub async fn read(&self, digest: &Digest) -> io::Result<(File, u64)> {
        let file = File::open(self.path(digest)).await?;
        let size = file.metadata().await?.len();
        Ok((file, size))
    }

    /// How many bytes of an upload are there.
    pub async fn offset(&self, upload: Uuid) -> io::Result<u64> {
        match fs::metadata(self.part(upload)).await {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Opens an upload to append at `offset`, which is where it stands.
    pub async fn append(&self, upload: Uuid, offset: u64) -> io::Result<File> {
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).open(self.part(upload)).await?;
        file.seek(io::SeekFrom::Start(offset)).await?;
        Ok(file)
    }

    /// Makes a piece last.
    pub async fn sync(&self, file: &mut File) -> io::Result<()> {
        file.flush().await?;
        file.sync_data().await
    }

    /// All bytes are there: checks the digest and puts the file in its place.
    pub async fn finish(&self, upload: Uuid, expected: Digest) -> Result<(), FinishError> {
        let part = self.part(upload);
        let mut file = File::open(&part).await?;
        let mut digester = Digester::default();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = file.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            digester.update(buffer.get(..count).unwrap_or_default());
        }
        let actual = digester.finish();
        if actual != expected {
            return Err(FinishError::WrongDigest { expected, actual });
        }
        file.sync_all().await?;
        let target = self.path(&expected);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).await?;
            fs::rename(&part, &target).await?;
            File::open(folder).await?.sync_all().await?;
        }
        Ok(())
    }

    /// Forgets the bytes of an upload.
    pub async fn discard(&self, upload: Uuid) -> io::Result<()> {
        match fs::remove_file(self.part(upload)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_upload_in_pieces_is_there_only_when_its_digest_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = ArtifactFolder::open(folder.path()).unwrap();
        let (upload, digest) = (Uuid::from_u128(1), Digest::of(b"hello world"));
        for (offset, piece) in [(0, &b"hello "[..]), (6, b"world")] {
            assert_eq!(artifacts.offset(upload).await.unwrap(), offset);
            let mut file = artifacts.append(upload, offset).await.unwrap();
            file.write_all(piece).await.unwrap();
            artifacts.sync(&mut file).await.unwrap();
            assert!(artifacts.read(&digest).await.is_err());
        }
        assert!(matches!(
            artifacts.finish(upload, Digest::of(b"other")).await,
            Err(FinishError::WrongDigest { .. })
        ));
        artifacts.finish(upload, digest).await.unwrap();
        let (mut file, size) = artifacts.read(&digest).await.unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), size), ("hello world", 11));
    }
}
