//! Kind `process`, kept apart from the device: namespaces, a view of the file system of its own, profiles of system calls.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use farshore_agent::runner::ClientError;
use farshore_domain::policy::Bounds;
use serde_json::{Value, json};

use crate::bed::{Bed, refused};
use crate::process::{processes, script};
use crate::release::Release;
use crate::suite::{Nature, Sort};

/// Everything at once.
fn all() -> Value {
    json!({
        "pid": "private", "ipc": "private", "uts": "private", "network": "none",
        "readOnlyRoot": true, "privateTmp": true, "maskedPaths": ["/home", "/root"], "seccomp": "default",
    })
}

/// Whether this machine lets the runner keep apps apart. Where not (without root, or under the runner's own unit), the runner has to say so, and takes no such
/// release. Where it is known which of the two it is (`FARSHORE_TEST_ISOLATION`), the other one is a failure.
async fn is_possible() -> bool {
    let bed = Bed::new(&json!({})).await;
    let words = bed.capabilities().await;
    let has = |word: &str| words.contains(&format!("isolation/{word}"));
    let possible = ["pid", "mount", "ipc", "uts", "network", "seccomp"].into_iter().all(has);
    match std::env::var("FARSHORE_TEST_ISOLATION").as_deref() {
        Ok("yes") => assert!(possible, "{words:?}"),
        Ok(_) => assert!(!possible, "{words:?}"),
        Err(_) => {}
    }
    if possible {
        return true;
    }
    eprintln!(
        "THIS MACHINE HAS NO NAMESPACES FOR APPS ({words:?}): that such releases are refused is all that is tested"
    );
    let release = apart(&bed, "1.0", "exec sleep 1000", &all());
    match bed.stage(&release).await {
        Err(ClientError::Failed { code, message, .. }) => {
            assert_eq!(code, "Unsupported");
            assert!(message.contains("it has no isolation/") && message.contains("the drop-in"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    false
}

fn apart(bed: &Bed, version: &str, script: &str, isolation: &Value) -> Release {
    let app = format!("#!/bin/sh\n{script}\n");
    // It asks where the app is: its processes, its files.
    let inside = "#!/bin/sh\ntest -e /tmp/inner && test \"$(ls /proc | grep -c '^[0-9]')\" -lt 9\n";
    let files = [("bin/app", 0o755, app.as_str()), ("bin/inside", 0o755, inside)];
    bed.signer.release(version, &files, |manifest| {
        manifest["run"]["isolation"] = isolation.clone();
        manifest["health"] =
            json!([{"name": "inside", "probe": {"type": "command", "command": ["bin/inside"]}}]);
    })
}

struct Apart;

impl Sort for Apart {
    const KIND: &'static str = "process";

    fn allowed(_: &Path) -> Value {
        json!({})
    }

    fn release(&self, bed: &Bed, version: &str, nature: Nature) -> Release {
        let files = [("bin/app", 0o755, script(nature)), ("bin/fit", 0o755, "#!/bin/sh\nexec sleep 1000\n")];
        bed.signer.release(version, &files, |manifest| {
            manifest["run"]["isolation"] = all();
            if nature == Nature::Slow {
                manifest["run"]["ready"] = "notify".into();
            }
            manifest["health"] = json!([
                {"name": "fit", "probe": {"type": "command", "command": ["bin/fit"]}, "timeoutSeconds": 1}
            ]);
        })
    }

    fn instances(&self, bed: &Bed) -> usize {
        processes(bed).len()
    }
}

macro_rules! where_possible {
    ($($scenario:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $scenario() {
                if is_possible().await {
                    crate::suite::$scenario(Apart).await;
                }
            }
        )*
    };
}

where_possible! {
    starts_and_stops, outlives_the_runner, is_never_doubled, crashes, hangs, starts_slowly, loses_a_child, meets_a_full_disk, is_started_on_a_full_disk,
}

/// Says what it sees.
const LOOK: &str = "\
touch /tmp/inner
echo pids $(ls /proc | grep -c '^[0-9]')
echo first $(tr '\\0' ' ' </proc/1/cmdline)
echo tmp $(ls /tmp | tr '\\n' ' ')
echo devices $(grep -c : /proc/net/dev)
touch \"$HOME/mine\" && echo home kept
echo apps $(ls \"$HOME/../..\" | tr '\\n' ' ')
echo masked $(ls /home /root 2>&1 | grep -c .)
exec sleep 1000";

#[tokio::test]
async fn it_sees_its_own_processes_files_and_network_only_and_so_do_its_checks() {
    if !is_possible().await {
        return;
    }
    let bed = Bed::new(&json!({})).await;
    let other = bed.apps().join("other");
    std::fs::create_dir_all(other.join("data")).unwrap();
    let marker = tempfile::Builder::new().prefix("farshore-outside-").tempfile_in("/tmp").unwrap();
    let release = apart(&bed, "1.0", LOOK, &all());
    bed.run(&release, 1).await;
    let pids: usize = bed.said("pids ").await.parse().unwrap();
    assert!(pids < 9, "{pids} processes");
    assert!(bed.said("first ").await.starts_with("/proc/self/exe app-exec"));
    let tmp = bed.said("tmp ").await;
    assert!(tmp.contains("inner") && !tmp.contains("farshore-outside-"), "{tmp}");
    assert!(marker.path().exists() && !Path::new("/tmp/inner").exists());
    assert_eq!(bed.said("devices ").await, "1");
    assert_eq!(bed.said("home ").await, "kept");
    assert_eq!(bed.said("apps ").await, "web");
    assert!(bed.data().join("mine").exists());
    // A folder that can't be looked into is one line of complaint each.
    assert_eq!(bed.said("masked ").await, "2");
    assert_eq!(bed.probe("inside").await, (true, String::new()));
    bed.stop().await;
    assert_eq!(processes(&bed), Vec::<i32>::new());
}

#[tokio::test]
async fn what_is_hidden_already_needs_no_mask_of_its_own() {
    if !is_possible().await {
        return;
    }
    let bed = Bed::new(&json!({})).await;
    std::fs::create_dir_all(bed.apps().join("other/data")).unwrap();
    // Nested, below a private /tmp, and in the folder of another app.
    let masked = json!(["/usr/share", "/usr/share/doc", "/tmp/not-there", bed.apps().join("other/data")]);
    let look = "echo share $(ls /usr/share 2>&1 | grep -c .)\nexec sleep 1000";
    let release = apart(&bed, "1.0", look, &json!({"privateTmp": true, "maskedPaths": masked}));
    bed.run(&release, 1).await;
    // One line of complaint.
    assert_eq!(bed.said("share ").await, "1");
    bed.stop().await;
}

#[tokio::test]
async fn it_writes_only_where_its_release_says() {
    if !is_possible().await {
        return;
    }
    let bed = Bed::new(&json!({})).await;
    let folders = ["open", "spool"].map(|name| bed.folder.path().canonicalize().unwrap().join(name));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let [open, spool] = folders.each_ref().map(|folder| folder.display());
    let script = format!(
        "touch \"$HOME/x\" && echo home yes\ntouch {spool}/x && echo spool yes\ntouch {open}/x && echo open yes || echo open no\nexec sleep 1000"
    );
    let free = apart(&bed, "1.0", &script, &json!({"uts": "private"}));
    bed.run(&free, 1).await;
    assert_eq!(bed.said("open ").await, "yes", "anybody may write there");
    bed.stop().await;
    std::fs::remove_file(folders[0].join("x")).unwrap();
    std::fs::remove_file(folders[1].join("x")).unwrap();
    let closed = json!({"readOnlyRoot": true, "writablePaths": [folders[1]]});
    let closed = apart(&bed, "1.1", &format!("echo again\n{script}"), &closed);
    bed.run(&closed, 2).await;
    bed.said("again").await;
    crate::wait::until("what it says", || async {
        let logs = bed.logs().await;
        logs.contains("open no").then_some(())
    })
    .await;
    assert!(bed.logs().await.contains("Read-only file system"));
    assert!(!folders[0].join("x").exists() && folders[1].join("x").exists() && bed.data().join("x").exists());
    bed.stop().await;
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&spool.to_string()));
}

#[tokio::test]
async fn what_is_mounted_later_on_the_device_is_neither_seen_nor_written() {
    if !is_possible().await {
        return;
    }
    // A device whose mounts are shared, as systemd has them.
    let wrapper = &["unshare", "--mount", "--propagation=shared"];
    let bed = Bed::wrapped(tempfile::tempdir().unwrap(), &json!({}), None, wrapper).await;
    let late = bed.folder.path().canonicalize().unwrap().join("late");
    std::fs::create_dir(&late).unwrap();
    std::fs::set_permissions(&late, std::fs::Permissions::from_mode(0o777)).unwrap();
    let release = |version: &str, isolation: &Value| {
        let write = format!("#!/bin/sh\necho by the app >{}/said\n", late.display());
        let files =
            [("bin/app", 0o755, "#!/bin/sh\nexec sleep 1000\n"), ("bin/write", 0o755, write.as_str())];
        bed.signer.release(version, &files, |manifest| {
            manifest["run"]["isolation"] = isolation.clone();
            manifest["health"] =
                json!([{"name": "write", "probe": {"type": "command", "command": ["bin/write"]}}]);
        })
    };
    let on_the_device = |command: &[&str]| {
        let mut enter = std::process::Command::new("nsenter");
        enter.arg(format!("--target={}", bed.runner())).args(["--mount", "--"]).args(command).arg(&late);
        enter.output().unwrap()
    };
    bed.run(&release("1.0", &json!({"readOnlyRoot": true})), 1).await;
    let mounted = on_the_device(&["mount", "-t", "tmpfs", "-o", "mode=1777", "late"]);
    assert!(mounted.status.success(), "{mounted:?}");
    let (written, why) = bed.probe("write").await;
    assert!(!written, "{why}");
    assert_eq!(on_the_device(&["ls", "-A"]).stdout, b"");
    assert!(!late.join("said").exists());
    bed.stop().await;
    // What is there when it starts is seen, and closed or not as it is told.
    bed.run(&release("1.1", &json!({"readOnlyRoot": true})), 2).await;
    assert!(!bed.probe("write").await.0);
    bed.stop().await;
    bed.run(&release("1.2", &json!({"privateTmp": false, "ipc": "private"})), 3).await;
    assert!(bed.probe("write").await.0);
    assert_eq!(on_the_device(&["ls", "-A"]).stdout, b"said\n");
    bed.stop().await;
    assert!(on_the_device(&["umount"]).status.success());
}

#[tokio::test]
async fn without_a_network_it_reaches_nobody() {
    if !is_possible().await {
        return;
    }
    let bed = Bed::new(&json!({})).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "bash -c 'echo >/dev/tcp/127.0.0.1/{port}' 2>&1 && echo reach yes || echo reach no\nexec sleep 1000"
    );
    let open = apart(&bed, "1.0", &script, &json!({"pid": "private"}));
    bed.run(&open, 1).await;
    assert_eq!(bed.said("reach ").await, "yes");
    bed.stop().await;
    let closed = apart(&bed, "1.1", &script, &json!({"network": "none"}));
    bed.run(&closed, 2).await;
    crate::wait::until("what it says", || async { bed.logs().await.contains("reach no").then_some(()) })
        .await;
    // Its own loopback is up, and nobody listens there.
    assert!(bed.logs().await.contains("Connection refused"));
    bed.stop().await;
}

#[cfg(target_arch = "x86_64")]
const PTRACE: u32 = 101;
#[cfg(target_arch = "aarch64")]
const PTRACE: u32 = 117;
/// What reads the memory of another process.
#[cfg(target_arch = "x86_64")]
const PROCESS_VM_READV: u32 = 310;
#[cfg(target_arch = "aarch64")]
const PROCESS_VM_READV: u32 = 270;

#[tokio::test]
async fn a_denied_system_call_fails_or_ends_it_and_the_reason_says_so() {
    if !is_possible().await {
        return;
    }
    let bed = Bed::new(&json!({})).await;
    let calls = format!(
        "$! = 0; syscall({PROCESS_VM_READV}, $$, 0, 0, 0, 0, 0); print \"peek \", $! + 0, \"\\n\"; $! = 0; syscall({PTRACE}, 0, 0, 0, 0); print \"trace \", $! + 0, \"\\n\""
    );
    // Anybody may be traced by his parent, and looks into himself; the runner's unit denies what it denies.
    let here = std::process::Command::new("perl").args(["-e", &calls]).output().unwrap();
    let here = String::from_utf8(here.stdout).unwrap();
    let open = |call: &str| here.lines().find_map(|line| line.strip_prefix(call)).unwrap();
    assert_eq!(open("peek "), "0");
    let script =
        |profile: &str| format!("echo with {profile}\nperl -e '{calls}'; echo after $?\nexec sleep 1000");
    for (version, profile, trace, peek) in
        [("1.0", "none", open("trace "), "0"), ("1.1", "default", "1", "1")]
    {
        let release = apart(&bed, version, &script(profile), &json!({"seccomp": profile, "uts": "private"}));
        bed.run(&release, 1).await;
        assert_eq!(bed.said("trace ").await, trace, "{profile}");
        assert_eq!(bed.said("peek ").await, peek, "{profile}");
        bed.stop().await;
        std::fs::remove_file(bed.apps().join("web/logs/stdout.log")).unwrap();
    }
    // Ordinary programs run under the strict one; what makes namespaces is not there.
    let script =
        "ls / >/dev/null && echo ordinary fine\nunshare --user true 2>&1 | sed 's/^/user /'\nexec sleep 1000";
    let release = apart(&bed, "1.2", script, &json!({"seccomp": "strict"}));
    bed.run(&release, 2).await;
    assert_eq!(bed.said("ordinary ").await, "fine");
    assert!(bed.said("user ").await.contains("not implemented"));
    bed.stop().await;
    for (version, isolation) in
        [("1.3", json!({"seccomp": "strict"})), ("1.4", json!({"seccomp": "strict", "pid": "private"}))]
    {
        let script = format!("exec perl -e 'syscall({PTRACE}, 0, 0, 0, 0); sleep 1000'");
        let release = apart(&bed, version, &script, &isolation);
        bed.stage(&release).await.unwrap();
        bed.start(&release, 3).await.unwrap();
        let why = bed.failed(1).await.last_exit.unwrap();
        assert_eq!(why, "was killed by signal 31 (SIGSYS: a system call that its seccomp profile denies)");
        bed.stop().await;
    }
}

#[tokio::test]
async fn a_policy_demands_more_than_the_release_asks_for() {
    if !is_possible().await {
        return;
    }
    let bed = Bed::new(&json!({})).await;
    let script = "echo pids $(ls /proc | grep -c '^[0-9]')\necho tmp $(ls /tmp | grep -c .)\nexec sleep 1000";
    let files = [("bin/app", 0o755, format!("#!/bin/sh\n{script}\n"))];
    let files = files.each_ref().map(|(path, mode, text)| (*path, *mode, text.as_str()));
    let release = bed.signer.release("1.0", &files, |manifest| {
        manifest["run"]["isolation"] = json!({"pid": "host"});
    });
    bed.stage(&release).await.unwrap();
    let policy: Bounds =
        serde_json::from_value(json!({"isolation": {"pid": "private", "privateTmp": true}})).unwrap();
    bed.start_bound(&release, 1, &[], policy.clone()).await.unwrap();
    // It says what this instance has, whatever the policy demands by now.
    let has = bed.up().await.isolation.unwrap();
    assert!(has.has_pid() && !has.falls_short_of(&policy.isolation), "{has:?}");
    assert!(bed.said("pids ").await.parse::<usize>().unwrap() < 9);
    // Where the bed is: its way there, and nothing else.
    assert!(bed.said("tmp ").await.parse::<usize>().unwrap() <= 1);
    bed.stop().await;
    // Its health check asks over the network.
    let asks = bed.signer.release("1.1", &files, |manifest| {
        manifest["health"] = json!([{"name": "web", "probe": {"type": "tcp", "port": 9}}]);
    });
    bed.stage(&asks).await.unwrap();
    let policy: Bounds = serde_json::from_value(json!({"isolation": {"network": "none"}})).unwrap();
    refused(bed.start_bound(&asks, 2, &[], policy).await, "Unsupported");
}

#[tokio::test]
async fn what_can_not_be_given_is_refused_or_not_run_and_never_run_with_less() {
    if !is_possible().await {
        return;
    }
    // Root without the right to make namespaces.
    let wrapper = &["setpriv", "--bounding-set", "-sys_admin"];
    let bed = Bed::wrapped(tempfile::tempdir().unwrap(), &json!({}), None, wrapper).await;
    let words = bed.capabilities().await;
    assert!(!words.iter().any(|word| word == "isolation/pid" || word == "isolation/mount"), "{words:?}");
    let release = apart(&bed, "1.0", "exec sleep 1000", &all());
    refused(bed.stage(&release).await, "Unsupported");
    let plain = apart(&bed, "1.1", "exec sleep 1000", &json!({"seccomp": "default"}));
    bed.run(&plain, 1).await;
    let policy: Bounds = serde_json::from_value(json!({"isolation": {"ipc": "private"}})).unwrap();
    bed.stop().await;
    refused(bed.start_bound(&plain, 2, &[], policy).await, "Unsupported");
    assert_eq!(processes(&bed), Vec::<i32>::new());

    let bed = Bed::new(&json!({})).await;
    for (version, isolation, why) in [
        ("1.0", json!({"maskedPaths": [bed.apps()]}), "the app's own folder, or holds it"),
        (
            "1.2",
            json!({"maskedPaths": ["/home", bed.folder.path().join("later")]}),
            "it is not there, and would be seen as soon as it is; mask the folder that it belongs in",
        ),
        (
            "1.1",
            json!({"readOnlyRoot": true, "writablePaths": ["/not/there"]}),
            "keeping /not/there writable: it is not there",
        ),
    ] {
        let release = apart(&bed, version, "exec sleep 1000", &isolation);
        bed.stage(&release).await.unwrap();
        bed.start(&release, 1).await.unwrap();
        let said = bed.failed(1).await.last_exit.unwrap();
        assert!(
            said.starts_with("it could not be started: it can't be kept apart as it has to be"),
            "{said}"
        );
        assert!(said.ends_with(why), "{said}");
        bed.stop().await;
        assert_eq!(processes(&bed), Vec::<i32>::new());
    }
}
