//! The suite: each scenario once, for every kind.

use std::path::Path;

use crate::bed::{Bed, refused};
use crate::release::Release;
use crate::wait::until;

/// How a release behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// Comes up, says `hello from <version>`, and stays.
    Good,
    /// Fails as soon as it is started.
    Crashing,
    /// Is there and does not do its work.
    Hanging,
    /// Needs a second or two until it is up.
    Slow,
    /// Loses a child, and leaves another one behind.
    Childish,
}

/// What the suite must know of a kind of app.
pub(crate) trait Sort {
    const KIND: &'static str;

    /// The device's settings that let it run.
    fn allowed(bed: &Path) -> serde_json::Value;

    fn release(&self, bed: &Bed, version: &str, nature: Nature) -> Release;

    /// How many instances of it there are on the device, looked at from outside.
    fn instances(&self, bed: &Bed) -> usize;

    /// What of it a stop leaves, such as files that were put there.
    const LEFT: usize = 0;

    /// Whether its failures show in the supervisor's restarts when it hangs; else a health check has to find out.
    const HANG_IS_SEEN: bool = false;

    /// Whether the disk that it lies on must be seen from outside of the runner: by whoever runs it, or to see that it is there.
    const DISK_IS_SEEN: bool = false;

    /// Waits until the device is as the suite left it before, and ends what only this kind has.
    fn tidy(&self, _: &Bed) {}
}

async fn bed<S: Sort>() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let allowed = S::allowed(folder.path());
    Bed::made(folder, &allowed, None).await
}

async fn count<S: Sort>(sort: &S, bed: &Bed, wanted: usize) {
    until(&format!("{wanted} of it"), || async { (sort.instances(bed) == wanted).then_some(()) }).await;
}

/// Starts, is there once, is never doubled, stops, and starts again.
pub(crate) async fn starts_and_stops<S: Sort>(sort: S) {
    let bed = bed::<S>().await;
    assert!(bed.capabilities().await.contains(&format!("executor/{}", S::KIND)));
    let release = sort.release(&bed, "1.0", Nature::Good);
    bed.run(&release, 7).await;
    count(&sort, &bed, 1).await;
    let running = bed.running().await.unwrap();
    assert_eq!((running.instance, running.manifest, running.restarts), (7, release.manifest, 0));
    until("what it says", || async { bed.logs().await.contains("hello from 1.0").then_some(()) }).await;
    refused(bed.start(&release, 8).await, "Doubled");
    bed.stop().await;
    assert_eq!((sort.instances(&bed), bed.running().await), (S::LEFT, None));
    // And the next release in its place.
    let next = sort.release(&bed, "2.0", Nature::Good);
    bed.run(&next, 9).await;
    count(&sort, &bed, 1).await;
    until("what it says", || async { bed.logs().await.contains("hello from 2.0").then_some(()) }).await;
    bed.stop().await;
    let web = crate::bed::web();
    bed.client.done(&farshore_agent::runner::Request::Remove { app: web }).await.unwrap();
    assert_eq!(sort.instances(&bed), 0);
    sort.tidy(&bed);
}

/// A runner that was killed finds it again; it has not noticed.
pub(crate) async fn outlives_the_runner<S: Sort>(sort: S) {
    let mut bed = bed::<S>().await;
    let release = sort.release(&bed, "1.0", Nature::Good);
    bed.run(&release, 3).await;
    count(&sort, &bed, 1).await;
    bed.kill_runner();
    assert_eq!(sort.instances(&bed), 1);
    bed.start_runner().await;
    let running = bed.running().await.unwrap();
    assert_eq!((running.instance, running.up, running.restarts), (3, true, 0));
    refused(bed.start(&release, 4).await, "Doubled");
    bed.stop().await;
    assert_eq!((sort.instances(&bed), bed.running().await), (S::LEFT, None));
    sort.tidy(&bed);
}

/// After its supervisor was killed, the next start leaves one instance, not two.
pub(crate) async fn is_never_doubled<S: Sort>(sort: S) {
    let bed = bed::<S>().await;
    let release = sort.release(&bed, "1.0", Nature::Good);
    bed.run(&release, 1).await;
    count(&sort, &bed, 1).await;
    bed.kill_supervisor().await;
    until("the supervisor's end", || async { bed.running().await.is_none().then_some(()) }).await;
    bed.start(&release, 2).await.unwrap();
    bed.up().await;
    count(&sort, &bed, 1).await;
    bed.kill_supervisor().await;
    bed.stop().await;
    assert_eq!(sort.instances(&bed), S::LEFT, "a stop clears what a killed supervisor left");
    sort.tidy(&bed);
}

/// One that fails is tried again with growing pauses, and says why.
pub(crate) async fn crashes<S: Sort>(sort: S) {
    let bed = bed::<S>().await;
    let release = sort.release(&bed, "1.0", Nature::Crashing);
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    let running = bed.failed(3).await;
    let why = running.last_exit.unwrap();
    assert!(why.contains('3'), "it ends with 3, and the reason is {why:?}");
    bed.stop().await;
    assert_eq!(bed.running().await, None);
    // A good one takes its place.
    let good = sort.release(&bed, "2.0", Nature::Good);
    bed.run(&good, 2).await;
    count(&sort, &bed, 1).await;
    bed.stop().await;
    sort.tidy(&bed);
}

/// One that hangs is found out: by its health check, or by the limit of the step that hangs.
pub(crate) async fn hangs<S: Sort>(sort: S) {
    let bed = bed::<S>().await;
    let release = sort.release(&bed, "1.0", Nature::Hanging);
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    if S::HANG_IS_SEEN {
        let why = bed.failed(1).await.last_exit.unwrap();
        assert!(why.contains("within 1"), "{why}");
    } else {
        bed.up().await;
        let check = farshore_domain::name::Name::new("fit").unwrap();
        let app = crate::bed::web();
        let probe = farshore_agent::runner::Request::Probe { app, check, instance: None };
        match bed.client.ask(&probe).await.unwrap() {
            farshore_agent::runner::Reply::Probed { good, message } => assert!(!good, "{message}"),
            other => panic!("{other:?}"),
        }
    }
    bed.stop().await;
    assert_eq!((sort.instances(&bed), bed.running().await), (0, None));
    sort.tidy(&bed);
}

/// One that needs a while is not taken for dead meanwhile.
pub(crate) async fn starts_slowly<S: Sort>(sort: S) {
    let bed = bed::<S>().await;
    let release = sort.release(&bed, "1.0", Nature::Slow);
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    assert!(bed.running().await.is_some_and(|running| !running.up), "it is not up at once");
    assert_eq!(bed.up().await.restarts, 0);
    count(&sort, &bed, 1).await;
    bed.stop().await;
    sort.tidy(&bed);
}

/// A child that dies is not the app's death, and a child that is left behind does not outlive it.
pub(crate) async fn loses_a_child<S: Sort>(sort: S) {
    let bed = bed::<S>().await;
    let release = sort.release(&bed, "1.0", Nature::Childish);
    bed.run(&release, 1).await;
    until("what it says", || async { bed.logs().await.contains("a child died").then_some(()) }).await;
    let running = bed.running().await.unwrap();
    assert!(running.up && running.restarts == 0, "{running:?}");
    bed.stop().await;
    assert_eq!((sort.instances(&bed), bed.running().await), (S::LEFT, None));
    sort.tidy(&bed);
}

/// A disk that fills while it is unpacked: nothing is half there, and with room it goes.
pub(crate) async fn meets_a_full_disk<S: Sort>(sort: S) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can make a small disk");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let allowed = S::allowed(folder.path());
    let bed = Bed::made(folder, &allowed, Some(1 << 20)).await;
    let mut release = sort.release(&bed, "1.0", Nature::Good);
    let padded = crate::release::padded(&release.artifact, 3 << 20);
    release = bed.signer.like(&release, padded);
    match bed.stage(&release).await {
        Err(farshore_agent::runner::ClientError::Failed { code, refused, message }) => {
            assert_eq!((code.as_str(), refused), ("NoRoom", false), "{message}");
        }
        other => panic!("{other:?}"),
    }
    refused(bed.start(&release, 1).await, "NotStaged");
    sort.tidy(&bed);
}

/// A disk that is full when it is to be started: the runner says so beforehand, a start says that there is no room and leaves nothing behind, and with room it
/// goes. What was good is started all the same, from what is kept back for it.
pub(crate) async fn is_started_on_a_full_disk<S: Sort>(sort: S) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can make a small disk");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let allowed = S::allowed(folder.path());
    let bed = if S::DISK_IS_SEEN {
        Bed::shared(folder, &allowed, 64 << 20).await
    } else {
        Bed::made(folder, &allowed, Some(64 << 20)).await
    };
    let (old, new) = (sort.release(&bed, "1.0", Nature::Good), sort.release(&bed, "2.0", Nature::Good));
    bed.stage(&new).await.unwrap();
    bed.run(&old, 1).await;
    count(&sort, &bed, 1).await;
    assert!(!bed.observed().await.full);
    let good = farshore_agent::runner::Request::Commit { app: crate::bed::web(), manifest: old.manifest };
    bed.client.done(&good).await.unwrap();
    bed.filler().fill();
    let observed = bed.observed().await;
    assert!(observed.full, "the runner says that nothing could be started");
    let running = observed.running.unwrap();
    assert_eq!((running.instance, running.up), (1, true), "{running:?}");
    bed.stop().await;
    let left = sort.instances(&bed);
    match bed.start(&new, 2).await {
        Err(farshore_agent::runner::ClientError::Failed { code, refused, message }) => {
            assert_eq!((code.as_str(), refused), ("NoRoom", false), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((bed.running().await, sort.instances(&bed)), (None, left), "nothing is half there");
    bed.start(&old, 3).await.unwrap();
    bed.up().await;
    count(&sort, &bed, 1).await;
    bed.stop().await;
    bed.filler().clear();
    assert!(!bed.observed().await.full);
    bed.start(&new, 4).await.unwrap();
    bed.up().await;
    count(&sort, &bed, 1).await;
    bed.stop().await;
    sort.tidy(&bed);
}

/// Without its runtime a device says so beforehand and takes no such release.
pub(crate) async fn lacks_its_runtime<S: Sort>(sort: S) {
    let bed = Bed::new(&serde_json::json!({})).await;
    let release = sort.release(&bed, "1.0", Nature::Good);
    assert!(!bed.capabilities().await.contains(&format!("executor/{}", S::KIND)));
    refused(bed.stage(&release).await, "Unsupported");
}

/// One test for each scenario.
macro_rules! conforms {
    ($sort:expr; $($scenario:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $scenario() {
                crate::suite::$scenario($sort).await;
            }
        )*
    };
}
pub(crate) use conforms;
