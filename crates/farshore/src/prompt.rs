//! Questions to a person, without echo where the answer is a secret.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use rustix::termios::{self, LocalModes, OptionalActions};
use zeroize::Zeroizing;

use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// The longest answer.
const MAX_LINE: usize = 64 * 1024;

/// Whether there is somebody to ask.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// One line of stdin, without its end.
pub(crate) fn line() -> Result<Zeroizing<String>> {
    let what = "can't read from stdin";
    let mut text = Zeroizing::new(String::new());
    let mut limited = std::io::Read::take(std::io::stdin().lock(), MAX_LINE as u64);
    let count = limited.read_line(&mut text).map_err(|error| Failure::because(what, &error))?;
    if count == 0 {
        return Err(Failure::new(Exit::Failed, what).why("it has ended"));
    }
    let kept = text.trim_end_matches(['\n', '\r']).len();
    text.truncate(kept);
    Ok(text)
}

/// Asks for something that may be seen.
pub(crate) fn ask(question: &str) -> Result<String> {
    eprint!("{question}");
    _ = std::io::stderr().flush();
    line().map(|text| text.trim().to_owned())
}

/// Asks for something that may not be seen.
pub(crate) fn ask_secret(question: &str) -> Result<Zeroizing<String>> {
    eprint!("{question}");
    _ = std::io::stderr().flush();
    let silent = Silent::new();
    let answer = line();
    drop(silent);
    eprintln!();
    answer
}

/// The terminal without echo, until dropped.
struct Silent(Option<termios::Termios>);

impl Silent {
    fn new() -> Self {
        let stdin = std::io::stdin();
        let Ok(before) = termios::tcgetattr(&stdin) else { return Self(None) };
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        match termios::tcsetattr(&stdin, OptionalActions::Flush, &quiet) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Nothing better can be done when the terminal has gone away.
            _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}
