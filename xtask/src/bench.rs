//! `cargo xtask bench NAME`: builds with optimisations, measures, shows a table, and writes the figures as flat JSON.
//!
//! A bench is a program that takes its own options and `--json FILE`, into which it writes one flat object of figures. Most
//! are the hidden verb `farshore bench NAME`. [`BENCHES`] lists them; a new bench is one entry, its name in
//! docs/benchmarks.md, and the verb. A bench is not a test: it fails only when it cannot measure.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::tools;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The bench; without a name, the list
    name: Option<String>,
    /// Write the figures to this file as one flat JSON object
    #[arg(long)]
    json: Option<PathBuf>,
    /// The bench's own options, such as `--devices 1000 --rate 100`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// One bench.
#[derive(Debug)]
struct Bench {
    name: &'static str,
    about: &'static str,
    /// What is built: package and cargo profile.
    builds: &'static [(&'static str, &'static str)],
    how: How,
}

#[derive(Debug)]
enum How {
    /// A program (in the folder of the profile `release`) and its first arguments; options and `--json FILE` follow.
    Program(&'static [&'static str]),
    /// A test in its long form: package, target and filter. It writes its figures to the file that `FARSHORE_FIGURES` names.
    Test(&'static str, &'static str, &'static str),
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "fleet",
        about: "N virtual devices over mTLS: connect time, memory per device, event and API latency",
        builds: &[("farshore", "release")],
        how: How::Program(&["farshore", "bench", "fleet"]),
    },
    Bench {
        name: "claim",
        about: "devices claimed one after another and at once: time until listed",
        builds: &[("farshore", "release"), ("farshore-agent", "agent")],
        how: How::Program(&["farshore", "bench", "claim"]),
    },
    Bench {
        name: "reconnect",
        about: "the control plane comes back under N devices: handshakes per second, and beside bare rustls",
        builds: &[("farshore", "release")],
        how: How::Program(&["farshore", "bench", "reconnect"]),
    },
    Bench {
        name: "agent",
        about: "one agent, idle and under load: memory, CPU, size, start",
        builds: &[("farshore", "release"), ("farshore-agent", "agent"), ("edge-web-service", "release")],
        how: How::Program(&["farshore", "bench", "agent"]),
    },
    Bench {
        name: "rollout",
        about: "the rollout engine over virtual fleets: devices touched before a halt, false halts, cost of a decision",
        builds: &[("farshore", "release")],
        how: How::Program(&["farshore", "bench", "rollout"]),
    },
    Bench {
        name: "gateway",
        about: "readings by HTTP and MQTT until they are durable: points per second, cores, memory, bytes; peers beside it",
        builds: &[("farshore-gateway", "release"), ("farshore-agent", "release")],
        how: How::Program(&["gateway-bench"]),
    },
    Bench {
        name: "drain",
        about: "a gateway's backlog over a slow link with live readings between: share of the link, bytes per point",
        builds: &[("farshore", "release"), ("farshore-agent", "agent")],
        how: How::Program(&["farshore", "bench", "drain"]),
    },
    Bench {
        name: "chaos",
        about: "kill -9 of gateway and control plane, 500 times while readings come: what was lost, doubled, stuck",
        builds: &[("farshore-agent", "release")],
        how: How::Test("farshore", "chaos", "test(readings_of_an_outage)"),
    },
    Bench {
        name: "documents",
        about: "documents of a device: the first sync of 10,000 in both directions, nothing new, one change; bytes on the wire",
        builds: &[("farshore", "release"), ("farshore-agent", "agent")],
        how: How::Program(&["farshore", "bench", "documents"]),
    },
    Bench {
        name: "chaos-agent",
        about: "network, disk, clock and processor break, roles are killed at seeded moments of rollouts: what was lost, doubled, stuck",
        builds: &[("farshore", "release"), ("farshore-agent", "agent"), ("edge-web-service", "release")],
        how: How::Program(&["farshore", "bench", "chaos-agent"]),
    },
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Some(name) = &arguments.name else {
        for bench in BENCHES {
            println!("{:<10} {}", bench.name, bench.about);
        }
        return Ok(());
    };
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        bail!("there is no bench {name:?}; there are: {}", names.join(", "));
    };
    let (json, options) = split_json(arguments)?;
    for (package, profile) in bench.builds {
        tools::run(&mut tools::cargo(&["build", "--locked", "--profile", profile, "-p", package]))?;
    }
    let figures = measure(bench, &options)?;
    println!("{}", table(&figures));
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&figures).context("cannot encode the figures")?;
        fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

/// `--json FILE` may stand before or after the bench's own options.
fn split_json(arguments: &Arguments) -> Result<(Option<PathBuf>, Vec<String>)> {
    let mut json = arguments.json.clone();
    let mut options = Vec::new();
    let mut words = arguments.options.iter();
    while let Some(word) = words.next() {
        if word == "--json" {
            json = Some(words.next().context("--json needs a file")?.into());
        } else if let Some(path) = word.strip_prefix("--json=") {
            json = Some(path.into());
        } else {
            options.push(word.clone());
        }
    }
    Ok((json, options))
}

fn measure(bench: &Bench, options: &[String]) -> Result<BTreeMap<String, Value>> {
    let folder =
        tempfile::Builder::new().prefix("farshore-bench-").tempdir().context("no temporary folder")?;
    let file = folder.path().join("figures.json");
    let mut command = command(bench, options, &file)?;
    command
        .current_dir(tools::root())
        .env("FARSHORE_BIN_DIR", tools::target().join("release"))
        .env("FARSHORE_AGENT_BIN", tools::target().join("agent/farshore-agent"))
        // With it, a program that prints one error takes some 35 MiB more.
        .env_remove("RUST_BACKTRACE");
    tools::run(&mut command).with_context(|| format!("the bench {} could not measure", bench.name))?;
    let text = fs::read_to_string(&file).context("the bench wrote no figures")?;
    let mut figures = flat(&text)?;
    figures.extend(machine());
    Ok(figures)
}

fn command(bench: &Bench, options: &[String], file: &Path) -> Result<Command> {
    match bench.how {
        How::Program(words) => {
            let (program, first) = words.split_first().context("a bench without a program")?;
            let mut command = Command::new(tools::target().join("release").join(program));
            command.args(first).args(options).arg("--json").arg(file);
            Ok(command)
        }
        How::Test(package, target, filter) => {
            if !options.is_empty() {
                bail!("the bench {} takes no options", bench.name);
            }
            let mut command = tools::cargo(&["nextest", "run", "--locked", "--cargo-profile", "release"]);
            command.args(["--profile", "long", "-p", package, "--test", target, "-E", filter]);
            command.env("FARSHORE_TEST_LONG", "1").env("FARSHORE_FIGURES", file);
            Ok(command)
        }
    }
}

/// The figures of a flat object; a nested one is a fault of the bench.
fn flat(text: &str) -> Result<BTreeMap<String, Value>> {
    let figures: BTreeMap<String, Value> =
        serde_json::from_str(text).context("the figures are no JSON object")?;
    if let Some((name, _)) = figures.iter().find(|(_, value)| value.is_object() || value.is_array()) {
        bail!("the figure {name} is not flat");
    }
    Ok(figures)
}

/// Where it was measured. What cannot be found out is left out.
fn machine() -> BTreeMap<String, Value> {
    let mut facts = BTreeMap::new();
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            facts.insert(name.to_owned(), Value::from(value));
        }
    };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    fact("machine_cpu", model.and_then(|line| line.split(": ").nth(1)).map(str::to_owned));
    fact("machine_cores", std::thread::available_parallelism().ok().map(|cores| cores.to_string()));
    fact(
        "machine_kernel",
        fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
    );
    let load = fs::read_to_string("/proc/loadavg").ok();
    fact("machine_load", load.and_then(|text| text.split(' ').next().map(str::to_owned)));
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(tools::root()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    fact("commit", said("git", &["describe", "--always", "--dirty"]));
    fact("date", said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]));
    facts
}

/// Two columns; numbers are aligned on the right, with spaces between thousands.
fn table(figures: &BTreeMap<String, Value>) -> String {
    let cells: Vec<(&str, String)> =
        figures.iter().map(|(name, value)| (name.as_str(), shown(value))).collect();
    let name = cells.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let value = cells.iter().map(|(_, value)| value.chars().count()).max().unwrap_or(0);
    cells.iter().map(|(key, text)| format!("{key:<name$}  {text:>value$}")).collect::<Vec<_>>().join("\n")
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => thousands(&whole.to_string()),
            (None, Some(real)) if real.abs() >= 100.0 => thousands(&format!("{real:.0}")),
            (None, Some(real)) => format!("{real:.3}"),
            (None, None) => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn thousands(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let mut spaced = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            spaced.push(' ');
        }
        spaced.push(digit);
    }
    format!("{sign}{spaced}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_readable() {
        let figures =
            flat(r#"{"server_rss_bytes": 152043520, "sse_ms_p95": 12.3456, "note": "x"}"#).expect("flat");
        assert_eq!(
            table(&figures),
            "note                        x\nserver_rss_bytes  152 043 520\nsse_ms_p95             12.346"
        );
        assert_eq!(thousands("-1000"), "-1 000");
        assert_eq!(thousands("999"), "999");
    }

    #[test]
    fn figures_that_are_not_flat_are_refused() {
        assert!(flat(r#"{"a": {"b": 1}}"#).is_err());
        assert!(flat("[1]").is_err());
    }

    #[test]
    fn the_json_file_may_stand_after_the_benchs_own_options() {
        let arguments = |options: &[&str]| Arguments {
            name: None,
            json: None,
            options: options.iter().map(|word| (*word).to_owned()).collect(),
        };
        let (json, options) = split_json(&arguments(&["--devices", "5", "--json", "f.json"])).expect("valid");
        assert_eq!((json, options), (Some("f.json".into()), vec!["--devices".to_owned(), "5".to_owned()]));
        assert!(split_json(&arguments(&["--json"])).is_err());
    }
}
