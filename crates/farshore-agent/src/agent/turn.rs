//! One turn of the loop: decide, keep the intent, act, report.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_domain::desired::Because;
use farshore_domain::name::Name;
use farshore_domain::reconcile::{
    Action, Busy, Inputs, LocalHours, MonoMs, NO_ROOM, Now, Outcome, decide, view,
};
use farshore_domain::release::ArtifactRef;
use farshore_domain::time::{HOUR_MS, UnixMs};
use farshore_protocol::{self as wire, agent_frame};
use farshore_series::{BlockBuilder, encode};
use tokio::sync::Notify;

use super::desired::values;
use super::health::Health;
use super::{Agent, AgentError, Done, EVENTS, HOST, duration_ms, events, to_json};
use crate::clock;
use crate::executor::{Executor, ExecutorError, StageRequest, StartRequest};
use crate::journal::{Journal, STATE};
use crate::runner::SignedState;

/// At most so many batches are dropped for their age at once.
const MAX_FORGOTTEN: usize = 64;
/// Decisions that follow from one another within one turn.
const MAX_ROUNDS: usize = 4;

/// Of two failures the first, unless the second one says that the journal is damaged.
fn worse(before: Result<(), AgentError>, now: Result<(), AgentError>) -> Result<(), AgentError> {
    if now.as_ref().is_err_and(AgentError::is_damage) { now } else { before.and(now) }
}

impl<E: Executor, J: Journal> Agent<E, J> {
    /// Tells the executor whom to trust and asks what it can do.
    pub(super) fn connect_executor(&mut self) {
        let executor = Arc::clone(&self.executor);
        let registration = self.identity.registration.clone();
        let sets = self.key_sets.clone();
        self.tasks.spawn(async move {
            if !sets.is_empty()
                && let Err(error) = executor.trust(registration.tenant, registration.tenant_name, sets).await
            {
                return Done::Connected(Err(error));
            }
            Done::Connected(executor.capabilities().await)
        });
        self.tell_runner();
    }

    /// What the control plane signed last, for the runner's own judgement.
    pub(super) fn tell_runner(&mut self) {
        let executor = Arc::clone(&self.executor);
        let (anchor, state) = (self.anchor(), self.signed_state());
        self.tasks.spawn(async move { Done::Obeyed(executor.obey(anchor, state).await) });
    }

    /// The accepted desired state as it was signed.
    pub(super) fn signed_state(&self) -> Option<SignedState> {
        let stored = self.stored.as_ref().filter(|stored| !stored.chain.is_empty())?;
        Some(SignedState { signed: stored.signed.clone(), chain: stored.chain.clone() })
    }

    pub(super) fn take(&mut self, done: Done) {
        let now = clock::now();
        match done {
            Done::Connected(Ok(capabilities)) => {
                let news = self.capabilities.as_ref() != Some(&capabilities);
                self.capabilities = Some(capabilities);
                self.tell_capabilities();
                if news {
                    self.commit_again();
                    if let Err(error) = self.offer_again() {
                        tracing::warn!(error = %crate::chain(&error), "the desired state can't be looked at again");
                    }
                }
            }
            Done::Connected(Err(error)) => {
                tracing::warn!(%error, code = %error.code, "the runner does not take what it is told");
                self.next_list = self.next_list.max(now.mono.plus_ms(500));
            }
            Done::Listed(number, listed) => {
                self.listing = false;
                self.next_list = now.mono.plus_ms(self.poll_ms());
                match listed {
                    Ok(apps) => {
                        if self.observed.is_none() {
                            self.observed_since = now.wall;
                        }
                        if self.capabilities.is_none() {
                            self.connect_executor();
                        }
                        self.observed = Some(apps);
                        self.settle(number);
                        self.follow(now.mono);
                    }
                    Err(error) => {
                        if self.observed.take().is_some() {
                            self.observed_since = now.wall;
                            tracing::warn!(%error, "the runner does not answer");
                        }
                        // It may come back as another process that knows nothing yet.
                        self.capabilities = None;
                    }
                }
            }
            Done::Outcome { app, staging, acting, outcome, error } => {
                if staging || acting {
                    // What was seen is older than this: it stays busy until a list that is begun from now on.
                    let settling = self.settling.entry(app.clone()).or_default();
                    settling.0 = self.lists + 1;
                    settling.1.staging |= staging;
                    settling.1.acting |= acting;
                    self.next_list = now.mono;
                }
                if staging {
                    self.progress.remove(&app);
                    self.staging.remove(&app);
                }
                if let Some(error) = error {
                    tracing::warn!(%app, code = %error.code, %error, "not carried out");
                }
                self.outcomes.extend(outcome);
            }
            Done::Probed { app, due, answer } => {
                if let Some(health) = self.health.get_mut(&app) {
                    health.answer(&due, answer, now.mono);
                }
            }
            Done::Operation(update) => self.operations.answers.push(update),
            Done::Obeyed(Ok(())) | Done::Rebooting => {}
            Done::Obeyed(Err(error)) => {
                tracing::warn!(%error, code = %error.code, "the runner does not take the policy");
            }
            Done::Pruned(Ok(())) => {}
            Done::Pruned(Err(error)) => {
                tracing::warn!(%error, code = %error.code, "what was fetched and is not wanted can't be deleted");
            }
            Done::Evidence(gathered) => self.gathered.push(gathered),
        }
    }

    /// An executor that was away may have missed which releases have proven themselves.
    fn commit_again(&mut self) {
        let committed: Vec<_> = self
            .state
            .apps
            .iter()
            .filter(|(_, app)| app.trial.is_none())
            .filter_map(|(name, app)| Some((name.clone(), app.active.as_ref()?.manifest)))
            .collect();
        for (app, manifest) in committed {
            let executor = Arc::clone(&self.executor);
            self.tasks.spawn(async move {
                let error = executor.commit(app.clone(), manifest).await.err();
                Done::Outcome { app, staging: false, acting: false, outcome: None, error }
            });
        }
    }

    /// What ended before list `number` was begun is over now.
    fn settle(&mut self, number: u64) {
        let busy = &mut self.busy;
        self.settling.retain(|app, (needed, ended)| {
            if *needed > number {
                return true;
            }
            if let Some(busy) = busy.get_mut(app) {
                busy.staging &= !ended.staging;
                busy.acting &= !ended.acting;
            }
            false
        });
        busy.retain(|_, busy| *busy != Busy::default());
        if !self.settling.is_empty() {
            self.next_list = clock::mono();
        }
    }

    fn poll_ms(&self) -> i64 {
        let settled = |app: &farshore_domain::reconcile::AppState| {
            let wanted = |offer: &farshore_domain::reconcile::Offer| {
                app.active.as_ref().is_some_and(|active| active.manifest == offer.release.manifest)
                    || app.is_held(offer.release.manifest)
            };
            let offers = self.desired.iter().flat_map(|desired| &desired.offers);
            app.trial.is_none() && !app.returning && offers.into_iter().any(wanted)
        };
        let unsettled = self.state.apps.values().any(|app| app.active.is_some() && !settled(app))
            || self
                .observed
                .iter()
                .flatten()
                .any(|(_, app)| app.beside.is_some() || app.switching || app.stray.is_some());
        let waiting = self.desired.iter().flat_map(|desired| &desired.offers).any(|offer| {
            self.state.apps.get(&offer.app).is_none_or(|app| {
                let active =
                    app.active.as_ref().is_some_and(|active| active.manifest == offer.release.manifest);
                // Waiting for a permit is rest.
                !active
                    && !app.is_held(offer.release.manifest)
                    && app.staged.is_none()
                    && app.refused.is_none()
            })
        });
        let busy = unsettled || waiting || self.busy.values().any(|busy| busy.staging || busy.acting);
        duration_ms(if busy { self.settings.busy_poll } else { self.settings.idle_poll })
    }

    fn config_of(&self, app: &Name) -> BTreeMap<String, String> {
        let desired =
            self.desired.as_ref().and_then(|d| d.state.apps.iter().find(|desired| desired.app == *app));
        desired.map(values).unwrap_or_default()
    }

    /// Points the health checks at what runs now.
    fn follow(&mut self, now: MonoMs) {
        let mut before = std::mem::take(&mut self.health);
        let running: Vec<_> = self
            .observed
            .iter()
            .flatten()
            .filter_map(|(name, observed)| {
                let judged = self.state.apps.get(name).map(|app| observed.judged(app));
                Some((name.clone(), judged.unwrap_or(observed.running.as_ref())?.clone()))
            })
            .collect();
        for (name, running) in running {
            let config = self.config_of(&name);
            let manifest = self.manifests.get(&running.manifest);
            if let Some(health) = Health::follow(before.remove(&name), &running, manifest, &config, now) {
                self.health.insert(name, health);
            }
        }
    }

    /// The time as the control plane told it in this boot; the device's own clock, never before what it last had reason to believe in, until it has.
    fn believed(&self, now: Now) -> UnixMs {
        match self.server_offset {
            Some(offset) => UnixMs(now.mono.0.saturating_add(offset)),
            None => self.identity.clock.now(),
        }
    }

    /// What the policy's windows say, and which apps may go back in spite of them.
    fn hours(&mut self, now: Now) -> LocalHours {
        let at = self.believed(now);
        let mut hours = self.policy.hours(at);
        if hours.download.is_some() || hours.install.is_some() {
            let apps = self.desired.iter().flat_map(|desired| &desired.state.apps);
            let back = apps.filter(|app| matches!(app.because, Because::Rollout { forward: false, .. }));
            hours.going_back = back.map(|app| app.app.clone()).collect();
        }
        hours
    }

    /// Where two instances run, the checks may still be those of the one that is not to be judged any more.
    fn asks_the_right_one(&self, name: &Name, health: &Health) -> bool {
        let two =
            self.observed.as_ref().and_then(|apps| apps.get(name)).is_some_and(|app| app.beside.is_some());
        let app = self.state.apps.get(name);
        let active = app.and_then(|app| Some((app.active.as_ref()?.manifest, app.instance)));
        !two || active.is_some_and(|(manifest, instance)| health.is_of(manifest, instance))
    }

    fn inputs(&mut self, moment: Now) -> Inputs {
        let now = moment.mono;
        let hours = self.hours(moment);
        let disk_short = self.policy.disk_short();
        Inputs {
            desired: self.desired.as_ref().map(|desired| desired.offers.clone()),
            observed: self.observed.clone(),
            checks: self.policy.add_to(
                self.health
                    .iter()
                    .filter(|(name, health)| self.asks_the_right_one(name, health))
                    .map(|(name, health)| (name.clone(), health.verdict(now)))
                    .collect(),
            ),
            busy: self.busy.clone(),
            outcomes: std::mem::take(&mut self.outcomes),
            restart: std::mem::take(&mut self.restart),
            rollback: std::mem::take(&mut self.rollback),
            stopped: self.desired.as_ref().is_some_and(|desired| desired.state.stopped),
            policy: self.policy.healing().clone(),
            isolation: self.policy.isolation().clone(),
            hours,
            disk_short,
        }
    }

    /// Decides, keeps, acts, asks, measures, sends.
    pub(super) fn turn(&mut self) -> Result<(), AgentError> {
        let now = clock::now();
        // What can't be kept (on a full disk) holds up nothing else: neither the decision, which may make room, nor the heartbeat.
        let mut done = self.look_around(now);
        done = worse(done, self.begin_operations());
        let decided = self.decide_and_act(now);
        let reports = decided.is_ok();
        done = worse(done, decided);
        self.ask(now.mono);
        done = worse(done, self.measure(now.mono, now.wall));
        done = worse(done, self.gather());
        done = worse(done, self.keep_evidence());
        self.watch_operations(now.mono);
        done = worse(done, self.keep_answers());
        // What has become free by an answer.
        done = worse(done, self.begin_operations());
        done = worse(done, self.keep_answers());
        self.beat(now.mono, now.wall);
        if reports {
            // Else what is accepted by now would go with the view of before.
            self.report();
        }
        self.send_output();
        done = worse(done, self.tell_results());
        done = worse(done, self.pump());
        self.show();
        done
    }

    /// What the device's surroundings and its policy say since the last turn.
    fn look_around(&mut self, now: Now) -> Result<(), AgentError> {
        let lost = self.connectivity.tick(now);
        let mut done = self.tell_connectivity(lost);
        for message in self.policy.judge(self.observed.as_ref(), now.mono) {
            tracing::warn!("{message}");
            done = worse(done, self.note(events::note("policy.breached", &message, &serde_json::json!({}))));
        }
        done
    }

    fn decide_and_act(&mut self, now: Now) -> Result<(), AgentError> {
        for _ in 0..MAX_ROUNDS {
            let inputs = self.inputs(now);
            let (state, actions) = decide(self.state.clone(), &inputs, now);
            let changed = state != self.state;
            let view = view(&state, &inputs, self.observed_since);
            let noted = self.incidents_of(&actions, &view, now);
            if changed || !actions.is_empty() || noted.is_some() {
                let events: Vec<_> = actions
                    .iter()
                    .filter_map(|action| match action {
                        Action::Emit(event) => Some(events::of_app(event)),
                        _ => None,
                    })
                    .collect();
                let (mut values, mut batches) = (Vec::new(), Vec::new());
                if changed {
                    values.push((STATE.to_owned(), Some(to_json(&state, "the state")?)));
                }
                for event in &events {
                    tracing::info!(kind = %event.kind, app = %event.app, "{}", event.message);
                }
                if !events.is_empty() {
                    batches.push((EVENTS.to_owned(), events::batch(events.clone())));
                }
                if let Some(noted) = &noted {
                    Self::noted(noted, &mut values, &mut batches)?;
                }
                if let Err(error) = self.keep(values, batches) {
                    // Not kept, so not done: everything that was taken in is taken in again.
                    self.outcomes = inputs.outcomes;
                    self.restart = inputs.restart;
                    self.rollback = inputs.rollback;
                    return Err(error);
                }
                self.black_box.hear(&events);
                self.policy.hear(&actions, now.mono);
            }
            if let Some(noted) = noted {
                self.take_noted(noted);
            }
            self.state = state;
            self.view = Some(view);
            let acts = actions.iter().any(|action| !matches!(action, Action::Emit(_)));
            for action in actions {
                self.act(action);
            }
            if !changed || acts {
                break;
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) {
        let executor = Arc::clone(&self.executor);
        let done = |app: Name, error: Option<ExecutorError>| Done::Outcome {
            app,
            staging: false,
            acting: true,
            outcome: None,
            error,
        };
        match action {
            Action::Emit(_) => {}
            Action::Stage { app, manifest } => {
                let signed = self.signed.get(&manifest).cloned();
                let artifact: Option<ArtifactRef> = self.manifests.get(&manifest).and_then(|found| {
                    let hardware = &self.settings.hardware;
                    found.artifact_for(&hardware.os, &hardware.arch, &hardware.variant).cloned()
                });
                let (Some(signed), Some(artifact)) = (signed, artifact) else {
                    tracing::error!(%app, %manifest, "a manifest that was verified is gone");
                    return;
                };
                self.busy.entry(app.clone()).or_default().staging = true;
                let progress = Arc::default();
                self.progress.insert(app.clone(), (Arc::clone(&progress), artifact.size));
                let give_up = Arc::new(Notify::new());
                self.staging.insert(app.clone(), (manifest, Arc::clone(&give_up)));
                self.tasks.spawn(async move {
                    let request = StageRequest { app: app.clone(), manifest: signed, artifact, progress };
                    let staged = tokio::select! {
                        staged = executor.stage(request) => staged,
                        () = give_up.notified() => {
                            tracing::info!(%app, %manifest, "no longer wanted, so no longer fetched");
                            return Done::Outcome { app, staging: true, acting: false, outcome: None, error: None };
                        }
                    };
                    let (outcome, error) = match staged {
                        Ok(()) => (Outcome::Staged { app: app.clone(), manifest }, None),
                        Err(error) => {
                            let failed = Outcome::StageFailed {
                                app: app.clone(),
                                manifest,
                                refused: error.refused,
                                code: error.code.clone(),
                                message: error.message.clone(),
                            };
                            (failed, Some(error))
                        }
                    };
                    Done::Outcome { app, staging: true, acting: false, outcome: Some(outcome), error }
                });
            }
            Action::Start { app, release, instance, beside, .. } => {
                self.busy.entry(app.clone()).or_default().acting = true;
                let config = self.config_of(&app);
                let request = StartRequest {
                    app: app.clone(),
                    manifest: release.manifest,
                    release: release.release,
                    instance,
                    config,
                    bounds: self.policy.bounds(),
                    beside,
                };
                self.tasks.spawn(async move {
                    let error = executor.start(request).await.err();
                    // An executor that is away says nothing about the release.
                    let failed = error.as_ref().filter(|error| !error.unreachable && error.code != "Doubled");
                    let outcome = failed.map(|error| {
                        let (app, message) = (app.clone(), error.message.clone());
                        match error.code.as_str() {
                            NO_ROOM => Outcome::NoRoom { app, instance, message },
                            _ => Outcome::StartFailed { app, instance, message },
                        }
                    });
                    Done::Outcome { app, staging: false, acting: true, outcome, error }
                });
            }
            Action::Stop { app } => {
                self.busy.entry(app.clone()).or_default().acting = true;
                self.tasks.spawn(async move { done(app.clone(), executor.stop(app, None).await.err()) });
            }
            Action::StopOne { app, instance } => {
                self.busy.entry(app.clone()).or_default().acting = true;
                self.tasks
                    .spawn(async move { done(app.clone(), executor.stop(app, Some(instance)).await.err()) });
            }
            Action::Switch { app, instance } => {
                self.busy.entry(app.clone()).or_default().acting = true;
                self.tasks.spawn(async move {
                    let error = executor.switch(app.clone(), instance).await.err();
                    let failed = error.as_ref().filter(|error| !error.unreachable);
                    let outcome = failed.map(|error| {
                        let (app, message) = (app.clone(), error.message.clone());
                        match error.code.as_str() {
                            NO_ROOM => Outcome::NoRoom { app, instance, message },
                            _ => Outcome::SwitchFailed { app, instance, message },
                        }
                    });
                    Done::Outcome { app, staging: false, acting: true, outcome, error }
                });
            }
            Action::Remove { app } => {
                self.busy.entry(app.clone()).or_default().acting = true;
                self.tasks.spawn(async move { done(app.clone(), executor.remove(app).await.err()) });
            }
            Action::Discard { app, keep } => {
                self.busy.entry(app.clone()).or_default().acting = true;
                self.tasks.spawn(async move { done(app.clone(), executor.discard(app, keep).await.err()) });
            }
            Action::CutLogs { app } => {
                self.tasks.spawn(async move {
                    let error = executor.cut_logs(app.clone(), None).await.err();
                    Done::Outcome { app, staging: false, acting: false, outcome: None, error }
                });
            }
            Action::Reboot { app } => {
                self.tasks.spawn(async move {
                    let error = executor.reboot().await.err();
                    Done::Outcome { app, staging: false, acting: false, outcome: None, error }
                });
            }
            Action::Commit { app, manifest } => {
                self.tasks.spawn(async move {
                    let error = executor.commit(app.clone(), manifest).await.err();
                    Done::Outcome { app, staging: false, acting: false, outcome: None, error }
                });
            }
        }
    }

    /// Asks the executor what runs, and the apps how they are.
    fn ask(&mut self, now: MonoMs) {
        if !self.listing && now >= self.next_list {
            self.listing = true;
            let executor = Arc::clone(&self.executor);
            self.lists += 1;
            let number = self.lists;
            self.tasks.spawn(async move { Done::Listed(number, executor.list().await) });
        }
        for (app, health) in &mut self.health {
            for due in health.due(now) {
                let (executor, app) = (Arc::clone(&self.executor), app.clone());
                self.tasks.spawn(async move {
                    let (check, env) = (due.check.clone(), Arc::clone(&due.env));
                    let answer = executor.probe(app.clone(), due.instance, check, env).await;
                    Done::Probed { app, due, answer }
                });
            }
        }
    }

    fn measure(&mut self, now: MonoMs, wall: UnixMs) -> Result<(), AgentError> {
        if now >= self.next_sample {
            self.next_sample = now.plus_ms(self.policy.sample_ms(self.sample_ms));
            let values = self.sampler.sample(wall, now);
            self.policy.measured(&values, now);
            if !values.is_empty()
                && let Err(error) = self.samples.push(wall.0, values)
            {
                tracing::debug!(%error, "the block is full");
                self.seal()?;
            }
            self.measure_apps(wall)?;
        }
        if now >= self.batch_due {
            self.batch_due = now.plus_ms(self.policy.batch_ms(self.batch_ms));
            if !self.samples.is_empty() {
                self.seal()?;
            }
            self.seal_apps()?;
        }
        let Some(live) = &mut self.live else { return Ok(()) };
        if now >= live.until || self.session.is_none() {
            self.live = None;
        } else if now >= live.next {
            live.next = now.plus_ms(live.every_ms);
            let values = live.sampler.sample(wall, now);
            let mut one = BlockBuilder::new();
            let encoded = one.push(wall.0, values).map_err(|e| e.to_string());
            let encoded = encoded.and_then(|()| encode(&one.finish()).map_err(|e| e.to_string()));
            match encoded {
                // Not kept: a live sample that can't be sent now is of no use later.
                Ok(block) => drop(self.send(agent_frame::Body::Metrics(wire::MetricBatch {
                    stream: HOST.to_owned(),
                    sequence: 0,
                    block,
                }))),
                Err(error) => tracing::warn!(%error, "a sample can't be encoded"),
            }
            self.show_apps(wall);
        }
        Ok(())
    }

    /// Puts the gathered samples into a batch of the stream.
    pub(super) fn seal(&mut self) -> Result<(), AgentError> {
        match encode(&std::mem::take(&mut self.samples).finish()) {
            Ok(block) => {
                let values = self.black_box.take(&block, clock::wall());
                self.keep(values, vec![(HOST.to_owned(), block)])?;
                self.forget_unsent()
            }
            Err(error) => {
                tracing::error!(error = %crate::chain(&error), "samples can't be encoded and are dropped");
                Ok(())
            }
        }
    }

    /// Drops measurements that were not sent in time, or are more than the policy keeps.
    fn forget_unsent(&mut self) -> Result<(), AgentError> {
        let keeps = self.policy.retention();
        let streams = self.metric_streams.len().max(1) as u64;
        for stream in &self.metric_streams {
            let mut through = 0;
            if let Some(seconds) = keeps.unsent_seconds {
                let cutoff = clock::wall().plus_ms(-i64::from(seconds) * 1000);
                for batch in self.journal.pending(stream, 0, MAX_FORGOTTEN)? {
                    if super::incidents::newest(&batch.bytes).is_none_or(|at| at >= cutoff.0) {
                        break;
                    }
                    through = batch.sequence;
                }
            }
            if through > 0 || keeps.unsent_bytes.is_some() {
                // The policy's bytes are for all measurements together.
                let share = keeps.unsent_bytes.map_or(u64::MAX, |bytes| bytes / streams);
                let dropped = self.journal.trim(stream, through, share)?;
                if dropped > 0 {
                    tracing::debug!(%stream, dropped, "measurements are dropped by policy before they could be sent");
                }
            }
        }
        let now = clock::mono();
        if let Some(seconds) = keeps.log_seconds
            && now >= self.next_log_cut
        {
            self.next_log_cut = now.plus_ms(HOUR_MS);
            for app in self.state.apps.keys().cloned() {
                let executor = Arc::clone(&self.executor);
                self.tasks.spawn(async move {
                    let error = executor.cut_logs(app.clone(), Some(seconds)).await.err();
                    Done::Outcome { app, staging: false, acting: false, outcome: None, error }
                });
            }
        }
        Ok(())
    }

    fn beat(&mut self, now: MonoMs, wall: UnixMs) {
        self.ask_again(now);
        self.say_hello(now);
        let due =
            self.session.as_ref().is_some_and(|session| session.welcomed && now >= session.next_heartbeat);
        if due {
            self.send(agent_frame::Body::Heartbeat(wire::Heartbeat { device_time_ms: wall.0 }));
            if let Some(session) = &mut self.session {
                session.next_heartbeat = now.plus_ms(session.heartbeat_ms);
            }
        }
    }

    /// When something is to be done next without being told.
    pub(super) fn next_wake(&self) -> MonoMs {
        let mut next = self.next_sample.min(self.batch_due);
        if !self.listing {
            next = next.min(self.next_list);
        }
        let checks = self.health.values().filter_map(Health::next);
        let heartbeat = self.session.iter().filter_map(|session| match session.told {
            None => Some(session.hello_by),
            Some(_) => session.welcomed.then_some(session.next_heartbeat),
        });
        let live = self.live.iter().map(|live| live.next).chain(self.connectivity.due());
        checks.chain(heartbeat).chain(live).min().map_or(next, |other| next.min(other))
    }
}
