//! Helper processes: this program again, told what to do on stdin, answering in JSON lines on stdout. They end when
//! their stdin does, so none outlives the bench.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A running helper.
#[derive(Debug)]
pub(crate) struct Helper {
    name: &'static str,
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    /// Starts `farshore bench NAME ARGUMENTS`. A secret goes into the environment, where other users can't read it.
    pub(crate) fn start(
        name: &'static str,
        arguments: &[String],
        secret: Option<(&str, &str)>,
    ) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("this program is not found")?);
        command.args(["bench", name]).args(arguments).env_remove("RUST_BACKTRACE");
        command.envs(secret);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("the {name} can't be started"))?;
        let stdin = child.stdin.take().context("no pipe")?;
        let lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        Ok(Self { name, child, stdin, lines })
    }

    /// Says a line and reads the line that answers it.
    pub(crate) async fn ask<T: DeserializeOwned>(&mut self, line: &str) -> Result<T> {
        self.say(line).await?;
        self.hear().await
    }

    async fn say(&mut self, line: &str) -> Result<()> {
        let name = self.name;
        self.stdin
            .write_all(format!("{line}\n").as_bytes())
            .await
            .with_context(|| format!("the {name} ended"))
    }

    /// The next line.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let name = self.name;
        let line = timeout(Duration::from_secs(120), self.lines.next_line())
            .await
            .with_context(|| format!("the {name} says nothing"))?;
        let line = line.context("a broken pipe")?.with_context(|| format!("the {name} ended"))?;
        serde_json::from_str(&line).with_context(|| format!("the {name} said {line:?}"))
    }

    /// The process, for measuring it.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) -> Result<()> {
        drop(self.stdin);
        match timeout(Duration::from_secs(30), self.child.wait()).await {
            Ok(ended) => {
                let status = ended.context("a helper can't be waited for")?;
                if !status.success() {
                    bail!("the {} ended with {status}", self.name);
                }
                Ok(())
            }
            Err(_) => self.child.kill().await.context("a helper can't be ended"),
        }
    }
}

/// In a helper: the lines of stdin. `None` when it ends, and with it the bench. A thread reads them; it ends with the process.
pub(crate) fn stdin_lines() -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(std::io::Result::ok) {
            if tell.blocking_send(line).is_err() {
                return;
            }
        }
    });
    told
}

/// In a helper: answers with a line.
pub(crate) fn answer(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value).context("can't answer")?;
    writeln!(out).and_then(|()| out.flush()).context("can't answer")
}

/// Asks again and again until `done` holds, with a bound.
pub(crate) async fn until<T>(
    what: &str,
    bound: Duration,
    mut look: impl AsyncFnMut() -> Result<T>,
    done: impl Fn(&T) -> bool,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        let seen = look().await?;
        if done(&seen) {
            return Ok(seen);
        }
        if begin.elapsed() > bound {
            bail!("{what} did not happen within {} s", bound.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
