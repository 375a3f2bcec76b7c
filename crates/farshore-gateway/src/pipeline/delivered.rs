//! What the control plane gives this device to process by: its pipelines and its labels, kept in the gateway's folder so that they hold without a network.
//!
//! Pipelines are checked before they are taken. Those that are not good are told back with the reason, and the ones before go on, over a restart too.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use farshore_domain::digest::Digest;
use serde::{Deserialize, Serialize};

use super::allow::WebhookAllow;
use super::definition::{Definition, MAX_FILE_BYTES};
use super::keep::replace;
use crate::ingest::lock;
use crate::sync::{DeviceConfig, RefusedReport};

const FILE: &str = "delivered.json";
const MAX_BYTES: u64 = 2 * 1024 * 1024;
const MAX_LABELS: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Delivered {
    folder: PathBuf,
    /// Why this device takes no pipelines.
    closed: Option<&'static str>,
    /// What pipelines may call.
    allow: WebhookAllow,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    stored: Stored,
    /// What was given and is not taken.
    refused: Option<(Digest, String)>,
    /// What was given last, taken or not: it need not be sent again.
    seen: Option<Digest>,
    /// Grows with each change.
    version: u64,
    /// The control plane has said something, once.
    told: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    labels: BTreeMap<String, String>,
    pipelines: Option<Given>,
}

/// Pipelines that were given and are good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Given {
    pub(super) digest: Digest,
    /// The config that they are of.
    pub(super) from: String,
    pub(super) text: String,
}

impl Delivered {
    /// What lies in the gateway's folder. `closed`: why this device takes no pipelines.
    pub(crate) fn open(folder: &Path, closed: Option<&'static str>, allow: WebhookAllow) -> Self {
        let mut inner = Inner::default();
        match read(&folder.join(FILE)) {
            Ok(stored) => (inner.told, inner.stored) = (stored.is_some(), stored.unwrap_or_default()),
            Err(error) => {
                tracing::warn!(error, "what the control plane gave can't be read; it is asked for again");
            }
        }
        if let Some(given) = &inner.stored.pipelines {
            inner.seen = Some(given.digest);
            // Of a later version than this program, which was set back; or the device's own configuration has changed.
            let bad = closed.map(str::to_owned).or_else(|| good(&given.text, &allow).err());
            if let Some(why) = bad {
                tracing::warn!(why, from = given.from, "the pipelines of the control plane are not taken");
                inner.refused = Some((given.digest, why));
                inner.stored.pipelines = None;
            }
        }
        Self { folder: folder.to_owned(), closed, allow, inner: Mutex::new(inner) }
    }

    /// Takes what the control plane says is this device's. Durable when this returns. Whether pipelines, or what is to be said of them, have changed.
    ///
    /// # Errors
    /// When it can't be kept: nothing has changed then, and it is to be sent again.
    pub(crate) fn take(&self, config: DeviceConfig) -> io::Result<bool> {
        let mut inner = lock(&self.inner);
        let mut stored = inner.stored.clone();
        stored.labels = config.labels.into_iter().take(MAX_LABELS).collect();
        let (mut refused, mut seen) = (inner.refused.clone(), inner.seen);
        match config.pipelines {
            None => (stored.pipelines, refused, seen) = (None, None, None),
            Some(given) => {
                let present = stored.pipelines.as_mut().filter(|present| present.digest == given.digest);
                if let Some(why) = self.closed {
                    (refused, seen) = (Some((given.digest, why.to_owned())), Some(given.digest));
                } else if let Some(present) = present {
                    present.from = given.from;
                    (refused, seen) = (None, Some(given.digest));
                } else if let Some(text) = given.text {
                    seen = Some(given.digest);
                    match check(&text, given.digest, &self.allow) {
                        Ok(()) => {
                            stored.pipelines = Some(Given { digest: given.digest, from: given.from, text });
                            refused = None;
                        }
                        Err(why) => {
                            tracing::warn!(
                                why,
                                from = given.from,
                                "the pipelines of the control plane are not taken; those before go on"
                            );
                            refused = Some((given.digest, why));
                        }
                    }
                }
            }
        }
        if stored != inner.stored {
            let content = serde_json::to_vec(&stored)?;
            replace(&self.folder, FILE, &content)?;
        }
        let told = stored.pipelines != inner.stored.pipelines || refused != inner.refused;
        if told || stored != inner.stored {
            inner.version += 1;
        }
        (inner.stored, inner.refused, inner.seen) = (stored, refused, seen);
        Ok(told)
    }

    /// Whether the control plane had said something before this start.
    pub(super) fn was_told(&self) -> bool {
        lock(&self.inner).told
    }

    /// What need not be sent again.
    pub(crate) fn seen(&self) -> Option<Digest> {
        lock(&self.inner).seen
    }

    pub(super) fn version(&self) -> u64 {
        lock(&self.inner).version
    }

    pub(super) fn pipelines(&self) -> Option<Given> {
        lock(&self.inner).stored.pipelines.clone()
    }

    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        lock(&self.inner).stored.labels.clone()
    }

    /// What was given and is not taken, and why.
    pub(crate) fn refused(&self) -> Option<RefusedReport> {
        let inner = lock(&self.inner);
        inner.refused.as_ref().map(|(digest, why)| RefusedReport { digest: Some(*digest), why: why.clone() })
    }
}

fn check(text: &str, digest: Digest, allow: &WebhookAllow) -> Result<(), String> {
    if Digest::of(text.as_bytes()) != digest {
        return Err("they did not arrive as they were sent".to_owned());
    }
    good(text, allow)
}

fn good(text: &str, allow: &WebhookAllow) -> Result<(), String> {
    let definition = Definition::parse(text).map_err(|error| error.to_string())?;
    allow.check(&definition)
}

/// Nothing when nothing was ever given.
fn read(path: &Path) -> Result<Option<Stored>, String> {
    let told = |error: io::Error| format!("{}: {error}", path.display());
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(error)),
    };
    if length > MAX_BYTES {
        return Err(format!("{}: it is too large", path.display()));
    }
    let content = fs::read(path).map_err(told)?;
    let stored: Stored =
        serde_json::from_slice(&content).map_err(|error| format!("{}: {error}", path.display()))?;
    match &stored.pipelines {
        Some(given)
            if given.text.len() > MAX_FILE_BYTES || Digest::of(given.text.as_bytes()) != given.digest =>
        {
            Err(format!("{}: it is damaged", path.display()))
        }
        _ => Ok(Some(stored)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::GivenPipelines;

    const GOOD: &str =
        "pipelines:\n  - name: a\n    steps: [{filter: value > 1}, {emit: {stream: data/a}}]\n";
    const OTHER: &str =
        "pipelines:\n  - name: b\n    steps: [{filter: value > 2}, {emit: {stream: data/a}}]\n";
    const BAD: &str = "pipelines:\n  - name: a\n    steps: [{filter: value >}, {emit: {stream: data/a}}]\n";

    fn open(folder: &Path, closed: Option<&'static str>) -> Delivered {
        Delivered::open(folder, closed, WebhookAllow::default())
    }

    fn config(text: Option<&str>) -> DeviceConfig {
        DeviceConfig {
            labels: BTreeMap::from([("site".to_owned(), "north".to_owned())]),
            pipelines: text.map(|text| GivenPipelines {
                digest: Digest::of(text.as_bytes()),
                from: "rooms".to_owned(),
                text: Some(text.to_owned()),
            }),
        }
    }

    #[test]
    fn what_is_good_is_kept_over_a_restart_and_what_is_not_leaves_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let delivered = open(folder.path(), None);
        assert!(delivered.pipelines().is_none() && delivered.seen().is_none());
        assert!(delivered.take(config(Some(GOOD))).expect("kept"));
        assert!(!delivered.take(config(Some(GOOD))).expect("kept"), "the same again is nothing new");
        let version = delivered.version();
        assert!(delivered.take(config(Some(BAD))).expect("told"));
        let refused = delivered.refused().expect("refused");
        assert!(refused.why.contains("line 3"), "{}", refused.why);
        assert_eq!((refused.digest, delivered.seen()), (Some(Digest::of(BAD.as_bytes())), refused.digest));
        assert!(delivered.version() > version);
        for again in [&delivered, &open(folder.path(), None)] {
            assert_eq!(again.pipelines().expect("the one before").text, GOOD);
            assert_eq!(again.labels()["site"], "north");
        }
        assert!(delivered.take(config(Some(OTHER))).expect("kept"));
        assert!(delivered.refused().is_none());
        assert!(delivered.take(config(None)).expect("kept"));
        assert!(open(folder.path(), None).pipelines().is_none());
        assert_eq!(open(folder.path(), None).labels()["site"], "north");
    }

    #[test]
    fn a_device_that_processes_nothing_says_so_and_a_damaged_file_is_asked_for_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let closed = open(folder.path(), Some("switched off here"));
        assert!(closed.take(config(Some(GOOD))).expect("told"));
        assert!(closed.pipelines().is_none());
        assert_eq!(closed.refused().expect("refused").why, "switched off here");
        let delivered = open(folder.path(), None);
        delivered.take(config(Some(GOOD))).expect("kept");
        let file = folder.path().join(FILE);
        let text = std::fs::read_to_string(&file).expect("there").replace("value > 1", "value > 9");
        std::fs::write(&file, text).expect("written");
        let damaged = open(folder.path(), None);
        assert!(damaged.pipelines().is_none() && damaged.seen().is_none());
        // Something else came in place of what was meant.
        let mut other = config(Some(GOOD));
        other.pipelines.as_mut().expect("given").text = Some(OTHER.to_owned());
        assert!(damaged.take(other).expect("told"));
        assert!(damaged.refused().is_some() && damaged.pipelines().is_none());
    }

    #[test]
    fn what_would_call_an_address_that_this_device_does_not_allow_is_refused_also_when_it_was_allowed_before()
    {
        const CALLS: &str = "pipelines:\n  - name: a\n    steps: [{rule: {name: r, raise: value > 1, on_raise: [{webhook: {url: \"http://192.168.1.7/\"}}]}}]\n";
        let folder = tempfile::tempdir().expect("a folder");
        let delivered = open(folder.path(), None);
        assert!(delivered.take(config(Some(CALLS))).expect("kept"));
        assert!(delivered.refused().is_none() && delivered.pipelines().is_some());
        let strict = Delivered::open(folder.path(), None, "loopback".parse().expect("a list"));
        assert!(strict.pipelines().is_none());
        let why = strict.refused().expect("refused").why;
        assert!(
            why.contains("192.168.1.7:80") && why.contains("PIPELINE_WEBHOOK_ALLOW is loopback"),
            "{why}"
        );
        assert!(strict.take(config(Some(GOOD))).expect("kept"));
        assert!(strict.take(config(Some(CALLS))).expect("told"));
        assert_eq!(strict.pipelines().expect("the one before").text, GOOD);
        assert_eq!(strict.refused().expect("refused").why, why);
    }
}
