//! Where the pipelines are written, and what is known of the device.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use super::definition::{Definition, MAX_FILE_BYTES};
use super::series::Context;
use crate::ingest::lock;

/// Files that are read again when they change.
#[derive(Debug)]
pub(crate) struct Source {
    pipelines: Option<PathBuf>,
    context: Option<PathBuf>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    pipelines: String,
    context: String,
}

impl Source {
    /// The file's pipelines; without one, aggregates of all series over `window`.
    ///
    /// # Errors
    /// When the file can't be read or is not good.
    pub(crate) fn open(
        pipelines: Option<PathBuf>,
        context: Option<PathBuf>,
        window: Duration,
    ) -> Result<(Self, Definition), String> {
        let source = Self { pipelines, context, seen: Mutex::default() };
        let definition = match &source.pipelines {
            None => Definition::local_analytics(window),
            Some(path) => {
                let text = read(path)?;
                let definition = parse(path, &text)?;
                lock(&source.seen).pipelines = text;
                definition
            }
        };
        if let Some(path) = &source.context {
            context_of(path, &read(path)?)?;
        }
        Ok((source, definition))
    }

    /// Nothing is written anywhere.
    pub(crate) fn none() -> Self {
        Self { pipelines: None, context: None, seen: Mutex::default() }
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        self.pipelines.as_deref()
    }

    /// What is known of the device now; what can't be read is not known.
    pub(crate) fn context(&self) -> Context {
        let Some(path) = &self.context else { return Context::default() };
        let read = read(path).and_then(|text| {
            let context = context_of(path, &text)?;
            lock(&self.seen).context = text;
            Ok(context)
        });
        read.unwrap_or_else(|error| {
            tracing::warn!(error, "labels and twin are not known");
            Context::default()
        })
    }

    /// The pipelines, when their file has another content than before. A content that is not good is told once.
    pub(crate) fn changed(&self) -> Result<Option<Definition>, String> {
        let Some(path) = &self.pipelines else { return Ok(None) };
        let text = read(path)?;
        let mut seen = lock(&self.seen);
        if text == seen.pipelines {
            return Ok(None);
        }
        seen.pipelines.clone_from(&text);
        drop(seen);
        parse(path, &text).map(Some)
    }

    pub(crate) fn changed_context(&self) -> Option<Context> {
        let path = self.context.as_ref()?;
        let text = read(path).ok()?;
        if text == lock(&self.seen).context { None } else { Some(self.context()) }
    }
}

/// Reads a file of pipelines, not more than one may have.
fn read(path: &Path) -> Result<String, String> {
    let told = |error: io::Error| format!("{}: {error}", path.display());
    let length = fs::metadata(path).map_err(told)?.len();
    if length > MAX_FILE_BYTES as u64 {
        return Err(format!("{}: it has {length} bytes, at most {MAX_FILE_BYTES} are taken", path.display()));
    }
    fs::read_to_string(path).map_err(told)
}

fn parse(path: &Path, text: &str) -> Result<Definition, String> {
    Definition::parse(text).map_err(|error| format!("{}: {error}", path.display()))
}

fn context_of(path: &Path, text: &str) -> Result<Context, String> {
    serde_json::from_str(text).map_err(|error| format!("{}: {error}", path.display()))
}
