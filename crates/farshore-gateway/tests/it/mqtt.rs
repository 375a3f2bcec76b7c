use std::time::Duration;

use farshore_gateway::config::TlsFiles;
use farshore_gateway::mqtt::codec::{Packet, Version, decode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Site, points_in, token};

pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    version: Version,
}

impl Client {
    pub(crate) async fn connect(site: &Site, packet: &[u8]) -> (Self, u8, bool) {
        let stream = TcpStream::connect(site.at.mqtt.expect("MQTT")).await.expect("connected");
        let version = if packet[8] == 5 { Version::V5 } else { Version::V311 };
        let mut client = Self { stream, buffer: Vec::new(), version };
        client.send(packet).await;
        let (code, present) = client
            .answer(|packet| match packet {
                Packet::ConnAck { code, session_present } => (code, session_present),
                other => panic!("{other:?}"),
            })
            .await;
        (client, code, present)
    }

    pub(crate) async fn send(&mut self, packet: &[u8]) {
        self.stream.write_all(packet).await.expect("sent");
    }

    pub(crate) async fn answer<T>(&mut self, read: impl FnOnce(Packet<'_>) -> T) -> T {
        loop {
            if let Some((packet, length)) = decode(&self.buffer, self.version).expect("well formed") {
                let value = read(packet);
                self.buffer.drain(..length);
                return value;
            }
            let more = timeout(Duration::from_secs(10), self.stream.read_buf(&mut self.buffer));
            assert_ne!(more.await.expect("an answer").expect("a connection"), 0, "the gateway went away");
        }
    }

    pub(crate) async fn acknowledged(&mut self) -> (u16, u8) {
        self.answer(|packet| match packet {
            Packet::PubAck { id, code } => (id, code),
            other => panic!("{other:?}"),
        })
        .await
    }

    async fn gone(&mut self) {
        let mut rest = Vec::new();
        timeout(Duration::from_secs(10), self.stream.read_to_end(&mut rest))
            .await
            .expect("an end")
            .expect("read");
    }
}

/// A session that is kept (`c`), 3.1.1.
pub(crate) const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x3c\x00\x01c";
const CONNECT_CLEAN: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c";
pub(crate) const CONNECT_V5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c";
const PUBLISH_7: &[u8] = b"\x32\x09\x00\x03a/b\x00\x0721";
const PUBLISH_7_AGAIN: &[u8] = b"\x3a\x09\x00\x03a/b\x00\x0721";

#[tokio::test]
async fn a_message_is_acknowledged_when_it_is_durable_and_taken_once() {
    let site = Site::new().await;
    let (mut client, code, present) = Client::connect(&site, CONNECT).await;
    assert_eq!((code, present), (0, false));
    client.send(PUBLISH_7).await;
    assert_eq!(client.acknowledged().await, (7, 0));
    assert_eq!(site.pending().await, 1);
    client.send(PUBLISH_7_AGAIN).await;
    assert_eq!(client.acknowledged().await, (7, 0));
    // The client goes and comes back with its session: the message is still known.
    drop(client);
    let (mut client, _, present) = Client::connect(&site, CONNECT).await;
    assert!(present);
    client.send(PUBLISH_7_AGAIN).await;
    assert_eq!(client.acknowledged().await, (7, 0));
    assert_eq!(site.metric("edge_gateway_duplicates_dropped_total{protocol=\"mqtt\"}").await, "2");
    // The same id with other content is another message.
    client.send(b"\x3a\x09\x00\x03a/b\x00\x0722").await;
    assert_eq!(client.acknowledged().await, (7, 0));
    drop(client);
    let (mut client, _, present) = Client::connect(&site, CONNECT_CLEAN).await;
    assert!(!present);
    client.send(PUBLISH_7_AGAIN).await;
    assert_eq!(client.acknowledged().await, (7, 0));
    site.gateway.stop().await;
    assert_eq!(points_in(&site.journal_folder()), 3);
}

#[tokio::test]
async fn a_client_that_got_on_has_its_acknowledgements() {
    let site = Site::new().await;
    let (mut client, ..) = Client::connect(&site, CONNECT).await;
    client.send(PUBLISH_7).await;
    assert_eq!(client.acknowledged().await, (7, 0));
    drop(client);
    let (mut client, ..) = Client::connect(&site, CONNECT).await;
    client.send(b"\x32\x09\x00\x03a/b\x00\x0822").await;
    assert_eq!(client.acknowledged().await, (8, 0));
    drop(client);
    // A sensor at rest: the same content under the same id, whose first transmission never came.
    let (mut client, ..) = Client::connect(&site, CONNECT).await;
    client.send(PUBLISH_7_AGAIN).await;
    assert_eq!(client.acknowledged().await, (7, 0));
    assert_eq!(site.pending().await, 3);
}

#[tokio::test]
async fn many_messages_at_once_are_acknowledged_in_order() {
    let site = Site::new().await;
    let (mut client, ..) = Client::connect(&site, CONNECT_V5).await;
    let mut packets = Vec::new();
    for id in 1..=1000_u16 {
        let payload = if id == 500 { "nonsense".to_owned() } else { format!("{id}") };
        let length = u8::try_from(2 + 1 + 2 + 1 + payload.len()).expect("short");
        packets.extend_from_slice(&[0x32, length, 0, 1, b't']);
        packets.extend_from_slice(&id.to_be_bytes());
        packets.push(0);
        packets.extend_from_slice(payload.as_bytes());
    }
    client.send(&packets).await;
    for id in 1..=1000_u16 {
        let reason = if id == 500 { 0x99 } else { 0 };
        assert_eq!(client.acknowledged().await, (id, reason));
    }
    assert_eq!(site.pending().await, 999);
    assert_eq!(site.metric("edge_gateway_points_rejected_total").await, "1");
}

#[tokio::test]
async fn a_newer_connection_takes_the_session_over() {
    let site = Site::new().await;
    let (mut first, ..) = Client::connect(&site, CONNECT).await;
    first.send(PUBLISH_7).await;
    assert_eq!(first.acknowledged().await, (7, 0));
    let (mut second, code, present) = Client::connect(&site, CONNECT).await;
    assert_eq!((code, present), (0, true));
    first.gone().await;
    second.send(PUBLISH_7_AGAIN).await;
    assert_eq!(second.acknowledged().await, (7, 0));
    assert_eq!(site.pending().await, 1);
}

#[tokio::test]
async fn who_may_not_come_in_hears_why() {
    let site = Site::with(|config| config.credentials = token("secret")).await;
    let (mut client, code, _) = Client::connect(&site, CONNECT).await;
    assert_eq!(code, 4);
    client.gone().await;
    let (_, code, _) = Client::connect(&site, CONNECT_V5).await;
    assert_eq!(code, 0x86);
    let with_password = b"\x10\x18\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01c\x00\x01u\x00\x06secret";
    let (_, code, _) = Client::connect(&site, with_password).await;
    assert_eq!(code, 0);
}

#[tokio::test]
async fn broken_packets_end_the_connection_and_nothing_else() {
    let site = Site::new().await;
    for broken in [
        &b"\x34\x05\x00\x01a\x00\x01"[..],
        b"\x30\x03\x00\x01#",
        b"\xf0\x00",
        b"\x30\xff\xff\xff\x7f",
        CONNECT,
    ] {
        let (mut client, ..) = Client::connect(&site, CONNECT_CLEAN).await;
        client.send(broken).await;
        client.gone().await;
    }
    let mut stream = TcpStream::connect(site.at.mqtt.expect("MQTT")).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.expect("an end");
    let (mut client, code, _) = Client::connect(&site, CONNECT).await;
    assert_eq!(code, 0);
    client.send(b"\xc0\x00").await;
    assert!(client.answer(|packet| packet == Packet::PingResponse).await);
    client.send(b"\x82\x0b\x00\x01\x00\x01#\x00\x00\x02a#\x00").await;
    assert!(client.answer(|packet| matches!(packet, Packet::SubAck { id: 1, codes: [0, 0x80] })).await);
    client.send(b"\xa2\x05\x00\x02\x00\x01#").await;
    // The answer has no form that `decode` reads, as only a server sends it.
    let mut answer = [0; 4];
    client.stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, [0xb0, 2, 0, 2]);
}

#[tokio::test]
async fn messages_come_in_over_tls() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let files =
        TlsFiles { certificate: folder.path().join("server.pem"), key: folder.path().join("server.key") };
    std::fs::write(&files.certificate, certificate.pem()).expect("written");
    std::fs::write(&files.key, key.serialize_pem()).expect("written");
    let site =
        Site::with(|config| config.mqtt_tls = Some(([127, 0, 0, 1], 0).into()).map(|at| (at, files))).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a root");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(site.at.mqtt_tls.expect("MQTT over TLS")).await.expect("connected");
    let name = "localhost".try_into().expect("a name");
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect(name, stream).await.expect("TLS");
    stream.write_all(&[CONNECT, PUBLISH_7].concat()).await.expect("sent");
    let mut answers = [0; 8];
    timeout(Duration::from_secs(10), stream.read_exact(&mut answers))
        .await
        .expect("in time")
        .expect("answers");
    assert_eq!(&answers, b"\x20\x02\x00\x00\x40\x02\x00\x07");
    assert_eq!(site.pending().await, 1);
    // Without TLS there is nothing to be had at this port.
    let mut plain = TcpStream::connect(site.at.mqtt_tls.expect("MQTT over TLS")).await.expect("connected");
    plain.write_all(CONNECT).await.expect("sent");
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(15), plain.read_to_end(&mut rest)).await.expect("an end");
    assert!(!rest.starts_with(b"\x20"));
}

#[tokio::test]
async fn subscriptions_of_a_session_that_is_kept_go_on() {
    let site = Site::new().await;
    let (mut client, _, present) = Client::connect(&site, CONNECT).await;
    assert!(!present);
    client.send(b"\x82\x11\x00\x01\x00\x0c$documents/#\x00").await;
    assert!(client.answer(|packet| matches!(packet, Packet::SubAck { id: 1, codes: [0] })).await);
    drop(client);
    // What changes meanwhile is told when the client is back, once.
    let put = async |name: &str, limit: u32| {
        let body = format!("{{\"limit\":{limit}}}");
        let path = format!("/documents/settings/{name}");
        assert_eq!(site.send("PUT", &path, &[], body.as_bytes()).await.status, 200);
    };
    put("first", 0).await;
    let told = async |client: &mut Client| {
        client
            .answer(|packet| match packet {
                Packet::Publish(message) => (message.topic.to_owned(), message.retain),
                other => panic!("{other:?}"),
            })
            .await
    };
    for round in 1..3 {
        let (mut client, _, present) = Client::connect(&site, CONNECT).await;
        assert!(present);
        assert_eq!(told(&mut client).await, ("$documents/settings/first".to_owned(), false));
        put("second", round).await;
        assert_eq!(told(&mut client).await, ("$documents/settings/second".to_owned(), false));
        drop(client);
        put("first", round).await;
    }
    let (mut client, _, present) = Client::connect(&site, CONNECT_CLEAN).await;
    assert!(!present);
    client.send(b"\xc0\x00").await;
    assert!(client.answer(|packet| packet == Packet::PingResponse).await, "nothing is told before");
}

#[tokio::test]
async fn of_version_5_the_session_lives_as_long_as_was_asked() {
    let site = Site::new().await;
    // Without clean start; the second one asks for an hour.
    let ends = b"\x10\x0e\x00\x04MQTT\x05\x00\x00\x3c\x00\x00\x01c";
    let hour = b"\x10\x13\x00\x04MQTT\x05\x00\x00\x3c\x05\x11\x00\x00\x0e\x10\x00\x01c";
    for (packet, expected) in [(&ends[..], false), (ends, false), (hour, false), (ends, true), (hour, false)]
    {
        let (mut client, code, present) = Client::connect(&site, packet).await;
        assert_eq!((code, present), (0, expected));
        client.send(b"\xe0\x00").await;
        client.gone().await;
    }
    // One that was to live for an hour is given up with its connection.
    let (mut client, ..) = Client::connect(&site, hour).await;
    client.send(b"\xe0\x07\x00\x05\x11\x00\x00\x00\x00").await;
    client.gone().await;
    let (_, _, present) = Client::connect(&site, hour).await;
    assert!(!present);
}

#[tokio::test]
async fn what_breaks_the_protocol_is_told_to_clients_of_version_5() {
    let site = Site::new().await;
    for (packet, reason) in [
        (&b"\x31\x05\x00\x01t\x001"[..], 0x9a),
        (b"\x33\x07\x00\x01t\x00\x01\x001", 0x9a),
        (CONNECT_V5, 0x82),
        (b"\x40\x02\x00\x01", 0x82),
        (b"\xa2\x03\x00\x01\x00", 0x82),
        (b"\x82\x07\x00\x01\x00\x00\x01#\xff", 0x81),
    ] {
        let (mut client, ..) = Client::connect(&site, CONNECT_V5).await;
        client.send(packet).await;
        let told = client
            .answer(|packet| match packet {
                Packet::Disconnect { code, .. } => code,
                other => panic!("{other:?}"),
            })
            .await;
        assert_eq!(told, reason, "{packet:?}");
        client.gone().await;
    }
    assert_eq!(site.pending().await, 0);
    // Version 3.1.1 has no way to say so: it is a reading, and nobody is told of it.
    let (mut client, ..) = Client::connect(&site, CONNECT).await;
    client.send(b"\x33\x09\x00\x03a/b\x00\x0721").await;
    assert_eq!(client.acknowledged().await, (7, 0));
    assert_eq!(site.pending().await, 1);
}
