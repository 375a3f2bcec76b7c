//! Why a command did not work: what failed, on what, why, and the next command to type.

use std::error::Error;
use std::fmt::Write as _;

use farshore_api::{ErrorCode, Problem};

use crate::exit::Exit;
use crate::output::Format;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// One failure, as it is shown on stderr.
#[derive(Debug)]
pub(crate) struct Failure(Box<Parts>);

#[derive(Debug)]
struct Parts {
    exit: Exit,
    /// `can't get device kiosk-7`.
    what: String,
    /// The causes, outermost first.
    why: Vec<String>,
    next: Option<String>,
    /// What the server answered.
    problem: Option<Problem>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self(Box::new(Parts { exit, what: what.into(), why: Vec::new(), next: None, problem: None }))
    }

    /// The command line is wrong in a way that its parser can't see.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// It failed, because of `cause` and what lies behind it.
    pub(crate) fn because(what: impl Into<String>, cause: &(dyn Error + 'static)) -> Self {
        Self::new(Exit::Failed, what).caused_by(cause)
    }

    /// The server said no.
    pub(crate) fn problem(what: impl Into<String>, problem: Problem) -> Self {
        let mut failure = Self::new(exit_of(problem.code), what);
        failure.0.why.push(problem.detail.clone());
        // The sentence often names the one wrong field already.
        let more = problem.errors.iter().map(|error| format!("{}: {}", error.field, error.message));
        failure.0.why.extend(more.filter(|text| *text != problem.detail).collect::<Vec<_>>());
        if problem.code == ErrorCode::Unauthenticated {
            failure.0.next = Some("farshore login https://SERVER".to_owned());
        }
        failure.0.problem = Some(problem);
        failure
    }

    pub(crate) fn caused_by(mut self, cause: &(dyn Error + 'static)) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            let text = error.to_string();
            // Libraries that print their source in their own text would say everything twice.
            if !self.0.why.iter().any(|known| known.contains(&text)) {
                self.0.why.push(text);
            }
            next = error.source();
        }
        self
    }

    pub(crate) fn why(mut self, text: impl Into<String>) -> Self {
        self.0.why.push(text.into());
        self
    }

    /// The command to type next.
    pub(crate) fn next(mut self, command: impl Into<String>) -> Self {
        self.0.next = Some(command.into());
        self
    }

    pub(crate) const fn exit(&self) -> Exit {
        self.0.exit
    }

    pub(crate) const fn code(&self) -> Option<ErrorCode> {
        match &self.0.problem {
            Some(problem) => Some(problem.code),
            None => None,
        }
    }

    /// Whether the server complained about this field.
    pub(crate) fn names_field(&self, field: &str) -> bool {
        self.0.problem.as_ref().is_some_and(|problem| problem.errors.iter().any(|error| error.field == field))
    }

    /// The text for stderr, with a line end.
    pub(crate) fn render(&self, format: Format, colour: bool) -> String {
        let parts = &self.0;
        if matches!(format, Format::Json | Format::Ndjson) {
            return self.render_json();
        }
        let (red, bold, plain) = if colour { ("\x1b[31;1m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        let mut text = format!("{red}error:{plain} {bold}{}{plain}", parts.what);
        for (index, why) in parts.why.iter().enumerate() {
            _ = write!(text, "{}{why}", if index == 0 { ": " } else { "\n  because: " });
        }
        text.push('\n');
        if let Some(id) = parts.problem.as_ref().and_then(|problem| problem.request_id.as_ref()) {
            _ = writeln!(text, "  request: {id}");
        }
        if let Some(next) = &parts.next {
            _ = writeln!(text, "  next: {next}");
        }
        text
    }

    fn render_json(&self) -> String {
        let parts = &self.0;
        let problem = parts.problem.clone().unwrap_or_else(|| {
            let mut detail = parts.what.clone();
            for why in &parts.why {
                _ = write!(detail, ": {why}");
            }
            let mut problem = Problem::new(ErrorCode::Unknown, detail);
            problem.kind = "https://farshore.dev/problems/command-failed".to_owned();
            problem.title = "The command failed".to_owned();
            problem
        });
        let mut value = serde_json::to_value(&problem).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            if parts.problem.is_none() {
                object.remove("status");
            }
            object.insert("exitCode".to_owned(), (parts.exit as i32).into());
            if let Some(next) = &parts.next {
                object.insert("next".to_owned(), next.as_str().into());
            }
        }
        format!("{value}\n")
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let mut chain = error.chain();
        let mut failure = Self::new(Exit::Failed, chain.next().map(ToString::to_string).unwrap_or_default());
        failure.0.why.extend(chain.map(ToString::to_string));
        failure
    }
}

fn exit_of(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::NotFound => Exit::NotFound,
        ErrorCode::Unauthenticated | ErrorCode::Forbidden => Exit::NotAllowed,
        ErrorCode::Conflict | ErrorCode::VersionMismatch => Exit::Conflict,
        ErrorCode::Untrusted => Exit::Rejected,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_the_server_has_its_exit_code() {
        let exit = |code| Failure::problem("x", Problem::new(code, "y")).exit() as i32;
        assert_eq!(exit(ErrorCode::NotFound), 3);
        assert_eq!([exit(ErrorCode::Unauthenticated), exit(ErrorCode::Forbidden)], [4, 4]);
        assert_eq!([exit(ErrorCode::Conflict), exit(ErrorCode::VersionMismatch)], [5, 5]);
        assert_eq!(exit(ErrorCode::Untrusted), 7);
        assert_eq!(
            [exit(ErrorCode::Invalid), exit(ErrorCode::Internal), exit(ErrorCode::Unknown)],
            [1, 1, 1]
        );
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_type_next() {
        let failure = Failure::new(Exit::NotFound, "can't get device kiosk-9")
            .why("There is no device \"kiosk-9\" here.")
            .next("farshore get devices");
        insta::assert_snapshot!(failure.render(Format::Table, false), @r#"
        error: can't get device kiosk-9: There is no device "kiosk-9" here.
          next: farshore get devices
        "#);
        insta::assert_snapshot!(failure.render(Format::Json, false), @r#"{"code":"unknown","detail":"can't get device kiosk-9: There is no device \"kiosk-9\" here.","exitCode":3,"next":"farshore get devices","title":"The command failed","type":"https://farshore.dev/problems/command-failed"}"#);
    }
}
