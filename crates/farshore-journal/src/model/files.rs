//! A disk that behaves as badly as disks may: it forgets what was not synced, tears writes, fails, fills up and rots.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::files::{AppendFile, Files};

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: usize,
    /// Room is taken ahead: after a crash zeros may follow.
    room: bool,
}

#[derive(Debug, Clone)]
enum NameOp {
    Set(String, u64),
    Remove(String),
    Rename(String, String),
}

fn apply(names: &mut BTreeMap<String, u64>, op: &NameOp) {
    match op {
        NameOp::Set(name, id) => {
            names.insert(name.clone(), *id);
        }
        NameOp::Remove(name) => {
            names.remove(name);
        }
        NameOp::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Disk {
    contents: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    /// Changes of names that are not durable; the journal of the filesystem keeps their order.
    pending: Vec<NameOp>,
    next_id: u64,
    /// Files that have rotted: what is counted twice, in header and trailer, does not survive a second bit.
    rotten: BTreeSet<u64>,
    random: SmallRng,
    /// Operations until the power goes.
    pub(super) fuse: Option<u64>,
    pub(super) dead: bool,
    /// Bytes that fit.
    pub(super) capacity: u64,
    /// One sync in so many fails; 0: none.
    pub(super) sync_fails: u32,
    pub(super) seen: Seen,
}

/// What happened, so that a test can say what it has tested.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) crashes: u64,
    pub(super) torn: u64,
    pub(super) names_lost: u64,
    pub(super) syncs_failed: u64,
    pub(super) full: u64,
    pub(super) flips: u64,
    pub(super) holes: u64,
    pub(super) rooms: u64,
}

#[derive(Debug, Clone)]
pub(super) struct SimFiles(pub(super) Arc<Mutex<Disk>>);

impl SimFiles {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            contents: BTreeMap::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            next_id: 1,
            rotten: BTreeSet::new(),
            random: SmallRng::seed_from_u64(seed),
            fuse: None,
            dead: false,
            capacity: u64::MAX,
            sync_fails: 0,
            seen: Seen::default(),
        })))
    }

    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power comes back: what was durable is there, and some of what was not.
    pub(super) fn restart(&self) {
        let mut disk = self.disk();
        let disk = &mut *disk;
        disk.seen.crashes += 1;
        let survive = disk.random.random_range(0..=disk.pending.len());
        disk.seen.names_lost += (disk.pending.len() - survive) as u64;
        for op in disk.pending.drain(..).take(survive) {
            apply(&mut disk.durable, &op);
        }
        disk.names = disk.durable.clone();
        for content in disk.contents.values_mut() {
            if content.synced < content.bytes.len() {
                let keep = disk.random.random_range(content.synced..=content.bytes.len());
                content.bytes.truncate(keep);
                disk.seen.torn += 1;
                // Blocks that were given to the file and not written.
                if keep > content.synced && disk.random.random_bool(0.3) {
                    let from = disk.random.random_range(content.synced..keep);
                    content.bytes[from..].fill(0);
                } else if content.room && keep > content.synced && disk.random.random_bool(0.6) {
                    // The later blocks came to the disk, the earlier ones did not.
                    let to = disk.random.random_range(content.synced..keep);
                    content.bytes[content.synced..to].fill(0);
                    disk.seen.holes += 1;
                }
            }
            if content.room && disk.random.random_bool(0.5) {
                let room = disk.random.random_range(1..5_000);
                content.bytes.resize(content.bytes.len() + room, 0);
                disk.seen.rooms += 1;
            }
            content.room = false;
            content.synced = content.bytes.len();
        }
        disk.dead = false;
        disk.fuse = None;
    }

    /// Nothing but zeros is left of these files behind their first `keep` bytes.
    pub(super) fn blank(&self, of: impl Fn(&str) -> bool, keep: u64) {
        let mut disk = self.disk();
        let disk = &mut *disk;
        let keep = usize::try_from(keep).unwrap();
        for id in disk.names.iter().filter(|(name, _)| of(name)).map(|(_, id)| id) {
            disk.contents.get_mut(id).unwrap().bytes[keep..].fill(0);
        }
    }

    /// Flips one bit of one durable file that `of` likes.
    pub(super) fn rot(&self, of: impl Fn(&str) -> bool) -> bool {
        let mut disk = self.disk();
        let disk = &mut *disk;
        let names: Vec<u64> = disk.names.iter().filter(|(name, _)| of(name)).map(|(_, id)| *id).collect();
        if names.is_empty() {
            return false;
        }
        let id = names[disk.random.random_range(0..names.len())];
        if !disk.rotten.insert(id) {
            return false;
        }
        let Some(content) = disk.contents.get_mut(&id).filter(|content| !content.bytes.is_empty()) else {
            return false;
        };
        let at = disk.random.random_range(0..content.bytes.len());
        content.bytes[at] ^= 1 << disk.random.random_range(0..8);
        disk.seen.flips += 1;
        true
    }
}

impl SimFiles {
    /// Flips a bit in both of two places of one durable file, which `pairs` finds.
    pub(super) fn rot_both(
        &self,
        of: impl Fn(&str) -> bool,
        pairs: impl Fn(&[u8]) -> Vec<(usize, usize)>,
    ) -> bool {
        let mut disk = self.disk();
        let disk = &mut *disk;
        let ids: Vec<u64> = disk.names.iter().filter(|(name, _)| of(name)).map(|(_, id)| *id).collect();
        let mut found: Vec<(u64, (usize, usize))> = Vec::new();
        for id in ids.into_iter().filter(|id| !disk.rotten.contains(id)) {
            let content = disk.contents.get(&id).map(|content| content.bytes.as_slice()).unwrap_or_default();
            found.extend(pairs(content).into_iter().map(|pair| (id, pair)));
        }
        if found.is_empty() {
            return false;
        }
        let (id, (one, other)) = found[disk.random.random_range(0..found.len())];
        disk.rotten.insert(id);
        let Some(content) = disk.contents.get_mut(&id) else { return false };
        for at in [one, other] {
            content.bytes[at] ^= 1 << disk.random.random_range(0..8);
        }
        disk.seen.flips += 1;
        true
    }
}

impl Disk {
    fn step(&mut self) -> io::Result<()> {
        if let Some(fuse) = &mut self.fuse {
            if *fuse == 0 {
                self.dead = true;
            } else {
                *fuse -= 1;
            }
        }
        if self.dead { Err(io::Error::other("the power is out")) } else { Ok(()) }
    }

    pub(super) fn used_now(&self) -> u64 {
        self.used()
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|id| self.contents.get(id))
            .map(|content| content.bytes.len() as u64)
            .sum()
    }

    fn change(&mut self, op: NameOp) {
        apply(&mut self.names, &op);
        self.pending.push(op);
    }
}

impl Files for SimFiles {
    fn make_folder(&self, _folder: &str) -> io::Result<()> {
        self.disk().step()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let mut disk = self.disk();
        disk.step()?;
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        Ok(disk
            .names
            .iter()
            .filter_map(|(name, id)| {
                let rest = name.strip_prefix(&prefix).filter(|rest| !rest.contains('/'))?;
                Some((rest.to_owned(), disk.contents.get(id)?.bytes.len() as u64))
            })
            .collect())
    }

    fn folders(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.step()?;
        let prefix = format!("{folder}/");
        let mut folders: Vec<String> = disk
            .names
            .keys()
            .filter_map(|name| Some(name.strip_prefix(&prefix)?.split_once('/')?.0.to_owned()))
            .collect();
        folders.dedup();
        Ok(folders)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let mut disk = self.disk();
        disk.step()?;
        assert!(!disk.names.contains_key(name), "{name} is there already");
        let id = disk.next_id;
        disk.next_id += 1;
        disk.contents.insert(id, Content::default());
        disk.change(NameOp::Set(name.to_owned(), id));
        Ok(Box::new(SimFile { files: self.clone(), id }))
    }

    fn read(&self, name: &str, cap: u64) -> io::Result<Vec<u8>> {
        let mut disk = self.disk();
        disk.step()?;
        let id = disk.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let bytes = disk.contents.get(id).map(|content| content.bytes.clone()).unwrap_or_default();
        assert!(bytes.len() as u64 <= cap);
        Ok(bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        if !disk.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change(NameOp::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        disk.change(NameOp::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_folder(&self, _folder: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        let disk = &mut *disk;
        for op in disk.pending.drain(..) {
            apply(&mut disk.durable, &op);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    files: SimFiles,
    id: u64,
}

impl AppendFile for SimFile {
    fn take_room(&mut self) {
        if let Some(content) = self.files.disk().contents.get_mut(&self.id) {
            content.room = true;
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.files.disk();
        let stopped = disk.step();
        let room = disk.capacity.saturating_sub(disk.used());
        let fits =
            if (bytes.len() as u64) <= room { bytes.len() } else { usize::try_from(room).unwrap_or(0) };
        let taken = if stopped.is_err() { disk.random.random_range(0..=fits) } else { fits };
        if let Some(content) = disk.contents.get_mut(&self.id) {
            content.bytes.extend_from_slice(&bytes[..taken]);
        }
        stopped?;
        if fits < bytes.len() {
            disk.seen.full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.files.disk();
        disk.step()?;
        let rate = disk.sync_fails;
        if rate > 0 && disk.random.random_range(0..rate) == 0 {
            disk.seen.syncs_failed += 1;
            return Err(io::Error::other("the disk failed"));
        }
        if let Some(content) = disk.contents.get_mut(&self.id) {
            content.synced = content.bytes.len();
        }
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut disk = self.files.disk();
        disk.step()?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if let Some(content) = disk.contents.get_mut(&self.id) {
            content.bytes.truncate(length);
            content.synced = content.synced.min(length);
        }
        Ok(())
    }
}
