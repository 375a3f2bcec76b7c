//! The site's own broker, as far as it takes part: what it delivers, and what it hears of it.

use std::time::Duration;

use farshore_gateway::config::BrokerConfig;
use farshore_gateway::mqtt::codec::{Packet, Version, conn_ack, decode, sub_ack};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::Site;

struct Broker {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Broker {
    async fn hear<T>(&mut self, read: impl FnOnce(Packet<'_>) -> T) -> T {
        loop {
            if let Some((packet, length)) = decode(&self.buffer, Version::V311).expect("well formed") {
                let value = read(packet);
                self.buffer.drain(..length);
                return value;
            }
            let more = timeout(Duration::from_secs(10), self.stream.read_buf(&mut self.buffer));
            assert_ne!(more.await.expect("in time").expect("a connection"), 0, "the gateway went away");
        }
    }

    async fn acknowledged(&mut self) -> u16 {
        self.hear(|packet| match packet {
            Packet::PubAck { id, .. } => id,
            other => panic!("{other:?}"),
        })
        .await
    }
}

/// A message at QoS 1 on topic `a`.
fn message(first: u8, id: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = 5 + payload.len();
    while length > 0x7f {
        packet.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    packet.push(u8::try_from(length).expect("seven bits"));
    packet.extend_from_slice(&[0, 1, b'a', 0, id]);
    packet.extend_from_slice(payload);
    packet
}

#[tokio::test]
async fn a_message_that_is_too_large_is_passed_over_in_its_turn_and_readings_go_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let broker = BrokerConfig {
        host: "127.0.0.1".to_owned(),
        port,
        topics: vec!["#".to_owned()],
        client_id: "gw".to_owned(),
        user: None,
        password: None,
        ca: None,
    };
    let site = Site::with(|config| config.broker = Some(broker)).await;
    let accepted = timeout(Duration::from_secs(10), listener.accept()).await.expect("in time");
    let mut broker = Broker { stream: accepted.expect("accepted").0, buffer: Vec::new() };
    broker.hear(|packet| assert!(matches!(packet, Packet::Connect(_)))).await;
    let mut out = Vec::new();
    conn_ack(&mut out, Version::V311, false, 0, 0, None);
    broker.stream.write_all(&out).await.expect("sent");
    broker.hear(|packet| assert!(matches!(packet, Packet::Subscribe { .. }))).await;
    out.clear();
    sub_ack(&mut out, Version::V311, 1, &[0]);
    out.extend_from_slice(&message(0x32, 1, b"20"));
    let large = vec![b'x'; 3 * 1024 * 1024];
    out.extend_from_slice(&message(0x32, 2, &large));
    out.extend_from_slice(&message(0x33, 3, &large));
    out.extend_from_slice(&message(0x32, 4, b"21"));
    // All but the end of the last large one: what has not come whole is not acknowledged.
    let end = out.len() - message(0x32, 4, b"21").len() - 1;
    broker.stream.write_all(&out[..end]).await.expect("sent");
    assert_eq!((broker.acknowledged().await, broker.acknowledged().await), (1, 2));
    broker.stream.write_all(&out[end..]).await.expect("sent");
    assert_eq!((broker.acknowledged().await, broker.acknowledged().await), (3, 4));
    assert_eq!(site.pending().await, 2);
    assert_eq!(site.metric("edge_gateway_points_rejected_total").await, "1");
}
