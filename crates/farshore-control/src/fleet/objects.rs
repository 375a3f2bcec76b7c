//! The five kinds of object that are only a specification: what each checks, and the handlers they share.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use farshore_api::fleet::{
    AppSpec, ChannelRelease, ChannelSpec, ChannelStatus, ConfigSpec, PinSpec, PlacementSpec,
};
use farshore_api::{ErrorCode, List, ListMetadata, NewObject, NoStatus, Object};
use farshore_domain::config;
use farshore_domain::name::Name;
use farshore_domain::object::API_VERSION;
use farshore_store::TenantDb;
use farshore_store::objects::{NewStored, ObjectKind, Stored};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::versioned;
use crate::settings::Settings;

/// One of the kinds: its specification, its status and its checks.
pub(crate) trait Kind: Serialize + DeserializeOwned + Send + Sync + 'static {
    const KIND: ObjectKind;
    type Status: Serialize + Send;

    /// What the type alone can't say; names the field and the fix.
    fn check(&self) -> ApiResult<()> {
        Ok(())
    }

    /// What the type can't say without what the server was started with.
    fn check_with(&self, _: &Settings) -> ApiResult<()> {
        Ok(())
    }

    /// What depends on everything else that is there.
    fn check_among(&self, _: &TenantDb, _: &Name) -> impl Future<Output = ApiResult<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// The statuses of a page of objects.
    fn statuses(
        db: &TenantDb,
        page: &[Stored<Self>],
    ) -> impl Future<Output = ApiResult<Vec<Self::Status>>> + Send;
}

async fn no_status<S>(page: &[Stored<S>]) -> ApiResult<Vec<NoStatus>> {
    Ok(page.iter().map(|_| NoStatus {}).collect())
}

/// At most this many apps that one app needs.
const MAX_NEEDED: usize = 32;

impl Kind for AppSpec {
    const KIND: ObjectKind = ObjectKind::App;
    type Status = NoStatus;

    fn check(&self) -> ApiResult<()> {
        if self.depends_on.len() > MAX_NEEDED {
            return Err(ApiError::field("spec.dependsOn", format!("names at most {MAX_NEEDED} apps")));
        }
        let unique: std::collections::BTreeSet<_> = self.depends_on.iter().collect();
        if unique.len() < self.depends_on.len() {
            return Err(ApiError::field("spec.dependsOn", "names an app twice"));
        }
        short("spec.description", &self.description)
    }

    async fn statuses(_: &TenantDb, page: &[Stored<Self>]) -> ApiResult<Vec<NoStatus>> {
        no_status(page).await
    }
}

impl Kind for PlacementSpec {
    const KIND: ObjectKind = ObjectKind::Placement;
    type Status = NoStatus;

    async fn statuses(_: &TenantDb, page: &[Stored<Self>]) -> ApiResult<Vec<NoStatus>> {
        no_status(page).await
    }
}

impl Kind for PinSpec {
    const KIND: ObjectKind = ObjectKind::Pin;
    type Status = NoStatus;

    fn check(&self) -> ApiResult<()> {
        short("spec.reason", &self.reason)?;
        if self.version.parse::<farshore_domain::version::Version>().is_err() {
            return Err(ApiError::field("spec.version", farshore_domain::version::VersionError.to_string()));
        }
        Ok(())
    }

    async fn statuses(_: &TenantDb, page: &[Stored<Self>]) -> ApiResult<Vec<NoStatus>> {
        no_status(page).await
    }
}

impl Kind for ConfigSpec {
    const KIND: ObjectKind = ObjectKind::Config;
    type Status = NoStatus;

    fn check(&self) -> ApiResult<()> {
        if self.values.len() + self.references.len() > config::MAX_VALUES {
            return Err(ApiError::field("spec.values", format!("has at most {} values", config::MAX_VALUES)));
        }
        if self.device.is_some() && self.selector.is_some() {
            return Err(ApiError::field(
                "spec.selector",
                "can't stand beside device: a config belongs to one layer",
            ));
        }
        for (key, value) in &self.values {
            config::check_pair(key, value)
                .map_err(|error| ApiError::field(format!("spec.values.{key}"), error.to_string()))?;
        }
        for (key, reference) in &self.references {
            let field = || format!("spec.references.{key}");
            reference.check(key).map_err(|error| ApiError::field(field(), error.to_string()))?;
            if self.values.contains_key(key) {
                return Err(ApiError::field(field(), "has a value already, in spec.values"));
            }
        }
        if self.app.is_some() && self.gateway.is_some() {
            let why = "can't stand beside app: it is for gateways, whatever apps there are";
            return Err(ApiError::field("spec.gateway", why));
        }
        Ok(())
    }

    fn check_with(&self, settings: &Settings) -> ApiResult<()> {
        let Some(text) = self.gateway.as_ref().and_then(|gateway| gateway.pipelines.as_ref()) else {
            return Ok(());
        };
        let refused = |why: String| ApiError::field("spec.gateway.pipelines", why);
        if text.len() > config::MAX_PIPELINES_BYTES {
            return Err(refused(format!("has at most {} bytes", config::MAX_PIPELINES_BYTES)));
        }
        (settings.check_pipelines)(text).map_err(refused)
    }

    async fn statuses(_: &TenantDb, page: &[Stored<Self>]) -> ApiResult<Vec<NoStatus>> {
        no_status(page).await
    }
}

impl Kind for ChannelSpec {
    const KIND: ObjectKind = ObjectKind::Channel;
    type Status = ChannelStatus;

    fn check(&self) -> ApiResult<()> {
        short("spec.description", &self.description)
    }

    async fn statuses(db: &TenantDb, page: &[Stored<Self>]) -> ApiResult<Vec<ChannelStatus>> {
        let mut tx = db.read().await?;
        let mut by_channel: BTreeMap<String, Vec<ChannelRelease>> = BTreeMap::new();
        for pointer in db.pointers(&mut tx).await? {
            let release =
                ChannelRelease { app: pointer.app, release: pointer.release.0, version: pointer.version };
            by_channel.entry(pointer.channel.to_string()).or_default().push(release);
        }
        let status = |stored: &Stored<Self>| ChannelStatus {
            releases: by_channel.remove(stored.metadata.name.as_str()).unwrap_or_default(),
        };
        Ok(page.iter().map(status).collect())
    }
}

fn short(field: &str, text: &str) -> ApiResult<()> {
    if text.len() > 4096 { Err(ApiError::field(field, "has at most 4096 characters")) } else { Ok(()) }
}

fn show<S: Kind>(stored: Stored<S>, status: S::Status) -> Object<S, S::Status> {
    Object {
        api_version: API_VERSION.to_owned(),
        kind: S::KIND.word().to_owned(),
        metadata: stored.metadata,
        spec: stored.spec,
        status,
    }
}

async fn show_one<S: Kind>(db: &TenantDb, stored: Stored<S>) -> ApiResult<Response> {
    let status = S::statuses(db, std::slice::from_ref(&stored)).await?.pop();
    let status = status.ok_or_else(|| ApiError::internal("an object without a status"))?;
    let version = stored.metadata.resource_version;
    Ok(versioned(version, &show(stored, status)))
}

/// `apiVersion` and `kind`, where they are sent, must be the address's.
pub(crate) fn check_envelope<S>(new: &NewObject<S>, kind: &str) -> ApiResult<()> {
    if new.api_version.as_deref().is_some_and(|v| v != API_VERSION) {
        return Err(ApiError::field("apiVersion", format!("is {API_VERSION}")));
    }
    if new.kind.as_deref().is_some_and(|k| k != kind) {
        return Err(ApiError::field("kind", format!("is {kind} at this address")));
    }
    if new.metadata.managed_by.as_deref().is_some_and(|m| m.is_empty() || m.len() > 64) {
        return Err(ApiError::field("metadata.managedBy", "has 1 to 64 characters"));
    }
    Ok(())
}

fn stored<S: Kind>(new: &NewObject<S>) -> ApiResult<NewStored<'_, S>> {
    check_envelope(new, S::KIND.word())?;
    new.spec.check()?;
    Ok(NewStored {
        name: &new.metadata.name,
        labels: &new.metadata.labels,
        managed_by: new.metadata.managed_by.as_deref().unwrap_or("api"),
        spec: &new.spec,
    })
}

pub(crate) async fn list<S: Kind>(
    db: &TenantDb,
    limit: Option<u32>,
    after: Option<&str>,
) -> ApiResult<Json<List<Object<S, S::Status>>>> {
    let limit = crate::extract::limit(limit)?;
    let page: Vec<Stored<S>> = db.objects(S::KIND, after, limit).await?;
    let full = page.len() == limit as usize;
    let continue_from = page.last().filter(|_| full).map(|last| last.metadata.name.to_string());
    let statuses = S::statuses(db, &page).await?;
    let items = page.into_iter().zip(statuses).map(|(stored, status)| show(stored, status)).collect();
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: None } }))
}

pub(crate) async fn get<S: Kind>(db: &TenantDb, id: &str) -> ApiResult<Response> {
    show_one(db, db.object::<S>(S::KIND, id).await?).await
}

fn changed<S: Kind>(app: &App, db: &TenantDb) {
    if S::KIND == ObjectKind::Config {
        app.pipelines().changed(db.tenant());
    }
    app.fleet().changed(db.tenant());
    app.events_written();
}

pub(crate) async fn create<S: Kind>(app: &App, db: &TenantDb, new: &NewObject<S>) -> ApiResult<Response> {
    let stored = stored(new)?;
    new.spec.check_with(app.settings())?;
    new.spec.check_among(db, &new.metadata.name).await?;
    let made = db.create_object(S::KIND, Uuid::now_v7(), stored, now()).await?;
    changed::<S>(app, db);
    Ok((StatusCode::CREATED, show_one(db, made).await?).into_response())
}

pub(crate) async fn replace<S: Kind>(
    app: &App,
    db: &TenantDb,
    id: &str,
    new: &NewObject<S>,
    expected: Option<i64>,
) -> ApiResult<Response> {
    let stored = stored(new)?;
    new.spec.check_with(app.settings())?;
    new.spec.check_among(db, &new.metadata.name).await?;
    let replaced = db.replace_object(S::KIND, id, stored, expected, now()).await?;
    changed::<S>(app, db);
    show_one(db, replaced).await
}

pub(crate) async fn delete<S: Kind>(
    app: &App,
    db: &TenantDb,
    id: &str,
    expected: Option<i64>,
) -> ApiResult<StatusCode> {
    if S::KIND == ObjectKind::Channel {
        refuse_used_channel(db, id).await?;
    }
    db.delete_object(S::KIND, id, expected, now()).await?;
    changed::<S>(app, db);
    Ok(StatusCode::NO_CONTENT)
}

async fn refuse_used_channel(db: &TenantDb, id: &str) -> ApiResult<()> {
    let channel: Stored<ChannelSpec> = db.object(ObjectKind::Channel, id).await?;
    let mut tx = db.read().await?;
    let used = db.fleet_devices(&mut tx).await?.iter().filter(|d| d.channel == channel.metadata.name).count();
    if used > 0 {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "{used} devices are in channel {}. Move them to another channel first.",
                channel.metadata.name
            ),
        ));
    }
    Ok(())
}
