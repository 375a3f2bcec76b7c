//! Whether a rollout's windows and those of its devices' policies are ever open at the same time.

use std::collections::BTreeMap;

use super::spec::FieldError;
use super::state::Rollout;
use super::view::{DeviceView, FleetView};
use crate::policy::DeviceHours;
use crate::schedule::{self, Calendar, MOVES_TO_REFUSE, Purpose, Shut, WindowKind, Zone};
use crate::time::UnixMs;

/// So many devices are named.
const NAMED: usize = 3;

/// Whom it holds for.
#[derive(Default)]
struct Held<'a> {
    count: usize,
    names: Vec<&'a str>,
    policies: Vec<&'a str>,
}

impl<'a> Held<'a> {
    fn add(&mut self, device: &'a DeviceView) {
        self.count += 1;
        if self.names.len() < NAMED {
            self.names.push(device.name.as_str());
        }
        let hours = device.hours.as_deref();
        let shuts = [Shut::Window(WindowKind::Maintenance), Shut::Blackout];
        for policy in shuts.into_iter().filter_map(|shut| hours?.whose(shut)) {
            if !self.policies.contains(&policy.as_str()) && self.policies.len() < NAMED {
                self.policies.push(policy.as_str());
            }
        }
    }

    fn text(&self, of: usize) -> String {
        let more = if self.count > self.names.len() { ", …" } else { "" };
        format!("{} of {of} devices ({}{more})", self.count, self.names.join(", "))
    }

    fn policies(&self) -> String {
        format!(
            "{} {}",
            if self.policies.len() == 1 { "policy" } else { "policies" },
            self.policies.join(", ")
        )
    }
}

impl Rollout {
    /// Refuses windows and blackouts that leave devices no time to change within a year: together with what the devices' policies say, or because
    /// the policies of all devices never open.
    pub fn check_openings(&self, view: &FleetView, now: UnixMs) -> Result<(), FieldError> {
        let spec = &self.spec;
        if let Some((field, message)) =
            schedule::check_openings(&spec.windows, &spec.blackouts, spec.energy, now)
        {
            return Err(FieldError { field, message });
        }
        // What can't be read was refused before.
        let Ok(own) = Calendar::new(&spec.windows, &spec.blackouts, spec.energy) else { return Ok(()) };
        let mut moves = MOVES_TO_REFUSE;
        let devices: Vec<&DeviceView> = view.eligible().filter_map(|device| view.get(device)).collect();
        for purpose in [Purpose::Install, Purpose::Download] {
            let (mut together, mut alone) = (Held::default(), Held::default());
            // Devices with the same policies in the same zone are alike.
            let mut known: BTreeMap<(Option<&str>, usize), (bool, bool)> = BTreeMap::new();
            for device in &devices {
                let Some(hours) = device.hours.as_deref() else { continue };
                let Some(theirs) = hours.calendar() else { continue };
                let zone = device.time_zone.as_deref();
                let place = (zone, std::ptr::from_ref::<DeviceHours>(hours).addr());
                let (never, by_policy) = *known.entry(place).or_insert_with(|| {
                    let zone = Zone::of_device(zone);
                    let mut never = |calendars: &[&Calendar]| {
                        Calendar::never_meet(calendars, purpose, &zone, now, &mut moves)
                    };
                    let together = never(&[&own, theirs]);
                    (together, together && never(&[theirs]))
                });
                if never && by_policy {
                    alone.add(device);
                } else if never {
                    together.add(device);
                }
            }
            if together.count > 0 {
                return Err(self.never_together(purpose, &together, devices.len()));
            }
            if alone.count > 0 && alone.count == devices.len() {
                let message = format!(
                    "has no device that could ever change: {} never {} within the next 366 days, for all {} devices",
                    alone.policies(),
                    if alone.policies.len() == 1 { "opens" } else { "open" },
                    alone.count
                );
                return Err(FieldError { field: "channel".to_owned(), message });
            }
        }
        Ok(())
    }

    fn never_together(&self, purpose: Purpose, held: &Held<'_>, of: usize) -> FieldError {
        let bound = |window: &schedule::WindowSpec| {
            (window.kind == WindowKind::Download) == (purpose == Purpose::Download)
        };
        let field = if self.spec.windows.iter().any(bound) { "windows" } else { "blackouts" };
        let what = if purpose == Purpose::Download { "fetch" } else { "install" };
        let message = format!(
            "never let {} {what} within the next 366 days, together with {}; change the rollout's {field}, or leave these devices out of its channel",
            held.text(of),
            held.policies()
        );
        FieldError { field: field.to_owned(), message }
    }
}
