//! What is being prepared, for people: a spinner or bar for each step on a terminal, a line when it is done.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The steps of one start.
#[derive(Debug)]
pub(crate) struct Steps {
    begin: Instant,
    terminal: bool,
}

/// One step.
#[derive(Debug)]
pub(crate) struct Step {
    bar: Option<ProgressBar>,
    begin: Instant,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { begin: Instant::now(), terminal: std::io::stderr().is_terminal() }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    /// Begins a step; with a count it has a bar.
    pub(crate) fn begin(&self, what: &str, count: Option<u64>) -> Step {
        let bar = self.terminal.then(|| {
            let bar = count.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template =
                if count.is_some() { "{spinner} {msg} {bar:30} {pos}/{len}" } else { "{spinner} {msg}" };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Step { bar, begin: Instant::now() }
    }
}

impl Step {
    pub(crate) fn at(&self, count: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(count);
        }
    }

    /// The step is done; `text` says what there is now.
    pub(crate) fn done(self, text: &str) {
        let seconds = self.begin.elapsed().as_secs_f64();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("  ✓ {text} ({seconds:.1} s)");
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
