//! A change in the cloud: the document, its revision, and the event in one transaction.

use farshore_api::ErrorCode;
use farshore_domain::document::hub::Held;
use farshore_domain::document::{
    MAX_DEVICE_BYTES, MAX_DOCUMENTS, Side, Stamp, TWIN, check_names, may_write, tidy,
};
use farshore_domain::id::DeviceId;
use farshore_domain::time::UnixMs;
use farshore_store::TenantDb;
use farshore_store::db::Tx;
use farshore_store::documents::DocumentRow;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult};

/// Names of a document, and why it is changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) device: DeviceId,
    pub(super) collection: &'a str,
    pub(super) name: &'a str,
    pub(super) cause: &'static str,
}

pub(super) fn names(collection: &str, name: &str) -> ApiResult<()> {
    check_names(collection, name).map_err(|error| ApiError::field("name", error.to_string()))
}

/// Changes a document to what `change` makes of it; `None`: deletes it.
pub(super) async fn edit(
    app: &App,
    db: &TenantDb,
    target: Target<'_>,
    expected: Option<i64>,
    now: UnixMs,
    change: impl FnOnce(Option<&Value>) -> ApiResult<Option<Value>> + Send,
) -> ApiResult<DocumentRow> {
    let mut tx = db.begin().await?;
    let (row, changed) = edit_in(db, &mut tx, target, expected, now, change).await?;
    tx.commit().await?;
    if changed {
        told(app, db, target.device);
        if target.collection == TWIN {
            app.fleet().twin_changed(db.tenant(), target.device);
        }
    }
    Ok(row)
}

/// Tells whom it concerns, after the commit.
pub(super) fn told(app: &App, db: &TenantDb, device: DeviceId) {
    app.documents().changed(db.tenant(), device);
    app.hub().changed(db.tenant(), device);
    app.events_written();
}

/// The same in a transaction that does more. Returns whether anything is different.
pub(super) async fn edit_in(
    db: &TenantDb,
    tx: &mut Tx,
    Target { device, collection, name, cause }: Target<'_>,
    expected: Option<i64>,
    now: UnixMs,
    change: impl FnOnce(Option<&Value>) -> ApiResult<Option<Value>> + Send,
) -> ApiResult<(DocumentRow, bool)> {
    names(collection, name)?;
    if !may_write(Side::Cloud, collection, name) {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            "What a device reports is written by the device alone. Change desired.",
        ));
    }
    let mut head = db.lock_documents(tx, device).await?;
    let mut found = db.documents_named(tx, device, &[(collection, name)]).await?;
    let row = found.remove(&(collection.to_owned(), name.to_owned()));
    let current = row.as_ref().map_or(0, |row| row.held.revision.cast_signed());
    if let Some(expected) = expected.filter(|expected| *expected != current) {
        return Err(farshore_store::StoreError::VersionMismatch { expected, current }.into());
    }
    let there = row.as_ref().is_some_and(|row| row.held.value.is_some());
    let mut row = row.unwrap_or_else(|| DocumentRow {
        collection: collection.to_owned(),
        name: name.to_owned(),
        // Higher than any revision of a document of this name that was forgotten.
        held: Held { revision: head.forgotten, ..Held::default() },
        sequence: 0,
        author: String::new(),
        created_at: now,
        changed_at: now,
    });
    let value = change(row.held.value.as_ref())?;
    let value = value.map(tidy).transpose().map_err(|error| ApiError::field("value", error.to_string()))?;
    if value.is_none() && !there {
        return Err(ApiError::not_found("document", &format!("{collection}/{name}")));
    }
    if !there {
        let room = db.document_room(tx, device).await?;
        if room.documents == 0 || room.bytes == 0 {
            let why = format!(
                "A device has at most {MAX_DOCUMENTS} documents, of {MAX_DEVICE_BYTES} bytes together."
            );
            return Err(ApiError::new(ErrorCode::Conflict, why));
        }
    }
    let deleted = value.is_none();
    head.clock = head.clock.next(now);
    let by = db.actor().0.clone();
    if !row.held.write(value, &Stamp { at: head.clock, by: by.clone() }) {
        return Ok((row, false));
    }
    head.sequence += 1;
    row.sequence = head.sequence;
    row.author = by;
    row.changed_at = now;
    let what = if deleted {
        "deleted"
    } else if there {
        "changed"
    } else {
        "created"
    };
    let told = json!({"collection": collection, "name": name, "revision": row.held.revision, "cause": cause});
    let said = format!("document {collection}/{name} was {what}");
    db.document_event(tx, device, "device.document-changed", said, told, now).await?;
    let rows = [(row, Some(cause))];
    db.write_documents(tx, device, &rows).await?;
    db.write_document_head(tx, device, &head).await?;
    let [(row, _)] = rows;
    Ok((row, true))
}
