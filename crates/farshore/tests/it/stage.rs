//! A control plane on a free port, and the command logged in to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use farshore_control::server::{Running, Server};
use farshore_control::settings::Settings;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// No command of these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    folder: tempfile::TempDir,
    pub(crate) running: Running,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The output of a command that worked.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// The command without a server, in an empty environment.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farshore"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(folder);
    command.env("FARSHORE_CONFIG", folder.join("config.yaml")).kill_on_drop(true);
    command
}

pub(crate) async fn finish(mut command: Command, input: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let feed = tokio::spawn(async move {
        // A command that does not read its input is fine.
        let _ = stdin.write_all(input.as_bytes()).await;
    });
    let output =
        tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("the command hangs").unwrap();
    feed.await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Stage {
    /// Starts a control plane and logs its first admin in.
    pub(crate) async fn new() -> Self {
        let stage = Self::without_login().await;
        let link = stage.running.first_login.clone().unwrap();
        let fingerprint = stage.running.ca_fingerprint.to_string();
        stage
            .input(
                "correct horse battery",
                &["login", &link, "--ca-fingerprint", &fingerprint, "--password-stdin"],
            )
            .await
            .ok();
        stage
    }

    pub(crate) async fn without_login() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("server").display().to_string();
        let flags: BTreeMap<String, String> =
            [("data-dir", data.as_str()), ("api-listen", "127.0.0.1:0"), ("device-listen", "127.0.0.1:0")]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
        let settings = Settings::read(&flags, &|_| None).unwrap();
        let running = Box::pin(Server::start(settings)).await.unwrap();
        Self { folder, running }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        name.to_owned()
    }

    pub(crate) fn command(&self) -> Command {
        command(self.folder.path())
    }

    /// Runs `farshore` with the words of a line.
    pub(crate) async fn run(&self, line: &str) -> Ran {
        self.input("", &line.split_whitespace().collect::<Vec<_>>()).await
    }

    pub(crate) async fn input(&self, input: &str, arguments: &[&str]) -> Ran {
        let mut command = self.command();
        command.args(arguments);
        finish(command, input).await
    }

    /// The same with environment variables.
    pub(crate) async fn with(&self, variables: &[(&str, &str)], line: &str) -> Ran {
        let mut command = self.command();
        command.args(line.split_whitespace()).envs(variables.iter().copied());
        finish(command, "").await
    }

    /// Without what differs from run to run: ids, ports, secrets, ages below ten seconds.
    pub(crate) fn plain(&self, text: &str) -> String {
        let text = text.replace(&format!(":{}", self.running.api_addr.port()), ":PORT");
        let mut plain = String::new();
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            let word_end = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')))
                .unwrap_or(rest.len())
                .max(first.len_utf8());
            let (word, tail) = rest.split_at(word_end);
            let bytes = word.as_bytes();
            plain.push_str(if word.len() == 36 && bytes.iter().filter(|b| **b == b'-').count() == 4 {
                "UID"
            } else if word.starts_with("fsct_") || word.starts_with("fsat_") {
                "SECRET"
            } else if matches!(bytes, [digit, b's'] if digit.is_ascii_digit()) {
                "0s"
            } else if word.len() == 64 && bytes.iter().all(u8::is_ascii_hexdigit) {
                "DIGEST"
            } else if word.len() == 13 && bytes.iter().all(u8::is_ascii_digit) {
                "TIME"
            } else {
                word
            });
            rest = tail;
        }
        plain
    }

    pub(crate) async fn stop(self) {
        Box::pin(self.running.shutdown()).await;
    }
}
