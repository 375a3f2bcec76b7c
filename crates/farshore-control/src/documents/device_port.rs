//! `POST /api/device/documents` on the device port: a device's changes in, outcomes and what changed since its cursor out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::{Extension, Json};
use farshore_api::Problem;
use farshore_domain::document::exchange::{
    Answer, Answered, Change, Delta, MAX_CHANGES, MAX_EXCHANGE_BYTES, MAX_WAIT_SECONDS, Outcome, Request,
    Reset, State as Now,
};
use farshore_domain::document::hub::{DEVICE, Held, Terms, take};
use farshore_domain::document::merge::{Base, Conflict};
use farshore_domain::document::{
    Hlc, MAX_DEVICE_BYTES, MAX_DOCUMENTS, Side, TWIN, check_names, may_write, patch,
};
use farshore_domain::time::UnixMs;
use farshore_store::db::Tx;
use farshore_store::documents::{ChangedRow, DocumentRow, Head};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::RuleBook;
use crate::app::App;
use crate::claims::{DevicePeer, PeerCertificate, gateway_peer};
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::Body;
use crate::route::{Access, Route, route};

/// What a device says of itself is kept at least so often.
const REPORT_EVERY_MS: i64 = 60_000;
/// About so many bytes of documents, bases and conflicts one exchange has in memory for its changes, and those of one change more.
const MAX_WORK_BYTES: usize = 4 * MAX_EXCHANGE_BYTES;

/// The noun's part of the device port's OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(exchange))]
pub struct DocumentPortDocs;

/// The noun's rows on the device port.
#[must_use]
pub fn device_port_routes() -> Vec<Route> {
    vec![route(Method::POST, "/api/device/documents", Access::Gateway, exchange).unhurried()]
}

/// A device sends what was changed there and is told what became of it, and what changed since its cursor. The same change again is answered and
/// has no further effect. With `waitSeconds` an answer without anything in it waits for the first change.
#[utoipa::path(post, path = "/api/device/documents", tag = "device-port", request_body = Request,
    responses((status = 200, body = Answer), (status = "4XX", body = Problem)))]
async fn exchange(
    State(app): State<App>,
    peer: DevicePeer,
    certificate: Option<Extension<PeerCertificate>>,
    headers: HeaderMap,
    Body(request): Body<Request>,
) -> ApiResult<Json<Answer>> {
    let life = check(&request)?;
    let mut changes = app.documents().watch();
    let answer = once(&app, &peer, life, &request, now()).await?;
    let empty = answer.answers.is_empty() && answer.documents.is_empty() && answer.reset.is_none();
    if !empty || request.wait_seconds == 0 {
        return Ok(Json(answer));
    }
    let wait = Duration::from_secs(u64::from(request.wait_seconds.min(MAX_WAIT_SECONDS)));
    let concerns_it = async {
        loop {
            match changes.recv().await {
                Ok(changed) if changed == (peer.tenant, peer.device) => return,
                Ok(_) => {}
                // Some were missed: it may have been one of them.
                Err(RecvError::Lagged(_) | RecvError::Closed) => return,
            }
        }
    };
    tokio::select! {
        () = concerns_it => {}
        () = tokio::time::sleep(wait) => return Ok(Json(answer)),
        () = app.shutdown().cancelled() => return Ok(Json(answer)),
    }
    // It may have been revoked while it waited, or its key.
    let certificate = certificate.map(|Extension(certificate)| certificate);
    let peer = gateway_peer(&app, certificate.as_ref(), &headers).await?;
    Ok(Json(once(&app, &peer, life, &request, now()).await?))
}

fn check(request: &Request) -> ApiResult<u64> {
    let life = (request.life.len() == 16).then(|| u64::from_str_radix(&request.life, 16).ok()).flatten();
    let life = life.ok_or_else(|| ApiError::field("life", "is a number of 16 hex digits"))?;
    if request.changes.len() > MAX_CHANGES || request.want.len() > MAX_CHANGES {
        return Err(ApiError::field("changes", format!("and want have at most {MAX_CHANGES} entries")));
    }
    if request.cursor > i64::MAX.unsigned_abs() || request.pending > i64::MAX.unsigned_abs() {
        return Err(ApiError::field("cursor", "is a number that was given as a cursor"));
    }
    for change in &request.changes {
        if !(1..=i64::MAX.unsigned_abs()).contains(&change.number) {
            return Err(ApiError::field("changes.number", "is a number from 1 on"));
        }
    }
    let names = request.changes.iter().map(|change| (&change.collection, &change.name));
    for (collection, name) in names.chain(request.want.iter().map(|want| (&want.collection, &want.name))) {
        check_names(collection, name).map_err(|error| ApiError::field("changes.name", error.to_string()))?;
    }
    if let Some(wish) = &request.wish {
        wish.check().map_err(|error| ApiError::field("wish", error.to_string()))?;
    }
    Ok(life)
}

fn reset(head: &Head, cursor: u64) -> Option<Reset> {
    if cursor > head.sequence {
        Some(Reset::Restored)
    } else if cursor > 0 && cursor < head.forgotten {
        Some(Reset::Forgotten)
    } else {
        None
    }
}

async fn once(app: &App, peer: &DevicePeer, life: u64, request: &Request, now: UnixMs) -> ApiResult<Answer> {
    let (db, device) = (&peer.db, peer.device);
    let _turn = app.documents().turn(peer.tenant).await?;
    // Most requests find nothing to do, and then nothing is written.
    if request.changes.is_empty() {
        let mut tx = db.read().await?;
        if let Some(head) = db.document_head(&mut tx, device).await?
            && is_reported(&head, request, now)
        {
            let book = RuleBook::new(db.document_collections(&mut tx).await?, None);
            return answer(peer, &mut tx, &head, &book, request, Vec::new(), now).await;
        }
    }
    let mut tx = db.begin().await?;
    let mut head = db.lock_documents(&mut tx, device).await?;
    head.wish.clone_from(&request.wish);
    (head.pending, head.pending_since) = (request.pending, request.pending_since.map(UnixMs));
    head.synced_at = Some(now);
    let mut book = RuleBook::new(db.document_collections(&mut tx).await?, head.wish.clone());
    let mut answers = Vec::new();
    if reset(&head, request.cursor).is_none() {
        head.cursor = request.cursor;
        let conflicts;
        (answers, conflicts) = take_all(peer, &mut tx, &mut head, &mut book, life, request, now).await?;
        if conflicts > 0 {
            let said = format!("{conflicts} changes of documents met changes in the cloud");
            let told = json!({ "conflicts": conflicts });
            db.document_event(&mut tx, device, "device.document-conflicts", said, told, now).await?;
        }
    }
    let answer = answer(peer, &mut tx, &head, &book, request, answers, now).await?;
    db.write_document_head(&mut tx, device, &head).await?;
    tx.commit().await?;
    if !answer.answers.is_empty() {
        app.hub().changed(peer.tenant, device);
        app.events_written();
        if answer.answers.iter().any(|answered| answered.collection == TWIN) {
            app.fleet().twin_changed(peer.tenant, device);
        }
    }
    Ok(answer)
}

fn is_reported(head: &Head, request: &Request, now: UnixMs) -> bool {
    let same = (head.cursor, head.pending, head.pending_since.map(|at| at.0))
        == (request.cursor, request.pending, request.pending_since);
    let fresh = head.synced_at.is_some_and(|at| (0..REPORT_EVERY_MS).contains(&now.since_ms(at)));
    same && fresh && head.wish == request.wish
}

async fn take_all(
    peer: &DevicePeer,
    tx: &mut Tx,
    head: &mut Head,
    book: &mut RuleBook,
    life: u64,
    request: &Request,
    now: UnixMs,
) -> ApiResult<(Vec<Answered>, usize)> {
    let (db, device) = (&peer.db, peer.device);
    let mut seen = BTreeSet::new();
    let mut names: Vec<(&str, &str)> =
        request.changes.iter().map(|change| (change.collection.as_str(), change.name.as_str())).collect();
    names.retain(|name| seen.insert(*name));
    let (mut rows, loaded) = db.documents_within(tx, device, &names, MAX_WORK_BYTES).await?;
    let mut waiting: BTreeSet<(&str, &str)> = names.into_iter().take(loaded).collect();
    let mut room = db.document_room(tx, device).await?;
    let mut answers = Vec::with_capacity(request.changes.len());
    let mut written: Vec<(DocumentRow, Option<&'static str>)> = Vec::new();
    let mut noted = Vec::new();
    let mut log_room = None;
    let (mut budget, mut work) = (MAX_EXCHANGE_BYTES, MAX_WORK_BYTES);
    for change in &request.changes {
        // What has no answer is sent again with the next request.
        if budget == 0 || work == 0 {
            break;
        }
        // It was not loaded any more, or is the second change of a document in this request, which would hide a revision of the first.
        if !waiting.remove(&(change.collection.as_str(), change.name.as_str())) {
            continue;
        }
        let key = (change.collection.clone(), change.name.clone());
        let found = rows.remove(&key);
        let is_known = found.is_some();
        let row = found.unwrap_or_else(|| DocumentRow {
            collection: change.collection.clone(),
            name: change.name.clone(),
            // Higher than any revision of a document of this name that was forgotten.
            held: Held { revision: head.forgotten, ..Held::default() },
            sequence: 0,
            author: DEVICE.to_owned(),
            created_at: now,
            changed_at: now,
        });
        let later =
            |why: &str| answered(change, Outcome::Later, &row.held, row.held.state(), Some(why.to_owned()));
        let stored;
        let base = match change.base {
            Some(0) => Base::Known(None),
            Some(base) if base == row.held.revision => Base::Known(row.held.value.as_ref()),
            Some(_) | None if row.held.has_taken(life, change.number) => Base::Unknown,
            Some(base) => {
                stored = db.document_revision(tx, device, (&change.collection, &change.name), base).await?;
                work = work.saturating_sub(weight(stored.as_ref().and_then(|row| row.value.as_ref())));
                stored.as_ref().map_or(Base::Unknown, |revision| Base::Known(revision.value.as_ref()))
            }
            None => Base::Unknown,
        };
        let read_only =
            book.is_read_only(&change.collection) || !may_write(Side::Edge, &change.collection, &change.name);
        let terms = Terms { rules: book.of(&change.collection), read_only, now };
        let taken = match take(&row.held, life, change, base, terms) {
            Ok(taken) => taken,
            Err(error) => {
                answers.push(later(&error.to_string()));
                continue;
            }
        };
        // A conflict about a document that is not there needs a row, too: that the change was taken is written there.
        let is_new = (row.held.value.is_none() && taken.held.value.is_some())
            || (!is_known && !taken.conflicts.is_empty());
        if is_new && room.documents == 0 {
            answers.push(later(&format!("a device has at most {MAX_DOCUMENTS} documents")));
            continue;
        }
        if taken.changed && taken.held.value.is_some() && room.bytes == 0 {
            let why = format!("the documents of a device have at most {MAX_DEVICE_BYTES} bytes together");
            answers.push(later(&why));
            continue;
        }
        if !taken.conflicts.is_empty() {
            let room = match &mut log_room {
                Some(room) => room,
                None => log_room.insert(db.room_for_conflicts(tx, device).await?),
            };
            match room.checked_sub(taken.conflicts.len()) {
                Some(left) => *room = left,
                // There is room with the next request, which comes at once because this change has no answer.
                None if !noted.is_empty() => continue,
                None => {
                    answers.push(later("too many conflicts of this device wait for somebody's choice"));
                    continue;
                }
            }
        }
        room.documents -= u64::from(is_new);
        let outcome = taken.outcome;
        let answer = answered(change, outcome, &taken.held, taken.state, None);
        budget = budget.saturating_sub(bytes(&answer.state));
        work = work.saturating_sub(weight(taken.held.value.as_ref()));
        work = work.saturating_sub(taken.conflicts.iter().map(conflict_weight).sum());
        answers.push(answer);
        let is_nothing = !is_known && !is_new && taken.held.value.is_none();
        if outcome == Outcome::Before || is_nothing {
            continue;
        }
        let mut row = row;
        if taken.changed {
            head.sequence += 1;
            row.sequence = head.sequence;
            row.changed_at = now;
            DEVICE.clone_into(&mut row.author);
            head.clock = taken.held.stamps.0.values().map(|stamp| stamp.at).fold(head.clock, Hlc::max);
        }
        noted
            .extend(taken.conflicts.into_iter().map(|conflict| (key.clone(), taken.held.revision, conflict)));
        row.held = taken.held;
        let cause = taken.changed.then_some(if outcome == Outcome::Accepted { "sync" } else { "merge" });
        written.push((row, cause));
    }
    db.write_documents(tx, device, &written).await?;
    for ((collection, name), revision, conflict) in &noted {
        db.add_conflict(tx, device, (collection, name), conflict, *revision, now).await?;
    }
    Ok((answers, noted.len()))
}

fn answered(change: &Change, outcome: Outcome, held: &Held, state: Now, why: Option<String>) -> Answered {
    Answered {
        number: change.number,
        collection: change.collection.clone(),
        name: change.name.clone(),
        outcome,
        revision: held.revision,
        state,
        why,
    }
}

async fn answer(
    peer: &DevicePeer,
    tx: &mut Tx,
    head: &Head,
    book: &RuleBook,
    request: &Request,
    answers: Vec<Answered>,
    now: UnixMs,
) -> ApiResult<Answer> {
    let (db, device) = (&peer.db, peer.device);
    let mut said = Answer {
        from: request.cursor,
        cursor: request.cursor,
        reset: reset(head, request.cursor),
        clock: head.clock.max(Hlc { ms: now.0, count: 0 }),
        read_only: book.read_only(),
        ..Answer::default()
    };
    if said.reset.is_some() {
        return Ok(said);
    }
    let wanted: Vec<(&str, &str)> =
        request.want.iter().map(|want| (want.collection.as_str(), want.name.as_str())).collect();
    let mut budget = MAX_EXCHANGE_BYTES;
    // What does not come is asked for again.
    for row in db.documents_within(tx, device, &wanted, budget).await?.0.into_values() {
        let delta = delta(row.into(), None);
        budget = budget.saturating_sub(bytes(&delta.state));
        said.documents.push(delta);
    }
    let known_now: BTreeSet<(&str, &str, u64)> = answers
        .iter()
        .filter(|answered| answered.outcome != Outcome::Later)
        .map(|answered| (answered.collection.as_str(), answered.name.as_str(), answered.revision))
        .collect();
    let (rows, more) = if request.cursor < head.sequence {
        db.documents_since(tx, device, request.cursor, MAX_CHANGES, budget).await?
    } else {
        (Vec::new(), false)
    };
    said.more = more;
    let known = if request.cursor == 0 {
        BTreeMap::new()
    } else {
        let names: Vec<(&str, &str)> = rows
            .iter()
            .filter(|row| row.revision > 1 && row.value.is_some())
            .map(|row| (row.collection.as_str(), row.name.as_str()))
            .collect();
        db.revisions_known(tx, device, request.cursor, &names).await?
    };
    for row in rows {
        let sequence = row.sequence;
        if !known_now.contains(&(row.collection.as_str(), row.name.as_str(), row.revision)) {
            let before = known.get(&(row.collection.clone(), row.name.clone()));
            let delta = delta(row, before.and_then(|(revision, value)| Some((*revision, value.as_ref()?))));
            let bytes = bytes(&delta.state);
            if bytes > budget && !said.documents.is_empty() {
                said.more = true;
                break;
            }
            budget = budget.saturating_sub(bytes);
            said.documents.push(delta);
        }
        said.cursor = sequence;
    }
    if !said.more {
        said.cursor = head.sequence;
    }
    said.answers = answers;
    Ok(said)
}

fn delta(row: ChangedRow, known: Option<(u64, &Value)>) -> Delta {
    let (from, state) = match (known, row.value) {
        (Some((from, before)), Some(value)) => (Some(from), Now::Patch(patch::diff(before, &value))),
        (None, Some(value)) => (None, Now::Value(value)),
        (_, None) => (None, Now::Deleted),
    };
    Delta { collection: row.collection, name: row.name, revision: row.revision, from, state }
}

fn bytes(state: &Now) -> usize {
    serde_json::to_string(state).map_or(0, |text| text.len())
}

fn weight(value: Option<&Value>) -> usize {
    value.and_then(|value| serde_json::to_string(value).ok()).map_or(0, |text| text.len())
}

fn conflict_weight(conflict: &Conflict) -> usize {
    [&conflict.base, &conflict.edge, &conflict.cloud].into_iter().map(|value| weight(value.as_ref())).sum()
}
