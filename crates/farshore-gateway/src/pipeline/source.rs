//! Where the pipelines are written, and what is known of the device.
//!
//! What the control plane gave comes before the device's own file; that comes before the aggregates of all series.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore_domain::digest::Digest;

use super::allow::WebhookAllow;
use super::definition::{Definition, MAX_FILE_BYTES};
use super::delivered::Delivered;
use super::series::Context;
use crate::documents::Documents;
use crate::ingest::lock;

/// What is looked at again for changes.
#[derive(Debug)]
pub(crate) struct Source {
    /// Nothing in a program that writes its processing itself and has switched pipelines off.
    delivered: Option<Arc<Delivered>>,
    file: Option<PathBuf>,
    /// The window of the aggregates that are made where there is nothing else.
    window: Option<Duration>,
    context: Option<PathBuf>,
    documents: Option<Documents>,
    /// What the pipelines may call, wherever they are from.
    allow: WebhookAllow,
    seen: Mutex<Seen>,
}

/// What pipelines run because of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    #[default]
    Nothing,
    Aggregates,
    File(PathBuf),
    ControlPlane {
        /// The config that they are of.
        from: String,
        digest: Digest,
    },
}

/// What looking again has found.
#[derive(Debug)]
pub(super) enum Change {
    Same,
    /// These are to run from now on; nothing: none.
    To(Option<Definition>),
}

#[derive(Debug, Default)]
struct Seen {
    origin: Origin,
    /// The digest of what the file had.
    file: Option<Digest>,
    delivered: u64,
    /// What runs is to end, after it was said why.
    stops: bool,
    context: String,
    /// Versions of what was delivered and of the documents when the context was made.
    known: (u64, u64),
}

/// Where [`Source::open`] looks.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) delivered: Arc<Delivered>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) window: Option<Duration>,
    pub(crate) context: Option<PathBuf>,
    pub(crate) documents: Documents,
    pub(crate) allow: WebhookAllow,
}

impl Source {
    /// With the pipelines that are to run, if there are any.
    ///
    /// # Errors
    /// When the device's own file is the one, and can't be read or is not good; not where the control plane has had a say: what it takes away must not keep
    /// a gateway from taking readings.
    pub(crate) fn open(places: Places) -> Result<(Self, Option<Definition>), String> {
        let Places { delivered, file, window, context, documents, allow } = places;
        let source = Self {
            delivered: Some(delivered),
            file,
            window,
            context,
            documents: Some(documents),
            allow,
            seen: Mutex::default(),
        };
        if let Some(path) = &source.context {
            context_of(path, &read(path)?)?;
        }
        let mut seen = lock(&source.seen);
        let definition = match source.delivered(&mut seen) {
            Change::To(Some(definition)) => Some(definition),
            Change::To(None) | Change::Same => match source.own(&mut seen) {
                Err(error) if source.given().is_some_and(Delivered::was_told) => {
                    tracing::error!(error, "this device processes nothing");
                    None
                }
                own => own?,
            },
        };
        drop(seen);
        Ok((source, definition))
    }

    /// Nothing is written anywhere.
    pub(crate) fn none() -> Self {
        Self {
            delivered: None,
            file: None,
            window: None,
            context: None,
            documents: None,
            allow: WebhookAllow::default(),
            seen: Mutex::default(),
        }
    }

    pub(crate) const fn allow(&self) -> &WebhookAllow {
        &self.allow
    }

    pub(crate) fn origin(&self) -> Origin {
        lock(&self.seen).origin.clone()
    }

    pub(crate) fn given(&self) -> Option<&Delivered> {
        self.delivered.as_deref()
    }

    /// What the control plane has changed since it was looked at.
    fn delivered(&self, seen: &mut Seen) -> Change {
        let Some(delivered) = &self.delivered else { return Change::Same };
        // Before it is read: what changes in between is looked at once more.
        seen.delivered = delivered.version();
        let Some(given) = delivered.pipelines() else {
            return match seen.origin {
                Origin::ControlPlane { .. } => Change::To(None),
                _ => Change::Same,
            };
        };
        let same = matches!(&seen.origin, Origin::ControlPlane { digest, .. } if *digest == given.digest);
        let change = if same {
            Change::Same
        } else {
            match Definition::parse(&given.text) {
                Ok(definition) => Change::To(Some(definition)),
                // It was good when it was taken.
                Err(_) => return Change::Same,
            }
        };
        seen.origin = Origin::ControlPlane { from: given.from, digest: given.digest };
        change
    }

    /// What this device has of its own.
    fn own(&self, seen: &mut Seen) -> Result<Option<Definition>, String> {
        if let Some(path) = &self.file {
            seen.origin = Origin::File(path.clone());
            let text = read(path)?;
            seen.file = Some(Digest::of(text.as_bytes()));
            return self.parse(path, &text).map(Some);
        }
        seen.origin = if self.window.is_some() { Origin::Aggregates } else { Origin::Nothing };
        Ok(self.window.map(Definition::local_analytics))
    }

    /// What is to run from now on, where that is something else than before. `files`: whether files are looked at, too. What is not good is told once.
    pub(super) fn changed(&self, files: bool) -> Result<Change, String> {
        let mut seen = lock(&self.seen);
        if std::mem::take(&mut seen.stops) {
            return Ok(Change::To(None));
        }
        let version = self.delivered.as_ref().map_or(0, |delivered| delivered.version());
        if version != seen.delivered {
            match self.delivered(&mut seen) {
                Change::To(None) => {
                    seen.file = None;
                    let own = self.own(&mut seen);
                    // What was taken away does not go on because there is nothing good in its place.
                    seen.stops = own.is_err();
                    return own.map(Change::To);
                }
                change @ Change::To(Some(_)) => return Ok(change),
                Change::Same => {}
            }
        }
        let Origin::File(path) = &seen.origin else { return Ok(Change::Same) };
        if !files {
            return Ok(Change::Same);
        }
        let path = path.clone();
        let text = read(&path)?;
        let digest = Some(Digest::of(text.as_bytes()));
        if digest == seen.file {
            return Ok(Change::Same);
        }
        seen.file = digest;
        self.parse(&path, &text).map(|definition| Change::To(Some(definition)))
    }

    /// What is known of the device now; what can't be read is not known. What the file of the context says comes before what the control plane and the
    /// documents say: a label for itself, the twin as a whole.
    pub(crate) fn context(&self) -> Context {
        let known = self.versions();
        let mut context = Context {
            labels: self.delivered.as_ref().map(|delivered| delivered.labels()).unwrap_or_default(),
            twin: serde_json::Value::Null,
        };
        if let Some(documents) = &self.documents {
            match documents.twin() {
                Ok(twin) => context.twin = twin,
                Err(error) => tracing::warn!(%error, "the twin is not known"),
            }
        }
        let mut seen = lock(&self.seen);
        seen.known = known;
        let Some(path) = &self.context else { return context };
        let said = read(path).and_then(|text| {
            let said = context_of(path, &text)?;
            seen.context = text;
            Ok(said)
        });
        match said {
            Ok(said) => {
                context.labels.extend(said.labels);
                if !said.twin.is_null() {
                    context.twin = said.twin;
                }
            }
            Err(error) => tracing::warn!(error, "what the file says of labels and twin is not known"),
        }
        context
    }

    fn parse(&self, path: &Path, text: &str) -> Result<Definition, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let definition = Definition::parse(text).map_err(|error| told(&error))?;
        self.allow.check(&definition).map_err(|why| told(&why))?;
        Ok(definition)
    }

    fn versions(&self) -> (u64, u64) {
        let delivered = self.delivered.as_ref().map_or(0, |delivered| delivered.version());
        (delivered, self.documents.as_ref().map_or(0, Documents::version))
    }

    /// What is known of the device, where it is something else than before. `files`: whether the file is looked at, too.
    pub(super) fn changed_context(&self, files: bool) -> Option<Context> {
        if self.versions() != lock(&self.seen).known {
            return Some(self.context());
        }
        let path = self.context.as_ref().filter(|_| files)?;
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

fn context_of(path: &Path, text: &str) -> Result<Context, String> {
    serde_json::from_str(text).map_err(|error| format!("{}: {error}", path.display()))
}
