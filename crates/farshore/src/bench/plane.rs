//! The control plane that is measured: `farshore serve` in a process of its own, and its API as a client.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use farshore_domain::digest::Digest;
use farshore_domain::time::UnixMs;
use farshore_trust::clock::FlooredClock;
use farshore_trust::tls;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long the control plane may take to say that it listens.
const STARTING: Duration = Duration::from_secs(60);
const PASSWORD: &str = "a password for a bench";

/// What the control plane said of itself when it started.
#[derive(Clone, Debug, Default)]
struct Greeting {
    api: String,
    device: String,
    fingerprint: String,
    link: Option<String>,
    complete: bool,
}

/// A running control plane, with an admin who has logged in.
#[derive(Debug)]
pub(crate) struct Plane {
    folder: PathBuf,
    child: Child,
    greeting: Greeting,
    http: reqwest::Client,
    token: String,
    last_lines: Arc<Mutex<Vec<String>>>,
    /// From the start of the process until it listened.
    pub(crate) start: Duration,
}

/// A client that believes the root with this fingerprint.
pub(crate) fn http_client(fingerprint: Digest) -> Result<reqwest::Client> {
    let clock = FlooredClock::new(crate::clock::now, UnixMs(0));
    let (mut config, _) =
        tls::pinned_by_fingerprint_config(fingerprint, clock).context("TLS can't be set up")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("the HTTP client can't be made")
}

async fn spawn(
    folder: &Path,
    host: IpAddr,
    listen: Option<(SocketAddr, SocketAddr)>,
) -> Result<(Child, Greeting, Duration, Arc<Mutex<Vec<String>>>)> {
    let free = SocketAddr::new(host, 0);
    let (api, device) = listen.unwrap_or((free, free));
    let mut command = Command::new(std::env::current_exe().context("this program is not found")?);
    command.arg("serve");
    for (name, value) in [
        ("data-dir", folder.display().to_string()),
        ("api-listen", api.to_string()),
        ("device-listen", device.to_string()),
        ("server-names", host.to_string()),
    ] {
        command.arg(format!("--{name}")).arg(value);
    }
    command.env_remove("RUST_BACKTRACE");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let begin = Instant::now();
    let mut child = command.spawn().context("farshore serve can't be started")?;
    let stderr = child.stderr.take().context("no pipe")?;
    let (tell, mut told) = watch::channel(Greeting::default());
    let last_lines = Arc::new(Mutex::new(Vec::new()));
    let keep = last_lines.clone();
    // Reads on for as long as the process lives, so that its pipe never fills.
    tokio::spawn(async move {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            tell.send_modify(|greeting| listen_to(&line, greeting));
            let mut last = keep.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() >= 20 {
                last.remove(0);
            }
            last.push(line);
        }
    });
    let listening = timeout(STARTING, told.wait_for(|greeting| greeting.complete)).await;
    let greeting = match listening {
        Ok(Ok(greeting)) => greeting.clone(),
        _ => {
            let last = last_lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
            bail!("farshore serve did not start; it said:\n{last}")
        }
    };
    Ok((child, greeting, begin.elapsed(), last_lines))
}

fn listen_to(line: &str, greeting: &mut Greeting) {
    let of = |label: &str| line.strip_prefix(label).map(|rest| rest.trim().to_owned());
    if let Some(api) = of("API and page:") {
        greeting.api = api;
    } else if let Some(device) = of("Device port:") {
        greeting.device = device;
    } else if let Some(fingerprint) = of("CA fingerprint:") {
        greeting.fingerprint = fingerprint;
    } else if let Some(link) = of("First admin:") {
        greeting.link = link.split_once("#link=").map(|(_, link)| link.to_owned());
    }
    let said = |text: &String| !text.is_empty();
    // The link comes last, and only the first time; the lines are written at once.
    greeting.complete = said(&greeting.api) && said(&greeting.device) && said(&greeting.fingerprint);
}

impl Plane {
    /// Starts a new one, with its data under `folder`.
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), folder).await
    }

    /// The same, on another address of this machine.
    pub(crate) async fn start_on(host: IpAddr, folder: &Path) -> Result<Self> {
        let (child, mut greeting, start, last_lines) = spawn(folder, host, None).await?;
        let fingerprint: Digest = greeting.fingerprint.parse().context("no fingerprint")?;
        let http = http_client(fingerprint)?;
        if greeting.link.is_none() {
            let line = |lines: &Mutex<Vec<String>>| {
                let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.iter().find_map(|line| line.split_once("#link=").map(|(_, link)| link.to_owned()))
            };
            let deadline = Instant::now() + Duration::from_secs(5);
            while greeting.link.is_none() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
                greeting.link = line(&last_lines);
            }
        }
        let link = greeting.link.clone().context("farshore serve showed no link for the first admin")?;
        // What follows the link on its line is for people.
        let link = link.split_whitespace().next().unwrap_or_default().to_owned();
        let mut plane = Self {
            folder: folder.to_owned(),
            child,
            greeting,
            http,
            token: String::new(),
            last_lines,
            start,
        };
        let login = json!({"link": link, "password": PASSWORD, "bearer": true});
        let me = plane.post("/api/login/link", &login).await?;
        plane.token = me["token"].as_str().context("no token")?.to_owned();
        Ok(plane)
    }

    /// Kills it at once, as a power cut would.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("the control plane can't be killed")
    }

    /// Asks it to stop and waits.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if let Some(pid) =
            self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .context("the control plane can't be asked to stop")?;
        }
        match timeout(Duration::from_secs(30), self.child.wait()).await {
            Ok(ended) => ended.map(|_| ()).context("the control plane can't be waited for"),
            Err(_) => self.kill().await,
        }
    }

    /// Starts it again on the same ports and data.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        let address = |url: &str| -> Result<SocketAddr> {
            url.trim_start_matches("https://").parse().context("the address has no port")
        };
        let listen = (address(&self.greeting.api)?, address(&self.greeting.device)?);
        let (child, _, start, last_lines) = spawn(&self.folder, listen.0.ip(), Some(listen)).await?;
        self.child = child;
        self.start = start;
        self.last_lines = last_lines;
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The process, for measuring it.
    pub(crate) fn process(&self) -> Result<u32> {
        self.pid().with_context(|| {
            let last = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
            format!("the control plane has ended; it said:\n{last}")
        })
    }

    pub(crate) fn api_url(&self) -> &str {
        &self.greeting.api
    }

    /// Where devices come in.
    pub(crate) fn device_address(&self) -> Result<SocketAddr> {
        let address = self.greeting.device.trim_start_matches("https://");
        address.parse().with_context(|| format!("{address} is no address"))
    }

    pub(crate) fn fingerprint(&self) -> &str {
        &self.greeting.fingerprint
    }

    /// The admin's session.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.answer(path, self.http.get(format!("{}{path}", self.greeting.api))).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.answer(path, self.http.post(format!("{}{path}", self.greeting.api)).json(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.answer(path, self.http.put(format!("{}{path}", self.greeting.api)).json(body)).await
    }

    /// A piece of an upload.
    pub(crate) async fn patch(&self, path: &str, bytes: Vec<u8>) -> Result<Value> {
        let request = self.http.patch(format!("{}{path}", self.greeting.api));
        let request = request.header("upload-offset", 0).header("content-type", "application/octet-stream");
        self.answer(path, request.body(bytes)).await
    }

    async fn answer(&self, path: &str, request: reqwest::RequestBuilder) -> Result<Value> {
        let request = if self.token.is_empty() { request } else { request.bearer_auth(&self.token) };
        let response = request.timeout(Duration::from_secs(120)).send().await;
        let response = response.with_context(|| format!("no answer to {path}"))?;
        let status = response.status();
        let text = response.text().await.with_context(|| format!("half an answer to {path}"))?;
        if !status.is_success() {
            bail!("{path} answered {status}: {text}");
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("{path} answered no JSON"))
    }

    /// A claim token for so many devices.
    pub(crate) async fn claim_token(&self, name: &str, uses: u32) -> Result<String> {
        let token = json!({"metadata": {"name": name}, "spec": {"uses": uses, "lifetimeSeconds": 86_400}});
        let token = self.post("/api/claim-tokens", &token).await?;
        Ok(token["status"]["token"].as_str().context("no claim token")?.to_owned())
    }

    /// How many devices the list counts.
    pub(crate) async fn devices(&self, query: &str) -> Result<u64> {
        let list = self.get(&format!("/api/devices?limit=1&{query}")).await?;
        list["metadata"]["total"].as_u64().context("the list of devices has no total")
    }
}
