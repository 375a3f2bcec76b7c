//! Garbage on the channel, and answers where none should be.

use std::sync::Arc;

use farshore_protocol::{MAX_FRAME_BYTES, ServerFrame, server_frame};
use rand::{Rng, RngCore, SeedableRng};
use tokio_tungstenite::tungstenite::Message;

use crate::device::{Device, long};
use crate::liar::{Answer, Liar, Say, message};
use crate::wait::seen;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_channel_ends_at_most_the_channel() {
    let (mut device, _) = Device::with_release("1.0", None).await;
    let app = device.steady().await;
    let liar = Arc::clone(&device.liar);
    let binary = |bytes: Vec<u8>| Say::Message(Message::Binary(bytes.into()));
    let text = |text: &str| Say::Message(Message::Text(text.to_owned().into()));
    // 0x82: the last frame of a binary message; 127: its length follows in eight bytes.
    let giant = [&[0x82, 127][..], &u64::MAX.to_be_bytes()].concat();
    let cases: Vec<(&str, Vec<Say>)> = vec![
        ("garbage", vec![binary(vec![0xff; 100])]),
        ("nothing", vec![binary(Vec::new())]),
        ("text", vec![text("{\"exec\":\"/bin/sh\"}")]),
        ("too large", vec![binary(vec![0; MAX_FRAME_BYTES + 1])]),
        ("a length without end", vec![Say::Raw(giant)]),
        // Long enough for the length that its second byte is taken for.
        ("no WebSocket", vec![Say::Raw(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(200)).into_bytes())]),
        ("masked as a client's", vec![Say::Raw(vec![0x82, 0x80 | 4, 1, 2, 3, 4, 5, 6, 7, 8])]),
        ("a reserved opcode", vec![Say::Raw(vec![0x83, 0])]),
        ("half a frame and the end", vec![Say::Raw(vec![0x82, 126, 1, 0, 9, 9]), Say::HangUp]),
        ("half a message and the end", vec![Say::Raw(vec![0x02, 3, 1, 2, 3]), Say::HangUp]),
        ("a continuation of nothing", vec![Say::Raw(vec![0x80, 2, 1, 2])]),
        ("closed at once", vec![Say::HangUp]),
        ("closed politely", vec![Say::Message(Message::Close(None))]),
        ("many pings", (0..200).map(|_| Say::Message(Message::Ping(vec![7; 100].into()))).collect()),
        (
            "many welcomes",
            (0..50)
                .map(|number| {
                    Say::Message(message(server_frame::Body::Welcome(farshore_protocol::Welcome {
                        server_time_ms: i64::MAX - number,
                        heartbeat_seconds: u32::MAX,
                        acknowledged: vec![
                            farshore_protocol::Acknowledged {
                                stream: "x".repeat(1_000),
                                sequence: u64::MAX
                            };
                            100
                        ],
                        ..Default::default()
                    })))
                })
                .collect(),
        ),
        ("an empty body", vec![binary(ServerFrame::default().to_bytes())]),
        (
            "live for ever",
            vec![Say::Message(message(server_frame::Body::Live(farshore_protocol::LiveRequest {
                seconds: u32::MAX,
                interval_ms: 0,
            })))],
        ),
        (
            "an operation of no kind",
            vec![Say::Message(message(server_frame::Body::Operation(farshore_protocol::Operation {
                uid: "x".repeat(100_000),
                kind: "exec".repeat(10_000),
                app: "../../web".into(),
                arguments_json: "[".repeat(100_000),
                expires_at_ms: i64::MIN,
                reason: String::new(),
            })))],
        ),
    ];
    for (what, said) in cases {
        device.answers("before").await;
        for say in said {
            // It may have closed the channel at the first of them.
            liar.say(say);
        }
        device.answers(what).await;
        device.check_still(what, &app);
    }
    // The next channel starts with an honest clock.
    let channels = liar.book().channels;
    liar.say(Say::HangUp);
    device.connected(channels + 1).await;
    let good = liar.signer.release("3.0");
    device.takes(&good).await;
    device.check("the good one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bent_frames_change_nothing() {
    let (mut device, _) = Device::with_release("1.0", None).await;
    let app = device.steady().await;
    let liar = Arc::clone(&device.liar);
    let wanted = liar.signer.release("2.0");
    liar.publish(&wanted, Answer::ok(&wanted.artifact));
    // What is bent may still be this very release, well signed.
    device.may_run(&wanted);
    let mut random = rand::rngs::StdRng::seed_from_u64(5);
    for round in 0..if long() { 20_000 } else { 300 } {
        let desired = liar.sign(&liar.state(1_000, &wanted), &[&wanted]);
        let frame = server_frame::Body::Desired(desired);
        let Message::Binary(bytes) = message(frame) else { unreachable!() };
        let mut bytes = bytes.to_vec();
        match round % 3 {
            0 => {
                // Only what is signed, and what signs it: the order of generations must stay as it is.
                let at = random.random_range(0..bytes.len());
                bytes[at] ^= 1 << random.random_range(0..8);
            }
            1 => bytes.truncate(random.random_range(0..bytes.len())),
            _ => {
                bytes = vec![0; random.random_range(0..500)];
                random.fill_bytes(&mut bytes);
            }
        }
        // A server may ask for an hour's patience: that is no garbage.
        let goodbye = ServerFrame::from_bytes(&bytes)
            .is_ok_and(|frame| matches!(frame.body, Some(server_frame::Body::Goodbye(_))));
        if !goodbye {
            liar.say(Say::Message(Message::Binary(bytes.into())));
        }
        if round % 20 == 0 {
            device.answers("bent frames").await;
            device.check(&format!("round {round}"));
        }
    }
    device.answers("bent frames").await;
    device.check("after all rounds");
    assert!(device.programs().keys().any(|pid| app.contains_key(pid)) || liar.app_status().is_some());
    device.generation_at(2_000);
    let good = liar.signer.release("3.0");
    device.takes(&good).await;
    device.check("the good one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_and_a_channel_that_are_answered_with_lies_are_tried_again() {
    let liar = Liar::start().await;
    let redirect = Answer::with(
        "HTTP/1.1 307 Other\r\nlocation: https://127.0.0.1:1/api/devices/claim\r\ncontent-length: 0\r\n\r\n",
        b"",
    );
    let lies = [
        redirect,
        Answer::ok(b"{}"),
        Answer::ok(&[b'['; 100_000]),
        Answer::with("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", b"{"),
        Answer::with("no HTTP at all\r\n\r\n", b""),
    ];
    let claim = "/api/devices/claim";
    liar.book().answers.insert(claim.to_owned(), lies[0].clone());
    let mut device = Device::start_against(Arc::clone(&liar));
    for lie in &lies {
        let asked = liar.asked(claim);
        liar.book().answers.insert(claim.to_owned(), lie.clone());
        seen("another claim", || (liar.asked(claim) > asked).then_some(())).await;
    }
    liar.book().answers.remove(claim);
    device.connected(1).await;
    let good = liar.signer.release("1.0");
    device.takes(&good).await;
    let app = device.steady().await;
    for lie in &lies {
        let asked = liar.asked("/api/channel");
        liar.book().answers.insert("/api/channel".to_owned(), lie.clone());
        liar.say(Say::HangUp);
        seen("another channel", || (liar.asked("/api/channel") > asked).then_some(())).await;
        device.check_still("a channel that is none", &app);
    }
    let channels = liar.book().channels;
    liar.book().answers.remove("/api/channel");
    device.connected(channels + 1).await;
    let good = liar.signer.release("2.0");
    device.takes(&good).await;
    device.check("the good one");
}
