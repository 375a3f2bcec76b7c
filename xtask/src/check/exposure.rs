//! How much of the system the agent's unit files leave exposed, as `systemd-analyze security` counts it.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools::{self, Step};

/// Unit file and the highest exposure it may have, in tenths, as `systemd-analyze --threshold` takes it.
const LIMITS: &[(&str, u32)] = &[
    ("systemd/farshore-agent.service", 15),
    ("systemd/farshore-runner.service", 30),
    ("systemd/farshore-eyes@.service", 20),
    ("gateway/edge-gateway.service", 20),
];

/// # Errors
/// When a unit is more exposed than its limit, or cannot be judged.
pub(crate) fn check() -> Result<Step> {
    let Some(program) = tools::which("systemd-analyze") else {
        return Ok(Step::Skipped("systemd-analyze is not installed (apt-get install systemd)".into()));
    };
    let mut findings = Vec::new();
    for (unit, limit) in LIMITS {
        let path = tools::root().join("deploy").join(unit);
        let output = Command::new(&program)
            .args(["security", "--offline=true", "--no-pager", &format!("--threshold={limit}")])
            .arg(&path)
            .output()
            .context("cannot start systemd-analyze")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let allowed = f64::from(*limit) / 10.0;
        match exposure(&text) {
            Some(found) => eprintln!("{unit}: exposure {found:.1}, limit {allowed:.1}"),
            None => findings
                .push(format!("{unit}: no figure: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
        if !output.status.success() {
            findings.push(format!(
                "{unit} is more exposed than {allowed:.1}; see systemd-analyze security --offline=true {}",
                path.display()
            ));
        }
    }
    if findings.is_empty() { Ok(Step::Done) } else { bail!("{}", findings.join("\n  ")) }
}

/// The figure of the line `→ Overall exposure level for X: 1.1 OK 🙂`.
fn exposure(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("Overall exposure level"))?;
    line.split(": ").nth(1)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_is_read_from_the_last_line() {
        assert_eq!(exposure("a\n→ Overall exposure level for x.service: 1.1 OK 🙂\n"), Some(1.1));
        assert_eq!(exposure("Failed to load"), None);
    }
}
