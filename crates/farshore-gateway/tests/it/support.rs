//! A running gateway, and a client that says what it is told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use farshore_gateway::config::Credentials;
use farshore_gateway::{Addresses, EdgeGateway, GatewayConfig};
use farshore_journal::{Config, Journal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) struct Site {
    pub(crate) gateway: EdgeGateway,
    pub(crate) at: Addresses,
    folder: tempfile::TempDir,
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = GatewayConfig::new("test-gateway", folder.path().join("journal"));
        config.http = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.mqtt = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        change(&mut config);
        let gateway = EdgeGateway::new(config).expect("settings");
        gateway.start().await.expect("a gateway");
        let at = gateway.addresses().await.expect("running");
        Self { gateway, at, folder }
    }

    pub(crate) fn journal_folder(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    pub(crate) async fn pending(&self) -> u64 {
        self.gateway.get_status().await.expect("running").pending_sync_count
    }

    pub(crate) async fn metric(&self, line: &str) -> String {
        let answer = self.send("GET", "/metrics", &[], b"").await;
        let text = answer.text();
        let found = text.lines().find(|have| have.starts_with(line));
        found.and_then(|line| line.rsplit(' ').next()).expect("the metric").to_owned()
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        send(self.at.http.expect("HTTP"), method, path, headers, body).await
    }
}

/// One request on a connection of its own.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    // The gateway may refuse without reading all of a large body.
    let _ = stream.write_all(body).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    Answer::read(&bytes)
}

/// How many points are in a journal that nobody has open.
pub(crate) fn points_in(folder: &Path) -> u64 {
    Journal::open(folder, Config::default()).expect("the journal").stats().pending_points()
}

pub(crate) fn token(token: &str) -> Credentials {
    Credentials { token: Some(farshore_trust::token::hash_secret(token)), user: None }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(bytes[..end].to_vec()).expect("text").to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}
