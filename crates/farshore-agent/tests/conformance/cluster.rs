//! A small Kubernetes API: real TLS, a bearer token, discovery, server-side apply with owners of fields, deletion with preconditions, and a controller
//! that gives deployments a status. What it does not know it refuses. It stands in for a real API server, which was not to be had.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farshore_agent::clock::wall;
use farshore_trust::authority::{Authority, Issuer};
use farshore_trust::certificate::chain_to_pem;
use farshore_trust::identity::TrustDomain;
use farshore_trust::tls::{ServerCertificate, api_server_config};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) const TOKEN: &str = "a-service-accounts-token";
/// In a deployment's template: what becomes of it.
pub(crate) const FATE: &str = "test/fate";

#[derive(Default)]
struct State {
    /// By path.
    objects: BTreeMap<String, Stored>,
    uids: u64,
    /// Method and path of each request, without its query.
    asked: Vec<String>,
    unauthorized: u64,
}

struct Stored {
    object: Value,
    /// Which field (as a JSON pointer) belongs to whom.
    owners: BTreeMap<String, String>,
    changed: Instant,
}

pub(crate) struct Cluster {
    state: Arc<Mutex<State>>,
    pub(crate) down: Arc<AtomicBool>,
    /// Connections in vain, while it was down.
    pub(crate) in_vain: Arc<AtomicU64>,
    folder: PathBuf,
    port: u16,
}

/// Group and version, plural, kind, whether it has namespaces.
const KINDS: [(&str, &str, &str, bool); 5] = [
    ("v1", "configmaps", "ConfigMap", true),
    ("v1", "services", "Service", true),
    ("v1", "namespaces", "Namespace", false),
    ("apps/v1", "deployments", "Deployment", true),
    ("batch/v1", "jobs", "Job", true),
];

fn base(version: &str) -> String {
    if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") }
}

fn status(code: u16, message: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}),
    )
}

/// The fields of an object that can belong to somebody: every value that is no map; lists as a whole.
fn leaves(value: &Value, at: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                leaves(value, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), into);
            }
        }
        other => drop(into.insert(at.to_owned(), other.clone())),
    }
}

fn put(object: &mut Value, pointer: &str, value: Option<Value>) {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return };
    let mut at = object;
    for part in parent.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        at = at.as_object_mut().unwrap().entry(part).or_insert_with(|| json!({}));
    }
    let name = name.replace("~1", "/").replace("~0", "~");
    match value {
        Some(value) => drop(at.as_object_mut().unwrap().insert(name, value)),
        None => drop(at.as_object_mut().unwrap().remove(&name)),
    }
}

impl State {
    /// The kind at a path, its object's namespace and name.
    fn place(path: &str) -> Option<(&'static str, &'static str, Option<String>, String)> {
        KINDS.iter().find_map(|(version, plural, kind, namespaced)| {
            let rest = path.strip_prefix(&base(version))?.strip_prefix('/')?;
            let parts: Vec<&str> = rest.split('/').collect();
            match (parts.as_slice(), namespaced) {
                (["namespaces", namespace, found, name], true) if found == plural => {
                    Some((*version, *kind, Some((*namespace).to_owned()), (*name).to_owned()))
                }
                ([found, name], false) if found == plural => {
                    Some((*version, *kind, None, (*name).to_owned()))
                }
                _ => None,
            }
        })
    }

    fn apply(&mut self, path: &str, query: &str, body: &Value) -> (u16, Value) {
        let Some((version, kind, namespace, name)) = Self::place(path) else {
            return status(404, "no such place");
        };
        let option = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let manager = option("fieldManager");
        if manager.is_empty() {
            return status(400, "fieldManager is required for apply patch");
        }
        let said = (
            &body["apiVersion"],
            &body["kind"],
            &body["metadata"]["name"],
            body["metadata"]["namespace"].as_str(),
        );
        if said != (&version.into(), &kind.into(), &name.clone().into(), namespace.as_deref()) {
            return status(400, "the object is not the one at this path");
        }
        if let Some(namespace) = &namespace
            && !self.objects.contains_key(&format!("/api/v1/namespaces/{namespace}"))
        {
            return status(404, &format!("namespaces {namespace:?} not found"));
        }
        let mut fields = BTreeMap::new();
        leaves(body, "", &mut fields);
        let identity = ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace"];
        fields.retain(|field, _| !identity.contains(&field.as_str()));
        let fresh = !self.objects.contains_key(path);
        self.uids += u64::from(fresh);
        let uid = format!("uid-{}", self.uids);
        let stored = self.objects.entry(path.to_owned()).or_insert_with(|| Stored {
            object: json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "uid": uid, "generation": 0}}),
            owners: BTreeMap::new(),
            changed: Instant::now(),
        });
        if let Some(namespace) = namespace {
            stored.object["metadata"]["namespace"] = namespace.into();
        }
        let theirs = |field: &String| stored.owners.get(field).is_some_and(|owner| owner != manager);
        let conflict =
            fields.iter().find(|(field, value)| theirs(field) && stored.object.pointer(field) != Some(value));
        if let Some((field, _)) = conflict
            && option("force") != "true"
        {
            return status(409, &format!("Apply failed with 1 conflict: {field}"));
        }
        let before = stored.object["spec"].clone();
        let dropped: Vec<String> = stored
            .owners
            .iter()
            .filter(|(field, owner)| *owner == manager && !fields.contains_key(*field))
            .map(|(field, _)| field.clone())
            .collect();
        for field in dropped {
            put(&mut stored.object, &field, None);
            stored.owners.remove(&field);
        }
        for (field, value) in fields {
            put(&mut stored.object, &field, Some(value));
            stored.owners.insert(field, manager.to_owned());
        }
        if fresh || stored.object["spec"] != before {
            let generation = stored.object["metadata"]["generation"].as_u64().unwrap() + 1;
            stored.object["metadata"]["generation"] = generation.into();
            stored.changed = Instant::now();
        }
        (if fresh { 201 } else { 200 }, stored.shown())
    }

    fn delete(&mut self, path: &str, body: &Value) -> (u16, Value) {
        let Some(stored) = self.objects.get(path) else { return status(404, "not found") };
        let wanted = &body["preconditions"]["uid"];
        if !wanted.is_null() && *wanted != stored.object["metadata"]["uid"] {
            return status(409, "Precondition failed: UID in precondition");
        }
        self.objects.remove(path);
        (200, json!({"kind": "Status", "status": "Success"}))
    }

    fn answer(&mut self, method: &str, target: &str, content_type: &str, body: &Value) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        self.asked.push(format!("{method} {path}"));
        let versions: BTreeSet<&str> = KINDS.iter().map(|(version, ..)| *version).collect();
        if let Some(version) = versions.iter().find(|version| base(version) == path) {
            let kinds = KINDS.iter().filter(|(of, ..)| of == version);
            let mut resources: Vec<Value> = kinds
                .map(|(_, plural, kind, namespaced)| json!({"name": plural, "kind": kind, "namespaced": namespaced}))
                .collect();
            // Subresources have the same kind.
            resources.push(json!({"name": "deployments/status", "kind": "Deployment", "namespaced": true}));
            return (
                200,
                json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources}),
            );
        }
        match method {
            "GET" => match self.objects.get(path) {
                Some(stored) => (200, stored.shown()),
                None => status(404, "not found"),
            },
            "PATCH" if content_type == "application/apply-patch+yaml" => self.apply(path, query, body),
            "PATCH" => status(415, "the body of the request was in an unknown format"),
            "DELETE" => self.delete(path, body),
            _ => status(405, "the server does not allow this method on the requested resource"),
        }
    }
}

impl Stored {
    /// With the status that its controller has come to by now.
    fn shown(&self) -> Value {
        let mut object = self.object.clone();
        if object["kind"] != "Deployment" {
            return object;
        }
        let fate = object.pointer("/spec/template/metadata/annotations/test~1fate").and_then(Value::as_str);
        let fate = fate.map(str::to_owned);
        let wanted = object["spec"]["replicas"].as_u64().unwrap_or(1);
        let ready = match fate.as_deref() {
            Some("never" | "fails") => 0,
            Some("late") if self.changed.elapsed() < Duration::from_millis(1_500) => 0,
            _ => wanted,
        };
        object["status"] = json!({
            "observedGeneration": object["metadata"]["generation"], "replicas": wanted, "updatedReplicas": wanted,
            "availableReplicas": ready, "readyReplicas": ready,
        });
        if fate.as_deref() == Some("fails") {
            object["status"]["conditions"] = json!([{"type": "Progressing", "status": "False",
                "reason": "ProgressDeadlineExceeded", "message": "ReplicaSet \"web\" has timed out progressing."}]);
        }
        object
    }
}

/// One request: its head and its body.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

impl Cluster {
    /// Serves from now on, with these namespaces; its root certificate and a token lie in `folder`.
    pub(crate) async fn start(folder: &Path, namespaces: &[&str]) -> Self {
        farshore_trust::provider::install();
        let folder = folder.join("cluster");
        std::fs::create_dir_all(&folder).unwrap();
        let domain = TrustDomain::new("cluster.test").unwrap();
        let made = Authority::generate(&domain, wall()).unwrap();
        std::fs::write(folder.join("ca.pem"), chain_to_pem([&made.root_cert])).unwrap();
        std::fs::write(folder.join("token"), format!("{TOKEN}\n")).unwrap();
        let issuer =
            Issuer::new(domain, made.root_cert, made.intermediate_cert, made.intermediate_key).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let server = issuer.issue_server(&["127.0.0.1".to_owned()], wall(), day).unwrap();
        let certificate = ServerCertificate::new(server.certificate.chain, &server.key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(api_server_config(certificate).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let down = Arc::new(AtomicBool::new(false));
        let in_vain = Arc::new(AtomicU64::new(0));
        let (shared, is_down, missed) = (Arc::clone(&state), Arc::clone(&down), Arc::clone(&in_vain));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if is_down.load(Ordering::Relaxed) {
                    missed.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await.ok()?;
                    let (head, body) = request(&mut stream).await?;
                    let mut words = head.split(' ');
                    let (method, target) = (words.next()?, words.next()?);
                    let authorized = header(&head, "authorization") == Some(format!("Bearer {TOKEN}"));
                    let content_type = header(&head, "content-type").unwrap_or_default();
                    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                    let (code, answer) = {
                        let mut state = state.lock().unwrap();
                        state.unauthorized += u64::from(!authorized);
                        if authorized {
                            state.answer(method, target, &content_type, &body)
                        } else {
                            status(401, "Unauthorized")
                        }
                    };
                    let bytes = answer.to_string();
                    let head = format!(
                        "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        bytes.len()
                    );
                    stream.write_all((head + &bytes).as_bytes()).await.ok()?;
                    stream.shutdown().await.ok()
                });
            }
        });
        let cluster = Self { state, down, in_vain, folder, port };
        for name in namespaces {
            let path = format!("/api/v1/namespaces/{name}");
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            assert_eq!(cluster.state.lock().unwrap().apply(&path, "fieldManager=setup", &body).0, 201);
        }
        cluster
    }

    /// The device's settings for it.
    pub(crate) fn allowed(&self, namespaces: &[&str]) -> Value {
        json!({"kubernetes": {
            "server": format!("https://127.0.0.1:{}", self.port), "namespaces": namespaces,
            "caFile": self.folder.join("ca.pem"), "tokenFile": self.folder.join("token"),
        }})
    }

    pub(crate) fn set_token(&self, token: &str) {
        std::fs::write(self.folder.join("token"), token).unwrap();
    }

    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).map(Stored::shown)
    }

    /// Somebody else, such as an autoscaler, applies something.
    pub(crate) fn apply_as(&self, manager: &str, path: &str, body: &Value) {
        let query = format!("fieldManager={manager}");
        let (code, answer) = self.state.lock().unwrap().apply(path, &query, body);
        assert!(code < 300, "{answer}");
    }

    pub(crate) fn delete(&self, path: &str) {
        self.state.lock().unwrap().objects.remove(path).unwrap();
    }

    /// The paths of what lies there, namespaces aside.
    pub(crate) fn paths(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state
            .objects
            .keys()
            .filter(|path| State::place(path).is_some_and(|place| place.1 != "Namespace"))
            .cloned()
            .collect()
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    pub(crate) fn unauthorized(&self) -> u64 {
        self.state.lock().unwrap().unauthorized
    }
}
