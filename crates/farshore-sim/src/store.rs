//! What a fleet keeps between two starts: a file of lines to which is only appended while it runs, written anew when it starts.
//!
//! A line that is cut short by a crash is the last one and is left out. Of several lines about one device the last counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_domain::desired::Generation;
use farshore_domain::digest::{Digest, Digester};
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::name::Name;
use farshore_trust::keyset::SignedKeySet;
use serde::{Deserialize, Serialize};

use crate::claim::chain_pem;
use crate::identity::{Identity, IdentityError, Realm};
use crate::machine::Memory;

const FILE: &str = "devices.jsonl";

/// Why the fleet's file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error("{} can't be {what}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("a line can't be written")]
    Line(#[source] serde_json::Error),
    #[error("what is kept of device {device} can't be used")]
    Device {
        device: String,
        #[source]
        source: IdentityError,
    },
}

/// A device's place in its fleet: group and number.
pub(crate) type Place = (Name, u32);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
enum Line {
    #[serde(rename_all = "camelCase")]
    Realm {
        id: Digest,
        tenant: TenantId,
        tenant_name: Name,
        roots: Vec<String>,
        trust_domain: String,
        keys: Vec<(String, String)>,
    },
    #[serde(rename_all = "camelCase")]
    Device {
        group: Name,
        number: u32,
        realm: Digest,
        url: String,
        device: DeviceId,
        name: Name,
        key: String,
        certificate: String,
    },
    #[serde(rename_all = "camelCase")]
    Memory { group: Name, number: u32, epoch: u64, generation: u64, memory: Memory },
}

/// What is known of one device.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) identity: Identity,
    pub(crate) url: String,
    pub(crate) accepted: Generation,
    pub(crate) memory: Option<Memory>,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Keep {
    path: PathBuf,
    file: Mutex<Written>,
    shared: Mutex<BTreeMap<Digest, Arc<Realm>>>,
}

#[derive(Debug)]
struct Written {
    file: BufWriter<File>,
    realms: BTreeSet<Digest>,
}

fn realm_id(realm: &Realm) -> Digest {
    let mut digester = Digester::default();
    let keys = realm.key_chain.iter().flat_map(|set| [set.document.as_slice(), set.signature.as_slice()]);
    let texts = realm.roots_pem.iter().map(String::as_bytes);
    for bytes in [realm.tenant.0.as_bytes().as_slice(), realm.tenant_name.as_str().as_bytes()]
        .into_iter()
        .chain([realm.trust_domain.as_str().as_bytes()])
        .chain(texts)
        .chain(keys)
    {
        digester.update(&(bytes.len() as u64).to_be_bytes());
        digester.update(bytes);
    }
    digester.finish()
}

impl Keep {
    /// Reads what is kept in `folder`, and writes it anew without what has been overtaken.
    pub(crate) fn open(folder: &Path) -> Result<(Self, BTreeMap<Place, Kept>), KeepError> {
        let path = folder.join(FILE);
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| KeepError::Io { what, path, source }
        };
        fs::create_dir_all(folder).map_err(failed("made", folder))?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let devices = read(&text)?;
        let fresh = folder.join("devices.jsonl.new");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(failed("written", &fresh))?;
        let keep = Self {
            path: path.clone(),
            file: Mutex::new(Written { file: BufWriter::new(file), realms: BTreeSet::new() }),
            shared: Mutex::default(),
        };
        for (place, kept) in &devices {
            keep.device(place, kept)?;
            if let Some(memory) = &kept.memory {
                keep.memory(place, kept.accepted, memory)?;
            }
        }
        keep.flush()?;
        fs::rename(&fresh, &path).map_err(failed("replaced", &path))?;
        Ok((keep, devices))
    }

    /// One realm for all devices that share it, so that it is in memory once.
    pub(crate) fn share(&self, identity: &mut Identity) {
        let id = realm_id(&identity.realm);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        identity.share(shared.entry(id).or_insert_with(|| identity.realm.clone()).clone());
    }

    /// A device was claimed, or its certificate renewed.
    pub(crate) fn device(&self, place: &Place, kept: &Kept) -> Result<(), KeepError> {
        let identity = &kept.identity;
        let realm = &identity.realm;
        let id = realm_id(realm);
        let line = Line::Device {
            group: place.0.clone(),
            number: place.1,
            realm: id,
            url: kept.url.clone(),
            device: identity.device,
            name: identity.name.clone(),
            key: identity.key_pem.to_string(),
            certificate: chain_pem(identity).unwrap_or_default(),
        };
        // The realm goes before the first device of it; the file's own list is what was written.
        let realm_line = Line::Realm {
            id,
            tenant: realm.tenant,
            tenant_name: realm.tenant_name.clone(),
            roots: realm.roots_pem.clone(),
            trust_domain: realm.trust_domain.to_string(),
            keys: realm
                .key_chain
                .iter()
                .map(|set| (STANDARD.encode(&set.document), STANDARD.encode(&set.signature)))
                .collect(),
        };
        self.write(Some((id, realm_line)), &line)
    }

    /// What a machine remembers.
    pub(crate) fn memory(
        &self,
        place: &Place,
        accepted: Generation,
        memory: &Memory,
    ) -> Result<(), KeepError> {
        let line = Line::Memory {
            group: place.0.clone(),
            number: place.1,
            epoch: accepted.epoch,
            generation: accepted.generation,
            memory: memory.clone(),
        };
        self.write(None, &line)
    }

    fn write(&self, realm: Option<(Digest, Line)>, line: &Line) -> Result<(), KeepError> {
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Written { file, realms } = &mut *guard;
        let mut put = |line: &Line| {
            let mut text = serde_json::to_vec(line).map_err(KeepError::Line)?;
            text.push(b'\n');
            file.write_all(&text).map_err(|source| KeepError::Io {
                what: "written",
                path: self.path.clone(),
                source,
            })
        };
        if let Some((id, line)) = realm
            && realms.insert(id)
        {
            put(&line)?;
        }
        put(line)
    }

    pub(crate) fn flush(&self) -> Result<(), KeepError> {
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        guard.file.flush().map_err(|source| KeepError::Io {
            what: "written",
            path: self.path.clone(),
            source,
        })
    }
}

fn read(text: &str) -> Result<BTreeMap<Place, Kept>, KeepError> {
    let mut realms: BTreeMap<Digest, Arc<Realm>> = BTreeMap::new();
    let mut devices: BTreeMap<Place, Kept> = BTreeMap::new();
    for line in text.lines() {
        // Cut short, or of another version: as if it were not there.
        let Ok(line) = serde_json::from_str::<Line>(line) else { continue };
        match line {
            Line::Realm { id, tenant, tenant_name, roots, trust_domain, keys } => {
                let decode = |text: &String| STANDARD.decode(text).unwrap_or_default();
                let keys = keys
                    .iter()
                    .map(|(document, signature)| SignedKeySet {
                        document: decode(document),
                        signature: decode(signature),
                    })
                    .collect();
                let realm = Realm::new(tenant, tenant_name, roots, &trust_domain, keys)
                    .map_err(|source| KeepError::Device { device: "any".to_owned(), source })?;
                realms.insert(id, Arc::new(realm));
            }
            Line::Device { group, number, realm, url, device, name, key, certificate } => {
                let Some(realm) = realms.get(&realm) else { continue };
                let identity = Identity::new(realm.clone(), device, name, &key, &certificate)
                    .map_err(|source| KeepError::Device { device: format!("{group}-{number}"), source })?;
                let entry = devices.entry((group, number));
                let before = entry.or_insert_with(|| Kept {
                    identity: identity.clone(),
                    url: String::new(),
                    accepted: Generation::default(),
                    memory: None,
                });
                if before.identity.device != identity.device {
                    before.accepted = Generation::default();
                    before.memory = None;
                }
                before.identity = identity;
                before.url = url;
            }
            Line::Memory { group, number, epoch, generation, memory } => {
                if let Some(kept) = devices.get_mut(&(group, number)) {
                    kept.accepted = Generation { epoch, generation };
                    kept.memory = Some(memory);
                }
            }
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::Issued;

    fn place(number: u32) -> Place {
        (Name::new("berlin").unwrap(), number)
    }

    #[test]
    fn a_fleet_that_starts_again_has_the_same_devices_and_what_they_remember() {
        let folder = tempfile::tempdir().unwrap();
        let issued = Issued::new();
        let (keep, nothing) = Keep::open(folder.path()).unwrap();
        assert!(nothing.is_empty());
        for number in [1, 2] {
            let mut identity = issued.device(number.into());
            keep.share(&mut identity);
            let url = "https://localhost:1".to_owned();
            let kept = Kept { identity, url, accepted: Generation::default(), memory: None };
            keep.device(&place(number), &kept).unwrap();
        }
        let at = Generation { epoch: 1, generation: 7 };
        keep.memory(&place(2), at, &Memory::default()).unwrap();
        keep.flush().unwrap();
        // Cut short by a crash.
        let path = folder.path().join(FILE);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"kind\":\"Memory\",\"group\":\"ber");
        fs::write(&path, text).unwrap();

        for _ in 0..2 {
            let (keep, mut kept) = Keep::open(folder.path()).unwrap();
            assert_eq!(kept.keys().cloned().collect::<Vec<_>>(), [place(1), place(2)]);
            assert_eq!(kept[&place(2)].accepted, at);
            assert_eq!(kept[&place(1)].accepted, Generation::default());
            let one = &mut kept.get_mut(&place(1)).unwrap().identity;
            assert_eq!(one.device, issued.device(1).device);
            keep.share(one);
        }
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
