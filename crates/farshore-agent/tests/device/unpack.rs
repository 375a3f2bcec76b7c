//! A corpus of evil archives.

use farshore_agent::runner::{UnpackError, UnpackLimits, unpack};
use farshore_domain::release::ArtifactFormat;
use proptest::prelude::*;
use tar::{EntryType, Header};

/// An archive of entries whose paths are written as they are, however evil.
fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, path, content) in entries {
        let mut header = Header::new_ustar();
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o6777);
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        if link {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        let content = if link { "" } else { content };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Symlink;

#[test]
fn nothing_evil_leaves_the_folder() {
    type Entry = (EntryType, &'static str, &'static str);
    let evil: &[(&str, &[Entry])] = &[
        ("parent", &[(FILE, "../out", "x")]),
        ("parent inside", &[(FILE, "a/../../out", "x")]),
        ("absolute", &[(FILE, "/tmp/out", "x")]),
        ("link out", &[(LINK, "a", "../out")]),
        ("absolute link", &[(LINK, "a", "/etc")]),
        ("sideways link", &[(LINK, "d/a", "../b")]),
        ("through a link", &[(EntryType::Directory, "d", ""), (LINK, "a", "d"), (FILE, "a/out", "x")]),
        ("over a link", &[(LINK, "a", "b"), (FILE, "a", "x")]),
        ("twice", &[(FILE, "a", "x"), (FILE, "a", "y")]),
        ("file as folder", &[(FILE, "a", "x"), (FILE, "a/b", "y")]),
        ("hard link", &[(FILE, "a", "x"), (EntryType::Link, "b", "a")]),
        ("hard link out", &[(EntryType::Link, "b", "/etc/passwd")]),
        ("fifo", &[(EntryType::Fifo, "a", "")]),
        ("character device", &[(EntryType::Char, "a", "")]),
        ("block device", &[(EntryType::Block, "a", "")]),
        ("the folder itself", &[(FILE, ".", "x")]),
        ("link as the folder", &[(LINK, ".", "x")]),
        ("empty link", &[(LINK, "a", "")]),
        ("unknown kind", &[(EntryType::new(b'V'), "a", "x")]),
    ];
    for (what, entries) in evil {
        let outside = tempfile::tempdir().unwrap();
        let into = outside.path().join("release");
        std::fs::create_dir(&into).unwrap();
        let result = unpack(archive(entries).as_slice(), ArtifactFormat::Tar, &into, UnpackLimits::default());
        assert!(matches!(&result, Err(error) if error.is_evil()), "{what}: {result:?}");
        let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{what}");
        assert!(!std::path::Path::new("/tmp/out").exists(), "{what}");
    }
}

#[test]
fn plain_archives_are_unpacked_without_set_id_bits_in_every_format() {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let plain = archive(&[
        (EntryType::Directory, "./", ""),
        (EntryType::Directory, "bin/", ""),
        (FILE, "./bin/app", "#!/bin/sh\n"),
        (FILE, "lib/deep/x.so.1", "lib"),
        (LINK, "lib/deep/x.so", "x.so.1"),
    ]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&plain).unwrap();
    let zst = zstd::stream::encode_all(plain.as_slice(), 1).unwrap();
    let formats = [
        (ArtifactFormat::Tar, plain),
        (ArtifactFormat::TarGz, gz.finish().unwrap()),
        (ArtifactFormat::TarZst, zst),
    ];
    for (format, bytes) in formats {
        let into = tempfile::tempdir().unwrap();
        unpack(bytes.as_slice(), format, into.path(), UnpackLimits::default()).unwrap();
        let mode = std::fs::metadata(into.path().join("bin/app")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777 & !0o022, 0o755 & !0o022, "{format:?}");
        assert_eq!(std::fs::read(into.path().join("lib/deep/x.so")).unwrap(), b"lib");
    }
}

#[test]
fn bombs_stop_at_the_limits() {
    let limits = UnpackLimits { bytes: 1_000_000, entries: 10 };
    let many: Vec<_> = (0..11).map(|n| (FILE, format!("f{n}"))).collect();
    let many: Vec<_> = many.iter().map(|(kind, path)| (*kind, path.as_str(), "")).collect();
    let into = tempfile::tempdir().unwrap();
    let result = unpack(archive(&many).as_slice(), ArtifactFormat::Tar, into.path(), limits);
    assert!(matches!(result, Err(UnpackError::TooMany(10))), "{result:?}");

    let zeros = "\0".repeat(5_000_000);
    let bomb = archive(&[(FILE, "zeros", &zeros)]);
    let bomb = zstd::stream::encode_all(bomb.as_slice(), 3).unwrap();
    assert!(bomb.len() < 10_000);
    let into = tempfile::tempdir().unwrap();
    let result = unpack(bomb.as_slice(), ArtifactFormat::TarZst, into.path(), limits);
    assert!(matches!(result, Err(UnpackError::TooLarge(1_000_000))), "{result:?}");
    assert!(std::fs::metadata(into.path().join("zeros")).unwrap().len() <= 1_000_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn damaged_archives_are_errors_or_stay_inside(at in 0_usize..2048, flip in 1_u8.., format in 0_usize..3) {
        let mut bytes = archive(&[(EntryType::Directory, "d", ""), (FILE, "d/a", "content"), (LINK, "l", "d")]);
        let last = bytes.len() - 1;
        bytes[at.min(last)] ^= flip;
        let format = [ArtifactFormat::Tar, ArtifactFormat::TarGz, ArtifactFormat::TarZst][format];
        let outside = tempfile::tempdir().unwrap();
        let into = outside.path().join("release");
        std::fs::create_dir(&into).unwrap();
        drop(unpack(bytes.as_slice(), format, &into, UnpackLimits { bytes: 100_000, entries: 100 }));
        prop_assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}
