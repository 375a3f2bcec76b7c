//! Commands from afar inside containers: what the signed policy allows, where it says, and nothing of them is left.

use std::path::Path;
use std::time::Duration;

use farshore_agent::clock::wall;
use farshore_agent::runner::{Anchor, ClientError, Ended, Order, Request, Signed, SignedState};
use farshore_domain::desired::DESIRED_SCHEMA;
use farshore_domain::id::DeviceId;
use farshore_domain::operation::EXEC_OUTPUT_BYTES;
use farshore_trust::authority::{Authority, Issuer};
use farshore_trust::identity::TrustDomain;
use farshore_trust::online::{OnlineSigner, sign_desired};
use serde_json::{Value, json};

use crate::bed::{Bed, web};
use crate::container::{image, packed};
use crate::containerd::Containerd;
use crate::wait::until;

/// Who signs policies for the bed's device.
pub(crate) struct Law {
    online: OnlineSigner,
    anchor: Anchor,
    device: DeviceId,
    generation: std::cell::Cell<u64>,
}

impl Law {
    pub(crate) fn new(bed: &Bed) -> Self {
        farshore_trust::provider::install();
        let domain = TrustDomain::new("test.farshore").unwrap();
        let made = Authority::generate(&domain, wall()).unwrap();
        let root = made.root_cert.clone();
        let issuer =
            Issuer::new(domain.clone(), made.root_cert, made.intermediate_cert, made.intermediate_key)
                .unwrap();
        let device = DeviceId(uuid::Uuid::now_v7());
        Self {
            online: issuer.issue_online(wall(), Duration::from_secs(3600)).unwrap(),
            anchor: Anchor::new(bed.signer.tenant, device, domain, &[root]),
            device,
            generation: std::cell::Cell::new(0),
        }
    }

    /// From now on this is what may be done from afar.
    pub(crate) async fn allow(&self, bed: &Bed, operations: Value) {
        self.generation.set(self.generation.get() + 1);
        let state = json!({
            "schema": DESIRED_SCHEMA, "tenant": bed.signer.tenant, "tenantName": bed.signer.tenant_name, "device": self.device,
            "epoch": 1, "generation": self.generation.get(), "issuedAt": wall(), "apps": [],
            "policy": {"rules": {"operations": operations}},
        });
        let signed = sign_desired(&self.online, serde_json::to_vec(&state).unwrap()).unwrap();
        let state = SignedState {
            signed: Signed { document: signed.body, signature: signed.signature },
            chain: SignedState::encode(&signed.chain),
        };
        bed.client.done(&Request::Obey { anchor: self.anchor.clone(), state: Some(state) }).await.unwrap();
    }
}

fn order(app: Option<&str>, arguments: Value) -> Order {
    Order {
        operation: format!("op-{}", uuid::Uuid::new_v4()),
        app: app.map(|app| app.parse().unwrap()),
        arguments: serde_json::from_value(arguments).unwrap(),
        reason: String::new(),
    }
}

pub(crate) async fn run(bed: &Bed, order: Order) -> Result<(Ended, String), ClientError> {
    let mut said = Vec::new();
    let ended = bed.client.exec(order, |bytes| said.extend(bytes)).await?;
    Ok((ended, String::from_utf8(said).unwrap()))
}

/// A command inside the app.
pub(crate) fn command(line: &str) -> Order {
    order(Some("web"), json!({"command": line}))
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (String, String) {
    match result {
        Err(ClientError::Failed { code, message, .. }) => (code, message),
        other => panic!("{other:?}"),
    }
}

/// Processes of the machine with this in their environment.
fn marked(order: &Order) -> usize {
    let mark = format!("FARSHORE_OPERATION={}", order.operation).into_bytes();
    let has = |path: &Path| {
        std::fs::read(path.join("environ")).is_ok_and(|env| env.split(|b| *b == 0).any(|one| one == mark))
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| has(&entry.path())).count()
}

const SERVICE: &str = "#!/bin/sh\ntrap 'exit 0' TERM\necho up\nsleep 1000 &\nwait\n";

async fn contained() -> (Containerd, Bed, Law) {
    let containerd = Containerd::start();
    let bed = Bed::new(&json!({"container": containerd.allowed()})).await;
    let release = bed.signer.release_of("1.0", packed(&image("image", SERVICE)), |manifest| {
        manifest["run"] =
            json!({"kind": "container", "env": {"OWN": "app"}, "container": {"image": "image"}});
    });
    bed.run(&release, 1).await;
    let law = Law::new(&bed);
    (containerd, bed, law)
}

#[tokio::test]
async fn a_command_runs_in_the_apps_container_as_its_user_and_its_output_is_told() {
    let (_containerd, bed, law) = contained().await;
    law.allow(&bed, json!({"execInside": true})).await;
    let line = "echo $FROM $OWN; echo bad >&2; id -u; grep -E 'CapEff|NoNewPrivs' /proc/self/status; test -e /bin/app && exit 3";
    let (ended, said) = run(&bed, command(line)).await.unwrap();
    assert_eq!((ended.exit_code, ended.message.as_str()), (Some(3), "it ended with 3"));
    assert_eq!(ended.total, said.len() as u64);
    for word in ["image app\n", "bad\n", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(said.contains(word), "{word:?} is missing: {said}");
    }
    let uid: u32 = said.lines().find_map(|line| line.parse().ok()).unwrap();
    assert!(farshore_agent::runner::APP_UIDS.contains(&uid), "{said}");
    let (ended, said) =
        run(&bed, command("head -c 300000 /dev/zero | tail -c 300000; echo end")).await.unwrap();
    assert_eq!((ended.exit_code, ended.total, said.len()), (Some(0), 300_004, EXEC_OUTPUT_BYTES));
    bed.stop().await;
    let (code, message) = refused(run(&bed, command("true")).await);
    assert_eq!((code.as_str(), message.as_str()), ("NotRunning", "web does not run"));
}

#[tokio::test]
async fn where_a_runbook_runs_the_policy_says_and_nobody_else() {
    let (_containerd, bed, law) = contained().await;
    let runbooks = json!([
        {"name": "inside", "command": ["/bin/echo", "from", "inside"], "app": "web"},
        {"name": "beside", "command": ["/bin/sh", "-c", "test -e /bin/app || echo beside"]},
        {"name": "nowhere", "command": ["/bin/true"], "app": "web", "service": "db"},
    ]);
    law.allow(&bed, json!({"runbooks": runbooks})).await;
    let (ended, said) = run(&bed, order(None, json!({"runbook": "inside"}))).await.unwrap();
    assert_eq!((ended.exit_code, said.as_str()), (Some(0), "from inside\n"));
    let (_, said) = run(&bed, order(None, json!({"runbook": "beside"}))).await.unwrap();
    assert_eq!(said, "beside\n");
    let (code, message) = refused(run(&bed, order(Some("web"), json!({"runbook": "beside"}))).await);
    assert!(code == "NotAllowed" && message.contains("the policy says which app"), "{message}");
    let (_, message) = refused(run(&bed, order(None, json!({"runbook": "nowhere"}))).await);
    assert!(message.contains("has no services"), "{message}");
    // A policy from before there was a permission of its own allows what it did beside the apps, and nothing inside.
    for policy in [json!({"runbooks": runbooks}), json!({"exec": true})] {
        law.allow(&bed, policy).await;
        let (code, message) = refused(run(&bed, command("true")).await);
        assert!(code == "NotAllowed" && message.contains("operations.execInside"), "{message}");
    }
    let beside = order(None, json!({"command": "test -e /bin/app || echo beside"}));
    assert_eq!(run(&bed, beside.clone()).await.unwrap().1, "beside\n");
    law.allow(&bed, json!({"execInside": true})).await;
    let (code, message) = refused(run(&bed, beside).await);
    assert!(code == "NotAllowed" && message.contains("does not allow a free command"), "{message}");
    bed.stop().await;
}

#[tokio::test]
async fn one_that_takes_too_long_is_ended_with_all_it_started_also_after_the_runner_was_killed() {
    let (_containerd, mut bed, law) = contained().await;
    law.allow(&bed, json!({"execInside": true})).await;
    let line = "setsid sleep 1000 & echo begun; sleep 1000";
    let slow = order(Some("web"), json!({"command": line, "timeoutSeconds": 1}));
    let (ended, said) = run(&bed, slow.clone()).await.unwrap();
    assert_eq!((ended.exit_code, said.as_str()), (None, "begun\n"));
    assert!(ended.message.contains("longer than 1 s"), "{ended:?}");
    assert_eq!(marked(&slow), 0);

    let left = order(Some("web"), json!({"command": line}));
    let client = bed.client.clone();
    let asked = left.clone();
    let waiting = tokio::spawn(async move { client.exec(asked, drop).await });
    until("it to run", || async { (marked(&left) >= 2).then_some(()) }).await;
    bed.kill_runner();
    assert!(waiting.await.unwrap().is_err());
    assert!(marked(&left) >= 2, "it is not the runner's child");
    bed.start_runner().await;
    until("its end", || async { (marked(&left) == 0).then_some(()) }).await;
    assert_eq!(bed.running().await.map(|running| (running.up, running.restarts)), Some((true, 0)));
    let (ended, said) = run(&bed, command("echo again")).await.unwrap();
    assert_eq!((ended.exit_code, said.as_str()), (Some(0), "again\n"));
    bed.stop().await;
}

#[tokio::test]
async fn a_containerd_that_hangs_blocks_no_command_for_ever() {
    let (containerd, bed, law) = contained().await;
    law.allow(&bed, json!({"execInside": true})).await;
    containerd.signal(rustix::process::Signal::STOP);
    let (code, message) = refused(run(&bed, command("true")).await);
    assert_eq!(code, "RuntimeStuck", "{message}");
    assert!(message.contains("took longer than 15 s"), "{message}");
    containerd.signal(rustix::process::Signal::CONT);
    let (ended, said) = run(&bed, command("echo again")).await.unwrap();
    assert_eq!((ended.exit_code, said.as_str()), (Some(0), "again\n"));
    let left = std::fs::read_dir(bed.apps().join(".exec")).unwrap().count();
    assert_eq!(left, 0, "what could not be ended before was ended then");
    bed.stop().await;
}

#[tokio::test]
async fn of_several_services_one_is_named() {
    let containerd = Containerd::start();
    let bed = Bed::new(&json!({"container": containerd.allowed()})).await;
    let services = json!({
        "db": {"image": "one:1", "environment": {"WHO": "db"}, "restart": "always"},
        "web": {"image": "one:1", "environment": {"WHO": "web"}, "restart": "always"},
    });
    let release = bed.signer.release_of("1.0", packed(&image("images/one", SERVICE)), |manifest| {
        manifest["run"] = json!({"kind": "compose", "compose": {"images": {"one:1": "images/one"}, "services": services}});
    });
    bed.run(&release, 1).await;
    let law = Law::new(&bed);
    law.allow(&bed, json!({"execInside": true})).await;
    let (_, message) = refused(run(&bed, command("echo $WHO")).await);
    assert!(message.contains("say in which: db, web"), "{message}");
    let of = |service: &str| order(Some("web"), json!({"command": "echo $WHO", "service": service}));
    assert_eq!(run(&bed, of("db")).await.unwrap().1, "db\n");
    assert_eq!(run(&bed, of("web")).await.unwrap().1, "web\n");
    let (_, message) = refused(run(&bed, of("cache")).await);
    assert!(message.contains("no service cache, only db, web"), "{message}");
    bed.stop().await;
}

#[tokio::test]
async fn there_is_no_inside_of_a_process() {
    let bed = Bed::new(&json!({})).await;
    let release = bed.signer.release("1.0", &[("bin/app", 0o755, crate::release::SLEEPER)], |_| {});
    bed.run(&release, 1).await;
    let law = Law::new(&bed);
    law.allow(&bed, json!({"execInside": true})).await;
    let (_, message) = refused(run(&bed, command("true")).await);
    assert!(
        message.contains("web is of kind process; commands run inside apps of kind container and compose"),
        "{message}"
    );
    assert_eq!(bed.running().await.map(|running| running.up), Some(true), "{:?}", web());
    bed.stop().await;
}
