//! What carries decisions out: the runner on a real device, a model of one in a virtual fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use farshore_domain::digest::Digest;
use farshore_domain::id::{ReleaseId, TenantId};
use farshore_domain::name::Name;
use farshore_domain::policy::Bounds;
use farshore_domain::reconcile::Observed;
use farshore_domain::release::image::ImageRef;
use farshore_domain::release::{ArtifactRef, HealthCheck, Manifest, Probe};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::download::{DownloadError, Downloads};
use crate::registry::Registries;
use crate::runner::{Anchor, ClientError, Ended, Order, Reply, Request, RunnerClient, Signed, SignedState};

/// Why something was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExecutorError {
    /// One word for programs.
    pub code: String,
    pub message: String,
    /// What was asked for is bad; asking again will not help.
    pub refused: bool,
    /// Nobody is there who could do it.
    pub unreachable: bool,
}

/// A release to be fetched, verified and unpacked.
#[derive(Clone, Debug)]
pub struct StageRequest {
    pub app: Name,
    pub manifest: Signed,
    pub artifact: ArtifactRef,
    /// Bytes fetched so far.
    pub progress: Arc<AtomicU64>,
}

/// A staged release to be started.
#[derive(Clone, Debug)]
pub struct StartRequest {
    pub app: Name,
    pub manifest: Digest,
    pub release: ReleaseId,
    pub instance: u64,
    pub config: BTreeMap<String, String>,
    /// What the device's policy says about running it.
    pub bounds: Bounds,
    /// In the slot that is not the current one.
    pub beside: bool,
}

/// What a health check said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    Good,
    Bad(String),
    /// It could not be asked, which says nothing about the app.
    Unknown(String),
}

/// Carries decisions out. Each call is about one app and is not repeated while it is under way.
pub trait Executor: Send + Sync + 'static {
    /// Words for `hello`.
    fn capabilities(&self) -> impl Future<Output = Result<Vec<String>, ExecutorError>> + Send;
    /// Whom to trust; told again after each (re)start.
    fn trust(
        &self,
        tenant: TenantId,
        name: Name,
        sets: Vec<Signed>,
    ) -> impl Future<Output = Result<(), ExecutorError>> + Send;
    /// What is staged and what runs.
    fn list(&self) -> impl Future<Output = Result<BTreeMap<Name, Observed>, ExecutorError>> + Send;
    fn stage(&self, request: StageRequest) -> impl Future<Output = Result<(), ExecutorError>> + Send;
    /// Deletes what was fetched for releases other than these, and not staged.
    fn keep_downloads(&self, _: BTreeSet<Digest>) -> impl Future<Output = Result<(), ExecutorError>> + Send {
        std::future::ready(Ok(()))
    }
    fn start(&self, request: StartRequest) -> impl Future<Output = Result<(), ExecutorError>> + Send;
    /// Stops everything of an app, or one instance of it.
    fn stop(
        &self,
        app: Name,
        instance: Option<u64>,
    ) -> impl Future<Output = Result<(), ExecutorError>> + Send;
    /// Makes the slot of this instance the current one, and sends the traffic to it.
    fn switch(&self, app: Name, instance: u64) -> impl Future<Output = Result<(), ExecutorError>> + Send;
    fn remove(&self, app: Name) -> impl Future<Output = Result<(), ExecutorError>> + Send;
    fn discard(&self, app: Name, keep: Vec<Digest>)
    -> impl Future<Output = Result<(), ExecutorError>> + Send;
    fn commit(&self, app: Name, manifest: Digest) -> impl Future<Output = Result<(), ExecutorError>> + Send;
    /// One health check, of one instance where there may be two.
    fn probe(
        &self,
        app: Name,
        instance: Option<u64>,
        check: HealthCheck,
        env: Arc<BTreeMap<String, String>>,
    ) -> impl Future<Output = ProbeAnswer> + Send;
    /// Deletes rotated log files of an app that were last written so many seconds ago; without a number, all of them.
    fn cut_logs(
        &self,
        app: Name,
        older_than_seconds: Option<u32>,
    ) -> impl Future<Output = Result<(), ExecutorError>> + Send;
    /// Reboots the device.
    fn reboot(&self) -> impl Future<Output = Result<(), ExecutorError>> + Send;
    /// The end of the app's output.
    fn logs(&self, app: Name, bytes: u32) -> impl Future<Output = Result<String, ExecutorError>> + Send;
    /// Whom to believe about what this device may be asked, and what they signed last.
    fn obey(
        &self,
        _: Anchor,
        _: Option<SignedState>,
    ) -> impl Future<Output = Result<(), ExecutorError>> + Send {
        std::future::ready(Ok(()))
    }
    /// Runs a command from afar; `output` gets what it says as it comes. Dropping the future ends the command.
    fn exec(
        &self,
        _: Order,
        _: Arc<dyn Fn(Vec<u8>) + Send + Sync>,
    ) -> impl Future<Output = Result<Ended, ExecutorError>> + Send {
        std::future::ready(Err(ExecutorError {
            code: "Unsupported".to_owned(),
            message: "nothing here runs commands".to_owned(),
            refused: true,
            unreachable: false,
        }))
    }
}

/// Real apps, by way of the runner.
#[derive(Debug)]
pub struct RunnerExecutor {
    runner: RunnerClient,
    downloads: Downloads,
    registries: Registries,
}

impl RunnerExecutor {
    #[must_use]
    pub fn new(socket: PathBuf, downloads: Downloads, registries: Registries) -> Self {
        Self { runner: RunnerClient::new(socket), downloads, registries }
    }

    /// Fetches the images that a release names.
    async fn images(&self, images: &[ImageRef], downloads: &Downloads) -> Result<(), DownloadError> {
        for image in images {
            if let Err(error) = self.registries.pull(image, downloads).await {
                tracing::info!(%image, error = %crate::chain(&error), "an image can't be fetched yet");
                return Err(error);
            }
        }
        Ok(())
    }
}

impl From<ClientError> for ExecutorError {
    fn from(error: ClientError) -> Self {
        let message = crate::chain(&error);
        match error {
            ClientError::Failed { code, refused, .. } => Self { code, message, refused, unreachable: false },
            _ => Self { code: "RunnerUnreachable".to_owned(), message, refused: false, unreachable: true },
        }
    }
}

impl From<DownloadError> for ExecutorError {
    fn from(error: DownloadError) -> Self {
        let refused = error.is_refusal();
        Self { code: error.code().to_owned(), message: crate::chain(&error), refused, unreachable: false }
    }
}

fn confused() -> ExecutorError {
    ClientError::Confused.into()
}

impl Executor for RunnerExecutor {
    async fn capabilities(&self) -> Result<Vec<String>, ExecutorError> {
        match self.runner.ask(&Request::Hello {}).await? {
            Reply::Hello { capabilities, .. } => Ok(capabilities),
            _ => Err(confused()),
        }
    }

    async fn trust(&self, tenant: TenantId, name: Name, sets: Vec<Signed>) -> Result<(), ExecutorError> {
        Ok(self.runner.done(&Request::Trust { tenant, name, sets }).await?)
    }

    async fn list(&self) -> Result<BTreeMap<Name, Observed>, ExecutorError> {
        match self.runner.ask(&Request::List {}).await? {
            Reply::Apps { apps } => Ok(apps),
            _ => Err(confused()),
        }
    }

    async fn stage(&self, request: StageRequest) -> Result<(), ExecutorError> {
        let StageRequest { manifest, artifact, progress, .. } = request;
        let downloads = self.downloads.of(Digest::of(&manifest.document))?;
        let path = downloads.fetch(&artifact, &progress).await?;
        // What can't be read the runner refuses, with its reason.
        let images = Manifest::parse(&manifest.document).map(|manifest| manifest.registry_images());
        let images = images.unwrap_or_default();
        self.images(&images, &downloads).await?;
        let folder = (!images.is_empty()).then(|| downloads.folder().to_path_buf());
        let staged = self.runner.done(&Request::Stage { manifest, artifact: path, images: folder }).await;
        // Unpacked or bad: either way what was fetched has done its work. Only a runner that is away gets it again.
        let again = matches!(&staged, Err(error) if !matches!(error, ClientError::Failed { .. }));
        if !again {
            downloads.clear().await?;
        }
        progress.store(artifact.size, Ordering::Relaxed);
        Ok(staged?)
    }

    async fn keep_downloads(&self, wanted: BTreeSet<Digest>) -> Result<(), ExecutorError> {
        Ok(self.downloads.keep_only(&wanted).await?)
    }

    async fn start(&self, request: StartRequest) -> Result<(), ExecutorError> {
        let StartRequest { app, manifest, release, instance, config, bounds, beside } = request;
        let request = Request::Start { app, manifest, release, instance, config, bounds, beside };
        Ok(self.runner.done(&request).await?)
    }

    async fn stop(&self, app: Name, instance: Option<u64>) -> Result<(), ExecutorError> {
        let request = match instance {
            None => Request::Stop { app },
            Some(instance) => Request::StopOne { app, instance },
        };
        Ok(self.runner.done(&request).await?)
    }

    async fn switch(&self, app: Name, instance: u64) -> Result<(), ExecutorError> {
        Ok(self.runner.done(&Request::Switch { app, instance }).await?)
    }

    async fn remove(&self, app: Name) -> Result<(), ExecutorError> {
        Ok(self.runner.done(&Request::Remove { app }).await?)
    }

    async fn discard(&self, app: Name, keep: Vec<Digest>) -> Result<(), ExecutorError> {
        Ok(self.runner.done(&Request::Discard { app, keep }).await?)
    }

    async fn commit(&self, app: Name, manifest: Digest) -> Result<(), ExecutorError> {
        Ok(self.runner.done(&Request::Commit { app, manifest }).await?)
    }

    async fn probe(
        &self,
        app: Name,
        instance: Option<u64>,
        check: HealthCheck,
        env: Arc<BTreeMap<String, String>>,
    ) -> ProbeAnswer {
        let limit = Duration::from_secs(u64::from(check.timeout_seconds));
        let asked = match &check.probe {
            Probe::Http { port, path } => match port.resolve(&env) {
                Some(port) => timeout(limit, http_probe(port, path)).await,
                None => return ProbeAnswer::Bad("its port is not set".to_owned()),
            },
            Probe::Tcp { port } => match port.resolve(&env) {
                Some(port) => timeout(limit, tcp_probe(port)).await,
                None => return ProbeAnswer::Bad("its port is not set".to_owned()),
            },
            Probe::Command { .. } => {
                let request = Request::Probe { app, check: check.name.clone(), instance };
                let asked = self.runner.ask(&request).await;
                return match asked {
                    Ok(Reply::Probed { good: true, .. }) => ProbeAnswer::Good,
                    Ok(Reply::Probed { message, .. }) => ProbeAnswer::Bad(message),
                    Ok(_) => ProbeAnswer::Unknown(confused().message),
                    Err(error) => ProbeAnswer::Unknown(crate::chain(&error)),
                };
            }
        };
        match asked {
            Ok(Ok(())) => ProbeAnswer::Good,
            Ok(Err(message)) => ProbeAnswer::Bad(message),
            Err(_) => ProbeAnswer::Bad(format!("no answer within {} s", limit.as_secs())),
        }
    }

    async fn cut_logs(&self, app: Name, older_than_seconds: Option<u32>) -> Result<(), ExecutorError> {
        Ok(self.runner.done(&Request::CutLogs { app, older_than_seconds }).await?)
    }

    async fn reboot(&self) -> Result<(), ExecutorError> {
        Ok(self.runner.done(&Request::Reboot {}).await?)
    }

    async fn logs(&self, app: Name, bytes: u32) -> Result<String, ExecutorError> {
        match self.runner.ask(&Request::Logs { app, bytes }).await? {
            Reply::Logs { text } => Ok(text),
            _ => Err(confused()),
        }
    }

    async fn obey(&self, anchor: Anchor, state: Option<SignedState>) -> Result<(), ExecutorError> {
        Ok(self.runner.done(&Request::Obey { anchor, state }).await?)
    }

    async fn exec(
        &self,
        order: Order,
        output: Arc<dyn Fn(Vec<u8>) + Send + Sync>,
    ) -> Result<Ended, ExecutorError> {
        Ok(self.runner.exec(order, move |bytes| output(bytes)).await?)
    }
}

/// A TCP connection to `127.0.0.1:<port>` is accepted.
async fn tcp_probe(port: u16) -> Result<(), String> {
    TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(|error| error.to_string())
}

/// `GET http://127.0.0.1:<port><path>` answers 200 to 399. The body is not read.
async fn http_probe(port: u16, path: &str) -> Result<(), String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|error| error.to_string())?;
    let request = http::Request::get(path)
        .header("host", format!("127.0.0.1:{port}"))
        .header("user-agent", "farshore-agent")
        .header("connection", "close")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .map_err(|error| error.to_string())?;
    let mut response = std::pin::pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // A server that answers and closes at once ends the connection in the same moment: the answer still counts.
        _ = connection => response.await,
    };
    let status = response.map_err(|error| crate::chain(&error))?.status();
    if (200..400).contains(&status.as_u16()) { Ok(()) } else { Err(format!("it answered {status}")) }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Probes a service that answers each request with `answer` and hangs up.
    async fn probe(answer: &'static str) -> Result<(), String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let count = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let answered = http_probe(port, "/healthz").await;
        assert!(served.await.unwrap().starts_with("GET /healthz HTTP/1.1\r\n"));
        answered
    }

    #[tokio::test]
    async fn a_service_that_answers_and_hangs_up_is_judged_by_its_answer() {
        for _ in 0..50 {
            let good = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nok\n";
            assert_eq!(probe(good).await, Ok(()));
        }
        assert_eq!(probe("HTTP/1.0 302 Found\r\nlocation: /x\r\n\r\n").await, Ok(()));
        let bad = probe("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(bad, Err("it answered 503 Service Unavailable".to_owned()));
        assert!(probe("").await.is_err());
        assert!(probe("SSH-2.0-OpenSSH_9.2\r\n").await.is_err());
    }
}
