//! Bounds, and what goes when they are reached.

use std::time::Duration;

use farshore_series::{Columns, PointBatch, Value, decode_columns, encode_columns};
use farshore_trust::sealed::Batch;

use super::recover::BatchName;
use super::{Core, Kept, Loss, Overflow, Sealed, segment_name};
use crate::clock::Now;
use crate::config::Class;
use crate::error::JournalError;
use crate::frame::{HEADER_BYTES, Span};
use crate::stats::LossReason;
use crate::stream::StreamName;

/// The clock must not have jumped for so long before anything is let go for its age.
const CALM_NS: i64 = 600_000_000_000;

impl Core {
    /// Makes room for what comes. `false`: take it and throw it away.
    pub(super) fn make_room(
        &mut self,
        now: Now,
        name: &StreamName,
        bytes: u64,
        points: u64,
    ) -> Result<bool, JournalError> {
        let bytes = bytes + HEADER_BYTES as u64 + 16;
        let Some(config) = self.streams.get(name).map(|stream| stream.config.clone()) else {
            return Ok(true);
        };
        let full = || JournalError::Full { stream: name.clone() };
        let reserve = if config.class == Class::Alert { 0 } else { self.config.alert_reserve_bytes };
        let limit = self.config.max_bytes.saturating_sub(reserve);
        // One append for which there would be no room if all else went: nothing goes for it.
        if bytes > config.bounds.bytes.min(limit) || points > config.bounds.points {
            return match config.overflow {
                Overflow::DropNewest => Ok(false),
                Overflow::Reject | Overflow::DropOldest | Overflow::Thin(_) => {
                    Err(JournalError::BeyondBounds {
                        stream: name.clone(),
                        points,
                        bytes,
                        max_points: config.bounds.points,
                        max_bytes: config.bounds.bytes.min(limit),
                    })
                }
            };
        }
        loop {
            let over = self.streams.get(name).is_some_and(|stream| {
                stream.bytes().saturating_add(bytes) > config.bounds.bytes
                    || stream.points().saturating_add(points) > config.bounds.points
            });
            if !over {
                break;
            }
            match config.overflow {
                Overflow::Reject => return Err(full()),
                Overflow::DropNewest => return Ok(false),
                Overflow::DropOldest => {
                    if !self.drop_oldest(now, name, LossReason::DropOldest)? {
                        return Err(full());
                    }
                }
                Overflow::Thin(window) => {
                    if !self.thin_oldest(now, name, window)?
                        && !self.drop_oldest(now, name, LossReason::DropOldest)?
                    {
                        return Err(full());
                    }
                }
            }
        }
        loop {
            let total: u64 = self.streams.values().map(super::Stream::bytes).sum();
            if total.saturating_add(bytes) <= limit {
                return Ok(true);
            }
            if config.overflow == Overflow::DropNewest {
                return Ok(false);
            }
            // The least urgent goes first, and never for something less urgent than itself.
            let mut victims: Vec<(Class, StreamName)> = self
                .streams
                .iter()
                .filter(|(candidate, stream)| {
                    **candidate != self.losses
                        && stream.config.class >= config.class
                        && matches!(stream.config.overflow, Overflow::DropOldest | Overflow::Thin(_))
                        && stream.points() > 0
                })
                .map(|(candidate, stream)| (stream.config.class, candidate.clone()))
                .collect();
            victims.sort_by(|a, b| b.cmp(a));
            let mut dropped = false;
            for (_, victim) in victims {
                if self.drop_oldest(now, &victim, LossReason::DropOldest)? {
                    dropped = true;
                    break;
                }
            }
            if !dropped {
                return Err(full());
            }
        }
    }

    /// Lets the oldest batch or segment of a stream go that is not on its way. `false`: there is none.
    pub(super) fn drop_oldest(
        &mut self,
        now: Now,
        name: &StreamName,
        reason: LossReason,
    ) -> Result<bool, JournalError> {
        let Some(stream) = self.streams.get_mut(name) else { return Ok(false) };
        let sealed =
            stream.held.sealed().iter().find(|(_, sealed)| !sealed.in_flight).map(|(s, b)| (*s, b.kept));
        let closed = stream.held.closed().iter().next().map(|(sequence, kept)| (*sequence, *kept));
        let oldest = sealed.into_iter().chain(closed).min_by_key(|(sequence, _)| *sequence);
        let (sequence, kept) = match oldest {
            Some(oldest) => oldest,
            None => {
                let Some(open) = stream.open.take() else { return Ok(false) };
                if open.span.points == 0 {
                    stream.open = Some(open);
                    return Ok(false);
                }
                let oldest = (open.sequence, Kept::new(open.written, open.span));
                stream.close(open);
                oldest
            }
        };
        let loss = Loss { unknown_bytes: kept.unknown_bytes, ..Loss::new(name, sequence, reason, kept.span) };
        self.report(now, &[loss])?;
        self.forget(now, name, sequence)?;
        // The file is gone for good: nothing is left to remember.
        self.reported.remove(&(name.clone(), sequence, reason));
        Ok(true)
    }

    /// Removes a batch or segment. Its number stays used.
    pub(super) fn forget(&mut self, now: Now, name: &StreamName, sequence: u64) -> Result<(), JournalError> {
        let io = |e| JournalError::io("remove a batch", e);
        let Some(stream) = self.streams.get_mut(name) else { return Ok(()) };
        stream.keep_number(&*self.files, &self.keys, now, sequence)?;
        if let Some(sealed) = stream.held.sealed().get(&sequence) {
            self.files.remove(&sealed.name).map_err(io)?;
            stream.held.remove_sealed(sequence);
        }
        if stream.held.closed().contains_key(&sequence) {
            self.files.remove(&segment_name(&stream.folder, sequence)).map_err(io)?;
            stream.held.remove_closed(sequence);
        }
        self.files.sync_folder(&stream.folder).map_err(io)
    }

    /// Lets go what is older than its stream keeps. Not while the clock is jumping: a wrong clock must not cost data.
    pub(super) fn expire(&mut self, now: Now) {
        let offset = now.wall_ns.saturating_sub(now.mono_ns);
        let calm_since = match self.clock {
            Some((before, since)) if before.abs_diff(offset) < 5_000_000_000 => since,
            _ => now.mono_ns,
        };
        self.clock = Some((offset, calm_since));
        if now.mono_ns.saturating_sub(calm_since) < CALM_NS {
            return;
        }
        let names: Vec<StreamName> = self.streams.keys().cloned().collect();
        for name in names {
            while let Some(stream) = self.streams.get(&name) {
                let age = i64::try_from(stream.config.bounds.age.as_nanos()).unwrap_or(i64::MAX);
                let sealed = stream.held.sealed().first_key_value().map(|(s, batch)| (*s, batch.kept.span));
                let closed = stream.held.closed().first_key_value().map(|(s, kept)| (*s, kept.span));
                let oldest = sealed.into_iter().chain(closed).min_by_key(|(sequence, _)| *sequence);
                let expired =
                    oldest.is_some_and(|(_, span)| span.latest_ns < now.wall_ns.saturating_sub(age));
                if !expired {
                    break;
                }
                match self.drop_oldest(now, &name, LossReason::Expired) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!(stream = %name, %error, "old points stay for now");
                        break;
                    }
                }
            }
        }
    }

    /// Replaces the points of the oldest batch that still has them by summaries. `false`: there is none.
    fn thin_oldest(&mut self, now: Now, name: &StreamName, window: Duration) -> Result<bool, JournalError> {
        // What is not sealed yet is sealed here: it must be in columns to be summed up.
        while let Some(sequence) =
            self.streams.get(name).and_then(|stream| stream.held.closed().keys().next().copied())
        {
            let Some(job) = self.job(name, sequence) else { break };
            let made = job.run(now)?;
            self.finish_seal(now, &job, made)?;
        }
        let Some(stream) = self.streams.get(name) else { return Ok(false) };
        let candidate = stream.held.sealed().iter().find(|(_, sealed)| !sealed.in_flight && !sealed.thinned);
        let Some((sequence, sealed)) = candidate.map(|(sequence, sealed)| (*sequence, sealed.clone())) else {
            return Ok(false);
        };
        let io = |e| JournalError::io("thin a batch", e);
        let bytes = self.files.read(&sealed.name, super::MAX_FILE_BYTES).map_err(io)?;
        let columns = Batch::read(&bytes)
            .and_then(|batch| batch.open_on_device(&self.keys.device))
            .ok()
            .and_then(|contents| decode_columns(&contents).ok());
        let Some(columns) = columns else {
            self.set_aside(now, name, sequence)?;
            return Ok(true);
        };
        let thin = thin(&columns, i64::try_from(window.as_nanos()).unwrap_or(i64::MAX).max(1))?;
        let kept = Span { points: u32::try_from(thin.len()).unwrap_or(u32::MAX), ..sealed.kept.span };
        let Some(job) = self.job(name, sequence) else { return Ok(false) };
        let contents =
            encode_columns(&Columns::of(&thin), self.config.zstd_level).map_err(JournalError::encode)?;
        let written = job.write(now, &contents, kept, true)?;
        let gone = Span { points: sealed.kept.span.points.saturating_sub(kept.points), ..sealed.kept.span };
        let loss = Loss::new(name, sequence, LossReason::Thinned, gone);
        self.report(now, &[loss])?;
        let Some(stream) = self.streams.get_mut(name) else { return Ok(false) };
        let text = BatchName { sequence, span: kept, thinned: true }.to_text();
        let path = format!("{}/{text}", stream.folder);
        self.files.rename(&job.passing_name(), &path).map_err(io)?;
        self.files.remove(&sealed.name).map_err(io)?;
        self.files.sync_folder(&stream.folder).map_err(io)?;
        let kept = Kept::new(written, kept);
        stream.held.insert_sealed(sequence, Sealed { name: path, kept, thinned: true, in_flight: false });
        self.reported.remove(&(name.clone(), sequence, LossReason::Thinned));
        Ok(true)
    }
}

/// Numbers become mean (under the field's own name), minimum, maximum and count for each window; of texts, the last of each window stays.
fn thin(columns: &Columns, window: i64) -> Result<PointBatch, JournalError> {
    let mut out = PointBatch::new();
    for column in &columns.columns {
        let field = column.key.field();
        let own = out.series_of(&column.key)?;
        let mut windows: std::collections::BTreeMap<i64, Vec<usize>> = std::collections::BTreeMap::new();
        for (index, at) in column.times_ns.iter().enumerate() {
            windows.entry(at.div_euclid(window)).or_default().push(index);
        }
        let numbers = column.values.numbers();
        for rows in windows.into_values() {
            let Some(last) = rows.last().copied() else { continue };
            let at = column.times_ns.get(last).copied().unwrap_or_default();
            let (Some(numbers), true) = (&numbers, rows.len() > 4) else {
                // So few that summing up would not save anything.
                let keep = if numbers.is_some() { rows.as_slice() } else { std::slice::from_ref(&last) };
                for index in keep {
                    let at = column.times_ns.get(*index).copied().unwrap_or(at);
                    if let Some(value) = column.values.get(*index) {
                        out.push(own, at, value)?;
                    }
                }
                continue;
            };
            let values = || rows.iter().filter_map(|index| numbers.get(*index).copied());
            let mean = values().sum::<f64>() / rows.len() as f64;
            let named = |suffix: &str| column.key.with_field(&format!("{field}.{suffix}"));
            let summary = [
                (column.key.clone(), Value::Float(mean)),
                (
                    named("min").map_err(farshore_series::PointError::from)?,
                    Value::Float(values().fold(f64::INFINITY, f64::min)),
                ),
                (
                    named("max").map_err(farshore_series::PointError::from)?,
                    Value::Float(values().fold(f64::NEG_INFINITY, f64::max)),
                ),
                (
                    named("count").map_err(farshore_series::PointError::from)?,
                    Value::Integer(rows.len() as i64),
                ),
            ];
            for (key, value) in summary {
                let series = out.series_of(&key)?;
                out.push(series, at, value)?;
            }
        }
    }
    Ok(out)
}
