//! The package on a machine: put there by the line that an operator pastes, updated, removed and purged by dpkg, with apps on it.
//!
//! The control plane that serves line, script and package runs in the machine as well: its network is its own loopback.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::machine::Machine;
use crate::package::{self, Packing};
use crate::tools;

/// Time for whatever has to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the package puts where, with mode, owner and group.
const FILES: &str = "\
755 root:root /usr/bin/farshore-agent
644 root:root /usr/lib/systemd/system/farshore-agent.service
644 root:root /usr/lib/systemd/system/farshore-runner.service
644 root:root /usr/lib/systemd/system/farshore-apps.service
644 root:root /usr/lib/systemd/system/farshore-eyes.socket
644 root:root /usr/lib/systemd/system/farshore-eyes@.service
644 root:root /usr/lib/sysusers.d/farshore.conf
644 root:root /usr/share/farshore/farshore-runner-isolation.conf
644 root:root /usr/share/doc/farshore-agent/copyright
755 root:root /etc/farshore
";

/// Files and folders that the agent makes, once it is claimed and has an app.
const MADE: &str = "\
600 root:root /etc/farshore/agent.env
711 farshore-agent:farshore-agent /var/lib/farshore-agent
755 root:root /var/lib/farshore
755 root:root /var/lib/farshore/apps
700 root:root /var/lib/farshore/apps/.runner
755 root:root /run/farshore
";

/// Says mode, owner and group of each path.
const STAT: &str = r#"stat --format='%a %U:%G %n' "$@""#;

/// Starts a control plane that serves the packages of folder $2. $1 is its program.
const PLANE: &str = r#"
systemd-run --quiet --unit=plane --property=StateDirectory=plane --setenv=FARSHORE_LOG=warn \
    "$1" serve --data-dir /var/lib/plane --first-tenant acme --agent-packages "$2" --heartbeat-seconds 1
"#;

/// Says link and fingerprint once the control plane is there.
const LINK: &str = r#"
journalctl --no-pager --output=cat --unit=plane | sed -n "s/.*farshore login '\(.*\)' --ca-fingerprint \(.*\))$/\1 \2/p"
"#;

/// What the operator does at his desk: logs in with $2 and $3, makes a key, signs an app, and lets it be rolled out. $1 is the program.
const OPERATOR: &str = r#"
farshore=$1
mkdir -p /root/desk/app/bin; cd /root/desk
echo 'correct horse battery' | "$farshore" login "$2" --ca-fingerprint "$3" --password-stdin 2>&1
"$farshore" key generate >/dev/null
"$farshore" key init --key release.key >/dev/null
cat >app/bin/app <<'END'
#!/bin/sh
echo "uid $(id -u)"
exec sleep 100000
END
printf '#!/bin/sh\nexit 0\n' >app/bin/fit
chmod 755 app/bin/app app/bin/fit
cat >manifest.json <<'END'
{"tenant": "acme", "app": "hello", "version": "1.0", "run": {"command": ["bin/app"]}, "soakSeconds": 0,
"health": [{"name": "fit", "intervalSeconds": 1, "probe": {"type": "command", "command": ["bin/fit"]}}]}
END
"$farshore" release pack app --out app.tar.gz >/dev/null
"$farshore" release sign manifest.json --key release.key --artifact "linux/$(uname -m)=app.tar.gz" --out one >/dev/null
sed -i 's/"command": \["bin\/app"\]/"command": ["bin\/app"], "isolation": {"pid": "private", "ipc": "private", "readOnlyRoot": true, "privateTmp": true, "seccomp": "default"}/' manifest.json
"$farshore" release sign manifest.json --key release.key --release-version 2.0 --artifact "linux/$(uname -m)=app.tar.gz" --out two >/dev/null
"$farshore" release push one two >/dev/null
"$farshore" apply -f - >/dev/null <<'END'
kind: App
metadata: {name: hello}
---
kind: Channel
metadata: {name: prod}
---
kind: Placement
metadata: {name: hello}
spec: {app: hello}
END
"#;

/// Makes a token, and says the line to paste that comes with it. $1 is the program.
const TOKEN: &str = r#"
"$1" token create --channel prod --label site=lab 2>&1 >/dev/null | sed -n 's/^ *\(curl .*\)$/\1/p'
"#;

/// Pastes the line, where root need not ask anybody.
const PASTE: &str = r#"
cd "$(mktemp -d)"
sudo() { "$@"; }
eval "$1" 2>&1
"#;

/// Moves the channel to version $2, and waits until the device has it. $1 is the program.
const ROLL_OUT: &str = r#"
"$1" rollout create --app hello --channel prod --to "$2" --wave 100%:0s --max-unavailable 100% >/dev/null
device=$("$1" get devices --output name)
"$1" wait "$device" --for "version=hello@$2" --timeout 60s || {
    "$1" describe "$device"; "$1" describe "rollout/hello-$(echo "$2" | tr . -)"; farshore-agent status
    exit 1
}
"#;

/// Says the process of the app, by its program.
const APP: &str = "pgrep --full --exact 'sleep 100000' || true";

/// Says version, and what of the agent is up and enabled.
const STANDING: &str = r#"
dpkg-query --show --showformat='${Version} ${db:Status-Abbrev}\n' farshore-agent
for unit in farshore-agent farshore-runner farshore-apps; do
    echo "$unit $(systemctl is-active $unit || true) $(systemctl is-enabled $unit 2>/dev/null || true) $(systemctl show --value --property=MainPID $unit)"
done
"#;

/// Packages of one program, in a folder that the machine sees.
#[derive(Debug)]
pub(super) struct Packages {
    _folder: tempfile::TempDir,
    /// As it is in the tree.
    pub(super) now: PathBuf,
    /// The same as a later version.
    later: PathBuf,
}

impl Packages {
    /// # Errors
    /// When a package can't be made.
    pub(super) fn make(program: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("packages-").tempdir_in(tools::target());
        let folder = folder.context("no folder for the packages")?;
        // What is only for debuggers would be most of it, and more than a control plane serves.
        let stripped = folder.path().join("farshore-agent");
        tools::run(Command::new("strip").arg("--strip-all").arg("-o").arg(&stripped).arg(program))?;
        let arch = package::own_arch()?;
        let (served, later) = (folder.path().join("served"), folder.path().join("later"));
        let version = env!("CARGO_PKG_VERSION");
        let now = package::make(&stripped, arch, version, &served, Packing::Quick)?;
        let later = package::make(&stripped, arch, &format!("{version}+later"), &later, Packing::Quick)?;
        Ok(Self { _folder: folder, now, later })
    }
}

/// A device with the package on it.
#[derive(Debug)]
pub(super) struct Device<'a> {
    pub(super) machine: &'a Machine,
    pub(super) packages: &'a Packages,
    /// The operator's program.
    pub(super) farshore: PathBuf,
}

impl Device<'_> {
    /// Installs a package, quietly unless that fails.
    pub(super) fn install(&self, package: &Path) -> Result<()> {
        let script = r#"DEBIAN_FRONTEND=noninteractive dpkg --install "$1" >/run/dpkg.log 2>&1 || { cat /run/dpkg.log; exit 1; }"#;
        self.machine.script(script, &[package]).map(drop)
    }

    fn dpkg(&self, verb: &str) -> Result<()> {
        let script = r#"dpkg "$1" farshore-agent >/run/dpkg.log 2>&1 || { cat /run/dpkg.log; exit 1; }"#;
        self.machine.script(script, &[Path::new(verb)]).map(drop)
    }

    fn look(&self, script: &str) -> Result<String> {
        self.machine.script(script, &[])
    }

    /// Mode and owner of everything in a list of that form.
    fn has(&self, expected: &str) -> Result<()> {
        let paths: Vec<&Path> =
            expected.lines().filter_map(|line| Some(Path::new(line.rsplit(' ').next()?))).collect();
        let found = self.machine.script(STAT, &paths)?;
        ensure!(found == expected, "the files should be\n{expected}but are\n{found}");
        Ok(())
    }

    /// Waits until a script says this.
    fn until(&self, what: &str, script: &str, holds: impl Fn(&str) -> bool) -> Result<String> {
        let mut said = String::new();
        let there = tools::wait_until(PATIENCE, || {
            said = self.look(script)?;
            Ok(holds(&said))
        })?;
        if !there {
            let journal = self.look("journalctl --no-pager --lines=40 --unit='farshore-*' --unit=plane")?;
            bail!("waited in vain for {what}: {said}\n{journal}");
        }
        Ok(said)
    }

    /// A package that was only installed has started and enabled nothing.
    pub(super) fn lies_still(&self) -> Result<()> {
        self.has(FILES)?;
        let standing = self.look(STANDING)?;
        let calm = standing.lines().skip(1).all(|line| line.contains(" inactive ") && line.ends_with(" 0"));
        ensure!(calm, "after an installation by hand, nothing should run:\n{standing}");
        ensure!(
            self.look("id --name --user farshore-agent")? == "farshore-agent\n",
            "there is no user for it"
        );
        eprintln!("the package is installed, and has started nothing");
        Ok(())
    }

    /// The line that an operator gets with a token is pasted, and an app rolled out.
    pub(super) fn is_claimed_by_the_line(&self) -> Result<()> {
        let farshore = self.farshore.as_path();
        let served = self.packages.now.parent().context("the package lies nowhere")?;
        self.machine.script(PLANE, &[farshore, served])?;
        let link = self.until("the control plane", LINK, |said| said.contains(' '))?;
        let (link, fingerprint) = link.trim().split_once(' ').context("no link")?;
        self.machine.script(OPERATOR, &[farshore, Path::new(link), Path::new(fingerprint)])?;
        let line = self.machine.script(TOKEN, &[farshore])?;
        ensure!(
            line.starts_with("curl ") && line.lines().count() == 1,
            "the token comes without a line: {line}"
        );
        let said = self.machine.script(PASTE, &[Path::new(line.trim())])?;
        ensure!(said.contains("This device is claimed."), "the line does not claim the device:\n{said}");
        let standing = self.look(STANDING)?;
        let good =
            standing.contains("farshore-agent active enabled") && standing.contains("farshore-runner active");
        ensure!(good, "after the line, the units are\n{standing}");
        eprintln!("the line that comes with a token installs the agent and claims the device");
        self.machine.script(ROLL_OUT, &[farshore, Path::new("1.0")])?;
        self.has(MADE)?;
        let app = self.look(APP)?;
        ensure!(app.lines().count() == 1, "the app runs so often: {app}");
        let user = self.look("ps -o uid= -p $(pgrep --full --exact 'sleep 100000')")?;
        let user: u32 = user.trim().parse().context("no user")?;
        ensure!(user >= 1000, "the app is user {user}");
        eprintln!("an app is rolled out to it, and runs as user {user}");
        Ok(())
    }

    /// The kernel tells it of stalls, as far as it tells anybody without privileges; otherwise measurements do, and it says why.
    pub(super) fn hears_of_stalls(&self) -> Result<()> {
        let tells = self.look(
            r#"systemd-run --quiet --wait --pipe --collect --property=User=nobody \
                sh -c 'exec 3<>/proc/pressure/cpu && printf "some 150000 2000000\0" >&3' 2>/dev/null && echo psi || echo proc"#,
        )?;
        self.is_connected()?;
        let said = self.look("farshore-agent status --output json")?;
        let status: Value = serde_json::from_str(&said).context("the status is no JSON")?;
        let source = &status["sources"]["pressure"];
        ensure!(source["by"] == tells.trim(), "anybody hears of stalls by {}the agent by {source}", tells);
        eprintln!("under its unit, the agent hears of stalls by {source}");
        Ok(())
    }

    /// What has been stopped with the apps' unit is back, since the device wants it.
    pub(super) fn has_its_app(&self) -> Result<()> {
        self.until("the app", APP, |said| said.lines().count() == 1).map(drop)
    }

    /// Without the drop-in, apps can't be kept apart, and it says how they can; with it, they are.
    pub(super) fn keeps_apps_apart_with_the_drop_in(&self) -> Result<()> {
        let words = || self.look("farshore-agent capabilities");
        let said = words()?;
        let hint = "/usr/share/farshore/farshore-runner-isolation.conf";
        ensure!(
            said.contains("isolation: no isolation/pid, ") && said.contains(hint),
            "without the drop-in it says\n{said}"
        );
        // As docs/executors.md has it.
        let enable = "install -D -m 0644 /usr/share/farshore/farshore-runner-isolation.conf /etc/systemd/system/farshore-runner.service.d/isolation.conf
            systemctl daemon-reload && systemctl restart farshore-runner";
        self.look(enable)?;
        let all =
            ["pid", "mount", "ipc", "uts", "network", "seccomp"].map(|word| format!("isolation/{word}"));
        self.until("the runner", "farshore-agent status --output json", |said| {
            all.iter().all(|word| said.contains(word))
        })?;
        self.machine.script(ROLL_OUT, &[&self.farshore, Path::new("2.0")])?;
        let apart = self.look(
            "app=$(pgrep --full --exact 'sleep 100000')
            for kind in pid mnt ipc net; do
                if [ \"$(readlink /proc/$app/ns/$kind)\" = \"$(readlink /proc/1/ns/$kind)\" ]; then echo $kind shared; else echo $kind own; fi
            done; grep Seccomp: /proc/$app/status",
        )?;
        ensure!(
            apart == "pid own\nmnt own\nipc own\nnet shared\nSeccomp:\t2\n",
            "the app is kept apart so: {apart}"
        );
        eprintln!("with the drop-in for the runner, an app is kept apart; without, it says what is missing");
        Ok(())
    }

    /// A later version restarts the roles, and no app.
    pub(super) fn is_updated(&self) -> Result<()> {
        let (app, before) = (self.look(APP)?, self.look(STANDING)?);
        self.install(&self.packages.later)?;
        let after = self.look(STANDING)?;
        ensure!(
            after.starts_with(&format!("{}+later ii", env!("CARGO_PKG_VERSION"))),
            "installed is {after}"
        );
        let role = |said: &str, unit: &str| {
            said.lines().find_map(|line| line.strip_prefix(unit)).map(str::to_owned).unwrap_or_default()
        };
        for unit in ["farshore-agent ", "farshore-runner "] {
            let (old, new) = (role(&before, unit), role(&after, unit));
            ensure!(
                old != new && new.starts_with("active"),
                "{unit}was {old} before the update, and is {new}"
            );
        }
        ensure!(
            role(&before, "farshore-apps ") == role(&after, "farshore-apps "),
            "the apps' unit was restarted"
        );
        self.is_connected()?;
        ensure!(self.look(APP)? == app && !app.is_empty(), "the app should have lived on as {app}");
        eprintln!("an update restarts the roles; the app went on");
        Ok(())
    }

    fn is_connected(&self) -> Result<String> {
        let said =
            self.until("the connection", "farshore-agent status --output json || echo null", |said| {
                serde_json::from_str::<Value>(said).is_ok_and(|status| status["connected"] == true)
            })?;
        let status: Value = serde_json::from_str(&said).context("the status is no JSON")?;
        Ok(status["device"].as_str().context("the status names no device")?.to_owned())
    }

    /// Removed, it stops and keeps its data: installed again, it is the same device. Purged, nothing is left of it.
    pub(super) fn is_removed_and_purged(&self) -> Result<()> {
        let device = self.is_connected()?;
        self.dpkg("--remove")?;
        self.until(
            "the end of all processes",
            "pgrep --full --list-full '^(/usr/bin/)?farshore-agent ' || true",
            str::is_empty,
        )?;
        let left = self.look(
            "systemctl list-units --no-legend --type=service,socket --state=active 'farshore*'; pgrep --full --exact 'sleep 100000' || true
            ls /usr/bin/farshore-agent /usr/lib/systemd/system/farshore* 2>/dev/null || true",
        )?;
        ensure!(left.is_empty(), "after it was removed, this is left:\n{left}");
        self.look("test -d /var/lib/farshore-agent/identity && test -d /var/lib/farshore/apps/hello && test -e /etc/farshore/agent.env")?;
        eprintln!("removed, it stopped with its app, and kept its data");
        self.install(&self.packages.now)?;
        self.look("systemctl enable --quiet --now farshore-agent")?;
        let again = self.is_connected()?;
        ensure!(again == device, "installed again it should be device {device}, and is {again}");
        self.has_its_app()?;
        eprintln!("installed again, it is the same device and has its app");
        self.dpkg("--purge")?;
        let left = self.look(
            "ls -d /var/lib/farshore* /etc/farshore /usr/share/farshore /etc/systemd/system/farshore* /etc/systemd/system/*/farshore* 2>/dev/null || true
            pgrep --full --exact 'sleep 100000' || true; dpkg-query --show farshore-agent 2>/dev/null || true",
        )?;
        ensure!(left.is_empty(), "after it was purged, this is left:\n{left}");
        self.look("systemctl stop plane")?;
        eprintln!("purged, nothing is left of it");
        Ok(())
    }
}
