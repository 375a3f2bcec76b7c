//! Kinds `container` and `compose`, against a containerd of the test's own with real runc, and an image made here.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use farshore_agent::runner::{Reply, Request};
use farshore_domain::digest::Digest;
use farshore_domain::name::Name;

use crate::bed::{Bed, web};
use crate::release::Release;
use crate::suite::{Nature, Sort, conforms};
use crate::wait::until;

/// A containerd in a folder of its own, with its own socket; ends with the test.
pub(crate) struct Containerd {
    child: Child,
    pub(crate) folder: tempfile::TempDir,
    /// The group its containers are below.
    pub(crate) namespace: String,
}

impl Containerd {
    pub(crate) fn start() -> Self {
        assert!(rustix::process::geteuid().is_root(), "containers need root");
        let folder = tempfile::Builder::new().prefix("fs-ctd-").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n[debug]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("c.sock"),
            at("t.sock"),
            at("d.sock")
        );
        std::fs::write(at("config.toml"), config).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(at("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("containerd: {error}; type: apt-get install containerd runc"));
        let namespace = format!("farshore-{}", uuid::Uuid::new_v4().simple());
        let it = Self { child, folder, namespace };
        for _ in 0..500 {
            if it.ctr(&["version"]).status.success() {
                return it;
            }
            drop(Command::new("sleep").arg("0.02").status());
        }
        panic!(
            "containerd does not come up: {}",
            std::fs::read_to_string(it.folder.path().join("log")).unwrap()
        );
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("c.sock")
    }

    pub(crate) fn ctr(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", &self.namespace]);
        command.args(arguments).output().unwrap()
    }

    /// Ids of tasks that run.
    pub(crate) fn running(&self) -> Vec<String> {
        let listed = self.ctr(&["tasks", "list"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let lines = text.lines().skip(1).filter(|line| line.contains("RUNNING"));
        lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }

    pub(crate) fn words(&self, arguments: &[&str]) -> Vec<String> {
        let listed = self.ctr(arguments);
        String::from_utf8_lossy(&listed.stdout).split_whitespace().map(str::to_owned).collect()
    }

    pub(crate) fn allowed(&self) -> serde_json::Value {
        serde_json::json!({"socket": self.socket(), "namespace": self.namespace})
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for task in self.words(&["tasks", "list", "--quiet"]) {
            drop(self.ctr(&["tasks", "kill", "--signal", "KILL", "--all", &task]));
            drop(self.ctr(&["tasks", "delete", "--force", &task]));
        }
        drop(self.child.kill());
        drop(self.child.wait());
        drop(
            Command::new("umount")
                .args(["--recursive", "--quiet"])
                .arg(self.folder.path().join("state"))
                .status(),
        );
    }
}

/// An OCI layout of one image with a shell, below `at` in the release: two layers, of which the second is packed.
pub(crate) fn image(at: &str, script: &str) -> Vec<(String, u32, Vec<u8>)> {
    let busybox = std::fs::read("/bin/busybox")
        .unwrap_or_else(|error| panic!("busybox: {error}; type: apt-get install busybox-static"));
    let layer = |files: &[(&str, u32, &[u8])], links: &[&str]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, mode, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        for link in links {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            builder.append_link(&mut header, format!("bin/{link}"), "busybox").unwrap();
        }
        builder.into_inner().unwrap()
    };
    let tools = [
        "sh", "sleep", "echo", "cat", "id", "head", "tail", "setsid", "test", "env", "grep", "ls", "touch",
        "mkdir", "httpd", "wget",
    ];
    let base = layer(&[("bin/busybox", 0o755, &busybox)], &tools);
    let top = layer(&[("bin/app", 0o755, script.as_bytes()), ("etc/passwd", 0o644, b"")], &[]);
    let packed = zstd::encode_all(top.as_slice(), 1).unwrap();
    let mut files = Vec::new();
    let mut put = |bytes: Vec<u8>, media: &str| {
        let digest = Digest::of(&bytes);
        let descriptor = serde_json::json!({"mediaType": media, "digest": digest, "size": bytes.len()});
        files.push((format!("{at}/blobs/sha256/{}", digest.hex()), 0o644, bytes));
        descriptor
    };
    let diffs = [Digest::of(&base), Digest::of(&top)];
    let layers = [
        put(base, "application/vnd.oci.image.layer.v1.tar"),
        put(packed, "application/vnd.oci.image.layer.v1.tar+zstd"),
    ];
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {"Entrypoint": ["/bin/app"], "Env": ["PATH=/bin", "FROM=image"]},
        "rootfs": {"type": "layers", "diff_ids": diffs},
    });
    let config = put(serde_json::to_vec(&config).unwrap(), "application/vnd.oci.image.config.v1+json");
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers});
    let manifest = put(serde_json::to_vec(&manifest).unwrap(), "application/vnd.oci.image.manifest.v1+json");
    let index =
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [manifest]})).unwrap();
    files.push((format!("{at}/index.json"), 0o644, index));
    files.push((format!("{at}/oci-layout"), 0o644, b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec()));
    files
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
        lacks_its_runtime,
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
        starts_and_stops, outlives_the_runner, is_never_doubled, crashes, hangs, starts_slowly, loses_a_child, meets_a_full_disk, lacks_its_runtime,
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
