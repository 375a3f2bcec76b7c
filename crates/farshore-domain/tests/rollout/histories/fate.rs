//! What may happen in a world.

use farshore_domain::device::{AppPhase, Lifecycle};
use farshore_domain::id::{DeviceId, ReleaseId};
use farshore_domain::rollout::AppReport;

use super::generator::Lie;
use super::world::{Checked, World, labels, must};
use crate::fleet::{Nature, release};

impl World {
    fn with(&mut self, number: u8, then: impl FnOnce(&mut Self, DeviceId)) {
        if let Some(id) = self.pick(number) {
            then(self, id);
        }
    }

    /// The control plane's clock jumps; on devices nothing has changed.
    pub(super) fn clock_jumps(&mut self, ms: i64) {
        self.honest = false;
        self.now = self.now.plus_ms(ms);
        for device in self.devices.values_mut() {
            device.shift(ms);
        }
        self.dirty = true;
    }

    pub(super) fn slow_clock(&mut self, number: u8, ms: i64) {
        self.honest = false;
        self.with(number, |world, id| {
            if let Some(device) = world.devices.get_mut(&id) {
                device.slow_ms = ms;
            }
        });
    }

    pub(super) fn set_online(&mut self, id: DeviceId, online: bool) {
        let now = self.now;
        if let Some(device) = self.devices.get_mut(&id)
            && device.online != online
        {
            if device.online {
                device.last_heard = now;
            }
            device.online = online;
            if online {
                self.dirty = true;
                self.rewrite.insert(id);
            }
        }
    }

    /// Everything at one location loses its network, or has it again.
    pub(super) fn site(&mut self, site: u8, online: bool) {
        let there = format!("site-{site}");
        let ids: Vec<_> =
            self.view.iter().filter(|d| d.labels.get("location") == Some(&there)).map(|d| d.id).collect();
        for id in ids {
            self.set_online(id, online);
        }
    }

    pub(super) fn mute(&mut self, number: u8, ms: i64) {
        self.honest = false;
        let until = self.now.plus_ms(ms);
        self.with(number, |world, id| {
            if let Some(device) = world.devices.get_mut(&id) {
                device.mute_until = until;
            }
        });
    }

    pub(super) fn deafen(&mut self, number: u8, ms: i64) {
        let until = self.now.plus_ms(ms);
        self.with(number, |world, id| {
            if let Some(device) = world.devices.get_mut(&id) {
                device.deaf_until = until;
            }
        });
    }

    pub(super) fn lies(&mut self, number: u8, lie: Option<Lie>) {
        self.honest = false;
        self.with(number, |world, id| {
            match lie {
                Some(lie) => world.lies.insert(id, lie),
                None => world.lies.remove(&id),
            };
        });
    }

    /// An earlier report arrives once more.
    pub(super) fn repeat_report(&mut self, number: u8, back: usize) {
        self.honest = false;
        self.with(number, |world, id| {
            let Some(reports) = world.reports.get(&id) else { return };
            let Some(index) = back.checked_rem(reports.len()) else { return };
            if let Some(known) = world.view.get_mut(id) {
                known.app = reports[index].clone();
                known.app.reported_at = Some(world.now);
                world.dirty = true;
            }
        });
    }

    /// 8: an earlier desired state arrives once more.
    pub(super) fn repeat_desired(&mut self, number: u8) -> Checked {
        let Some(id) = self.pick(number) else { return Ok(()) };
        let (Some((old, meant)), Some(device)) = (self.earlier.get(&id), self.devices.get_mut(&id)) else {
            return Ok(());
        };
        let before = device.desired;
        let took = device.online && device.hear(*old, *meant, self.now);
        must(!took || before.is_none_or(|had| had.at <= old.at), "a device accepts nothing older", || {
            format!("{id} had {before:?} and took {old:?}")
        })
    }

    /// The device leaves the channel.
    pub(super) fn leave(&mut self, number: u8) {
        self.with(number, |world, id| {
            if let Some(known) = world.view.remove(id) {
                world.outside.insert(id, known);
                world.dirty = true;
            }
        });
    }

    pub(super) fn return_of(&mut self, number: u8) {
        self.with(number, Self::come_back);
    }

    /// A device that left is in the channel again.
    fn come_back(&mut self, id: DeviceId) {
        if let Some(known) = self.outside.remove(&id) {
            self.view.insert(known);
            self.dirty = true;
            self.rewrite.insert(id);
        }
    }

    pub(super) fn pin(&mut self, number: u8, pinned: bool) {
        self.with(number, |world, id| world.set_pin(id, pinned));
    }

    fn set_pin(&mut self, id: DeviceId, pinned: bool) {
        let changed = if pinned { self.pinned.insert(id) } else { self.pinned.remove(&id) };
        self.dirty |= changed;
        self.rewrite.insert(id);
    }

    pub(super) fn cordon(&mut self, number: u8, cordoned: bool) {
        self.with(number, |world, id| world.set_cordon(id, cordoned));
    }

    fn set_cordon(&mut self, id: DeviceId, cordoned: bool) {
        if let Some(known) = self.view.get_mut(id) {
            known.lifecycle = if cordoned { Lifecycle::Cordoned } else { Lifecycle::Claimed };
            self.dirty = true;
            self.rewrite.insert(id);
        }
    }

    /// Something else keeps it down on purpose.
    pub(super) fn keep_down(&mut self, number: u8, ms: i64) {
        let until = self.now.plus_ms(ms);
        self.with(number, |world, id| {
            world.busy.insert(id, until);
            world.dirty = true;
        });
    }

    pub(super) fn relabel(&mut self, number: u8, site: u8) {
        self.with(number, |world, id| {
            if let Some(known) = world.view.get_mut(id) {
                let model = u8::from(known.labels.get("model") == Some("m1"));
                known.labels = labels(site, model);
                world.dirty = true;
            }
        });
    }

    /// Somebody repairs the device and resumes the app on it.
    pub(super) fn repair(&mut self, number: u8) {
        self.repaired = true;
        self.with(number, |world, id| {
            world.driver_tries.remove(&id);
            if let Some(device) = world.devices.get_mut(&id) {
                device.resume(Nature::Good);
            }
        });
    }

    /// Everybody is reachable, honest, claimed, unpinned and in the channel again.
    pub(super) fn calm(&mut self) -> Checked {
        let now = self.now;
        self.lies.clear();
        self.busy.clear();
        let ids: Vec<_> = self.devices.keys().copied().collect();
        for id in ids {
            self.come_back(id);
            self.set_online(id, true);
            self.set_pin(id, false);
            self.set_cordon(id, false);
            if let Some(device) = self.devices.get_mut(&id) {
                (device.mute_until, device.deaf_until, device.slow_ms) = (now, now, 0);
            }
        }
        self.dirty = true;
        self.settle()
    }
}

impl Lie {
    pub(super) fn tell(self, app: &mut AppReport, to: Option<ReleaseId>) {
        let has = |app: &mut AppReport, release: Option<ReleaseId>| {
            app.active = release;
            app.committed = release.is_some();
            app.phase = if release.is_some() { AppPhase::Running } else { AppPhase::Absent };
        };
        match self {
            Self::New => has(app, to),
            Self::Old => has(app, Some(release(0).uid)),
            Self::Nothing => has(app, None),
            Self::Staged => app.phase = AppPhase::Staged,
            Self::Resumed => app.resumed += 1_000,
            Self::WentBack => {
                has(app, Some(release(0).uid));
                app.failed_release = to;
                app.phase = AppPhase::Held;
            }
        }
    }
}
