//! Documents and the twin for apps on the device over MQTT.

use farshore_gateway::mqtt::codec::Packet;
use serde_json::{Value, json};

use crate::mqtt::{CONNECT, CONNECT_V5, Client};
use crate::support::Site;

/// Topic, what it says, and whether it was there already.
type Told = (String, Value, bool);

fn length(mut rest: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(rest & 0x7f).expect("seven bits");
        rest >>= 7;
        bytes.push(if rest == 0 { byte } else { byte | 0x80 });
        if rest == 0 {
            return bytes;
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).expect("short").to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// At QoS 1, for a client of version 5.
fn message(id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let body = [&text(topic)[..], &id.to_be_bytes(), &[0], payload].concat();
    [&[0x32][..], &length(body.len()), &body].concat()
}

async fn subscribe(client: &mut Client, filter: &str) {
    let body = [&[0, 1, 0][..], &text(filter), &[0]].concat();
    client.send(&[&[0x82][..], &length(body.len()), &body].concat()).await;
    let granted = client.answer(|packet| matches!(packet, Packet::SubAck { codes: [0], .. })).await;
    assert!(granted, "{filter}");
}

async fn told(client: &mut Client) -> Told {
    let read = |packet: Packet<'_>| match packet {
        Packet::Publish(said) => {
            (said.topic.to_owned(), serde_json::from_slice(said.payload).expect("JSON"), said.retain)
        }
        other => panic!("{other:?}"),
    };
    client.answer(read).await
}

/// What the acknowledgement says.
async fn write(client: &mut Client, topic: &str, payload: &str) -> u8 {
    client.send(&message(7, topic, payload.as_bytes())).await;
    client.acknowledged().await.1
}

#[tokio::test]
async fn who_subscribes_is_told_what_there_is_and_then_of_each_change_whoever_makes_it() {
    let site = Site::new().await;
    let (mut app, ..) = Client::connect(&site, CONNECT_V5).await;
    assert_eq!(write(&mut app, "$documents/settings/main/put", r#"{"volume": 3, "x": null}"#).await, 0);
    assert_eq!(write(&mut app, "$documents/other/main/put", "{}").await, 0);
    subscribe(&mut app, "$documents/settings/+").await;
    let (topic, said, there) = told(&mut app).await;
    assert_eq!(
        (topic.as_str(), &said["value"], there),
        ("$documents/settings/main", &json!({"volume": 3}), true)
    );
    let version = said["version"].as_u64().expect("a version");
    // Over HTTP, by somebody else.
    site.send("PATCH", "/documents/settings/main", &[], br#"{"volume": 5}"#).await;
    let (_, said, there) = told(&mut app).await;
    assert_eq!((&said["value"], &said["pending"], there), (&json!({"volume": 5}), &json!(true), false));
    // That version is not the newest any more.
    assert_eq!(
        write(&mut app, &format!("$documents/settings/main/patch/{version}"), r#"{"volume": 9}"#).await,
        0x83
    );
    let newest = said["version"].as_u64().expect("a version");
    app.send(&message(8, &format!("$documents/settings/main/patch/{newest}"), br#"{"volume": 7}"#)).await;
    app.send(&message(9, "$documents/settings/main/delete", b"")).await;
    // Acknowledgements and what is told may come in any order, but each kind in its own.
    let (mut codes, mut values) = (Vec::new(), Vec::new());
    while codes.len() < 2 || values.last() != Some(&Value::Null) {
        app.answer(|packet| match packet {
            Packet::PubAck { id, code } => codes.push((id, code)),
            Packet::Publish(said) => {
                let said: Value = serde_json::from_slice(said.payload).expect("JSON");
                values.push(said["value"].clone());
            }
            other => panic!("{other:?}"),
        })
        .await;
    }
    assert_eq!(codes, [(8, 0), (9, 0)]);
    // One that reads slowly hears of the newest only.
    assert!(values == [json!({"volume": 7}), Value::Null] || values == [Value::Null], "{values:?}");
    assert_eq!(site.send("GET", "/documents/settings/main", &[], b"").await.status, 404);
    assert_eq!(site.pending().await, 0, "none of this is a reading");
}

#[tokio::test]
async fn the_twin_is_reported_and_what_is_wrong_is_told_and_changes_nothing() {
    let site = Site::new().await;
    let (mut app, ..) = Client::connect(&site, CONNECT_V5).await;
    subscribe(&mut app, "$documents/refused").await;
    subscribe(&mut app, "$twin/#").await;
    let (mut other, ..) = Client::connect(&site, &[&CONNECT_V5[..CONNECT_V5.len() - 1], b"d"].concat()).await;
    subscribe(&mut other, "$documents/refused").await;
    app.send(&message(7, "$twin/reported/patch", br#"{"interval": 10}"#)).await;
    let mut acknowledged = false;
    let mut reported = None;
    while !acknowledged || reported.is_none() {
        app.answer(|packet| match packet {
            Packet::PubAck { code, .. } => acknowledged = code == 0,
            Packet::Publish(said) => reported = Some((said.topic.to_owned(), said.payload.to_vec())),
            other => panic!("{other:?}"),
        })
        .await;
    }
    let (topic, said) = reported.expect("told");
    let said: Value = serde_json::from_slice(&said).expect("JSON");
    assert_eq!((topic.as_str(), &said["value"]), ("$twin/reported", &json!({"interval": 10})));
    let large = json!({"a": "x".repeat(200_000)}).to_string();
    let larger = json!({"a": "x".repeat(400_000)}).to_string();
    for (topic, payload, code, error, word) in [
        ("$twin/desired/patch", "{}", 0x87, "read only", "only read"),
        ("$twin/other/put", "{}", 0x99, "invalid", "two documents"),
        ("$documents/c/n/put", "{", 0x99, "invalid", "no JSON"),
        ("$documents/c/n/put", "[1]", 0x99, "invalid", "JSON object"),
        ("$documents/c/n/patch", "1", 0x99, "invalid", "JSON object"),
        ("$documents/C/n/put", "{}", 0x99, "invalid", "small letters"),
        ("$documents/c/n/put", large.as_str(), 0x99, "invalid", "at most"),
        ("$documents/c/n/put", larger.as_str(), 0x99, "request too large", "at most"),
        ("$documents/c/n/delete", "", 0x83, "not found", "no such document"),
        ("$documents/c/n", "{}", 0x90, "not found", "VERB"),
        ("$twin", "{}", 0x90, "not found", "VERB"),
    ] {
        app.send(&message(7, topic, payload.as_bytes())).await;
        let (mut answered, mut refused) = (None, None);
        while answered.is_none() || refused.is_none() {
            app.answer(|packet| match packet {
                Packet::PubAck { code, .. } => answered = Some(code),
                Packet::Publish(said) => {
                    assert_eq!(said.topic, "$documents/refused");
                    refused = Some(serde_json::from_slice::<Value>(said.payload).expect("JSON"));
                }
                other => panic!("{other:?}"),
            })
            .await;
        }
        let refused = refused.expect("told");
        assert_eq!(
            (answered, &refused["error"], &refused["topic"]),
            (Some(code), &json!(error), &json!(topic))
        );
        assert_eq!(refused["client"], Value::Null, "no ids of clients");
        assert!(refused["message"].as_str().is_some_and(|message| message.contains(word)), "{refused}");
    }
    // What it hears first is of its own: nothing of what the other one sent.
    other.send(&message(9, "$documents/z/z/delete", b"")).await;
    let (mut acknowledged, mut heard) = (false, None);
    while !acknowledged || heard.is_none() {
        other
            .answer(|packet| match packet {
                Packet::PubAck { id, .. } => acknowledged = id == 9,
                Packet::Publish(said) if heard.is_none() => {
                    heard = Some(serde_json::from_slice::<Value>(said.payload).expect("JSON"));
                }
                other => panic!("{other:?}"),
            })
            .await;
    }
    assert_eq!(heard.expect("told")["topic"], "$documents/z/z/delete");
    let listed = site.send("GET", "/documents", &[], b"").await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "only what was reported");
    assert_eq!(site.pending().await, 0);
}

#[tokio::test]
async fn a_message_that_comes_again_is_done_once_and_clients_of_3_1_1_are_acknowledged() {
    let site = Site::new().await;
    let (mut app, ..) = Client::connect(&site, CONNECT).await;
    let packet = |first: u8, id: u16, payload: &str| {
        let body = [&text("$documents/c/n/patch")[..], &id.to_be_bytes(), payload.as_bytes()].concat();
        [&[first][..], &length(body.len()), &body].concat()
    };
    app.send(&packet(0x32, 7, r#"{"a": 1}"#)).await;
    assert_eq!(app.acknowledged().await, (7, 0));
    site.send("PATCH", "/documents/c/n", &[], br#"{"a": 2}"#).await;
    // The client did not hear the acknowledgement.
    app.send(&packet(0x3a, 7, r#"{"a": 1}"#)).await;
    assert_eq!(app.acknowledged().await, (7, 0));
    assert_eq!(site.send("GET", "/documents/c/n", &[], b"").await.json(), json!({"a": 2}));
    // Refused, and yet acknowledged: sent again it would be refused again.
    app.send(&packet(0x32, 8, "nonsense")).await;
    assert_eq!(app.acknowledged().await, (8, 0));
    // At QoS 0 nothing answers; the next message waits for it.
    let quiet = [&text("$documents/c/n/patch")[..], br#"{"a": 3}"#].concat();
    app.send(&[&[0x30][..], &length(quiet.len()), &quiet].concat()).await;
    app.send(&packet(0x32, 9, r#"{"b": 4}"#)).await;
    assert_eq!(app.acknowledged().await, (9, 0));
    assert_eq!(site.send("GET", "/documents/c/n", &[], b"").await.json(), json!({"a": 3, "b": 4}));
}

#[tokio::test]
async fn many_large_documents_are_told_whole_to_who_reads_them_late() {
    let site = Site::new().await;
    let documents = site.gateway.documents().expect("running");
    for number in 0..60 {
        let value = json!({"n": number, "x": "x".repeat(100 * 1024)});
        documents.put("large", &format!("{number:02}"), Some(value), None).await.expect("written");
    }
    let (mut app, ..) = Client::connect(&site, CONNECT_V5).await;
    subscribe(&mut app, "$documents/#").await;
    for number in 0..60 {
        documents
            .put("small", &format!("{number:02}"), Some(json!({"n": number})), None)
            .await
            .expect("written");
    }
    let mut heard = Vec::new();
    for _ in 0..120 {
        let (topic, _, there) = told(&mut app).await;
        assert_eq!(there, topic.starts_with("$documents/large/"), "{topic}");
        heard.push(topic);
    }
    let wanted =
        ["large", "small"].map(|collection| (0..60).map(move |n| format!("$documents/{collection}/{n:02}")));
    assert_eq!(heard, wanted.into_iter().flatten().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_site_s_credentials_are_asked_for_before_any_document() {
    let site = Site::with(|config| config.credentials = crate::support::token("secret")).await;
    let (_, code, _) = Client::connect(&site, CONNECT_V5).await;
    assert_eq!(code, 0x86);
    let with_password = b"\x10\x18\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01c\x00\x01u\x00\x06secret";
    let (mut app, code, _) = Client::connect(&site, with_password).await;
    assert_eq!(code, 0);
    let body = [&text("$documents/c/n/put")[..], &[0, 7], b"{}"].concat();
    app.send(&[&[0x32][..], &length(body.len()), &body].concat()).await;
    assert_eq!(app.acknowledged().await, (7, 0));
}
