//! The servers that are measured, each a process in a folder of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

pub(crate) struct Served {
    child: Child,
    /// How long it took from its start until it took readings.
    pub(crate) start: Duration,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) mqtt: Option<SocketAddr>,
    folder: PathBuf,
}

pub(crate) fn folder() -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("farshore-gateway-bench-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Served {
    pub(crate) fn gateway(durability: &str) -> Result<Self> {
        Self::gateway_in(folder()?, durability, u64::MAX)
    }

    /// A gateway on what an earlier one has left, or on nothing; its journal may have so many bytes, or what is usual.
    pub(crate) fn gateway_in(folder: PathBuf, durability: &str, bytes: u64) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("farshore-agent");
        let bound = (bytes < u64::MAX).then(|| ("MAX_OFFLINE_QUEUE_BYTES", bytes.to_string()));
        let begun = Instant::now();
        let mut child = Command::new(program)
            .arg("gateway")
            .env_clear()
            .env("LOCAL_DB_PATH", folder.join("journal"))
            .env("GATEWAY_HTTP_LISTEN", "127.0.0.1:0")
            .env("GATEWAY_MQTT_LISTEN", "127.0.0.1:0")
            .env("GATEWAY_DURABILITY", durability)
            .envs(bound)
            .current_dir(&folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let start = begun.elapsed();
        let ready: serde_json::Value =
            serde_json::from_str(line.strip_prefix("ready ").ok_or("the gateway did not start")?)?;
        let address =
            |name: &str| ready.get(name).and_then(|value| value.as_str()).and_then(|text| text.parse().ok());
        Ok(Self { child, start, http: address("http"), mqtt: address("mqtt"), folder })
    }

    /// The gateway of the requirements: `bench/baseline/edge_gateway.py`.
    pub(crate) fn python() -> Result<Option<Self>> {
        let python = std::env::var("FARSHORE_BASELINE_PYTHON")
            .unwrap_or_else(|_| "target/tools/gateway-clients/bin/python".to_owned());
        let has = Command::new(&python)
            .args(["-c", "import fastapi, aiosqlite, uvicorn"])
            .stderr(Stdio::null())
            .status();
        if !has.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let (folder, port) = (folder()?, free_port()?);
        let child = Command::new(python)
            .arg("bench/baseline/edge_gateway.py")
            .env("PORT", port.to_string())
            .env("LOCAL_DB_PATH", folder.join("edge_gateway.db"))
            .stdout(Stdio::null())
            .spawn()?;
        let served = Self {
            child,
            start: Duration::ZERO,
            http: Some(([127, 0, 0, 1], port).into()),
            mqtt: None,
            folder,
        };
        served.wait(served.http)?;
        Ok(Some(served))
    }

    /// Mosquitto, with persistence, and queueing for a subscriber that is away: it has to keep what it takes.
    pub(crate) fn mosquitto() -> Result<Option<Self>> {
        let (folder, port) = (folder()?, free_port()?);
        let settings = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\nautosave_interval 1\n\
             max_queued_messages 0\nuser root\n",
            folder.display()
        );
        let file = folder.join("mosquitto.conf");
        std::fs::write(&file, settings)?;
        let program = ["mosquitto", "/usr/sbin/mosquitto"]
            .into_iter()
            .find(|program| Command::new(program).arg("-h").stdout(Stdio::null()).status().is_ok());
        let Some(program) = program else { return Ok(None) };
        let child = Command::new(program).arg("-c").arg(&file).stderr(Stdio::null()).spawn()?;
        let served = Self {
            child,
            start: Duration::ZERO,
            http: None,
            mqtt: Some(([127, 0, 0, 1], port).into()),
            folder,
        };
        served.wait(served.mqtt)?;
        // Somebody who is away and has to be told everything: without, it would keep nothing.
        let away = Command::new("mosquitto_sub")
            .args(["-p", &port.to_string(), "-i", "away", "-c", "-q", "1", "-t", "bench", "-E"])
            .status()?;
        if !away.success() {
            return Err("mosquitto_sub could not subscribe".into());
        }
        Ok(Some(served))
    }

    fn wait(&self, address: Option<SocketAddr>) -> Result<()> {
        let address = address.ok_or("no address")?;
        let begun = Instant::now();
        // Each try waits by itself: a refused connection is told at once, so it is asked at most some thousand times.
        while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err("it did not start in 20 s".into());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks =
            |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        // The kernel counts in hundredths for programs, whatever its own tick is.
        Ok((ticks(11) + ticks(12)) / 100.0)
    }

    pub(crate) fn rss_bytes(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse::<f64>()? * 1024.0)
    }

    /// What waits on the disk, as the gateway tells it.
    pub(crate) fn waiting_bytes(&self) -> Result<f64> {
        let mut stream = TcpStream::connect(self.http.ok_or("it does not listen for HTTP")?)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line = text.lines().find(|line| line.starts_with("edge_gateway_queue_bytes "));
        Ok(line.and_then(|line| line.rsplit(' ').next()).ok_or("no queue bytes")?.parse()?)
    }

    /// Kills it as a power cut would, and starts another on what is left.
    pub(crate) fn again(mut self, bytes: u64) -> Result<Self> {
        self.child.kill()?;
        self.child.wait()?;
        Self::gateway_in(std::mem::take(&mut self.folder), "group", bytes)
    }

    /// Ends it in order, and weighs what it left on the disk.
    pub(crate) fn stop_and_weigh(mut self) -> Result<f64> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        weigh(&self.folder)
    }
}

fn weigh(folder: &std::path::Path) -> Result<f64> {
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bytes += weigh(&entry.path())?;
        } else {
            #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
            let length = entry.metadata()?.len() as f64;
            bytes += length;
        }
    }
    Ok(bytes)
}

impl Drop for Served {
    fn drop(&mut self) {
        // Gone already where it was stopped in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.folder.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("{} stays: {error}", self.folder.display());
        }
    }
}
