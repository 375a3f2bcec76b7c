//! Crashes: `kill -9` of the control plane, of `run` and of the runner at seeded moments of rollouts, with real processes.
//!
//! An oracle outside looks at what was executed all the time: each program belongs to a signed release, and no device ever has two of them at
//! once. `FARSHORE_TEST_LONG=1` crashes 200 times instead of 20.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod broken_world;
mod fleet;
mod incident;
mod kernel;
mod month;
mod operations;
mod pipeline;
mod power;
mod power_pipeline;
mod proxy;
mod site;
mod sync;
mod watcher;

#[path = "../../../farshore-agent/tests/conformance/containerd.rs"]
#[expect(dead_code, reason = "shared with the agent's conformance suite, which uses more of it")]
mod containerd;
#[path = "../../../farshore-agent/tests/device/disk.rs"]
#[expect(dead_code, reason = "shared with the agent's tests, which use more of it")]
mod disk;

use std::time::Duration;

use fleet::{Fleet, Victim};

/// SplitMix64: the same seed, the same crashes.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashed_at_any_moment_of_a_rollout_everything_arrives_and_nothing_is_doubled() {
    let long = std::env::var_os("FARSHORE_TEST_LONG").is_some_and(|value| value == "1");
    let points = if long { 200 } else { 20 };
    let mut random = Random(7);
    let mut fleet = Fleet::start(2).await;
    fleet.release("1.0", true).await;
    fleet.roll_out("1.0").await;
    fleet.settled("1.0", "succeeded").await;

    // At rest, crashes of the agent do not touch the apps.
    let apps = fleet.watcher.apps();
    for device in 0..fleet.devices() {
        fleet.crash(Victim::Run(device)).await;
        fleet.crash(Victim::Runner(device)).await;
    }
    fleet.settled("1.0", "succeeded").await;
    assert_eq!(fleet.watcher.apps(), apps, "the very same processes");

    walk(&mut fleet, &mut random, points).await;
    assert_eq!(fleet.watcher.pairs(), 0, "an app without slots was never there twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashed_at_any_moment_of_blue_green_rollouts_one_slot_is_left_and_none_ever_has_two() {
    let long = std::env::var_os("FARSHORE_TEST_LONG").is_some_and(|value| value == "1");
    let mut fleet = Fleet::start(2).await;
    fleet.slots = true;
    fleet.release("1.0", true).await;
    fleet.roll_out("1.0").await;
    fleet.settled("1.0", "succeeded").await;
    walk(&mut fleet, &mut Random(23), if long { 100 } else { 10 }).await;
    assert!(fleet.watcher.pairs() > 0, "the new one was never beside the old one");
}

/// One rollout after the other, crashed into.
async fn walk(fleet: &mut Fleet, random: &mut Random, points: u32) {
    let (mut crashes, mut version, mut current) = (0, 1, "1.0".to_owned());
    while crashes < points {
        let next = format!("1.{version}");
        version += 1;
        // Every third release is bad: its rollout fails and takes it back, crashes or not.
        let good = version % 3 != 0;
        fleet.release(&next, good).await;
        fleet.roll_out(&next).await;
        let wanted = if good { "succeeded" } else { "failed" };
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(random.below(500))).await;
            let device = usize::try_from(random.below(fleet.devices() as u64)).unwrap();
            let victim = match random.below(4) {
                0 => Victim::Control,
                1 => Victim::Runner(device),
                _ => Victim::Run(device),
            };
            eprintln!("crash {crashes} in the rollout of {next}: {victim:?}");
            fleet.crash(victim).await;
            crashes += 1;
            fleet.check();
        }
        if good {
            current = next;
        }
        fleet.settled(&current, wanted).await;
        fleet.check();
    }
}
