//! The process that puts eBPF programs into the kernel. It reads all the kernel's types for that and needs some 20 MB; a moment later it
//! is gone, and whoever started it has the descriptors.

use std::io::{BufRead as _, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use farshore_collect::kernel::{self, HandoverError, LoadError, Report, Wants};

use super::Look;

/// It takes a tenth of a second where nothing is in its way.
const WITHIN: Duration = Duration::from_secs(30);
/// What is asked is a few words.
const MAX_REQUEST: u64 = 256;

/// Why the loader gave up.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    #[error("what was loaded can't be handed over; this role is started by the runner")]
    HandOver(#[source] std::io::Error),
}

/// The role `eyes-loader`: reads on its standard input, which is a socket, what is wanted, loads that, and hands it over through the same.
///
/// # Errors
/// When nobody asks or takes it. That eBPF is refused is told to the one who takes it.
pub fn load_and_hand_over() -> Result<(), LoaderError> {
    let mut line = String::new();
    let asked = std::io::stdin().lock().take(MAX_REQUEST).read_line(&mut line);
    asked.map_err(LoaderError::HandOver)?;
    let wants = |word: &str| line.split_whitespace().any(|wanted| wanted == word);
    let loaded = if wants("ebpf") {
        kernel::load(Wants { exec: wants("exec"), connect: wants("connect") })
    } else {
        Err(LoadError::Unwanted)
    };
    kernel::hand_over(std::io::stdin().as_fd(), loaded).map_err(LoaderError::HandOver)
}

/// Where a loader is to be had.
#[derive(Clone, Debug)]
pub(crate) struct Loader {
    /// Started by systemd for each connection to this socket, with the privileges that the runner lacks.
    pub(crate) socket: Option<PathBuf>,
    /// Else started by the runner itself.
    pub(crate) program: PathBuf,
}

fn ask(socket: &UnixStream, look: Look) -> std::io::Result<()> {
    let words = [(look.ebpf, "ebpf"), (look.exec, "exec"), (look.connect, "connect")];
    let words: Vec<&str> = words.into_iter().filter_map(|(wanted, word)| wanted.then_some(word)).collect();
    let mut socket: &UnixStream = socket;
    socket.write_all(format!("{}\n", words.join(" ")).as_bytes())
}

impl Loader {
    /// Asks a loader and takes what it has. Blocks.
    pub(super) fn take(&self, look: Look) -> Result<([OwnedFd; 4], Vec<OwnedFd>, Report), HandoverError> {
        if let Some(path) = self.socket.as_deref().filter(|path| path.exists()) {
            let socket = UnixStream::connect(path)?;
            socket.set_read_timeout(Some(WITHIN))?;
            ask(&socket, look)?;
            return kernel::receive(&socket);
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(WITHIN))?;
        let mut command = Command::new(&self.program);
        command.arg0("farshore-agent").arg("eyes-loader").env_clear().current_dir("/");
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        // The command holds the loader's end of the socket, which must end with the loader.
        drop(command);
        let taken = ask(&ours, look).map_err(HandoverError::Io).and_then(|()| kernel::receive(&ours));
        if !matches!(taken, Ok(_) | Err(HandoverError::Nothing { .. })) {
            // It gave no answer, and may hang in the kernel.
            child.kill()?;
        }
        child.wait()?;
        taken
    }
}
