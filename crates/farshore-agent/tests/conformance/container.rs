//! Kinds `container` and `compose`, against a containerd of the test's own with real runc, and an image made here.

use std::path::Path;

use farshore_agent::runner::{Reply, Request};
use farshore_domain::digest::Digest;
use farshore_domain::name::Name;

use crate::bed::{Bed, web};
use crate::containerd::{self, Containerd};
use crate::release::Release;
use crate::suite::{Nature, Sort, conforms};
use crate::wait::until;

/// An OCI layout of one image with a shell, below `at` in the release: two layers, of which the second is packed. `app` is a script, or a program that
/// needs no libraries.
pub(crate) fn image(at: &str, app: impl AsRef<[u8]>) -> Vec<(String, u32, Vec<u8>)> {
    let base = containerd::base();
    let top = containerd::layer(&[("bin/app", 0o755, app.as_ref()), ("etc/passwd", 0o644, b"")], &[]);
    let packed = zstd::encode_all(top.as_slice(), 1).unwrap();
    let diffs = [Digest::of(&base), Digest::of(&top)];
    containerd::layout(at, &diffs, [(base, "tar"), (packed, "tar+zstd")])
}

pub(crate) fn packed(files: &[(String, u32, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<_> =
        files.iter().map(|(path, mode, bytes)| (path.as_str(), *mode, bytes.as_slice())).collect();
    crate::release::tar_bytes(&files)
}

fn script(nature: Nature) -> &'static str {
    match nature {
        Nature::Good | Nature::Hanging | Nature::Slow => {
            "#!/bin/sh\ntrap 'exit 0' TERM\necho \"hello from $FARSHORE_VERSION\"\nsleep 1000 &\nwait\n"
        }
        Nature::Crashing => "#!/bin/sh\necho \"hello from $FARSHORE_VERSION\"\nexit 3\n",
        Nature::Childish => {
            "#!/bin/sh\ntrap 'exit 0' TERM\n(exit 9)\necho a child died\nsetsid sleep 1000 &\nwait\n"
        }
    }
}

struct Contained {
    containerd: Containerd,
}

thread_local! {
    // The suite asks for the settings before there is a bed.
    static SOCKET: std::cell::RefCell<serde_json::Value> = const { std::cell::RefCell::new(serde_json::Value::Null) };
}

impl Contained {
    fn new() -> Self {
        let containerd = Containerd::start();
        SOCKET.set(containerd.allowed());
        Self { containerd }
    }
}

impl Sort for Contained {
    const KIND: &'static str = "container";
    const DISK_IS_SEEN: bool = true;

    fn allowed(_: &Path) -> serde_json::Value {
        serde_json::json!({"container": SOCKET.take()})
    }

    fn release(&self, bed: &Bed, version: &str, nature: Nature) -> Release {
        let files = image("image", script(nature));
        bed.signer.release_of(version, packed(&files), |manifest| {
            manifest["run"] = serde_json::json!({
                "kind": "container", "container": {"image": "image"}, "stopTimeoutSeconds": 5,
            });
            manifest["startTimeoutSeconds"] = 60.into();
            manifest["health"] = serde_json::json!([
                {"name": "fit", "probe": {"type": "command", "command": ["/bin/sleep", "1000"]}, "timeoutSeconds": 1}
            ]);
        })
    }

    fn instances(&self, _: &Bed) -> usize {
        self.containerd.running().len()
    }

    fn tidy(&self, _: &Bed) {
        assert_eq!(self.containerd.words(&["containers", "list", "--quiet"]), Vec::<String>::new());
        assert_eq!(self.containerd.words(&["content", "list", "--quiet"]), Vec::<String>::new());
    }
}

mod single {
    use super::*;

    // `starts_slowly`: what takes time is the unpacking of the image.
    conforms! {
        Contained::new();
        starts_and_stops, outlives_the_runner, is_never_doubled, crashes, hangs, starts_slowly, loses_a_child, meets_a_full_disk,
        is_started_on_a_full_disk, lacks_its_runtime,
    }

    #[tokio::test]
    async fn it_has_its_limits_mounts_and_user_and_nothing_of_roots() {
        let containerd = Containerd::start();
        let folder = tempfile::tempdir().unwrap();
        let mut device = containerd.allowed();
        std::fs::create_dir(folder.path().join("shared")).unwrap();
        std::fs::write(folder.path().join("shared/word"), "from the device\n").unwrap();
        let cdi = folder.path().join("cdi");
        std::fs::create_dir(&cdi).unwrap();
        let spec = serde_json::json!({"cdiVersion": "0.6.0", "kind": "example.com/gpu", "devices": [{"name": "0", "containerEdits": {
            "env": ["GPU=0"], "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero"}],
        }}]});
        std::fs::write(cdi.join("example.json"), spec.to_string()).unwrap();
        device["mounts"] = serde_json::json!([folder.path().join("shared")]);
        device["devices"] = serde_json::json!(["example.com/gpu"]);
        device["cdiFolders"] = serde_json::json!([cdi]);
        let shared = folder.path().join("shared");
        let bed = Bed::made(folder, &serde_json::json!({"container": device}), None).await;
        let script = "#!/bin/sh\nid -u\ncat /shared/word\necho mine >/state/mine && echo wrote\ntouch /shared/x 2>/dev/null || echo unchanged\n\
            grep -E 'NoNewPrivs|CapEff|Seccomp:' /proc/self/status\necho from=$FROM port=$PORT gpu=$GPU\nhead -c 3 /dev/gpu0 >/dev/null && echo has gpu\n\
            ls /dev/zero /dev/sda 2>/dev/null\nhead -c 80000000 /dev/zero | tail -c 70000000 >/dev/null || echo limited\necho end\nexec sleep 1000\n";
        let files = image(".", script)
            .into_iter()
            .map(|(path, mode, bytes)| (path.trim_start_matches("./").to_owned(), mode, bytes));
        let files: Vec<_> = files.collect();
        let release = bed.signer.release_of("1.0", packed(&files), |manifest| {
            manifest["run"] = serde_json::json!({
                "kind": "container", "env": {"PORT": "8080"}, "limits": {"memoryBytes": 30_000_000, "processes": 20, "cpuMillis": 500},
                "container": {"image": ".", "devices": ["example.com/gpu=0"], "network": "none", "mounts": [
                    {"source": "state", "target": "/state"}, {"source": shared, "target": "/shared", "readOnly": true},
                ]},
            });
        });
        bed.run(&release, 1).await;
        let log =
            until("what it says", || async { Some(bed.logs().await).filter(|log| log.contains("end\n")) })
                .await;
        for word in [
            "from the device",
            "wrote",
            "unchanged",
            "NoNewPrivs:\t1",
            "CapEff:\t0000000000000000",
            "Seccomp:\t2",
            "from=image port=8080 gpu=0",
            "has gpu",
            "limited",
        ] {
            assert!(log.contains(word), "{word:?} is missing: {log}");
        }
        let uid: u32 = log.lines().find_map(|line| line.parse().ok()).unwrap();
        assert!(farshore_agent::runner::APP_UIDS.contains(&uid), "{log}");
        assert!(!log.contains("/dev/sda"), "{log}");
        assert_eq!(std::fs::read_to_string(bed.data().join("state/mine")).unwrap(), "mine\n");
        bed.stop().await;

        // What the device does not allow is not given.
        for container in [
            serde_json::json!({"image": ".", "mounts": [{"source": "/etc", "target": "/x"}]}),
            serde_json::json!({"image": ".", "devices": ["other.com/gpu=0"]}),
        ] {
            let release = bed.signer.release_of("2.0", packed(&files), |manifest| {
                manifest["run"] = serde_json::json!({"kind": "container", "container": container});
            });
            bed.stage(&release).await.unwrap();
            bed.start(&release, 2).await.unwrap();
            let why = bed.failed(1).await.last_exit.unwrap();
            assert!(why.contains("does not allow"), "{why}");
            bed.stop().await;
        }
    }

    #[tokio::test]
    async fn an_image_with_a_blob_that_is_not_what_it_says_is_not_run() {
        let containerd = Containerd::start();
        let bed = Bed::new(&serde_json::json!({"container": containerd.allowed()})).await;
        let mut files = image("image", script(Nature::Good));
        // The second layer, the smaller one.
        files[1].2[20] ^= 1;
        let release = bed.signer.release_of("1.0", packed(&files), |manifest| {
            manifest["run"] = serde_json::json!({"kind": "container", "container": {"image": "image"}});
        });
        bed.stage(&release).await.unwrap();
        bed.start(&release, 1).await.unwrap();
        let why = bed.failed(1).await.last_exit.unwrap();
        assert!(why.contains("digest"), "{why}");
        bed.stop().await;
        assert_eq!(containerd.running(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_containerd_that_is_away_for_a_while_is_waited_for() {
        let containerd = Containerd::start();
        let mut device = containerd.allowed();
        device["socket"] = serde_json::json!(containerd.folder.path().join("later.sock"));
        let bed = Bed::new(&serde_json::json!({"container": device})).await;
        assert!(!bed.capabilities().await.contains(&"executor/container".to_owned()));
        let files = image("image", script(Nature::Good));
        let release = bed.signer.release_of("1.0", packed(&files), |manifest| {
            manifest["run"] = serde_json::json!({"kind": "container", "container": {"image": "image"}});
        });
        bed.stage(&release).await.unwrap();
        bed.start(&release, 1).await.unwrap();
        let why = bed.failed(1).await.last_exit.unwrap();
        assert!(why.contains("can't be reached"), "{why}");
        std::os::unix::fs::symlink(containerd.socket(), containerd.folder.path().join("later.sock")).unwrap();
        bed.up().await;
        assert!(bed.capabilities().await.contains(&"executor/container".to_owned()));
        bed.stop().await;
    }

    #[tokio::test]
    async fn a_containerd_whose_disk_is_full_is_waited_for_and_nothing_counts_as_a_failure() {
        let containerd = Containerd::on_disk(Some(16 << 20));
        let disk = containerd.disk.as_ref().unwrap().filler();
        let bed = Bed::new(&serde_json::json!({"container": containerd.allowed()})).await;
        let files = image("image", script(Nature::Good));
        let release = bed.signer.release_of("1.0", packed(&files), |manifest| {
            manifest["run"] = serde_json::json!({"kind": "container", "container": {"image": "image"}});
        });
        bed.stage(&release).await.unwrap();
        disk.fill();
        bed.start(&release, 1).await.unwrap();
        let why = until("why it does not start", || async { bed.running().await?.last_exit }).await;
        assert!(why.contains("no space left on device") && why.contains("the disk is full"), "{why}");
        let observed = bed.observed().await;
        assert!(
            observed.full && observed.filled,
            "one that has not proven itself is not waited for there for ever"
        );
        assert_eq!(observed.running.unwrap().restarts, 0);
        let commit =
            farshore_agent::runner::Request::Commit { app: crate::bed::web(), manifest: release.manifest };
        bed.client.done(&commit).await.unwrap();
        let observed = bed.observed().await;
        assert!(observed.full && !observed.filled, "one that has is");
        disk.clear();
        assert_eq!(bed.up().await.restarts, 0);
        bed.stop().await;
    }

    #[tokio::test]
    async fn a_check_runs_inside() {
        let containerd = Containerd::start();
        let bed = Bed::new(&serde_json::json!({"container": containerd.allowed()})).await;
        let files = image("image", script(Nature::Good));
        let release = bed.signer.release_of("1.0", packed(&files), |manifest| {
            manifest["run"] = serde_json::json!({"kind": "container", "container": {"image": "image"}});
            manifest["health"] = serde_json::json!([
                {"name": "inside", "probe": {"type": "command", "command": ["/bin/sh", "-c", "echo looking && test -e /bin/busybox -a $FROM = image"]}},
                {"name": "bad", "probe": {"type": "command", "command": ["/bin/sh", "-c", "echo the pump is stuck >&2; exit 4"]}},
            ]);
        });
        bed.run(&release, 1).await;
        for (name, expect, says) in [("inside", true, ""), ("bad", false, "exited with 4: the pump is stuck")]
        {
            let check = Name::new(name).unwrap();
            match bed.client.ask(&Request::Probe { app: web(), check, instance: None }).await.unwrap() {
                Reply::Probed { good, message } => {
                    assert_eq!((good, message.as_str()), (expect, says), "{name}")
                }
                other => panic!("{other:?}"),
            }
        }
        bed.stop().await;
    }
}

mod compose {
    use super::*;

    struct Composed(Contained);

    impl Sort for Composed {
        const KIND: &'static str = "compose";
        const DISK_IS_SEEN: bool = true;
        const HANG_IS_SEEN: bool = true;

        fn allowed(bed: &Path) -> serde_json::Value {
            Contained::allowed(bed)
        }

        fn release(&self, bed: &Bed, version: &str, nature: Nature) -> Release {
            let files = image("images/one", script(nature));
            let test = if nature == Nature::Hanging { "sleep 1000; # within 1 s" } else { "true" };
            bed.signer.release_of(version, packed(&files), |manifest| {
                manifest["run"] = serde_json::json!({"kind": "compose", "stopTimeoutSeconds": 5, "compose": {
                    "images": {"one:1": "images/one"},
                    "services": {"one": {"image": "one:1", "restart": "always", "healthcheck":
                        {"test": ["CMD-SHELL", test], "timeout": "1s", "interval": "1s", "retries": 1}}},
                }});
                manifest["startTimeoutSeconds"] = 60.into();
            })
        }

        fn instances(&self, bed: &Bed) -> usize {
            self.0.instances(bed)
        }

        fn tidy(&self, bed: &Bed) {
            self.0.tidy(bed);
        }
    }

    conforms! {
        Composed(Contained::new());
        starts_and_stops, outlives_the_runner, is_never_doubled, crashes, hangs, starts_slowly, loses_a_child, meets_a_full_disk,
        is_started_on_a_full_disk, lacks_its_runtime,
    }

    #[tokio::test]
    async fn services_start_in_order_share_data_and_stop_together() {
        let containerd = Containerd::start();
        let bed = Bed::new(&serde_json::json!({"container": containerd.allowed()})).await;
        let files = image("images/one", "#!/bin/sh\nexit 1\n");
        let services = serde_json::json!({
            "prepare": {"image": "one:1", "command": ["sh", "-c", "echo prepared >/shared/word"], "volumes": ["common:/shared"], "restart": "no"},
            "db": {"image": "one:1", "command": ["sh", "-c", "sleep 1; touch /shared/db; trap 'exit 0' TERM; sleep 1000 & wait"],
                "volumes": ["common:/shared"], "restart": "always",
                "depends_on": {"prepare": {"condition": "service_completed_successfully"}},
                "healthcheck": {"test": ["CMD", "test", "-e", "/shared/db"], "interval": "1s", "retries": 20}},
            "web": {"image": "one:1", "command": ["sh", "-c", "cat /shared/word; test -e /shared/db && echo db is there; trap 'exit 0' TERM; sleep 1000 & wait"],
                "volumes": ["./common:/shared:ro"], "restart": "always", "depends_on": {"db": {"condition": "service_healthy"}},
                "ports": ["8080:8080"], "mem_limit": "32m"},
        });
        let release = bed.signer.release_of("1.0", packed(&files), |manifest| {
            manifest["run"] = serde_json::json!({"kind": "compose", "stopTimeoutSeconds": 5, "compose": {
                "images": {"one:1": "images/one"}, "services": services,
            }});
            manifest["startTimeoutSeconds"] = 60.into();
        });
        bed.run(&release, 1).await;
        until("what web says", || async { bed.logs().await.contains("prepared\ndb is there").then_some(()) })
            .await;
        let mut running = containerd.running();
        running.sort();
        assert_eq!(running, ["web.db", "web.web"]);
        // One of them dies: the app is restarted as a whole.
        assert!(containerd.ctr(&["tasks", "kill", "--signal", "KILL", "web.db"]).status.success());
        let running = bed.failed(1).await;
        assert_eq!(running.last_exit.as_deref(), Some("service db was killed by signal 9"));
        bed.up().await;
        bed.stop().await;
        assert_eq!(containerd.running(), Vec::<String>::new());
    }
}
