//! A program of the release that is run once: as the app's user, in its folder, with its environment, for a limited time.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::super::folder::AppFolder;
use super::super::isolate;
use super::super::logs::RotatedLog;
use super::super::spec::{Spec, signal_group};
use super::RuntimeError;

/// At most this many bytes of its answer.
const MAX_ANSWER: u64 = 256 * 1024;

/// Ends the hook's whole process group when what waits for it is dropped.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        signal_group(self.0, Signal::KILL);
    }
}

/// Runs the hook of the specification that is called `name`, and returns what it wrote to its standard output.
pub(super) async fn run(
    folder: &AppFolder,
    spec: &Spec,
    name: &str,
    input: &[u8],
    limit: Duration,
) -> Result<Vec<u8>, RuntimeError> {
    let io = |what: &str| RuntimeError::io(format!("{name}: {what}"));
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("app-exec")
        .arg(folder.spec())
        .args(["--hook", name])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let has_pid = spec.isolation.has_pid();
    let started = if has_pid { isolate::spawn_first(&mut command) } else { command.spawn() };
    let mut child = started.map_err(io("it could not be started"))?;
    // It leads a group of its own as soon as it has begun; until then it is killed by its number.
    let mut group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut log = RotatedLog::new(folder.log("stderr.log"), spec.log_bytes, spec.log_files);
    let feed = async {
        if let Some(mut stdin) = stdin
            && let Err(error) = stdin.write_all(input).await
        {
            // A hook need not read what it is told.
            tracing::debug!(%error, "the hook does not take its input");
        }
    };
    let answer = async {
        let mut bytes = Vec::new();
        if let Some(stdout) = stdout {
            let mut limited = stdout.take(MAX_ANSWER + 1);
            limited.read_to_end(&mut bytes).await?;
        }
        std::io::Result::Ok(bytes)
    };
    let mut said = Vec::new();
    let complaints = async {
        let mut buffer = vec![0; 8 * 1024];
        let Some(mut stderr) = stderr else { return };
        while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
            let part = buffer.get(..count).unwrap_or_default();
            log.write(part);
            said.extend_from_slice(part);
            let surplus = said.len().saturating_sub(1000);
            said.drain(..surplus);
        }
    };
    let work = async {
        let ((), ended, answered) = tokio::join!(feed, child.wait(), async {
            let (answered, ()) = tokio::join!(answer, complaints);
            answered
        });
        std::io::Result::Ok((ended?, answered?))
    };
    let Ok(done) = timeout(limit, work).await else {
        return Err(RuntimeError::Said(format!("{name}: it was not done within {} s", limit.as_secs())));
    };
    let (ended, answer) = done.map_err(io("waiting for it"))?;
    group.0 = None;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let said = if said.is_empty() { said } else { format!(": {said}") };
    if !ended.success() {
        return Err(RuntimeError::Said(format!("{name}: {ended}{said}")));
    }
    if answer.len() as u64 > MAX_ANSWER {
        return Err(RuntimeError::Said(format!("{name}: it answered more than {MAX_ANSWER} bytes")));
    }
    Ok(answer)
}
