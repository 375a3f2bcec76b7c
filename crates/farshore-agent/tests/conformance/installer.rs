//! Kind `installer`, and the two examples.

use std::path::{Path, PathBuf};
use std::process::Command;

use farshore_agent::runner::Request;

use crate::bed::{Bed, web};
use crate::release::Release;
use crate::suite::{Nature, Sort, conforms};
use crate::wait::until;

struct Stepwise;

impl Sort for Stepwise {
    const KIND: &'static str = "installer";
    const HANG_IS_SEEN: bool = true;
    const DISK_IS_SEEN: bool = true;

    fn allowed(_: &Path) -> serde_json::Value {
        serde_json::json!({})
    }

    fn release(&self, bed: &Bed, version: &str, nature: Nature) -> Release {
        let install = match nature {
            Nature::Good => {
                "echo \"hello from $FARSHORE_VERSION\" >&2; echo \"$FARSHORE_VERSION\" >\"$HOME/it\""
            }
            Nature::Crashing => "echo half >\"$HOME/it\"; exit 3",
            Nature::Hanging => "echo half >\"$HOME/it\"; exec sleep 1000",
            Nature::Slow => "sleep 1; echo \"$FARSHORE_VERSION\" >\"$HOME/it\"",
            Nature::Childish => "(exit 9); echo a child died >&2; echo \"$FARSHORE_VERSION\" >\"$HOME/it\"",
        };
        let program = format!(
            "#!/bin/sh\ncase $1 in\ninstall) {install} ;;\nrollback) rm -f \"$HOME/it\" ;;\n\
             inventory) if [ \"$(cat \"$HOME/it\")\" = \"$FARSHORE_VERSION\" ]; then echo '{{\"present\":true}}'; \
             else echo '{{\"present\":false}}'; fi ;;\nesac\n"
        );
        bed.signer.release(version, &[("bin/install", 0o755, program.as_str())], |manifest| {
            let seconds = if nature == Nature::Hanging { 1 } else { 20 };
            manifest["run"] = serde_json::json!({
                "kind": "installer", "command": ["bin/install"],
                "installer": {"timeoutSeconds": seconds, "inventorySeconds": 1},
            });
        })
    }

    fn instances(&self, bed: &Bed) -> usize {
        usize::from(bed.data().join("it").exists())
    }
}

conforms! {
    Stepwise;
    starts_and_stops, outlives_the_runner, is_never_doubled, crashes, hangs, starts_slowly, loses_a_child, meets_a_full_disk,
    is_started_on_a_full_disk,
}

#[tokio::test]
async fn steps_are_told_as_json_and_a_committed_release_is_not_rolled_back() {
    let bed = Bed::new(&serde_json::json!({})).await;
    let program = "#!/bin/sh\n{ cat; echo; } >>\"$HOME/told\"\ncase $1 in\nrollback) echo \"$FARSHORE_VERSION\" >>\"$HOME/back\" ;;\n\
        inventory) echo '{\"present\":true,\"more\":1}' ;;\nesac\n";
    let release = |version: &str| {
        bed.signer.release(version, &[("bin/install", 0o755, program)], |manifest| {
            manifest["run"] = serde_json::json!({
                "kind": "installer", "command": ["bin/install"], "env": {"A": "b"},
                "installer": {"inventorySeconds": 1},
            });
        })
    };
    let (first, second) = (release("1.0"), release("2.0"));
    bed.run(&first, 1).await;
    let told = |step: &str, version: &str| {
        let text = std::fs::read_to_string(bed.data().join("told")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find(|told| told["step"] == step && told["version"] == version)
    };
    let install = told("install", "1.0").unwrap();
    assert_eq!((&install["app"], &install["values"]["A"]), (&"web".into(), &"b".into()), "{install}");
    assert!(
        install["previous"].is_null() && told("prepare", "1.0").is_some() && told("commit", "1.0").is_none()
    );
    bed.client.done(&Request::Commit { app: web(), manifest: first.manifest }).await.unwrap();
    until("the commit", || async { told("commit", "1.0") }).await;
    bed.stop().await;
    assert!(!bed.data().join("back").exists(), "what was committed stays installed");

    bed.run(&second, 2).await;
    assert_eq!(told("install", "2.0").unwrap()["previous"], "1.0");
    bed.stop().await;
    assert_eq!(
        std::fs::read_to_string(bed.data().join("back")).unwrap(),
        "2.0\n",
        "what was not is taken back"
    );
}

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name).join("bin/install");
    std::fs::read_to_string(path).unwrap()
}

async fn committed(bed: &Bed, release: &Release, instance: u64) {
    bed.run(release, instance).await;
    bed.client.done(&Request::Commit { app: web(), manifest: release.manifest }).await.unwrap();
    let progress = bed.apps().join("web/state/installed.json");
    until("the commit", || async {
        let text = std::fs::read_to_string(&progress).unwrap_or_default();
        text.contains("\"committed\":true").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_example_of_two_slots_switches_and_goes_back() {
    let bed = Bed::new(&serde_json::json!({})).await;
    let script = example("installer-ab-slot");
    let release = |version: &str| {
        let files = [("bin/install", 0o755, script.as_str()), ("payload/firmware", 0o644, version)];
        bed.signer.release(version, &files, |manifest| {
            manifest["run"] = serde_json::json!({"kind": "installer", "command": ["bin/install"]});
        })
    };
    let slots = bed.data().join("slots");
    let active = || std::fs::read_to_string(slots.join("active/firmware")).ok();
    let (first, second, third) = (release("1.0"), release("2.0"), release("3.0"));
    committed(&bed, &first, 1).await;
    assert_eq!(active().as_deref(), Some("1.0"));
    bed.stop().await;
    committed(&bed, &second, 2).await;
    assert_eq!(active().as_deref(), Some("2.0"));
    bed.stop().await;
    bed.run(&third, 3).await;
    assert_eq!(active().as_deref(), Some("3.0"));
    // It was not committed: the slot before is the active one again.
    bed.stop().await;
    assert_eq!(active().as_deref(), Some("2.0"));
    bed.client.done(&Request::Remove { app: web() }).await.unwrap();
    assert!(!slots.exists());
}

/// A package without content, made with dpkg-deb.
fn deb(folder: &Path, version: &str) -> PathBuf {
    let tree = folder.join(version);
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(tree.join("usr/share/farshore-example")).unwrap();
    std::fs::write(tree.join("usr/share/farshore-example/version"), version).unwrap();
    let control = format!(
        "Package: farshore-example\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: x\n"
    );
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let deb = folder.join(format!("farshore-example_{version}_all.deb"));
    let made = Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .arg(&tree)
        .arg(&deb)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    deb
}

/// The example as it is, with apt and dpkg working on a root file system of their own.
#[tokio::test]
async fn the_example_with_apt_installs_packages_and_goes_back() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can install packages");
        return;
    }
    let bed = Bed::new(&serde_json::json!({"root": ["web"]})).await;
    let root = bed.folder.path().join("root");
    for folder in [
        "var/lib/dpkg/updates",
        "var/lib/dpkg/info",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
        "etc/apt",
    ] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    std::fs::write(root.join("etc/apt/sources.list"), "").unwrap();
    let settings = bed.folder.path().join("apt.conf");
    let root_text = root.display();
    let text = format!(
        "Dir \"{root_text}/\";\nDir::State::status \"{root_text}/var/lib/dpkg/status\";\nDir::Bin::dpkg \"/usr/bin/dpkg\";\n\
         DPkg::Options {{ \"--root={root_text}\"; }};\nAPT::Sandbox::User \"root\";\nDir::Log::Terminal \"\";\n"
    );
    std::fs::write(&settings, text).unwrap();
    let script = example("installer-apt");
    let release = |version: &str| {
        let package = std::fs::read(deb(bed.folder.path(), version)).unwrap();
        let files: [(&str, u32, &[u8]); 2] =
            [("bin/install", 0o755, script.as_bytes()), ("packages/farshore-example.deb", 0o644, &package)];
        bed.signer.release_of(version, crate::release::tar_bytes(&files), |manifest| {
            manifest["run"] = serde_json::json!({
                "kind": "installer", "command": ["bin/install"], "user": "root",
                "env": {"APT_CONFIG": settings, "DPKG_ADMINDIR": root.join("var/lib/dpkg")},
            });
        })
    };
    let installed = || std::fs::read_to_string(root.join("usr/share/farshore-example/version")).ok();
    let (first, second) = (release("1.0"), release("2.0"));
    committed(&bed, &first, 1).await;
    assert_eq!(installed().as_deref(), Some("1.0"));
    bed.stop().await;
    assert_eq!(installed().as_deref(), Some("1.0"), "committed, it stays");
    bed.run(&second, 2).await;
    assert_eq!(installed().as_deref(), Some("2.0"));
    bed.stop().await;
    assert_eq!(installed().as_deref(), Some("1.0"), "from the copy it kept");
    // Somebody removes the package by hand.
    bed.run(&first, 3).await;
    bed.client.done(&Request::Remove { app: web() }).await.unwrap();
    assert_eq!(installed(), None);
}
