//! `cargo xtask bench gateway`: real clients in processes of their own send to a real gateway, and beside it to what one would take instead.
//!
//! Every figure counts points whose acknowledgement arrived. The gateway's processor time is read from `/proc`, so that `cores` is the gateway's
//! own, whatever the clients take; all of them share the machine.

mod backlog;
mod client;
mod load;
mod processing;
mod served;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use client::{Kind, Load, measure};
use served::Served;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Figures = BTreeMap<String, f64>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        // One part alone.
        Some("pipeline") => only_the_pipeline(),
        Some("steady") => steady(&mut Figures::new()),
        Some("backlog") => backlog::run(&mut Figures::new(), 10),
        // For a gateway that runs already.
        Some("load") => load::run(arguments.get(1..).unwrap_or_default()),
        // What the bench starts as its clients.
        Some("client") => client::run(arguments.get(1..).unwrap_or_default()),
        Some(name) if !name.starts_with('-') => only(name),
        _ => bench(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gateway-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn only_the_pipeline() -> Result<()> {
    processing::measure(&mut Figures::new(), Duration::from_secs(5))
}

fn bench(arguments: &[String]) -> Result<()> {
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    let seconds = match value("--seconds") {
        Some(text) => text.parse()?,
        None => 5,
    };
    let for_long = Duration::from_secs(seconds);
    let mut figures = Figures::new();
    processing::measure(&mut figures, for_long)?;
    for (name, durability, load) in loads(for_long) {
        one(&mut figures, durability, &name, &load)?;
    }
    steady(&mut figures)?;
    let gigabytes = match value("--backlog-gb") {
        Some(text) => text.parse()?,
        None => 10,
    };
    backlog::run(&mut figures, gigabytes)?;
    beside(&mut figures, for_long)?;
    let text = serde_json::to_string_pretty(&figures)?;
    match value("--json") {
        Some(path) => std::fs::write(path, text)?,
        None => println!("{text}"),
    }
    Ok(())
}

/// Each load with its name and the durability of what it sends.
fn loads(for_long: Duration) -> Vec<(String, &'static str, Load)> {
    let load =
        |kind, clients, batch, series| Load { kind, clients, batch, series, for_long, every: Duration::ZERO };
    let mut loads: Vec<_> = [1, 10, 100, 1000]
        .map(|series| {
            let suffix = if series == 100 { String::new() } else { format!("_series{series}") };
            (format!("group{suffix}"), "group", load(Kind::Lines, 2, 1000, series))
        })
        .into();
    loads.push(("strict".to_owned(), "strict", load(Kind::Lines, 2, 1000, 100)));
    loads.push(("json".to_owned(), "group", load(Kind::Json, 2, 1000, 100)));
    loads.push(("single8".to_owned(), "group", load(Kind::Json, 8, 1, 100)));
    loads.push(("mqtt2".to_owned(), "group", load(Kind::Mqtt, 2, 1, 100)));
    loads
}

/// One load alone, by its name.
fn only(name: &str) -> Result<()> {
    let load = loads(Duration::from_secs(5)).into_iter().find(|(other, ..)| other == name);
    let (name, durability, load) = load.ok_or("there is no such load")?;
    one(&mut Figures::new(), durability, &name, &load)
}

/// A fresh gateway under one load.
fn one(figures: &mut Figures, durability: &str, name: &str, load: &Load) -> Result<()> {
    let gateway = Served::gateway(durability)?;
    let before = gateway.cpu_seconds()?;
    let measured = measure(&gateway, load)?;
    let cores = (gateway.cpu_seconds()? - before) / measured.seconds;
    let rss = gateway.rss_bytes()?;
    let rate = measured.points / measured.seconds;
    eprintln!("{name}: {rate:.0} points/s durable, {cores:.2} cores, {:.0} MB", rss / 1e6);
    figures.insert(format!("points_per_second_{name}"), rate);
    figures.insert(format!("cores_{name}"), cores);
    figures.insert(format!("points_per_core_second_{name}"), rate / cores);
    if name == "group" {
        figures.insert("cores".to_owned(), cores);
        figures.insert("rss_bytes".to_owned(), rss);
        let bytes = gateway.stop_and_weigh()?;
        figures.insert("bytes_per_point_disk".to_owned(), bytes / measured.points);
    }
    Ok(())
}

/// What a site of a usual size costs: a hundred series, a thousand points a second, ten times a second.
fn steady(figures: &mut Figures) -> Result<()> {
    let load = Load {
        kind: Kind::Lines,
        clients: 1,
        batch: 100,
        series: 100,
        for_long: Duration::from_secs(30),
        every: Duration::from_millis(100),
    };
    let gateway = Served::gateway("group")?;
    let before = gateway.cpu_seconds()?;
    let measured = measure(&gateway, &load)?;
    let cores = (gateway.cpu_seconds()? - before) / measured.seconds;
    eprintln!("steady: {:.0} points/s, {cores:.3} cores", measured.points / measured.seconds);
    figures.insert("steady_points_per_second".to_owned(), measured.points / measured.seconds);
    figures.insert("cores_steady".to_owned(), cores);
    figures.insert("rss_bytes_steady".to_owned(), gateway.rss_bytes()?);
    Ok(())
}

/// What one would take instead, where it is installed.
fn beside(figures: &mut Figures, for_long: Duration) -> Result<()> {
    match Served::python()? {
        None => eprintln!(
            "no python with fastapi, aiosqlite and uvicorn (FARSHORE_BASELINE_PYTHON): the baseline is left out"
        ),
        Some(python) => {
            let batches = measure(
                &python,
                &Load {
                    kind: Kind::Json,
                    clients: 2,
                    batch: 1000,
                    series: 100,
                    for_long,
                    every: Duration::ZERO,
                },
            )?;
            let single = measure(
                &python,
                &Load {
                    kind: Kind::Json,
                    clients: 8,
                    batch: 1,
                    series: 100,
                    for_long,
                    every: Duration::ZERO,
                },
            )?;
            let rate = batches.points / batches.seconds;
            eprintln!(
                "baseline: {rate:.0} points/s in batches, {:.0} one by one",
                single.points / single.seconds
            );
            figures.insert("baseline_python_points_per_second".to_owned(), rate);
            figures.insert(
                "baseline_python_points_per_second_single8".to_owned(),
                single.points / single.seconds,
            );
            let ours = figures.get("points_per_second_json").copied().unwrap_or_default();
            figures.insert("ratio_to_baseline_json".to_owned(), ours / rate);
        }
    }
    match Served::mosquitto()? {
        None => eprintln!("no mosquitto: it is left out"),
        Some(broker) => {
            let load =
                Load { kind: Kind::Mqtt, clients: 2, batch: 1, series: 100, for_long, every: Duration::ZERO };
            let measured = measure(&broker, &load)?;
            let rate = measured.points / measured.seconds;
            eprintln!("mosquitto: {rate:.0} messages/s");
            figures.insert("mosquitto_messages_per_second".to_owned(), rate);
            let ours = figures.get("points_per_second_mqtt2").copied().unwrap_or_default();
            figures.insert("ratio_to_mosquitto".to_owned(), ours / rate);
        }
    }
    Ok(())
}
