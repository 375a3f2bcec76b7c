//! Kind `systemd`, against the systemd of the machine that `cargo xtask test units` starts: it says so by FARSHORE_TEST_SYSTEMD.

use std::path::Path;
use std::process::Command;

use crate::bed::Bed;
use crate::process::script;
use crate::release::Release;
use crate::suite::{Nature, Sort};
use crate::wait::until;

struct Unit;

/// The tests of a machine share its systemd: each has units of its own.
fn prefix(bed: &Path) -> String {
    let name = bed.file_name().unwrap().to_string_lossy().replace('.', "");
    format!("farshore-{name}-")
}

fn unit(bed: &Bed) -> String {
    format!("{}web.service", prefix(bed.folder.path()))
}

fn show(unit: &str, property: &str) -> String {
    let shown =
        Command::new("systemctl").args(["show", "--value", "--property", property, unit]).output().unwrap();
    String::from_utf8_lossy(&shown.stdout).trim().to_owned()
}

impl Sort for Unit {
    const KIND: &'static str = "systemd";
    const DISK_IS_SEEN: bool = true;

    fn allowed(bed: &Path) -> serde_json::Value {
        serde_json::json!({"systemd": {"prefix": prefix(bed)}})
    }

    fn release(&self, bed: &Bed, version: &str, nature: Nature) -> Release {
        let files = [("bin/app", 0o755, script(nature)), ("bin/fit", 0o755, "#!/bin/sh\nexec sleep 1000\n")];
        bed.signer.release(version, &files, |manifest| {
            manifest["run"]["kind"] = "systemd".into();
            if nature == Nature::Slow {
                manifest["run"]["ready"] = "notify".into();
            }
            manifest["health"] = serde_json::json!([
                {"name": "fit", "probe": {"type": "command", "command": ["bin/fit"]}, "timeoutSeconds": 1}
            ]);
        })
    }

    fn instances(&self, bed: &Bed) -> usize {
        let active = show(&unit(bed), "SubState") == "running";
        usize::from(active).max(crate::process::processes(bed).len().min(1))
    }
}

/// Elsewhere there is no systemd that may be played with; `cargo xtask test units` runs these where there is.
fn is_machine() -> bool {
    let is = std::env::var_os("FARSHORE_TEST_SYSTEMD").is_some();
    if !is {
        eprintln!("run by cargo xtask test units, in a machine with systemd");
    }
    is
}

macro_rules! in_machine {
    ($($scenario:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $scenario() {
                if is_machine() {
                    crate::suite::$scenario(Unit).await;
                }
            }
        )*
    };
}

in_machine! {
    starts_and_stops, outlives_the_runner, is_never_doubled, crashes, hangs, starts_slowly, loses_a_child, meets_a_full_disk, is_started_on_a_full_disk,
    lacks_its_runtime,
}

#[tokio::test]
async fn a_unit_has_the_apps_user_limits_and_environment() {
    if !is_machine() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let allowed = Unit::allowed(folder.path());
    let bed = Bed::made(folder, &allowed, None).await;
    let app = "#!/bin/sh\nprintf 'nasty=[%s]\\n' \"$NASTY\"\nid -u\nexec sleep 1000\n";
    let release = bed.signer.release("1.0", &[("bin/app", 0o755, app)], |manifest| {
        manifest["run"]["kind"] = "systemd".into();
        manifest["run"]["env"] = serde_json::json!({"NASTY": "a\"b\\c$d`e 'f' #g"});
        manifest["run"]["limits"] =
            serde_json::json!({"memoryBytes": 33_554_432, "processes": 16, "cpuMillis": 250});
    });
    bed.run(&release, 1).await;
    until("what it says", || async { bed.logs().await.contains("nasty=[a\"b\\c$d`e 'f' #g]").then_some(()) })
        .await;
    let unit = unit(&bed);
    assert_eq!(show(&unit, "MemoryMax"), "33554432");
    assert_eq!(show(&unit, "TasksMax"), "16");
    assert_eq!(show(&unit, "CPUQuotaPerSecUSec"), "250ms");
    assert_eq!(show(&unit, "NoNewPrivileges"), "yes");
    let uid: u32 = bed.logs().await.lines().find_map(|line| line.parse().ok()).unwrap();
    assert!(farshore_agent::runner::APP_UIDS.contains(&uid));
    assert!(!show(&unit, "Environment").contains("nasty"), "the bus shows no environment");
    bed.stop().await;
    assert_ne!(show(&unit, "ActiveState"), "active");
}

#[tokio::test]
async fn an_installed_unit_is_driven_only_where_the_device_names_it() {
    if !is_machine() {
        return;
    }
    let name = format!("farshore-test-{}.service", std::process::id());
    let path = Path::new("/run/systemd/system").join(&name);
    std::fs::write(&path, "[Service]\nExecStart=/bin/sh -c 'echo hello from the unit; exec sleep 1000'\n")
        .unwrap();
    assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
    let installed = |bed: &Bed| {
        bed.signer.release("1.0", &[("note", 0o644, "x")], |manifest| {
            manifest["run"] = serde_json::json!({"kind": "systemd", "unit": {"installed": name}});
        })
    };
    let bed = Bed::new(&serde_json::json!({"systemd": {}})).await;
    let release = installed(&bed);
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    let why = bed.failed(1).await.last_exit.unwrap();
    assert!(why.contains("does not allow"), "{why}");
    assert_ne!(show(&name, "ActiveState"), "active");

    let bed = Bed::new(&serde_json::json!({"systemd": {"units": [name]}})).await;
    let release = installed(&bed);
    bed.run(&release, 1).await;
    assert_eq!(show(&name, "ActiveState"), "active");
    until("what it says", || async { bed.logs().await.contains("hello from the unit").then_some(()) }).await;
    // Its end is seen, and it is started again.
    assert!(Command::new("systemctl").args(["kill", "--signal=KILL", &name]).status().unwrap().success());
    let running = bed.failed(1).await;
    assert_eq!(running.last_exit.as_deref(), Some("was killed by signal 9"));
    bed.up().await;
    bed.stop().await;
    assert_ne!(show(&name, "ActiveState"), "active");
}

/// `cargo xtask test vm` runs this where control groups of version 2 are this machine's own.
#[tokio::test]
async fn a_units_limits_are_enforced_where_its_control_groups_can_be_written() {
    if !is_machine() {
        return;
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let own = mounts.lines().any(|line| line.contains(" /sys/fs/cgroup cgroup2 rw"));
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !own
        || !["memory", "pids", "cpu"]
            .iter()
            .all(|name| controllers.split_whitespace().any(|one| one == *name))
    {
        eprintln!("control groups of version 2 are not this machine's own (controllers: {controllers:?})");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let allowed = Unit::allowed(folder.path());
    let bed = Bed::made(folder, &allowed, None).await;
    let limited = |version: &str, app: &str| {
        bed.signer.release(version, &[("bin/app", 0o755, app)], |manifest| {
            manifest["run"]["kind"] = "systemd".into();
            manifest["run"]["limits"] =
                serde_json::json!({"memoryBytes": 33_554_432, "processes": 8, "cpuMillis": 100});
        })
    };
    let hungry = limited("1.0", "#!/bin/sh\nexec tail /dev/zero\n");
    bed.stage(&hungry).await.unwrap();
    bed.start(&hungry, 1).await.unwrap();
    assert_eq!(bed.failed(1).await.last_exit.as_deref(), Some("ran out of memory"));
    bed.stop().await;
    let many = limited(
        "1.1",
        "#!/bin/sh\nfor n in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done\necho all of them\nexec sleep 1000\n",
    );
    bed.stage(&many).await.unwrap();
    bed.start(&many, 2).await.unwrap();
    until("what the shell says", || async { bed.logs().await.contains("fork").then_some(()) }).await;
    assert!(!bed.logs().await.contains("all of them"));
    bed.stop().await;
    let busy = limited("1.2", "#!/bin/sh\nwhile :; do :; done\n");
    bed.run(&busy, 3).await;
    let stat = format!("/sys/fs/cgroup{}/cpu.stat", show(&unit(&bed), "ControlGroup"));
    until("that it is held back", || async {
        let stat = std::fs::read_to_string(&stat).unwrap();
        let held = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse::<u64>().ok());
        (held > Some(0)).then_some(())
    })
    .await;
    bed.stop().await;
}
