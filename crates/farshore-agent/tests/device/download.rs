//! Downloads from a server that lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use farshore_agent::{DownloadError, Downloads};
use farshore_domain::digest::Digest;
use farshore_domain::release::{ArtifactFormat, ArtifactRef};

use crate::plane::{Mood, Plane};

struct Bed {
    plane: Arc<Plane>,
    downloads: Downloads,
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
    artifact: ArtifactRef,
}

impl Bed {
    async fn new() -> Self {
        let plane = Plane::start().await;
        let folder = tempfile::tempdir().unwrap();
        let downloads = Downloads::new(Arc::new(plane.identity()), folder.path()).unwrap();
        let bytes: Vec<u8> =
            (0..500_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        let artifact =
            ArtifactRef { digest: Digest::of(&bytes), size: bytes.len() as u64, format: ArtifactFormat::Tar };
        Self { plane, downloads, folder, bytes, artifact }
    }

    fn serve(&self, mood: Mood) {
        let served = (self.bytes.clone(), Some(mood));
        self.plane.book().artifacts.insert(self.artifact.digest.to_string(), served);
    }

    async fn fetch(&self) -> Result<(), DownloadError> {
        let progress = AtomicU64::new(0);
        let path = self.downloads.fetch(&self.artifact, &progress).await?;
        assert_eq!(std::fs::read(path).unwrap(), self.bytes);
        assert_eq!(progress.load(Ordering::Relaxed), self.artifact.size);
        Ok(())
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }
}

#[tokio::test]
async fn what_was_cut_off_is_resumed_where_it_was_cut() {
    let bed = Bed::new().await;
    for round in 1..=3_u64 {
        bed.serve(Mood::CutAfter(100_000));
        let result = bed.fetch().await;
        assert!(matches!(result, Err(DownloadError::Broken(_) | DownloadError::Short(..))), "{result:?}");
        let part = bed.folder.path().join(format!("{}.part", bed.artifact.digest.hex()));
        assert_eq!(std::fs::metadata(part).unwrap().len(), round * 100_000);
    }
    bed.serve(Mood::Honest);
    bed.fetch().await.unwrap();
    assert_eq!(bed.plane.book().ranges, ["bytes=100000-", "bytes=200000-", "bytes=300000-"]);
    // Once it is there, nobody is asked.
    bed.plane.book().artifacts.clear();
    bed.fetch().await.unwrap();
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_from_the_beginning() {
    let bed = Bed::new().await;
    bed.serve(Mood::CutAfter(1_234));
    assert!(bed.fetch().await.is_err());
    bed.serve(Mood::RangeIgnored);
    bed.fetch().await.unwrap();
}

#[tokio::test]
async fn swapped_bytes_are_refused_and_deleted() {
    let bed = Bed::new().await;
    bed.serve(Mood::Swapped);
    let error = bed.fetch().await.unwrap_err();
    assert!(error.is_refusal() && error.code() == "DigestMismatch", "{error:?}");
    assert_eq!(bed.files(), 0);
    // Also when they come as the rest of an honest beginning.
    bed.serve(Mood::CutAfter(1_000));
    assert!(bed.fetch().await.is_err());
    bed.serve(Mood::Swapped);
    assert!(bed.fetch().await.unwrap_err().is_refusal());
    assert_eq!(bed.files(), 0);
    bed.serve(Mood::Honest);
    bed.fetch().await.unwrap();
}

#[tokio::test]
async fn an_endless_body_ends_at_the_size_of_the_manifest() {
    let bed = Bed::new().await;
    bed.serve(Mood::Endless);
    let error = bed.fetch().await.unwrap_err();
    assert!(matches!(error, DownloadError::TooLong(500_000)), "{error:?}");
    assert_eq!(bed.files(), 0);
}

#[tokio::test]
async fn an_artifact_that_is_not_there_is_said_so() {
    let bed = Bed::new().await;
    let error = bed.fetch().await.unwrap_err();
    assert!(matches!(error, DownloadError::Status(status) if status.as_u16() == 404), "{error:?}");
    assert!(!error.is_refusal());
}

#[tokio::test]
async fn two_releases_of_the_same_bytes_do_not_get_in_each_others_way() {
    let bed = Bed::new().await;
    bed.serve(Mood::Honest);
    let [one, two] = [b"one", b"two"].map(|manifest| bed.downloads.of(Digest::of(manifest)).unwrap());
    let progress = AtomicU64::new(0);
    for downloads in [&one, &two] {
        downloads.fetch(&bed.artifact, &progress).await.unwrap();
    }
    one.clear().await.unwrap();
    assert_eq!(bed.files(), 1);
    bed.plane.book().artifacts.clear();
    two.fetch(&bed.artifact, &progress).await.expect("it is there still");
    two.clear().await.unwrap();
    two.clear().await.expect("fine when it is gone");
    assert_eq!(bed.files(), 0);
}
