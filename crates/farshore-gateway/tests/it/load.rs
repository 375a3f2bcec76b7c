//! The load test, as a process of its own, at a gateway that runs.

use std::process::{Command, Output};

use crate::support::{Site, token};

async fn load(site: &Site, arguments: &str) -> Output {
    let url = format!("http://{}", site.at.http.expect("HTTP"));
    let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
    let run = move || {
        Command::new(env!("CARGO_BIN_EXE_gateway-bench"))
            .args(["load", "--url", &url])
            .args(arguments)
            .env_remove("GATEWAY_TOKEN")
            .output()
            .expect("the bench")
    };
    tokio::task::spawn_blocking(run).await.expect("it ends")
}

#[tokio::test]
async fn a_rate_that_is_held_and_acknowledged_ends_well() {
    let site = Site::with(|config| config.credentials = token("t")).await;
    let output = load(&site, "--duration=2 --rate=500 --clients 4 --token t").await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said} {output:?}");
    assert!(said.contains("in all: sent 1000, acknowledged 1000, refused 0; answers p50 "), "{said}");
    assert_eq!(site.pending().await, 1000);
    let streams = site.gateway.get_status().await.expect("running").streams;
    assert_eq!(streams.first().map(|stream| stream.name.as_str()), Some("data/load"));
}

#[tokio::test]
async fn what_is_refused_and_what_is_too_slow_are_errors() {
    let site = Site::with(|config| config.credentials = token("t")).await;
    let output = load(&site, "--duration 1 --rate 100 --token other").await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("100 points were refused") && said.contains("401"),
        "{said}"
    );
    let output = load(&site, "--duration 1 --rate 4000000 --batch 1 --clients 1 --token t").await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("the rate was not held"), "{said}");
}
