//! Images from a registry: a small one of our own (real TLS, tokens, ranges, redirections), which lies and fails as it is told to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use farshore_agent::clock::wall;
use farshore_agent::runner::Request as Ask;
use farshore_agent::{DownloadError, Downloads, Executor as _, Registries, RunnerExecutor, StageRequest};
use farshore_domain::digest::Digest;
use farshore_domain::release::image::ImageRef;
use farshore_domain::release::{ArtifactFormat, ArtifactRef};
use farshore_trust::authority::{Authority, Issuer};
use farshore_trust::certificate::chain_to_pem;
use farshore_trust::identity::TrustDomain;
use farshore_trust::tls::{ServerCertificate, api_server_config};
use futures_util::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::bed::{Bed, refused, web};
use crate::container::image;
use crate::containerd::Containerd;
use crate::plane::Plane;
use crate::release::{Release, tar};
use crate::wait::until;

const TOKEN: &str = "a-token-of-the-registry";
const LOGIN: &str = "till:secret";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    /// Other bytes of the same length.
    Swapped,
    /// More than it should be.
    Longer,
    /// Breaks off after so many bytes.
    CutAfter(usize),
    /// Asks to wait so many seconds, once.
    Busy(u64),
    /// Sends on to another server, which has it.
    Elsewhere,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Login {
    #[default]
    None,
    Basic,
    Token,
}

#[derive(Default)]
struct Book {
    /// Body and type by path.
    served: BTreeMap<String, (Vec<u8>, String)>,
    moods: BTreeMap<String, Mood>,
    login: Login,
    /// Path and range of each request that was let in.
    asked: Vec<(String, Option<String>)>,
    elsewhere: Option<String>,
    /// What was said about who asks, to whom it was none of their business.
    overheard: Vec<String>,
    is_elsewhere: bool,
}

struct Registry {
    book: Mutex<Book>,
    port: u16,
    roots: PathBuf,
    acceptor: TlsAcceptor,
    serving: Mutex<Option<tokio::task::JoinHandle<()>>>,
    _folder: tempfile::TempDir,
}

type Body = BoxBody<Bytes, std::io::Error>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

fn answer(status: u16, bytes: impl Into<Bytes>) -> Response<Body> {
    Response::builder().status(status).body(full(bytes)).unwrap()
}

impl Registry {
    async fn start() -> Arc<Self> {
        farshore_trust::provider::install();
        let domain = TrustDomain::new("registry.test").unwrap();
        let made = Authority::generate(&domain, wall()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("roots.pem");
        std::fs::write(&roots, chain_to_pem([&made.root_cert])).unwrap();
        let issuer =
            Issuer::new(domain, made.root_cert, made.intermediate_cert, made.intermediate_key).unwrap();
        let server =
            issuer.issue_server(&["127.0.0.1".to_owned()], wall(), Duration::from_secs(3600)).unwrap();
        let certificate = ServerCertificate::new(server.certificate.chain, &server.key).unwrap();
        let mut tls = api_server_config(certificate).unwrap();
        tls.alpn_protocols.clear();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Arc::new(Self {
            book: Mutex::default(),
            port: listener.local_addr().unwrap().port(),
            roots,
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            serving: Mutex::default(),
            _folder: folder,
        });
        registry.serve(listener);
        registry
    }

    fn serve(self: &Arc<Self>, listener: TcpListener) {
        let this = Arc::clone(self);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = Arc::clone(&this);
                tokio::spawn(async move {
                    let Ok(stream) = this.acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let this = Arc::clone(&this);
                        async move { Ok::<_, Infallible>(this.answer(&request)) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    // Whoever asks hangs up as he likes.
                    drop(connection.await);
                });
            }
        });
        *self.serving.lock().unwrap() = Some(serving);
    }

    /// Nobody listens any more.
    async fn go_down(&self) {
        let serving = self.serving.lock().unwrap().take().unwrap();
        serving.abort();
        drop(serving.await);
    }

    async fn come_back(self: &Arc<Self>) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.serve(listener);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Serves an image for this device behind an index that has one for another machine, too. Its name and its blobs.
    fn publish(&self, script: &str) -> (ImageRef, Vec<String>) {
        let mut book = self.book();
        let mut blobs = Vec::new();
        let mut index = Value::Null;
        for (path, _, bytes) in image("image", script) {
            match path.strip_prefix("image/blobs/sha256/") {
                Some(hex) => {
                    let path = format!("/v2/shop/web/blobs/sha256:{hex}");
                    blobs.push(path.clone());
                    book.served.insert(path, (bytes, "application/octet-stream".to_owned()));
                }
                None if path == "image/index.json" => index = serde_json::from_slice(&bytes).unwrap(),
                None => {}
            }
        }
        let mut own = index["manifests"][0].clone();
        let manifest = own["digest"].as_str().unwrap().to_owned();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        own["platform"] = json!({"os": "linux", "architecture": architecture});
        let mut other = own.clone();
        other["platform"] = json!({"os": "linux", "architecture": "s390x"});
        other["digest"] = json!(Digest::of(b"another machine's"));
        let media = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media, "manifests": [other, own]}).to_string();
        let digest = Digest::of(index.as_bytes());
        let bytes = book.served.remove(&format!("/v2/shop/web/blobs/{manifest}")).unwrap().0;
        blobs.retain(|path| !path.ends_with(&manifest));
        let place = |digest: &str| format!("/v2/shop/web/manifests/{digest}");
        book.served
            .insert(place(&manifest), (bytes, "application/vnd.oci.image.manifest.v1+json".to_owned()));
        book.served.insert(place(&digest.to_string()), (index.into_bytes(), media.to_owned()));
        (ImageRef { registry: self.host(), repository: "shop/web".to_owned(), digest }, blobs)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let mut book = self.book();
        let path = request.uri().path().to_owned();
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let said = header("authorization").map(str::to_owned);
        let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(LOGIN));
        if path == "/token" {
            if said.as_deref() != Some(basic.as_str()) {
                return answer(401, "");
            }
            assert_eq!(request.uri().query(), Some("scope=repository:shop/web:pull&service=the%20registry"));
            return answer(200, json!({"token": TOKEN}).to_string());
        }
        if book.is_elsewhere {
            book.overheard.extend(said);
        } else {
            let (expect, challenge) = match book.login {
                Login::None => (None, String::new()),
                Login::Basic => (Some(basic), "Basic realm=\"x\"".to_owned()),
                Login::Token => {
                    let realm = format!("https://{}/token", self.host());
                    let challenge = format!(
                        "Bearer realm=\"{realm}\",service=\"the registry\",scope=\"repository:shop/web:pull\""
                    );
                    (Some(format!("Bearer {TOKEN}")), challenge)
                }
            };
            if expect.is_some() && said != expect {
                return Response::builder()
                    .status(401)
                    .header("www-authenticate", challenge)
                    .body(full("{}"))
                    .unwrap();
            }
        }
        let range = header("range").map(str::to_owned);
        book.asked.push((path.clone(), range.clone()));
        let Some((bytes, media)) = book.served.get(&path).cloned() else { return answer(404, "{}") };
        let from =
            range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: usize = from.unwrap_or(0);
        let mut part = bytes[from..].to_vec();
        let mood = book.moods.get(&path).copied();
        let mut cut = None;
        match mood {
            Some(Mood::Swapped) => part[0] ^= 1,
            Some(Mood::Longer) => part.extend(b"and more"),
            Some(Mood::CutAfter(count)) => {
                book.moods.remove(&path);
                cut = Some(count);
            }
            Some(Mood::Busy(seconds)) => {
                book.moods.remove(&path);
                return Response::builder()
                    .status(429)
                    .header("retry-after", seconds)
                    .body(full("{}"))
                    .unwrap();
            }
            Some(Mood::Elsewhere) => {
                let there = format!("{}{path}", book.elsewhere.clone().unwrap());
                return Response::builder().status(307).header("location", there).body(full("")).unwrap();
            }
            None => {}
        }
        let mut response = Response::builder().header("content-type", media);
        if from > 0 {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            response = response.status(StatusCode::PARTIAL_CONTENT).header("content-range", range);
        }
        let body = match cut {
            None => full(part),
            Some(count) => {
                response = response.header("content-length", part.len());
                let first = Ok(Frame::data(Bytes::from(part).slice(..count)));
                let cut = Err(std::io::Error::other("cut"));
                // Late enough for what came before to be on its way.
                let pause = |frame: Result<_, _>| async move {
                    if frame.is_err() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    frame
                };
                BodyExt::boxed(StreamBody::new(futures_util::stream::iter([first, cut]).then(pause)))
            }
        };
        response.body(body).unwrap()
    }

    fn settings(&self, login: Option<&str>) -> (Registries, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let logins = folder.path().join("registries.json");
        if let Some(login) = login {
            let auth = base64::engine::general_purpose::STANDARD.encode(login);
            std::fs::write(&logins, json!({"auths": {self.host(): {"auth": auth}}}).to_string()).unwrap();
        }
        (Registries { logins, roots: self.roots.clone() }, folder)
    }
}

/// What fetches, as in `run`.
struct Fetcher {
    registries: Registries,
    downloads: Downloads,
    folder: tempfile::TempDir,
    _logins: tempfile::TempDir,
}

impl Fetcher {
    async fn new(registry: &Registry, login: Option<&str>) -> Self {
        let (registries, _logins) = registry.settings(login);
        let folder = tempfile::tempdir().unwrap();
        let identity = Plane::start().await.identity();
        let downloads = Downloads::new(Arc::new(identity), folder.path()).unwrap();
        Self { registries, downloads, folder, _logins }
    }

    async fn pull(&self, image: &ImageRef) -> Result<Vec<Digest>, DownloadError> {
        self.registries.pull(image, &self.downloads).await
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// With this artifact there already.
    fn executor(self, bed: &Bed, release: &Release) -> (RunnerExecutor, StageRequest) {
        let own = self.folder.path().join(release.manifest.hex());
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join(release.artifact_digest.hex()), &release.artifact).unwrap();
        let artifact = ArtifactRef {
            digest: release.artifact_digest,
            size: release.artifact.len() as u64,
            format: ArtifactFormat::Tar,
        };
        let request = StageRequest {
            app: web(),
            manifest: release.signed.clone(),
            artifact,
            progress: Arc::new(AtomicU64::new(0)),
        };
        let _kept = (self.folder.keep(), self._logins.keep());
        let socket = bed.folder.path().join("runner.sock");
        (RunnerExecutor::new(socket, self.downloads, self.registries), request)
    }
}

const SCRIPT: &str =
    "#!/bin/sh\ntrap 'exit 0' TERM\necho \"hello from $FARSHORE_VERSION\"\nsleep 1000 &\nwait\n";

fn release_of(bed: &Bed, image: &str) -> Release {
    bed.signer.release_of("1.0", tar(&[("README", 0o644, "the image is in the registry\n")]), |manifest| {
        manifest["run"] = json!({"kind": "container", "container": {"image": image}});
        manifest["startTimeoutSeconds"] = 60.into();
    })
}

#[tokio::test]
async fn an_image_of_a_registry_runs_like_one_of_the_artifact_and_a_registry_that_is_down_is_waited_for() {
    let registry = Registry::start().await;
    registry.book().login = Login::Token;
    let (image, blobs) = registry.publish(SCRIPT);
    let containerd = Containerd::start();
    let bed = Bed::new(&json!({"container": containerd.allowed()})).await;
    let release = release_of(&bed, &image.to_string());
    let fetcher = Fetcher::new(&registry, Some(LOGIN)).await;
    let folder = fetcher.folder.path().to_path_buf();
    let (executor, request) = fetcher.executor(&bed, &release);
    // Down: nothing is said against the release, and it is tried again later.
    registry.go_down().await;
    let error = executor.stage(request.clone()).await.unwrap_err();
    assert!(!error.refused && error.message.contains("no connection to"), "{error:?}");
    refused(bed.start(&release, 1).await, "NotStaged");
    registry.come_back().await;
    // Cut off in a layer: what came is kept, and only the rest is asked for.
    let layer = blobs[0].clone();
    registry.book().moods.insert(layer.clone(), Mood::CutAfter(300_000));
    let error = executor.stage(request.clone()).await.unwrap_err();
    assert!(!error.refused && error.code == "DownloadFailed", "{error:?}");
    executor.stage(request).await.unwrap();
    let ranges: Vec<_> = registry
        .book()
        .asked
        .iter()
        .filter(|(path, _)| *path == layer)
        .map(|(_, range)| range.clone())
        .collect();
    assert_eq!(ranges, [None, Some("bytes=300000-".to_owned())]);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "the runner has its own");
    bed.start(&release, 1).await.unwrap();
    bed.up().await;
    until("what it says", || async { bed.logs().await.contains("hello from 1.0").then_some(()) }).await;
    assert_eq!(containerd.running(), ["web"]);
    bed.stop().await;
    bed.client.done(&Ask::Remove { app: web() }).await.unwrap();
}

#[tokio::test]
async fn nothing_a_registry_says_is_believed() {
    let registry = Registry::start().await;
    let (image, blobs) = registry.publish(SCRIPT);
    for (mood, code) in [(Mood::Swapped, "DigestMismatch"), (Mood::Longer, "WrongSize")] {
        for path in [&blobs[0], &blobs[2]] {
            let fetcher = Fetcher::new(&registry, None).await;
            registry.book().moods.insert(path.clone(), mood);
            let error = fetcher.pull(&image).await.unwrap_err();
            assert_eq!((error.code(), error.is_refusal()), (code, true), "{mood:?} {path} {error:?}");
            let hex = path.rsplit_once(':').unwrap().1;
            assert!(!fetcher.files().iter().any(|name| name.starts_with(hex)), "nothing of it is kept");
            registry.book().moods.clear();
        }
    }
    let index = format!("/v2/shop/web/manifests/{}", image.digest);
    let fresh = Fetcher::new(&registry, None).await;
    registry.book().moods.insert(index, Mood::Swapped);
    let error = fresh.pull(&image).await.unwrap_err();
    assert_eq!((error.code(), error.is_refusal()), ("DigestMismatch", true), "{error:?}");
    registry.book().moods.clear();
    // It may stop lying.
    assert_eq!(fresh.pull(&image).await.unwrap().len(), 2 + blobs.len());
    let other = ImageRef { digest: Digest::of(b"nothing"), ..image };
    let error = farshore_agent::chain(&fresh.pull(&other).await.unwrap_err());
    assert!(error.contains("has no /v2/shop/web/manifests/"), "{error}");
}

#[tokio::test]
async fn a_registry_that_is_busy_or_wants_to_know_who_this_is_is_obeyed() {
    let registry = Registry::start().await;
    let (image, blobs) = registry.publish(SCRIPT);
    let says = |error: &DownloadError| farshore_agent::chain(error);
    for login in [Login::Basic, Login::Token] {
        registry.book().login = login;
        for wrong in [None, Some("till:wrong")] {
            let error = Fetcher::new(&registry, wrong).await.pull(&image).await.unwrap_err();
            assert!(says(&error).contains("wants to know who this is"), "{login:?} {wrong:?} {error:?}");
            assert!(!error.is_refusal(), "a login can still be written down");
        }
        Fetcher::new(&registry, Some(LOGIN)).await.pull(&image).await.unwrap();
    }
    registry.book().moods.insert(blobs[1].clone(), Mood::Busy(1));
    let begun = Instant::now();
    Fetcher::new(&registry, Some(LOGIN)).await.pull(&image).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "it was asked to wait");
    // For too long to hold on: later, as everything that can't be fetched.
    registry.book().moods.insert(blobs[1].clone(), Mood::Busy(900));
    let error = Fetcher::new(&registry, Some(LOGIN)).await.pull(&image).await.unwrap_err();
    assert!(says(&error).contains("asks to wait for 900 s") && !error.is_refusal(), "{error:?}");
    // What it sends on to hears nothing of who this is.
    let elsewhere = Registry::start().await;
    {
        let (mut here, mut there) = (registry.book(), elsewhere.book());
        there.is_elsewhere = true;
        there.served = here.served.clone();
        here.elsewhere = Some(format!("https://{}", elsewhere.host()));
        here.moods.insert(blobs[0].clone(), Mood::Elsewhere);
    }
    let fetcher = Fetcher::new(&registry, Some(LOGIN)).await;
    let both = tempfile::NamedTempFile::new().unwrap();
    let roots =
        [&registry.roots, &elsewhere.roots].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    std::fs::write(both.path(), roots).unwrap();
    let registries = Registries { roots: both.path().to_path_buf(), ..fetcher.registries.clone() };
    registries.pull(&image, &fetcher.downloads).await.unwrap();
    {
        let there = elsewhere.book();
        assert_eq!(there.asked, [(blobs[0].clone(), None)]);
        assert_eq!(there.overheard, Vec::<String>::new());
    }
    // A stranger in its place is not asked for anything.
    let stranger = Registries { roots: elsewhere.roots.clone(), ..fetcher.registries.clone() };
    let fresh = Fetcher::new(&registry, None).await;
    let error = says(&stranger.pull(&image, &fresh.downloads).await.unwrap_err());
    assert!(error.contains("no TLS session"), "{error}");
}

#[tokio::test]
async fn the_runner_believes_nothing_of_what_was_fetched_and_takes_no_tag() {
    let registry = Registry::start().await;
    let (image, blobs) = registry.publish(SCRIPT);
    let bed = Bed::new(&json!({"container": {}})).await;
    let release = release_of(&bed, &image.to_string());
    let fetcher = Fetcher::new(&registry, None).await;
    fetcher.pull(&image).await.unwrap();
    let artifact = bed.folder.path().join("artifact");
    std::fs::write(&artifact, &release.artifact).unwrap();
    let stage = async |images: Option<PathBuf>| {
        let request = Ask::Stage { manifest: release.signed.clone(), artifact: artifact.clone(), images };
        bed.client.done(&request).await
    };
    refused(stage(None).await, "NoImages");
    let folder = fetcher.folder.path().to_path_buf();
    let layer = folder.join(blobs[1].rsplit_once(':').unwrap().1);
    let good = std::fs::read(&layer).unwrap();
    let mut bad = good.clone();
    bad[10] ^= 1;
    std::fs::write(&layer, &bad).unwrap();
    refused(stage(Some(folder.clone())).await, "DigestMismatch");
    std::fs::write(&layer, &good[1..]).unwrap();
    refused(stage(Some(folder.clone())).await, "WrongSize");
    std::fs::remove_file(&layer).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &layer).unwrap();
    refused(stage(Some(folder.clone())).await, "NoPlainFile");
    refused(bed.start(&release, 1).await, "NotStaged");
    std::fs::remove_file(&layer).unwrap();
    std::fs::write(&layer, &good).unwrap();
    stage(Some(folder)).await.unwrap();

    let tagged = release_of(&bed, &format!("{}/shop/web:2", registry.host()));
    match bed.stage(&tagged).await {
        Err(farshore_agent::runner::ClientError::Failed { code, message, refused: true }) => {
            assert!(code == "BadManifest" && message.contains("named by a tag"), "{code} {message}");
        }
        other => panic!("{other:?}"),
    }
}
