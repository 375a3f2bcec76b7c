//! The few calls of the Kubernetes API that are needed, over the agent's own HTTP client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_domain::time::UnixMs;
use farshore_trust::certificate::chain_from_pem;
use farshore_trust::clock::FlooredClock;
use farshore_trust::tls::client_config;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::{Value, json};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::super::super::allowed::Kubernetes;
use super::objects::{Key, Wanted};
use crate::http::{Endpoint, MAX_ANSWER_BYTES};
use crate::{clock, file};

/// Who changes fields, as the cluster notes it beside each.
const MANAGER: &str = "farshore";
const ANSWER: Duration = Duration::from_secs(30);
const MAX_SECRET: u64 = 256 * 1024;

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// Nobody there, which says nothing about the objects.
    #[error("the cluster's API can't be reached: {0}")]
    Unreachable(String),
    #[error("the device's settings of the cluster can't be used: {0}")]
    Settings(String),
    #[error("{what}: {said} ({status})")]
    Refused { what: String, status: u16, said: String },
}

/// What kinds a group and version has.
#[derive(Clone, Debug)]
struct Resource {
    plural: String,
    namespaced: bool,
}

/// The cluster's API.
pub(super) struct Api {
    endpoint: Endpoint,
    settings: Kubernetes,
    tls: Arc<rustls::ClientConfig>,
    /// By apiVersion, then by kind.
    known: BTreeMap<String, BTreeMap<String, Resource>>,
}

impl Api {
    /// Reads the cluster's root certificate. The token is read for each call: it is renewed under its reader.
    pub(super) fn new(settings: &Kubernetes) -> Result<Self, ApiError> {
        let bad = |error: &dyn std::fmt::Display| ApiError::Settings(error.to_string());
        let endpoint = Endpoint::parse(&settings.server).map_err(|error| bad(&error))?;
        let pem = file::read_capped(&settings.ca_file, MAX_SECRET).map_err(|error| bad(&error))?;
        let pem = pem.ok_or_else(|| bad(&format!("{} is missing", settings.ca_file.display())))?;
        let roots =
            chain_from_pem(&String::from_utf8_lossy(&pem)).map_err(|error| bad(&crate::chain(&error)))?;
        let clock = FlooredClock::new(clock::wall, UnixMs(0));
        let tls = client_config(&roots, None, clock).map_err(|error| bad(&crate::chain(&error)))?;
        Ok(Self { endpoint, settings: settings.clone(), tls: Arc::new(tls), known: BTreeMap::new() })
    }

    fn token(&self) -> Result<Zeroizing<String>, ApiError> {
        let path = &self.settings.token_file;
        let read = file::read_capped(path, MAX_SECRET);
        let bytes = read.ok().flatten().map(Zeroizing::new);
        let text = bytes.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok());
        let token =
            text.map(str::trim).filter(|token| !token.is_empty() && !token.contains(char::is_whitespace));
        let token = token.ok_or_else(|| ApiError::Settings(format!("{} holds no token", path.display())))?;
        Ok(Zeroizing::new(token.to_owned()))
    }

    /// One call. `None`: the object is not there.
    async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Option<Value>, ApiError> {
        let token = self.token()?;
        let what = format!("{method} {}", path.split('?').next().unwrap_or_default());
        let bad = |error: &dyn std::fmt::Display| ApiError::Settings(error.to_string());
        let bytes = body.map(serde_json::to_vec).transpose().map_err(|error| bad(&error))?;
        let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
        let mut authorization =
            http::HeaderValue::from_str(&bearer).map_err(|_| bad(&"the token is no token"))?;
        authorization.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("accept", "application/json")
            .header("user-agent", "farshore-agent")
            .header("connection", "close")
            .header("content-type", content_type)
            .header("authorization", authorization)
            .body(Full::new(Bytes::from(bytes.unwrap_or_default())))
            .map_err(|error| bad(&error))?;
        let unreachable = ApiError::Unreachable;
        let response = self.endpoint.send(Arc::clone(&self.tls), request).await;
        let response = response.map_err(|error| unreachable(crate::chain(&error)))?;
        let status = response.status();
        let read = timeout(ANSWER, Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect()).await;
        let read = read.map_err(|_| unreachable(format!("{what} took too long")))?;
        let bytes = read.map_err(|error| unreachable(format!("{what}: {error}")))?.to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            _ if status.is_success() => Ok(Some(answer)),
            // The API is there and can't answer now, as while it starts: as good as not there.
            _ if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                Err(unreachable(format!("{what} was answered {status}")))
            }
            _ => {
                let said = answer["message"].as_str().unwrap_or("without a reason");
                let said = said.chars().take(500).collect();
                Err(ApiError::Refused { what, status: status.as_u16(), said })
            }
        }
    }

    /// What the cluster knows of this kind.
    async fn resource(&mut self, key: &Key) -> Result<Resource, ApiError> {
        if !self.known.contains_key(&key.api_version) {
            let path = base(&key.api_version);
            let list = self.call(Method::GET, &path, "application/json", None).await?.unwrap_or_default();
            let entry = |one: &Value| {
                let plural = one["name"].as_str().filter(|name| !name.contains('/'))?;
                let good = plural.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                let resource = Resource {
                    plural: plural.to_owned(),
                    namespaced: one["namespaced"].as_bool().unwrap_or(false),
                };
                good.then(|| Some((one["kind"].as_str()?.to_owned(), resource)))?
            };
            let kinds = list["resources"].as_array().into_iter().flatten().filter_map(entry).collect();
            self.known.insert(key.api_version.clone(), kinds);
        }
        let found = self.known.get(&key.api_version).and_then(|kinds| kinds.get(&key.kind)).cloned();
        if found.is_none() {
            // It may come with a definition that is applied before it.
            self.known.remove(&key.api_version);
        }
        found.ok_or_else(|| ApiError::Refused {
            what: key.to_string(),
            status: 404,
            said: format!("the cluster knows no {} of {}", key.kind, key.api_version),
        })
    }

    /// Whether objects of this kind have a namespace.
    pub(super) async fn namespaced(&mut self, key: &Key) -> Result<bool, ApiError> {
        Ok(self.resource(key).await?.namespaced)
    }

    async fn path(&mut self, key: &Key) -> Result<String, ApiError> {
        let Resource { plural, namespaced } = self.resource(key).await?;
        let base = base(&key.api_version);
        Ok(if namespaced {
            format!("{base}/namespaces/{}/{plural}/{}", key.namespace, key.name)
        } else {
            format!("{base}/{plural}/{}", key.name)
        })
    }

    /// The object as the cluster has it.
    pub(super) async fn get(&mut self, key: &Key) -> Result<Option<Value>, ApiError> {
        let path = self.path(key).await?;
        self.call(Method::GET, &path, "application/json", None).await
    }

    /// Server-side apply: the fields that are named become ours, all others stay whose they are.
    pub(super) async fn apply(&mut self, wanted: &Wanted) -> Result<Value, ApiError> {
        let path = self.path(&wanted.key).await?;
        let path = format!("{path}?fieldManager={MANAGER}&force=true&fieldValidation=Strict");
        // JSON is YAML.
        let applied =
            self.call(Method::PATCH, &path, "application/apply-patch+yaml", Some(&wanted.body)).await?;
        applied.ok_or_else(|| ApiError::Refused {
            what: format!("applying {}", wanted.key),
            status: 404,
            said: format!("there is no namespace {:?}", wanted.key.namespace),
        })
    }

    /// Deletes this very object, not another one that has got its name. Fine when it is gone.
    pub(super) async fn delete(&mut self, key: &Key, uid: &str) -> Result<(), ApiError> {
        let path = match self.path(key).await {
            Ok(path) => path,
            // Its kind is gone, and all of its objects with it.
            Err(ApiError::Refused { status: 404, .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        });
        match self.call(Method::DELETE, &path, "application/json", Some(&options)).await {
            Ok(_) => Ok(()),
            // Somebody else's by now.
            Err(ApiError::Refused { status: 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn base(api_version: &str) -> String {
    if api_version.contains('/') { format!("/apis/{api_version}") } else { format!("/api/{api_version}") }
}
