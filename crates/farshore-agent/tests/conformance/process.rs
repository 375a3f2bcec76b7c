//! Kind `process`.

use std::path::Path;

use crate::bed::Bed;
use crate::release::Release;
use crate::suite::{Nature, Sort, conforms};
use crate::wait::until;

struct Plain;

/// Shell scripts of each nature; what they leave or start carries the bed's mark in its environment.
pub(crate) fn script(nature: Nature) -> &'static str {
    match nature {
        Nature::Good | Nature::Hanging => {
            "#!/bin/sh\necho \"hello from $FARSHORE_VERSION\"\nexec sleep 1000\n"
        }
        Nature::Crashing => "#!/bin/sh\necho \"hello from $FARSHORE_VERSION\"\nexit 3\n",
        Nature::Slow => "#!/bin/sh\nsleep 1\nsystemd-notify --ready\nexec sleep 1000\n",
        Nature::Childish => {
            "#!/bin/sh\n(exit 9)\necho a child died\nsetsid sleep 1000 &\nwhile :; do sleep 1; done\n"
        }
    }
}

/// Processes whose environment says that they are the app of this bed, and that lead a session: one for each instance and each child that has left.
pub(crate) fn processes(bed: &Bed) -> Vec<i32> {
    let home = format!("HOME={}", bed.data().display());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes())
    })
    .collect()
}

impl Sort for Plain {
    const KIND: &'static str = "process";

    fn allowed(_: &Path) -> serde_json::Value {
        serde_json::json!({})
    }

    fn release(&self, bed: &Bed, version: &str, nature: Nature) -> Release {
        let files = [("bin/app", 0o755, script(nature)), ("bin/fit", 0o755, "#!/bin/sh\nexec sleep 1000\n")];
        bed.signer.release(version, &files, |manifest| {
            if nature == Nature::Slow {
                manifest["run"]["ready"] = "notify".into();
            }
            manifest["health"] = serde_json::json!([
                {"name": "fit", "probe": {"type": "command", "command": ["bin/fit"]}, "timeoutSeconds": 1}
            ]);
        })
    }

    fn instances(&self, bed: &Bed) -> usize {
        processes(bed).len()
    }
}

conforms! {
    Plain;
    starts_and_stops, outlives_the_runner, is_never_doubled, crashes, hangs, starts_slowly, loses_a_child, meets_a_full_disk, is_started_on_a_full_disk,
}

#[tokio::test]
async fn one_that_never_says_that_it_is_ready_is_started_again() {
    let bed = Bed::new(&serde_json::json!({})).await;
    let files = [("bin/app", 0o755, script(Nature::Good))];
    let release = bed.signer.release("1.0", &files, |manifest| {
        manifest["run"]["ready"] = "notify".into();
        manifest["startTimeoutSeconds"] = 1.into();
    });
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    let running = bed.failed(1).await;
    assert_eq!(running.last_exit.as_deref(), Some("it was not ready within 1 s"));
    bed.stop().await;
    assert_eq!(processes(&bed), Vec::<i32>::new());
}

#[tokio::test]
async fn root_is_given_only_where_manifest_and_device_both_say_so() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can give root");
        return;
    }
    let files = [("bin/app", 0o755, "#!/bin/sh\necho uid=$(id -u)\nexec sleep 1000\n")];
    let bed = Bed::new(&serde_json::json!({})).await;
    let release = bed.signer.release("1.0", &files, |manifest| manifest["run"]["user"] = "root".into());
    crate::bed::refused(bed.stage(&release).await, "RootNotAllowed");
    let plain = bed.signer.release("1.1", &files, |_| {});
    bed.run(&plain, 1).await;
    let logs = crate::wait::until("its user", || async {
        Some(bed.logs().await).filter(|log| log.contains("uid="))
    });
    assert!(!logs.await.contains("uid=0\n"));
    bed.stop().await;

    let bed = Bed::new(&serde_json::json!({"root": ["web"]})).await;
    let release = bed.signer.release("1.0", &files, |manifest| manifest["run"]["user"] = "root".into());
    bed.run(&release, 1).await;
    crate::wait::until("its user", || async { bed.logs().await.contains("uid=0\n").then_some(()) }).await;
    bed.stop().await;
}

/// As with `systemctl stop farshore-apps`, which ends every app and takes their groups away.
#[tokio::test]
async fn one_that_has_lost_its_control_groups_is_not_started_again_before_it_has_new_ones() {
    let bed = Bed::new(&serde_json::json!({})).await;
    let files = [("bin/app", 0o755, script(Nature::Good))];
    let release = bed.signer.release("1.0", &files, |manifest| {
        manifest["restart"] = serde_json::json!({"backoffMs": 10, "maxBackoffMs": 10});
    });
    bed.run(&release, 1).await;
    let groups = bed.groups();
    if groups.is_empty() {
        eprintln!("THIS MACHINE GIVES NO CONTROL GROUPS: nothing is tested");
        return;
    }
    let removed = std::process::Command::new("sh")
        .args(["-c", "for group; do while [ -e \"$group\" ]; do kill -9 $(cat \"$group/cgroup.procs\") 2>/dev/null; rmdir \"$group\" 2>/dev/null; done; done", "sh"])
        .args(&groups)
        .status();
    assert!(removed.unwrap().success());
    until("the supervisor's end", || async { bed.running().await.is_none().then_some(()) }).await;
    assert_eq!(processes(&bed), Vec::<i32>::new());
    bed.start(&release, 2).await.unwrap();
    bed.up().await;
    assert!(groups.iter().all(|group| group.exists()), "{groups:?}");
    bed.stop().await;
}
