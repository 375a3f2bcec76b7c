//! `/api/apps`, `/api/placements`, `/api/channels`, `/api/pins`, `/api/configs`, `/api/policies`: the same five handlers for each kind.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use farshore_api::fleet::{
    App as AppObject, AppSpec, Channel, ChannelSpec, Config, ConfigSpec, Pin, PinSpec, Placement,
    PlacementSpec,
};
use farshore_api::policy::Policy;
use farshore_api::{List, NewObject, Problem};
use farshore_domain::access::Permission;
use farshore_domain::policy::PolicySpec;
use serde::Deserialize;

use super::{objects, preview};
use crate::app::App;
use crate::error::ApiResult;
use crate::extract::{Body, Query, if_match};
use crate::route::{Access, Db, Route, route};

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    #[serde(rename = "continue")]
    continue_from: Option<String>,
}

/// The handlers and rows of one kind. Each is written out, because the OpenAPI document names each path.
macro_rules! kind {
    ($module:ident, $path:literal, $item:literal, $spec:ty, $object:ty, $read:ident, $write:ident) => {
        mod $module {
            use super::*;

            #[doc = concat!("Lists ", stringify!($module), ".")]
            #[utoipa::path(get, path = $path, tag = "fleet", operation_id = concat!("list_", stringify!($module)), params(Page),
                responses((status = 200, body = List<$object>), (status = "4XX", body = Problem)))]
            pub(super) async fn list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<$object>>> {
                objects::list::<$spec>(&db, page.limit, page.continue_from.as_deref()).await
            }

            #[doc = concat!("Creates one of the ", stringify!($module), ".")]
            #[utoipa::path(post, path = $path, tag = "fleet", operation_id = concat!("create_", stringify!($module)), request_body = NewObject<$spec>,
                responses((status = 201, body = $object), (status = "4XX", body = Problem)))]
            pub(super) async fn create(
                State(app): State<App>,
                Db(db): Db,
                Body(new): Body<NewObject<$spec>>,
            ) -> ApiResult<Response> {
                objects::create(&app, &db, &new).await
            }

            #[doc = concat!("Shows one of the ", stringify!($module), ".")]
            #[utoipa::path(get, path = $item, tag = "fleet", operation_id = concat!("get_", stringify!($module)), params(("id" = String, Path)),
                responses((status = 200, body = $object), (status = "4XX", body = Problem)))]
            pub(super) async fn get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
                objects::get::<$spec>(&db, &id).await
            }

            #[doc = concat!("Replaces one of the ", stringify!($module), ".")]
            #[utoipa::path(put, path = $item, tag = "fleet", operation_id = concat!("replace_", stringify!($module)), params(("id" = String, Path)),
                request_body = NewObject<$spec>, responses((status = 200, body = $object), (status = "4XX", body = Problem)))]
            pub(super) async fn replace(
                State(app): State<App>,
                Db(db): Db,
                Path(id): Path<String>,
                headers: HeaderMap,
                Body(new): Body<NewObject<$spec>>,
            ) -> ApiResult<Response> {
                objects::replace(&app, &db, &id, &new, if_match(&headers)?).await
            }

            #[doc = concat!("Deletes one of the ", stringify!($module), ".")]
            #[utoipa::path(delete, path = $item, tag = "fleet", operation_id = concat!("delete_", stringify!($module)), params(("id" = String, Path)),
                responses((status = 204), (status = "4XX", body = Problem)))]
            pub(super) async fn delete(
                State(app): State<App>,
                Db(db): Db,
                Path(id): Path<String>,
                headers: HeaderMap,
            ) -> ApiResult<StatusCode> {
                objects::delete::<$spec>(&app, &db, &id, if_match(&headers)?).await
            }

            pub(super) fn rows() -> [Route; 5] {
                let (read, write) = (Access::Needs(Permission::$read), Access::Needs(Permission::$write));
                [
                    route(Method::GET, $path, read, list),
                    route(Method::POST, $path, write, create),
                    route(Method::GET, $item, read, get),
                    route(Method::PUT, $item, write, replace),
                    route(Method::DELETE, $item, write, delete),
                ]
            }
        }
    };
}

kind!(apps, "/api/apps", "/api/apps/{id}", AppSpec, AppObject, FleetRead, FleetWrite);
kind!(placements, "/api/placements", "/api/placements/{id}", PlacementSpec, Placement, FleetRead, FleetWrite);
kind!(channels, "/api/channels", "/api/channels/{id}", ChannelSpec, Channel, FleetRead, FleetWrite);
kind!(pins, "/api/pins", "/api/pins/{id}", PinSpec, Pin, FleetRead, FleetWrite);
kind!(policies, "/api/policies", "/api/policies/{id}", PolicySpec, Policy, PolicyRead, PolicyWrite);
kind!(configs, "/api/configs", "/api/configs/{id}", ConfigSpec, Config, FleetRead, FleetWrite);

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(
    apps::list,
    apps::create,
    apps::get,
    apps::replace,
    apps::delete,
    placements::list,
    placements::create,
    placements::get,
    placements::replace,
    placements::delete,
    channels::list,
    channels::create,
    channels::get,
    channels::replace,
    channels::delete,
    pins::list,
    pins::create,
    pins::get,
    pins::replace,
    pins::delete,
    configs::list,
    configs::create,
    configs::get,
    configs::replace,
    configs::delete,
    policies::list,
    policies::create,
    policies::get,
    policies::replace,
    policies::delete,
    super::policies::versions,
    super::policies::preview,
    super::policies::of_device
))]
pub struct FleetDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    [apps::rows(), placements::rows(), channels::rows(), pins::rows(), configs::rows(), policies::rows()]
        .into_iter()
        .flatten()
        .chain(super::policies::rows())
        .chain([preview::row()])
        .collect()
}
