//! Kind `files`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::bed::{Bed, refused, web};
use crate::release::Release;
use crate::suite::{Nature, Sort, conforms};
use crate::wait::until;
use farshore_agent::runner::Request;

struct Drops;

fn target(bed: &Path) -> PathBuf {
    bed.canonicalize().unwrap().join("etc/web.conf")
}

fn allowed(bed: &Path) -> serde_json::Value {
    std::fs::create_dir_all(bed.join("etc")).unwrap();
    serde_json::json!({"files": [bed.join("etc")]})
}

impl Sort for Drops {
    const KIND: &'static str = "files";
    const LEFT: usize = 1;
    const HANG_IS_SEEN: bool = true;

    fn allowed(bed: &Path) -> serde_json::Value {
        allowed(bed)
    }

    fn release(&self, bed: &Bed, version: &str, nature: Nature) -> Release {
        let validate = match nature {
            Nature::Good => "#!/bin/sh\necho \"hello from $FARSHORE_VERSION\" >&2\n",
            Nature::Crashing => "#!/bin/sh\nexit 3\n",
            Nature::Hanging => "#!/bin/sh\nexec sleep 1000\n",
            Nature::Slow => "#!/bin/sh\nexec sleep 1\n",
            Nature::Childish => "#!/bin/sh\n(exit 9)\necho a child died >&2\n",
        };
        let files = [("web.conf", 0o644, "version ${FARSHORE_VERSION}\n"), ("bin/validate", 0o755, validate)];
        let target = target(bed.folder.path());
        bed.signer.release(version, &files, |manifest| {
            manifest["run"] = serde_json::json!({"kind": "files", "files": {
                "entries": [{"source": "web.conf", "target": target, "mode": "0640", "template": true}],
                "validate": ["bin/validate"], "timeoutSeconds": if nature == Nature::Hanging { 1 } else { 10 },
            }});
        })
    }

    fn instances(&self, bed: &Bed) -> usize {
        usize::from(target(bed.folder.path()).exists())
    }
}

conforms! {
    Drops;
    starts_and_stops, outlives_the_runner, is_never_doubled, crashes, hangs, starts_slowly, loses_a_child, meets_a_full_disk, is_started_on_a_full_disk, lacks_its_runtime,
}

/// A release with a validation that looks at the rendered file, and a reload that can be made to fail.
fn config(bed: &Bed, version: &str, content: &str) -> Release {
    let etc = bed.folder.path().canonicalize().unwrap().join("etc");
    // Reads the file as it will be, at the path it will have.
    let validate =
        "#!/bin/sh\ngrep -q '^port=[0-9]*$' \"$FARSHORE_FILES$WEB_CONF\" || { echo bad port >&2; exit 1; }\n";
    let reload = "#!/bin/sh\ncat \"$WEB_CONF\" >>\"$HOME/reloads\"\n! grep -q broken \"$WEB_CONF\"\n";
    let files =
        [("a.conf", 0o644, content), ("bin/validate", 0o755, validate), ("bin/reload", 0o755, reload)];
    bed.signer.release(version, &files, |manifest| {
        manifest["run"] = serde_json::json!({"kind": "files", "env": {"WEB_CONF": etc.join("a.conf")}, "files": {
            "entries": [
                {"source": "a.conf", "target": etc.join("a.conf"), "template": true},
                {"source": "a.conf", "target": etc.join(format!("deep/{version}.conf")), "mode": "0600", "template": true},
            ],
            "validate": ["bin/validate"], "reload": ["bin/reload"],
        }});
    })
}

#[tokio::test]
async fn what_is_bad_never_goes_live_and_what_was_there_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let allowed = allowed(folder.path());
    let bed = Bed::made(folder, &allowed, None).await;
    let etc = bed.folder.path().canonicalize().unwrap().join("etc");
    let live = etc.join("a.conf");
    std::fs::write(&live, "the distribution's own\n").unwrap();
    std::fs::set_permissions(&live, std::fs::Permissions::from_mode(0o604)).unwrap();

    // Its value is missing: nothing goes live.
    let first = config(&bed, "1.0", "port=${PORT}\n");
    bed.stage(&first).await.unwrap();
    bed.start(&first, 1).await.unwrap();
    let why = bed.failed(1).await.last_exit.unwrap();
    assert!(why.contains("PORT") && why.contains("no value"), "{why}");
    bed.stop().await;
    // Its value is bad: the release's own check says so.
    bed.start_with(&first, 2, &[("PORT", "x")]).await.unwrap();
    let why = bed.failed(1).await.last_exit.unwrap();
    assert!(why.contains("validate") && why.contains("bad port"), "{why}");
    bed.stop().await;
    assert_eq!(std::fs::read_to_string(&live).unwrap(), "the distribution's own\n");

    bed.start_with(&first, 3, &[("PORT", "80")]).await.unwrap();
    bed.up().await;
    assert_eq!(std::fs::read_to_string(&live).unwrap(), "port=80\n");
    assert_eq!(std::fs::metadata(etc.join("deep/1.0.conf")).unwrap().permissions().mode() & 0o777, 0o600);
    bed.stop().await;

    // The reload fails: everything is taken back, the new file is gone.
    let broken = config(&bed, "2.0", "port=81\n#broken\n");
    bed.stage(&broken).await.unwrap();
    bed.start(&broken, 4).await.unwrap();
    let why = bed.failed(1).await.last_exit.unwrap();
    assert!(why.contains("reload"), "{why}");
    bed.stop().await;
    assert_eq!(std::fs::read_to_string(&live).unwrap(), "port=80\n");
    assert!(!etc.join("deep/2.0.conf").exists() && etc.join("deep/1.0.conf").exists());

    // The next one leaves nothing of the one before.
    let third = config(&bed, "3.0", "port=82\n");
    bed.run(&third, 5).await;
    assert_eq!(std::fs::read_to_string(&live).unwrap(), "port=82\n");
    assert!(etc.join("deep/3.0.conf").exists() && !etc.join("deep/1.0.conf").exists());
    // What was read by the reloads, in order: only what was live at that time.
    let reloads = std::fs::read_to_string(bed.data().join("reloads")).unwrap();
    assert!(reloads.starts_with("port=80\nport=81\n#broken\nport=80\n"), "{reloads}");
    assert!(reloads.ends_with("port=82\n"), "{reloads}");

    // Somebody's hand on the device is undone.
    std::fs::write(&live, "port=1\n").unwrap();
    until("the repair", || async { (std::fs::read_to_string(&live).unwrap() == "port=82\n").then_some(()) })
        .await;

    bed.client.done(&Request::Remove { app: web() }).await.unwrap();
    assert_eq!(std::fs::read_to_string(&live).unwrap(), "the distribution's own\n");
    assert_eq!(std::fs::metadata(&live).unwrap().permissions().mode() & 0o777, 0o604);
    assert!(!etc.join("deep/3.0.conf").exists());
}

#[tokio::test]
async fn no_file_lands_outside_of_what_the_device_allows() {
    let folder = tempfile::tempdir().unwrap();
    let allowed = allowed(folder.path());
    let bed = Bed::made(folder, &allowed, None).await;
    let root = bed.folder.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("other")).unwrap();
    std::os::unix::fs::symlink(root.join("other"), root.join("etc/way-out")).unwrap();
    std::os::unix::fs::symlink(root.join("other/x"), root.join("etc/link")).unwrap();
    let files = [("a.conf", 0o644, "x\n")];
    for (number, target) in (1..).zip(["other/a.conf", "etc/way-out/a.conf", "etc/link", "etcetera/a.conf"]) {
        let release = bed.signer.release(&format!("1.{number}"), &files, |manifest| {
            manifest["run"] = serde_json::json!({"kind": "files", "files": {
                "entries": [{"source": "a.conf", "target": root.join(target)}],
            }});
        });
        bed.stage(&release).await.unwrap();
        bed.start(&release, number).await.unwrap();
        let why = bed.failed(1).await.last_exit.unwrap();
        assert!(why.contains("does not allow") || why.contains("no plain file"), "{target}: {why}");
        bed.stop().await;
    }
    assert_eq!(std::fs::read_dir(root.join("other")).unwrap().count(), 0);
    let release = bed.signer.release("2.0", &files, |manifest| {
        manifest["run"] = serde_json::json!({"kind": "files", "files": {
            "entries": [{"source": "a.conf", "target": "/etc/../x"}],
        }});
    });
    refused(bed.stage(&release).await, "BadManifest");
}
