//! Talking to one registry about one repository.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_domain::digest::Digest;
use farshore_domain::release::image::ImageRef;
use farshore_trust::provider;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, RANGE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::login::{Challenge, in_query, login};
use super::{Registries, RegistryError};
use crate::download::DownloadError;
use crate::file;
use crate::http::{Endpoint, HttpError, retry_after_ms};
use crate::oci::{self, MAX_DOCUMENT};

const MAX_ROOTS: u64 = 4 * 1024 * 1024;
const MAX_TOKEN: usize = 64 * 1024;
const MAX_REDIRECTS: usize = 5;
/// A registry that is busy is asked again so often, if it asks to wait no longer than this; else later, as everything that can't be fetched.
const MAX_WAITS: usize = 4;
const MAX_WAIT: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(30);

/// A registry.
pub(super) struct Session<'a> {
    settings: &'a Registries,
    image: &'a ImageRef,
    endpoint: Endpoint,
    tls: Arc<ClientConfig>,
    /// What is said about who this is, once the registry has asked.
    authorization: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Reads the root certificates that the device has.
fn tls(settings: &Registries) -> Result<ClientConfig, RegistryError> {
    let bad = |what: String| RegistryError::Settings { path: settings.roots.clone(), what };
    let pem = file::read_capped(&settings.roots, MAX_ROOTS).map_err(|error| bad(error.to_string()))?;
    let pem = pem.ok_or_else(|| bad("it is not there (Debian: ca-certificates)".to_owned()))?;
    let mut roots = RootCertStore::empty();
    let (good, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if good == 0 {
        return Err(bad("it holds no certificate".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(provider::ring()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| bad(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl<'a> Session<'a> {
    pub(super) fn new(settings: &'a Registries, image: &'a ImageRef) -> Result<Self, DownloadError> {
        // Where that name's registry really is.
        let host = if image.registry == "docker.io" { "registry-1.docker.io" } else { &image.registry };
        let endpoint = Endpoint::parse(&format!("https://{host}")).map_err(DownloadError::Http)?;
        let tls = Arc::new(tls(settings).map_err(DownloadError::Registry)?);
        Ok(Self { settings, image, endpoint, tls, authorization: None })
    }

    fn registry(&self) -> String {
        self.image.registry.clone()
    }

    fn strange(&self, what: impl Into<String>) -> DownloadError {
        DownloadError::Registry(RegistryError::Strange { registry: self.registry(), what: what.into() })
    }

    /// A document that names an image, its digest checked.
    pub(super) async fn manifest(&mut self, digest: Digest) -> Result<Vec<u8>, DownloadError> {
        let path = format!("/v2/{}/manifests/{digest}", self.image.repository);
        let response = self.ask(&path, 0).await?;
        let bytes = self.read(response, usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX)).await?;
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(DownloadError::Digest { expected: digest, found });
        }
        Ok(bytes.to_vec())
    }

    /// A blob, from this byte on; its body is still to be read, and to be checked.
    pub(super) async fn blob(
        &mut self,
        digest: Digest,
        from: u64,
    ) -> Result<Response<Incoming>, DownloadError> {
        let path = format!("/v2/{}/blobs/{digest}", self.image.repository);
        self.ask(&path, from).await
    }

    async fn read(&self, response: Response<Incoming>, most: usize) -> Result<Bytes, DownloadError> {
        let body = timeout(ANSWER, Limited::new(response.into_body(), most).collect()).await;
        let body =
            body.map_err(|_| DownloadError::Http(HttpError::Late { address: self.endpoint.authority() }))?;
        Ok(body.map_err(|error| DownloadError::Http(HttpError::Body(error)))?.to_bytes())
    }

    /// Asks for something of the repository until there is an answer: logs in when it is asked to, waits when it is asked to, follows where it is sent.
    async fn ask(&mut self, path: &str, from: u64) -> Result<Response<Incoming>, DownloadError> {
        let mut logins = 0;
        let mut waits = 0;
        loop {
            let (response, own) = self.follow(path, from).await?;
            let status = response.status();
            let registry = self.registry();
            let fails = |error| Err(DownloadError::Registry(error));
            match status {
                // Wherever the registry sends one on to learns no login.
                StatusCode::UNAUTHORIZED if !own => {
                    return fails(RegistryError::Status { registry, status: status.as_u16() });
                }
                StatusCode::UNAUTHORIZED if logins == 0 => {
                    logins += 1;
                    self.log_in(response.headers().clone()).await?;
                }
                StatusCode::UNAUTHORIZED => {
                    return fails(RegistryError::Unauthorized {
                        registry,
                        logins: self.settings.logins.clone(),
                    });
                }
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    let wait = retry_after_ms(response.headers()).map(Duration::from_millis);
                    match wait.filter(|wait| *wait <= MAX_WAIT && waits < MAX_WAITS) {
                        Some(wait) => {
                            waits += 1;
                            sleep(wait).await;
                        }
                        None if status == StatusCode::TOO_MANY_REQUESTS => {
                            let seconds = wait.unwrap_or(MAX_WAIT).as_secs();
                            return fails(RegistryError::Busy { registry, seconds });
                        }
                        None => return fails(RegistryError::Status { registry, status: status.as_u16() }),
                    }
                }
                StatusCode::FORBIDDEN => {
                    return fails(RegistryError::Forbidden { registry, status: status.as_u16() });
                }
                StatusCode::NOT_FOUND => {
                    return fails(RegistryError::Missing { registry, what: path.to_owned() });
                }
                _ if status.is_success() => return Ok(response),
                _ => return fails(RegistryError::Status { registry, status: status.as_u16() }),
            }
        }
    }

    /// One request, sent on wherever the registry keeps its blobs. Who this is, only the registry itself is told.
    /// Says with the answer whether it is the registry's own.
    async fn follow(&self, path: &str, from: u64) -> Result<(Response<Incoming>, bool), DownloadError> {
        let mut endpoint = self.endpoint.clone();
        let mut path = path.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::get(&path)
                .header("user-agent", "farshore-agent")
                .header("connection", "close")
                .header(ACCEPT, oci::ACCEPT);
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(authorization) = self.authorization.as_ref().filter(|_| endpoint == self.endpoint) {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let request = request.body(Full::default());
            let request = request.map_err(|error| DownloadError::Http(HttpError::Request(error)))?;
            let response =
                endpoint.send(Arc::clone(&self.tls), request).await.map_err(DownloadError::Http)?;
            if !response.status().is_redirection() {
                return Ok((response, endpoint == self.endpoint));
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let location = location.ok_or_else(|| self.strange("a redirection that leads nowhere"))?;
            if location.starts_with('/') && !location.starts_with("//") {
                path = location.to_owned();
            } else {
                (endpoint, path) =
                    split(location).ok_or_else(|| self.strange("a redirection away from HTTPS"))?;
            }
        }
        Err(self.strange("redirections without end"))
    }

    /// Does what the registry asks for with its 401.
    async fn log_in(&mut self, asked: HeaderMap) -> Result<(), DownloadError> {
        let known = login(&self.settings.logins, &self.image.registry).map_err(DownloadError::Registry)?;
        let mut asked = asked.get_all(WWW_AUTHENTICATE).iter();
        let challenge = asked.find_map(|asked| Challenge::parse(asked.to_str().ok()?));
        let unauthorized = || {
            DownloadError::Registry(RegistryError::Unauthorized {
                registry: self.registry(),
                logins: self.settings.logins.clone(),
            })
        };
        let text =
            match challenge.ok_or_else(|| self.strange("a login of another kind than Basic or Bearer"))? {
                Challenge::Basic => known.ok_or_else(unauthorized)?,
                Challenge::Bearer { realm, service, scope } => {
                    let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.image.repository));
                    let token = self.token(&realm, service.as_deref(), &scope, known).await?;
                    Zeroizing::new(format!("Bearer {}", token.as_str()))
                }
            };
        let mut value = HeaderValue::from_str(&text).map_err(|_| self.strange("a token that is no token"))?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(())
    }

    /// Has the registry's own authority say that this device may read.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        known: Option<Zeroizing<String>>,
    ) -> Result<Zeroizing<String>, DownloadError> {
        let (endpoint, path) = split(realm).ok_or_else(|| self.strange("a realm that is not HTTPS"))?;
        let mark = if path.contains('?') { '&' } else { '?' };
        let service = service.map(|service| format!("&service={}", in_query(service))).unwrap_or_default();
        let mut request = Request::get(format!("{path}{mark}scope={}{service}", in_query(scope)))
            .header("user-agent", "farshore-agent")
            .header("connection", "close");
        if let Some(known) = &known {
            let mut value =
                HeaderValue::from_str(known).map_err(|_| self.strange("a login that is no login"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::default());
        let request = request.map_err(|error| DownloadError::Http(HttpError::Request(error)))?;
        let response = endpoint.send(Arc::clone(&self.tls), request).await.map_err(DownloadError::Http)?;
        let registry = self.registry();
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let logins = self.settings.logins.clone();
                return Err(DownloadError::Registry(RegistryError::Unauthorized { registry, logins }));
            }
            status => {
                let status = status.as_u16();
                return Err(DownloadError::Registry(RegistryError::Status { registry, status }));
            }
        }
        let bytes = Zeroizing::new(self.read(response, MAX_TOKEN).await?.to_vec());
        let token: Option<Token> = serde_json::from_slice(&bytes).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        token.map(Zeroizing::new).ok_or_else(|| self.strange("an answer without a token"))
    }
}

/// An HTTPS address as its endpoint and its path with query.
fn split(url: &str) -> Option<(Endpoint, String)> {
    let endpoint = Endpoint::parse(url).ok()?;
    let uri: http::Uri = url.parse().ok()?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Some((endpoint, path))
}
