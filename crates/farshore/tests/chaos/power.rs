//! The power of a gateway is cut: its journal lies on a disk of its own, of which only what was made durable is left.
//!
//! `kill -9` alone proves nothing here, for the page cache outlives it. The journal's file system lies in a file (a loop device): what the kernel has
//! not written there is lost when a copy of that file is what the gateway finds after the cut. A file that nobody synced shows each time that it
//! is. Needs root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Random;
use crate::site::{Site, long};

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk in a file.
pub(crate) struct Disk {
    folder: PathBuf,
    generation: u32,
    mounted: bool,
}

impl Disk {
    pub(crate) fn new(folder: PathBuf) -> Self {
        std::fs::create_dir_all(folder.join("mount")).unwrap();
        let mut disk = Self { folder, generation: 0, mounted: false };
        let image = disk.image();
        run("truncate", &["-s", "192M", text(&image)]);
        run("mkfs.ext4", &["-q", "-F", text(&image)]);
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.join(format!("disk-{}", self.generation))
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("mount")
    }

    fn mount(&mut self) {
        // Nothing is written before somebody asks for it.
        run("mount", &["-o", "loop,commit=600", text(&self.image()), text(&self.root())]);
        self.mounted = true;
    }

    pub(crate) fn unmount(&mut self) {
        run("umount", &[text(&self.root())]);
        self.mounted = false;
    }

    /// Nobody has it open any more: what was not on the disk is gone. Whether a file that nobody synced had been forgotten.
    pub(crate) fn cut(&mut self) -> bool {
        let (before, marker) = (self.image(), format!("unsynced-{}", self.generation));
        std::fs::write(self.root().join(&marker), "not synced").unwrap();
        self.generation += 1;
        run("cp", &["--sparse=always", text(&before), text(&self.image())]);
        // What this still writes goes to the disk that is thrown away.
        self.unmount();
        std::fs::remove_file(before).unwrap();
        self.mount();
        std::fs::read(self.root().join(marker)).unwrap_or_default().is_empty()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a gateway of a failed test may still be there.
            _ = Command::new("umount").arg("-l").arg(self.root()).status();
        }
    }
}

/// Of a body that was under way when the power went: its tag, how many readings it has, and whether it was acknowledged.
struct UnderWay {
    tag: u32,
    readings: u64,
    acknowledged: bool,
}

/// Whether power can be cut on this machine.
pub(crate) fn can_be_cut() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: no disk can be mounted, and no power is cut");
        return false;
    }
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("this machine has no loop devices: no disk can be mounted, and no power is cut");
        return false;
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_power_is_cut_while_it_syncs_keeps_what_it_acknowledged_and_sends_it_once() {
    if !can_be_cut() {
        return;
    }
    let mut site = Site::control().await;
    site.claim();
    let mut disk = Disk::new(site.root().join("disk"));
    site.put_journal(disk.root().join("journal"));
    site.set("BATCH_SIZE", "10");
    site.start_gateway().await;
    let mut random = Random(17);
    let mut under_way = Vec::new();
    for tag in 0..if long() { 200 } else { 15 } {
        for _ in 0..random.below(6) {
            site.send(1 + random.below(60));
        }
        tokio::time::sleep(Duration::from_millis(random.below(900))).await;
        // One more, in the middle of which the power goes.
        let readings = 1 + random.below(400);
        let lines: Vec<String> = (0..readings).map(|n| format!("cut,tag={tag} value={n}i")).collect();
        let body = site.root().join(format!("body-{tag}"));
        std::fs::write(&body, lines.join("\n")).unwrap();
        let mut client = Command::new("curl")
            .args(["-sS", "--fail", "-m", "20", "--data-binary"])
            .args([&format!("@{}", body.display()), &site.url("/api/v2/write?bucket=hall")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(random.below(40))).await;
        site.kill_gateway();
        let acknowledged = client.wait().unwrap().success();
        under_way.push(UnderWay { tag, readings, acknowledged });
        assert!(disk.cut(), "what nobody synced is there: no power was cut");
        site.start_gateway().await;
    }
    site.until("everything sent", || site.force_sync().then_some(())).await;
    site.settled().await;
    for UnderWay { tag, readings, acknowledged } in &under_way {
        let range = [
            "series",
            "-m",
            "cut",
            "-t",
            &format!("tag={tag}"),
            "--since",
            "1d",
            "--step",
            "1d",
            "--by",
            "all",
            "-a",
            "count",
        ];
        let range = site.json(&range);
        let values = range["items"][0]["values"].as_array().cloned().unwrap_or_default();
        let arrived: u64 = values.iter().map(|value| value.as_f64().unwrap() as u64).sum();
        // A body is kept in whole or not at all.
        let fits = arrived == *readings || arrived == 0 && !acknowledged;
        assert!(fits, "{arrived} of {readings} readings, acknowledged: {acknowledged}");
    }
    let cut_off = under_way.iter().filter(|one| !one.acknowledged).count();
    eprintln!("{cut_off} of {} bodies were not acknowledged", under_way.len());
    assert!(cut_off > 0, "the power never went in the middle of anything");
    let status = site.json(&["sync", "status"]);
    assert_eq!(status["items"][0]["lostPoints"], 0, "{status}");
    site.kill_gateway();
    disk.unmount();
}
