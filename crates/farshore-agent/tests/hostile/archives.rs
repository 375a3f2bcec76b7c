//! Archives that want out. They are signed: a publisher's build machine may be the one that was broken into.

use farshore_agent::clock;
use tar::EntryType;

use crate::device::Device;
use crate::liar::Answer;
use crate::release::{entry, program};

/// An entry of any kind, with its path and link as they are.
fn special(kind: EntryType, path: &str, link: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o6777);
    header.set_size(size);
    if matches!(kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(1).unwrap();
        header.set_device_minor(5).unwrap();
    }
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_archive_leaves_its_folder_or_is_executed_in_part() {
    let (mut device, _) = Device::with_release("1.0", None).await;
    let app = device.steady().await;
    let liar = std::sync::Arc::clone(&device.liar);
    let evil = program();
    let outside = device.path().join("escaped").display().to_string();
    let link = |path: &str, to: &str| special(EntryType::Symlink, path, to, 0);
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("up", vec![entry("../../../../escaped", 0o755, &evil)]),
        ("up inside", vec![entry("bin/../../../escaped", 0o755, &evil)]),
        ("absolute", vec![entry(&outside, 0o755, &evil)]),
        ("through a link up", vec![link("out", "../../.."), entry("out/escaped", 0o755, &evil)]),
        ("through an absolute link", vec![link("out", "/tmp"), entry("out/escaped", 0o755, &evil)]),
        (
            "through a link of its own",
            vec![
                special(EntryType::Directory, "d", "", 0),
                link("out", "d"),
                entry("out/escaped", 0o755, &evil),
            ],
        ),
        ("a link over the program", vec![entry("bin/app", 0o755, &evil), link("bin/app", "/bin/sh")]),
        ("the program is a link out", vec![link("bin/app", "../../../../../../bin/sleep")]),
        ("hard link to a key", vec![special(EntryType::Link, "key", "/etc/shadow", 0)]),
        ("hard link to the record", vec![special(EntryType::Link, "key", "../../../../record", 0)]),
        ("device", vec![special(EntryType::Char, "zero", "", 0)]),
        ("disk", vec![special(EntryType::Block, "disk", "", 0)]),
        ("fifo", vec![special(EntryType::Fifo, "pipe", "", 0)]),
        ("the program twice", vec![entry("bin/app", 0o755, &evil), entry("bin/app", 0o755, &program())]),
        ("more than there is", vec![special(EntryType::Regular, "bin/app", "", (1 << 33) - 1)]),
        (
            "folder without end",
            vec![entry(&format!("{}app", "a/".repeat(40)), 0o755, &evil), vec![0x55; 512]],
        ),
        ("no archive", vec![vec![0x55; 5_000]]),
        ("not a whole header", vec![entry("bin/app", 0o755, &evil)[..300].to_vec()]),
    ];
    for (number, (what, entries)) in cases.into_iter().enumerate() {
        // What is good of it comes first: nothing of it may stay.
        let mut archive = Vec::new();
        if !what.contains("program") {
            archive = entry("bin/first", 0o755, &program());
        }
        archive.extend(entries.concat());
        let release = liar.signer.release_of(&format!("2.{number}"), Some(archive), |_| {});
        liar.publish(&release, Answer::ok(&release.artifact));
        let begun = clock::wall();
        device.desire(&release);
        device.says(what, &["BadArchive", "NoProgram"], begun).await;
        device.check_still(what, &app);
        let staging = device.path().join("apps/.runner/staging");
        assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0, "{what}");
    }
    // What unpacks is refused in its other forms when it is none of them.
    for (number, format) in ["tar.gz", "tar.zst"].into_iter().enumerate() {
        let release = liar.signer.release_of(&format!("2.9{number}"), None, |manifest| {
            manifest["platforms"][0]["artifact"]["format"] = format.into();
        });
        liar.publish(&release, Answer::ok(&release.artifact));
        let begun = clock::wall();
        device.desire(&release);
        device.says(format, &["BadArchive"], begun).await;
        device.check_still(format, &app);
    }
    let good = liar.signer.release("3.0");
    device.takes(&good).await;
    device.check("the good one");
}
