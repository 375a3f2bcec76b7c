//! The short form of `cargo xtask bench chaos-agent`: networks, disk, clock and processor break around a real agent, its roles are killed, and each time it
//! comes to rest with its promises kept. The bench is the judge; here it must have nothing to complain of, and must have met what it is about.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::fleet::{beside, clean, end_all};

/// Ends what the run started, however the test ends.
struct Folder(tempfile::TempDir);

impl Folder {
    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        end_all(&self.path().join(""));
    }
}

fn has_faketime() -> bool {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    folders.into_iter().any(|entry| entry.path().join("faketime/libfaketimeMT.so.1").exists())
}

#[test]
fn whatever_breaks_around_an_agent_it_comes_to_rest_and_its_promises_hold() {
    if !rustix::process::geteuid().is_root() || !has_faketime() {
        eprintln!("this needs root and libfaketime (apt-get install faketime); nothing is tested");
        return;
    }
    let long = std::env::var_os("FARSHORE_TEST_LONG").is_some_and(|value| value == "1");
    let folder = Folder(tempfile::tempdir().unwrap());
    let figures = folder.path().join("figures.json");
    let mut command = clean(Path::new(env!("CARGO_BIN_EXE_farshore")));
    // A seed whose first sixteen faults are of every kind, with three different clocks.
    command.args(["bench", "chaos-agent", "--seed", "304", "--faults", if long { "200" } else { "16" }]);
    command.arg("--agent").arg(beside("farshore-agent"));
    command.arg("--programs").arg(beside("edge-web-service").parent().unwrap());
    command.arg("--json").arg(&figures).env("TMPDIR", folder.path());
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    let figures: Value = serde_json::from_slice(&std::fs::read(figures).unwrap()).unwrap();
    eprintln!("{figures:#}");
    for promise in [
        "unverified_executed",
        "duplicated",
        "stuck",
        "lost",
        "bad_releases_that_stayed",
        "readings_lost",
        "readings_doubled",
        "generations_that_went_back",
        "not_healed_alone",
    ] {
        assert_eq!(figures[promise], 0, "{promise}: {figures:#}\n{said}");
    }
    let at_least = |name: &str, least: u64| {
        assert!(figures[name].as_u64() >= Some(least), "{name}: {figures:#}");
    };
    at_least("rounds", 4);
    at_least("healed_alone", 4);
    at_least("readings_acknowledged", 100);
    at_least("generations_seen", 4);
    let kinds = figures.as_object().unwrap().keys().filter(|name| name.starts_with("faults_")).count();
    assert_eq!(kinds, 9, "not everything broke: {figures:#}");
    let killed = figures.as_object().unwrap().keys().filter(|name| name.starts_with("kills_")).count();
    assert_eq!(killed, 5, "not everybody was killed: {figures:#}");
}
