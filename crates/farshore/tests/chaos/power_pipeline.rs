//! The power of a gateway is cut while it gathers windows: points come late and twice, bodies are sent again whose answer was lost, and still each
//! point is in its window once. The pipelines are those of the control plane, and lie on the disk that is cut off, as does what they remember.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::Random;
use crate::power::{Disk, can_be_cut};
use crate::site::{Site, long};

/// Windows longer than the test, so that none ends because nothing comes.
const PIPELINES: &str = "
pipelines:
  - name: hall
    from: {streams: [data/hall]}
    steps:
      - dedup: {within: 1d}
      - window: {tumbling: 10m, lateness: 5m, aggregates: [count, sum]}
      - emit: {stream: data/sums}
";
const WINDOW_S: i64 = 600;
const LATENESS_S: i64 = 300;
const S: i64 = 1_000_000_000;

/// What windows of one series hold that never lost its power.
#[derive(Default)]
struct Model {
    seen: BTreeSet<(i64, u64)>,
    newest: i64,
    windows: BTreeMap<i64, (u64, u64)>,
    late: u64,
    twice: u64,
}

impl Model {
    fn take(&mut self, at: i64, value: u64) {
        if !self.seen.insert((at, value)) {
            self.twice += 1;
            return;
        }
        self.newest = self.newest.max(at);
        let begin = at.div_euclid(WINDOW_S) * WINDOW_S;
        if begin + WINDOW_S <= self.newest - LATENESS_S {
            self.late += 1;
            return;
        }
        let (count, sum) = self.windows.entry(begin).or_default();
        (*count, *sum) = (*count + 1, *sum + value);
    }
}

/// Readings of a body: some late, some that were there.
fn body(random: &mut Random, model: &Model, sent: &mut Vec<(i64, u64)>, clock: &mut i64) -> Vec<(i64, u64)> {
    let mut points = Vec::new();
    for _ in 0..=random.below(25) {
        let again = sent.len().saturating_sub(20);
        let point = match random.below(10) {
            0 | 1 if !sent.is_empty() => {
                let at = again as u64 + random.below((sent.len() - again) as u64);
                sent[usize::try_from(at).unwrap()]
            }
            // Some of these are too late, some just in time.
            2 | 3 => {
                let back = i64::try_from(random.below(1_800)).unwrap();
                (clock.saturating_sub(back), sent.len() as u64 + 1)
            }
            _ => {
                *clock += i64::try_from(random.below(40)).unwrap();
                (*clock, sent.len() as u64 + 1)
            }
        };
        sent.push(point);
        points.push(point);
    }
    assert!(model.newest <= *clock);
    points
}

fn lines(points: &[(i64, u64)]) -> String {
    points.iter().map(|(at, value)| format!("hall,room=a value={value} {}\n", at * S)).collect()
}

/// One figure of each window, in their order.
fn figures(site: &Site, field: &str, aggregate: &str) -> Vec<u64> {
    let range = ["series", "-m", "hall", "-f", field, "--since", "13h", "--step", "290s", "-a", aggregate];
    let range = site.json(&range);
    let mut found = BTreeMap::new();
    for line in range["items"].as_array().unwrap() {
        let values = line["values"].as_array().unwrap();
        for (at, value) in line["at"].as_array().unwrap().iter().zip(values) {
            found.insert(at.as_i64().unwrap(), value.as_f64().unwrap() as u64);
        }
    }
    found.into_values().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_hold_each_point_once_however_often_the_power_goes_and_the_pipelines_stay() {
    if !can_be_cut() {
        return;
    }
    let mut site = Site::control().await;
    site.claim();
    let mut disk = Disk::new(site.root().join("disk"));
    site.put_journal(disk.root().join("journal"));
    site.set("BATCH_SIZE", "20");
    site.start_gateway().await;
    let file = site.root().join("pipelines.yaml");
    std::fs::write(&file, PIPELINES.replace("1d}", "1d, for: 3}")).unwrap();
    let path = file.display().to_string();
    assert_eq!(
        site.farshore(&["pipeline", "set", &path, "--name", "halls"]),
        None,
        "what is not good is refused"
    );
    std::fs::write(&file, PIPELINES).unwrap();
    site.farshore(&["pipeline", "set", &path, "--name", "halls"]).expect("set");
    let device = site
        .until("the gateway at the control plane", || {
            site.json(&["sync", "status"])["items"][0]["deviceName"].as_str().map(str::to_owned)
        })
        .await;
    let status = |site: &Site| site.json(&["pipeline", "status", &device]);
    site.until("the pipelines on the device", || {
        site.force_sync();
        (status(&site)["state"] == "running").then_some(())
    })
    .await;

    #[expect(clippy::disallowed_methods, reason = "readings say when they were taken")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut clock = (i64::try_from(now.as_secs()).unwrap() / WINDOW_S - 12 * 6) * WINDOW_S;
    let (mut model, mut sent, mut random) =
        (Model { newest: clock, ..Model::default() }, Vec::new(), Random(23));
    let mut lost_answers = 0;
    let rounds = if long() { 60 } else { 12 };
    for round in 0..rounds {
        for _ in 0..random.below(5) {
            let points = body(&mut random, &model, &mut sent, &mut clock);
            site.write(&lines(&points)).expect("acknowledged");
            points.iter().for_each(|(at, value)| model.take(*at, *value));
        }
        // What is remembered is kept when segments are closed: sometimes just now, sometimes a while ago.
        if random.below(2) == 0 {
            site.force_sync();
        }
        let points = body(&mut random, &model, &mut sent, &mut clock);
        let file = site.root().join("cut");
        std::fs::write(&file, lines(&points)).unwrap();
        let mut client = Command::new("curl")
            .args(["-sS", "--fail", "-m", "20", "--data-binary"])
            .args([&format!("@{}", file.display()), &site.url("/api/v2/write?bucket=hall&precision=ns")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(random.below(30))).await;
        site.kill_gateway();
        let acknowledged = client.wait().unwrap().success();
        assert!(disk.cut(), "what nobody synced is there: no power was cut");
        site.start_gateway().await;
        if !acknowledged {
            lost_answers += 1;
            // It may be in the journal, or not.
            site.write(&lines(&points)).expect("acknowledged");
        }
        points.iter().for_each(|(at, value)| model.take(*at, *value));
        eprintln!("round {round}: acknowledged {acknowledged}, {} points, {} late", sent.len(), model.late);
    }
    assert!(lost_answers > 0 && model.late > 0 && model.twice > 0, "nothing was hard about it");
    // All windows end but that of this point.
    model.take(clock + 7_200, 1);
    site.write(&lines(&[(clock + 7_200, 1)])).expect("acknowledged");
    let open = model.windows.pop_last().expect("its window");
    assert_eq!(open.1, (1, 1));
    let (counts, sums): (Vec<u64>, Vec<u64>) = model.windows.values().copied().unzip();
    // The windows' points are made a moment after the last reading.
    site.until("all windows in the cloud", || {
        site.force_sync();
        (figures(&site, "value_count", "last").len() >= counts.len()).then_some(())
    })
    .await;
    site.settled().await;
    assert_eq!(figures(&site, "value_count", "last"), counts);
    assert_eq!(figures(&site, "value_sum", "last"), sums);
    for field in ["value_count", "value_sum"] {
        assert!(figures(&site, field, "count").iter().all(|times| *times == 1), "a window was told twice");
    }
    let standing = status(&site);
    let running =
        |standing: &Value| standing["running"]["source"] == "control-plane" && standing["state"] == "running";
    assert!(running(&standing), "{standing}");
    site.kill_gateway();
    disk.unmount();
}
