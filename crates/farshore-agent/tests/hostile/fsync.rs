//! A disk that says no: the n-th `fsync` or `fdatasync` of each process fails with EIO.
//!
//! After a failed sync nobody knows what is on the disk (the kernel may have thrown the pages away), so a process must not go on as if
//! nothing had happened. Here it may end, or try again; what must hold is that nothing unverified runs, that the device comes
//! back to what is wanted once the disk works, and that an older desired state stays refused.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::device::{Device, long};
use crate::liar::{Answer, path};
use crate::wait::seen;

/// Put between the program and the C library.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_long count;

static int fails(void) {
    const char *at = getenv("FAIL_SYNC_AT"), *log = getenv("FAIL_SYNC_LOG");
    if (!at || !log || atomic_fetch_add(&count, 1) + 1 != atol(at)) return 0;
    int file = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file >= 0) { if (write(file, "x", 1) != 1) abort(); close(file); }
    errno = EIO;
    return 1;
}

int fsync(int fd) {
    if (fails()) return -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    if (fails()) return -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"#;

fn build(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("fail.c"), folder.join("fail.so"));
    std::fs::write(&source, SHIM).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .unwrap();
    assert!(built.success(), "cc could not build the shim");
    library
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_loses_nothing_and_runs_nothing_unverified() {
    let tools = tempfile::tempdir().unwrap();
    let (library, log) = (build(tools.path()), tools.path().join("failed"));
    let (mut device, _) = Device::with_release("1.0", None).await;
    let liar = std::sync::Arc::clone(&device.liar);
    let points: Vec<u32> = if long() { (1..=60).collect() } else { vec![1, 2, 3, 4, 6, 8, 11, 15, 20, 26] };
    for at in points {
        let release = liar.signer.release(&format!("2.{at}"));
        device.may_run(&release);
        liar.publish(&release, Answer::ok(&release.artifact));
        let channels = liar.book().channels;
        device.power_off().await;
        device.power_on_with(&[
            ("LD_PRELOAD", library.clone().into_os_string()),
            ("FAIL_SYNC_AT", OsString::from(at.to_string())),
            ("FAIL_SYNC_LOG", log.clone().into_os_string()),
        ]);
        let up = |device: &mut Device| {
            let book = device.liar.book();
            let connected = book.channels > channels && book.outbox.is_some();
            drop(book);
            (connected || device.ended()).then_some(connected)
        };
        if seen("a channel, or the end of a process", || up(&mut device)).await {
            device.desire(&release);
            // It goes as far as the failure lets it: to the end, to a report of what failed, or to the end of a process.
            seen("an outcome", || {
                let app = device.liar.app_status();
                let told = app.is_some_and(|app| {
                    app.active_version == release.version && app.committed || !app.reasons.is_empty()
                });
                (told || device.ended() || device.liar.book().outbox.is_none()).then_some(())
            })
            .await;
        }
        device.check_executed("with a failing disk");
        let channels = liar.book().channels;
        device.power_off().await;
        device.power_on();
        device.connected(channels + 1).await;
        device.desire(&release);
        device.runs(&release).await;
        assert!(liar.asked(&path(&release)) > 0);
        device.check("with a disk that works again");
    }
    let failures = std::fs::read(&log).unwrap_or_default().len();
    assert!(failures > 5, "only {failures} syncs failed: the shim is not between program and library");
}
