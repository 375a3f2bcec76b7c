//! A rule on the device acts with the network cut, and the cloud learns of it later: once, at its true time, whoever is killed meanwhile.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::fleet::free_port;
use crate::site::Site;

const PIPELINES: &str = r#"
pipelines:
  - name: hall
    from: {streams: [data/hall]}
    steps:
      - rule:
          name: too-hot
          raise: value > 100
          clear: value < 90
          on_raise: [{publish: {topic: fan/set, payload: "on"}}]
          on_clear: [{publish: {topic: fan/set, payload: "off"}}]
      - window: {tumbling: 10s, aggregates: [count, sum]}
      - emit: {stream: data/sums}
"#;
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a";
const SUBSCRIBE: &[u8] = b"\x82\x0a\x00\x01\x00\x05fan/#\x00";
const S: i64 = 1_000_000_000;

/// An app that waits at the gateway's MQTT endpoint for what it has to switch.
struct App(TcpStream);

impl App {
    fn subscribed(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(&[CONNECT, SUBSCRIBE].concat()).unwrap();
        let mut answers = [0; 9];
        stream.read_exact(&mut answers).unwrap();
        assert_eq!(answers, *b"\x20\x02\x00\x00\x90\x03\x00\x01\x00");
        Self(stream)
    }

    /// What is published to `fan/set`.
    fn told(&mut self) -> String {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        assert_eq!(head[0], 0x30, "{head:?}");
        let mut body = vec![0; usize::from(head[1])];
        self.0.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        body.strip_prefix("\0\u{7}fan/set").expect("the topic").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_switches_an_output_with_the_network_cut_and_the_cloud_learns_of_it_once_at_its_true_time() {
    let mut site = Site::control().await;
    site.claim();
    let file = site.root().join("pipelines.yaml");
    std::fs::write(&file, PIPELINES).unwrap();
    let mqtt = free_port();
    site.set("PIPELINE_FILE", &file.display().to_string());
    site.set("GATEWAY_MQTT_LISTEN", &format!("127.0.0.1:{mqtt}"));
    site.start_gateway().await;
    site.kill_control();

    #[expect(clippy::disallowed_methods, reason = "readings say when they were taken")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    // Some minutes ago, at the beginning of a window: what is asked for later must not depend on when that is.
    let begin = i64::try_from(now.as_nanos()).unwrap() / (10 * S) * 10 * S - 300 * S;
    let mut app = App::subscribed(mqtt);
    let mut quickest = Duration::MAX;
    let (mut count, mut sum) = (0, 0.0);
    let mut expected = Vec::new();
    for round in 0..6_i64 {
        for (second, value, told) in [
            (0, 50.0, None),
            (2, 101.5, Some("on")),
            (4, 120.0, None),
            (6, 89.0, Some("off")),
            (8, 50.0, None),
        ] {
            let at = begin + (10 * round + second) * S;
            let asked = Instant::now();
            site.write(&format!("temp,room=a value={value} {at}")).expect("acknowledged");
            if let Some(told) = told {
                assert_eq!(app.told(), told);
                quickest = quickest.min(asked.elapsed());
                expected.push(at / 1_000_000);
            }
            (count, sum) = (count + 1, sum + value);
            // In the middle of a window, in a rule that is raised or not.
            if (round, second) == (1, 4) || (round, second) == (3, 8) {
                site.restart_gateway().await;
                app = App::subscribed(mqtt);
            }
        }
    }
    eprintln!("from a reading to the output, with a process of curl: {quickest:?}");
    assert!(quickest < Duration::from_millis(100), "{quickest:?}");
    // The last window ends.
    site.write(&format!("temp,room=a value=0 {}", begin + 100 * S)).expect("acknowledged");
    site.restart_gateway().await;
    let status = site.curl(&[&site.url("/api/status")]).expect("a status");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["processing"]["pipelines"][0]["name"], "hall", "{status}");
    site.restart_control();
    site.until("everything sent", || {
        let health = site.health()?;
        (health["pending_sync_count"] == 0 && health["is_online"] == true).then_some(())
    })
    .await;

    let counted = |measurement: &str, field: &str, aggregate: &str| {
        let range =
            ["series", "-m", measurement, "-f", field, "--since", "20m", "--step", "1s", "-a", aggregate];
        let range = site.json(&range);
        let (mut at, mut values) = (Vec::new(), Vec::new());
        for line in range["items"].as_array().unwrap() {
            at.extend(line["at"].as_array().unwrap().iter().map(|at| at.as_i64().unwrap()));
            values.extend(line["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()));
        }
        (at, values)
    };
    let (at, times) = counted("local_alert", "active", "count");
    // A step begins at a whole second after the beginning of what was asked for.
    assert_eq!(at.len(), expected.len(), "{at:?} {expected:?}");
    for (at, expected) in at.iter().zip(&expected) {
        assert!((0..1_000).contains(&(expected - at)), "{at} {expected}");
    }
    assert!(times.iter().all(|times| *times == 1.0), "told twice: {times:?}");
    let (_, active) = counted("local_alert", "active", "last");
    assert_eq!(active, [1.0, 0.0].repeat(6));
    let (_, counts) = counted("temp", "value_count", "sum");
    let (_, sums) = counted("temp", "value_sum", "sum");
    assert_eq!((counts.iter().sum::<f64>(), sums.iter().sum::<f64>()), (f64::from(count), sum));

    // What a change would have done.
    let changed = site.root().join("changed.yaml");
    std::fs::write(&changed, PIPELINES.replace("value > 100", "value > 110")).unwrap();
    let device = site.json(&["sync", "status"])["items"][0]["deviceName"].as_str().unwrap().to_owned();
    let file = changed.display().to_string();
    let plan =
        site.json(&["pipeline", "plan", &file, "-d", &device, "--since", "20m", "--stream", "data/hall"]);
    assert_eq!((&plan["summary"]["raised"], &plan["summary"]["points"]), (&6.into(), &31.into()), "{plan}");
    std::fs::write(&changed, PIPELINES.replace("value > 100", "valeu > 110")).unwrap();
    assert_eq!(site.farshore(&["pipeline", "plan", &file, "-d", &device]), None);
}
