//! Group commit: what connections bring is gathered for a moment, written as sets in one transaction, and then each is answered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use farshore_domain::id::{DeviceId, TenantId};
use farshore_store::channel::{ChannelBatch, ChannelOutcome, DeviceEvents};
use farshore_store::device_apps::{HelloReport, StatusReport};
use farshore_store::events::NewEvent;
use farshore_store::incidents::IncidentReport;
use farshore_store::metrics::NewBlock;
use farshore_store::operations::OperationReport;
use farshore_store::presence::{Opened, SessionClose, SessionOpen};
use farshore_store::{Driver, StoreError, SystemDb};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::app::App;
use crate::clock::now;

/// Jobs that wait for the writer; connections wait when it is full, and so do their devices.
const QUEUE: usize = 4_096;
/// At most this many jobs in one transaction.
const BATCH: usize = 1_024;
/// How long the first job waits for others.
const LINGER: Duration = Duration::from_millis(10);

/// One thing to be written.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Open(SessionOpen, Box<HelloReport>),
    Close(SessionClose),
    Status(Box<StatusReport>),
    Block(Box<NewBlock>),
    Events(Box<DeviceEvents>),
    Operation(Box<OperationReport>),
    Incidents(Box<IncidentReport>),
    News(TenantId, Box<NewEvent>),
}

/// What a writer did with an item. No answer at all: it was not written.
#[derive(Debug)]
pub(crate) enum Answer {
    Written,
    Opened(Box<Opened>),
    /// The device of an `Open` is not there any more.
    Gone,
}

#[derive(Debug)]
struct Job {
    item: Item,
    answer: Option<oneshot::Sender<Answer>>,
}

/// The way to the writer.
#[derive(Debug)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Job>,
    receiver: Mutex<Option<mpsc::Receiver<Job>>>,
}

/// The writer could not store it, or has ended.
#[derive(Debug, thiserror::Error)]
#[error("what the device sent could not be stored")]
pub(crate) struct NotWritten;

impl Default for Queue {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }
}

impl Queue {
    /// Writes an item; returns when it is durable.
    pub(crate) async fn write(&self, item: Item) -> Result<Answer, NotWritten> {
        let (answer, answered) = oneshot::channel();
        self.sender.send(Job { item, answer: Some(answer) }).await.map_err(|_| NotWritten)?;
        answered.await.map_err(|_| NotWritten)
    }

    /// Hands an item over without waiting for it.
    pub(crate) async fn leave(&self, item: Item) -> Result<(), NotWritten> {
        self.sender.send(Job { item, answer: None }).await.map_err(|_| NotWritten)
    }
}

/// Starts the writer; once.
pub(crate) fn spawn(app: &App) -> Option<JoinHandle<()>> {
    let receiver = app.hub().writer.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    Some(tokio::spawn(run(app.clone(), receiver)))
}

async fn run(app: App, mut receiver: mpsc::Receiver<Job>) {
    let db = app.store().system(Driver::DevicePort);
    let mut jobs = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            () = app.shutdown().cancelled() => {
                // What was brought before the end is still written.
                receiver.close();
                while receiver.recv_many(&mut jobs, BATCH).await > 0 {
                    write(&app, &db, std::mem::take(&mut jobs)).await;
                }
                return;
            }
            count = receiver.recv_many(&mut jobs, BATCH) => {
                if count == 0 {
                    return;
                }
                if jobs.len() < BATCH {
                    tokio::time::sleep(LINGER).await;
                    while jobs.len() < BATCH {
                        match receiver.try_recv() {
                            Ok(job) => jobs.push(job),
                            Err(_) => break,
                        }
                    }
                }
                write(&app, &db, std::mem::take(&mut jobs)).await;
            }
        }
    }
}

fn gather<'a>(items: impl Iterator<Item = &'a Item>) -> ChannelBatch {
    let mut batch = ChannelBatch::default();
    for item in items {
        match item.clone() {
            Item::Open(open, hello) => {
                batch.opens.push(open);
                batch.hellos.push(*hello);
            }
            Item::Close(close) => batch.closes.push(close),
            Item::Status(status) => batch.statuses.push(*status),
            Item::Block(block) => batch.blocks.push(*block),
            Item::Events(events) => batch.events.push(*events),
            Item::Operation(report) => batch.operations.push(*report),
            Item::Incidents(report) => batch.incidents.push(*report),
            Item::News(tenant, event) => batch.news.push((tenant, *event)),
        }
    }
    batch
}

async fn write(app: &App, db: &SystemDb, jobs: Vec<Job>) {
    let replica = super::presence::REPLICA;
    let batch = gather(jobs.iter().map(|job| &job.item));
    match db.write_channel(replica, &batch, now()).await {
        Ok(outcome) => answer(app, jobs, outcome),
        Err(error) if jobs.len() > 1 => {
            // One device's data may be what the database refuses: it must not take the others' along.
            tracing::warn!(
                error = crate::error::chain(&error),
                jobs = jobs.len(),
                "a set of device data is written one by one"
            );
            for job in jobs {
                let batch = gather(std::iter::once(&job.item));
                match db.write_channel(replica, &batch, now()).await {
                    Ok(outcome) => answer(app, vec![job], outcome),
                    Err(error) => refuse(&job, &error),
                }
            }
        }
        Err(error) => jobs.iter().for_each(|job| refuse(job, &error)),
    }
}

fn refuse(job: &Job, error: &StoreError) {
    let (tenant, device) = key(&job.item);
    tracing::error!(tenant = %tenant, device = %device, error = crate::error::chain(error), "device data was not stored");
}

fn key(item: &Item) -> (TenantId, DeviceId) {
    match item {
        Item::Open(open, _) => (open.tenant, open.device),
        Item::Close(close) => (close.tenant, close.device),
        Item::Status(status) => (status.tenant, status.device),
        Item::Block(block) => (block.tenant, block.device),
        Item::Events(events) => (events.tenant, events.device),
        Item::Operation(report) => (report.tenant, report.device),
        Item::Incidents(report) => (report.tenant, report.device),
        Item::News(tenant, event) => (*tenant, DeviceId(event.subject)),
    }
}

fn answer(app: &App, jobs: Vec<Job>, outcome: ChannelOutcome) {
    if outcome.events {
        app.events_written();
    }
    let mut opened: HashMap<(TenantId, DeviceId), Opened> =
        outcome.opened.into_iter().map(|opened| ((opened.tenant, opened.device), opened)).collect();
    for Job { item, answer } in jobs {
        let key = key(&item);
        let reply = match &item {
            Item::Open(..) => {
                changed(app, key);
                // Two connections of one device in the same set: both get the answer, and the hub has closed the older.
                opened.get_mut(&key).map_or(Answer::Gone, |opened| Answer::Opened(Box::new(opened.clone())))
            }
            Item::Close(_) | Item::Status(_) => {
                changed(app, key);
                Answer::Written
            }
            Item::Operation(report) => {
                for update in &report.updates {
                    if update.state.is_final() {
                        app.hub().outputs().ended((report.tenant, update.uid));
                    }
                }
                // What waits for it may begin.
                changed(app, key);
                Answer::Written
            }
            Item::Incidents(_) => {
                app.alerts().changed();
                Answer::Written
            }
            _ => Answer::Written,
        };
        if let Some(answer) = answer {
            // The connection may have ended meanwhile.
            let _ = answer.send(reply);
        }
    }
}

fn changed(app: &App, (tenant, device): (TenantId, DeviceId)) {
    app.hub().changed(tenant, device);
    app.fleet().reported(tenant, device);
}
