//! What the device says: to the control plane, and to whoever asks on the device itself.

use std::sync::atomic::Ordering;

use farshore_domain::object::Reason;
use farshore_domain::reconcile::{AppView, DeviceView};
use farshore_domain::time::UnixMs;
use farshore_protocol::{self as wire, AgentFrame, agent_frame};

use super::{Agent, EVENTS, INCIDENTS, WINDOW, events, incidents, operations};
use crate::clock;
use crate::executor::Executor;
use crate::file;
use crate::journal::{Journal, OPERATIONS};
use crate::status::{AppStatus, Status};

fn reason(reason: &Reason) -> wire::Reason {
    wire::Reason { code: reason.code.clone(), message: reason.message.clone(), since_ms: reason.since.0 }
}

fn text(id: Option<impl std::fmt::Display>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

impl<E: Executor, J: Journal> Agent<E, J> {
    /// The whole state as a frame, without the time it is sent.
    pub(super) fn status_report(&self, view: &DeviceView) -> wire::StatusReport {
        let app = |app: &AppView| {
            let progress = self.progress.get(&app.app);
            wire::AppStatus {
                app: app.app.to_string(),
                phase: app.phase.word().to_owned(),
                active_release: text(app.active.as_ref().map(|(release, _)| release)),
                staged_release: text(app.staged),
                previous_release: text(app.previous),
                active_version: text(app.active.as_ref().map(|(_, version)| version)),
                health: app.health.word().to_owned(),
                reasons: app.reasons.iter().map(reason).collect(),
                restarts: app.restarts,
                failed_release: text(app.failed),
                permit: text(app.permit),
                committed: app.committed,
                refused_release: text(app.refused),
                resumed: app.resumed,
                bytes_done: progress.map_or(0, |(done, _)| done.load(Ordering::Relaxed)),
                bytes_total: progress.map_or(0, |(_, total)| *total),
                isolation: app
                    .isolation
                    .as_ref()
                    .and_then(|isolation| serde_json::to_string(isolation).ok())
                    .unwrap_or_default(),
            }
        };
        wire::StatusReport {
            epoch: self.accepted.epoch,
            generation: self.accepted.generation,
            health: view.health.word().to_owned(),
            conformance: view.conformance.word().to_owned(),
            reasons: view.reasons.iter().map(reason).collect(),
            apps: view.apps.iter().map(app).collect(),
            device_time_ms: 0,
            senses: self.senses(),
        }
    }

    /// Sends the state when it is not what was last told.
    pub(super) fn report(&mut self) {
        let Some(view) = &self.view else { return };
        let Some(session) = self.session.as_ref().filter(|session| session.welcomed) else { return };
        let mut report = self.status_report(view);
        if session.reported.as_ref() == Some(&report) {
            return;
        }
        let told = report.clone();
        report.device_time_ms = clock::wall().0;
        if self.send(agent_frame::Body::Status(report))
            && let Some(session) = &mut self.session
        {
            session.reported = Some(told);
        }
    }

    /// A control plane that keeps no stream of operations gets their results once, as they come.
    pub(super) fn tell_results(&mut self) -> Result<(), super::AgentError> {
        let old = |session: &&super::Session| session.welcomed && !session.operations;
        if self.session.as_ref().filter(old).is_none() {
            return Ok(());
        }
        for batch in self.journal.pending(OPERATIONS, 0, WINDOW)? {
            let told = operations::numbered(&batch.bytes, batch.sequence).into_iter().flat_map(|b| b.updates);
            for update in told.filter(|update| !["delivered", "running"].contains(&update.state.as_str())) {
                if !self.send(agent_frame::Body::OperationUpdate(update)) {
                    return Ok(());
                }
            }
            self.journal.acknowledge(OPERATIONS, batch.sequence)?;
        }
        Ok(())
    }

    /// Sends batches that wait, a few of each stream at a time. Events go first.
    pub(super) fn pump(&mut self) -> Result<(), super::AgentError> {
        let Some(session) = self.session.as_mut().filter(|session| session.welcomed) else { return Ok(()) };
        let metrics = self.metric_streams.iter().map(String::as_str);
        for stream in [OPERATIONS, EVENTS, INCIDENTS].into_iter().chain(metrics) {
            if stream == INCIDENTS && !session.incidents || stream == OPERATIONS && !session.operations {
                continue;
            }
            // What waits begins with what is on its way: everything acknowledged is gone from the journal.
            let waiting = self.journal.pending(stream, 0, WINDOW)?;
            let sent = session.sent.entry(stream.to_owned()).or_default();
            for batch in waiting {
                if batch.sequence <= *sent {
                    continue;
                }
                let sequence = batch.sequence;
                let body = match stream {
                    OPERATIONS => {
                        operations::numbered(&batch.bytes, sequence).map(agent_frame::Body::Operations)
                    }
                    EVENTS => events::numbered(&batch.bytes, sequence).map(agent_frame::Body::Events),
                    INCIDENTS => {
                        incidents::numbered(&batch.bytes, sequence).map(agent_frame::Body::Incidents)
                    }
                    _ => {
                        let (stream, block) = (stream.to_owned(), batch.bytes);
                        Some(agent_frame::Body::Metrics(wire::MetricBatch { stream, sequence, block }))
                    }
                };
                let Some(body) = body else {
                    tracing::error!(stream, sequence = batch.sequence, "a kept batch is damaged and skipped");
                    *sent = batch.sequence;
                    continue;
                };
                let request_id = uuid::Uuid::now_v7().to_string();
                let frame = AgentFrame { request_id, traceparent: String::new(), body: Some(body) };
                if session.outbox.try_send(frame).is_err() {
                    return Ok(());
                }
                *sent = batch.sequence;
            }
        }
        Ok(())
    }

    /// What `farshore-agent status` shows.
    pub(super) fn status(&self) -> Status {
        let registration = &self.identity.registration;
        let view = self.view.as_ref();
        Status {
            device: registration.device,
            name: registration.name.clone(),
            tenant: registration.tenant_name.clone(),
            control_plane: registration.url.clone(),
            connected: self.session.as_ref().is_some_and(|session| session.welcomed),
            link: self.link_reason.clone(),
            connectivity: Some((self.connectivity.state, self.connectivity.since)),
            certificate_ends: self.identity.credentials().not_after,
            epoch: self.accepted.epoch,
            generation: self.accepted.generation,
            health: view.map_or("unknown", |view| view.health.word()).to_owned(),
            conformance: view.map_or("unknown", |view| view.conformance.word()).to_owned(),
            reasons: view.map(|view| view.reasons.clone()).unwrap_or_default(),
            apps: view.map(|view| view.apps.iter().map(AppStatus::of).collect()).unwrap_or_default(),
            capabilities: self.capabilities.clone().unwrap_or_default(),
            sources: self.all_sources(),
            dropped: self.journal.dropped().unwrap_or_default(),
            written_at: UnixMs(0),
        }
    }

    pub(super) fn status_json(&self) -> Vec<u8> {
        let status = Status { written_at: clock::wall(), ..self.status() };
        serde_json::to_vec_pretty(&status).unwrap_or_default()
    }

    /// Writes the status file when it says something else than before.
    pub(super) fn show(&mut self) {
        let Some(path) = &self.settings.status_file else { return };
        let Ok(says) = serde_json::to_vec(&self.status()) else { return };
        if self.shown.as_ref() == Some(&says) {
            return;
        }
        match file::write_atomically(path, &self.status_json(), 0o644) {
            Ok(()) => self.shown = Some(says),
            Err(error) => tracing::warn!(%error, "the status file can't be written"),
        }
    }
}
