//! Mirrors that lie about bytes.

use std::time::Duration;

use farshore_agent::clock;
use rand::{Rng, SeedableRng};

use crate::device::{Device, long};
use crate::liar::{After, Answer, path};
use crate::release::{Release, program};

/// Not the bytes of the manifest, however they come.
const REFUSED: &[&str] = &["DigestMismatch", "WrongSize"];
/// No whole artifact came.
const FAILED: &[&str] = &["DownloadFailed"];

fn head(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")
}

fn length(bytes: usize) -> String {
    head(&format!("content-length: {bytes}"))
}

/// Another program of exactly the same size in the same place.
fn swapped(release: &Release) -> Vec<u8> {
    let mut bytes = release.artifact.clone();
    let other = program();
    bytes[512..512 + other.len()].copy_from_slice(&other);
    bytes
}

fn lies(release: &Release) -> Vec<(&'static str, &'static [&'static str], Answer)> {
    let good = &release.artifact;
    let size = good.len();
    let half = &good[..size / 2];
    let redirect = "HTTP/1.1 302 Found\r\nlocation: https://127.0.0.1:1/other\r\ncontent-length: 0\r\n\r\n";
    let repeat = |head: &str, body: Vec<u8>| Answer { head: head.to_owned(), body, after: After::Repeat };
    let part = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {size}\r\ncontent-range: bytes 7-99/100\r\n\r\n"
    );
    vec![
        ("swapped program", REFUSED, Answer::ok(&swapped(release))),
        ("other bytes", REFUSED, Answer::ok(&vec![b'x'; size])),
        ("cut in the middle", FAILED, Answer::with(&length(size), half)),
        ("a shorter length", FAILED, Answer::with(&length(half.len()), half)),
        ("nothing", FAILED, Answer::ok(b"")),
        ("one byte too many", REFUSED, Answer::ok(&[good.as_slice(), b"x"].concat())),
        ("a greater length, all bytes", REFUSED, Answer::ok(&[good.as_slice(), good].concat())),
        ("an absurd length", FAILED, Answer::with(&length(usize::MAX), half)),
        ("no number for a length", FAILED, Answer::with(&head("content-length: -1"), good)),
        ("endless", REFUSED, repeat(&head("x-length: none"), vec![7; 64 * 1024])),
        ("endless in chunks", REFUSED, {
            let chunk = [b"10000\r\n".as_slice(), &[7; 0x10000], b"\r\n"].concat();
            repeat(&head("transfer-encoding: chunked"), chunk)
        }),
        ("a chunk of absurd size", FAILED, {
            Answer::with(&head("transfer-encoding: chunked"), b"ffffffffffffffffff\r\nxx")
        }),
        ("endless head", FAILED, repeat("HTTP/1.1 200 OK\r\n", b"x-more: and more\r\n".to_vec())),
        ("a redirect", FAILED, Answer::with(redirect, b"")),
        ("another part", FAILED, Answer::with(&part, half)),
        ("an error", FAILED, Answer::with("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", b"")),
        ("no HTTP", FAILED, Answer::with("\u{0}\u{1}garbage\r\n\r\n", good)),
        ("closed at once", FAILED, Answer::with("", b"")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_lies_about_bytes_gets_nothing_executed() {
    let (mut device, _) = Device::with_release("1.0", None).await;
    let app = device.steady().await;
    let count = lies(&device.liar.signer.release("0.0")).len();
    for number in 0..count {
        let release = device.liar.signer.release(&format!("2.{number}"));
        let (what, codes, answer) = lies(&release).swap_remove(number);
        device.liar.publish(&release, answer);
        let begun = clock::wall();
        device.desire(&release);
        device.says(what, codes, begun).await;
        assert!(device.liar.asked(&path(&release)) > 0, "{what}");
        device.check_still(what, &app);
    }
    let good = device.liar.signer.release("3.0");
    device.takes(&good).await;
    device.check("the good one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flipped_bit_of_an_artifact_is_ever_executed() {
    let (mut device, _) = Device::with_release("1.0", None).await;
    let app = device.steady().await;
    let mut random = rand::rngs::StdRng::seed_from_u64(2);
    for number in 0..if long() { 500 } else { 12 } {
        let release = device.liar.signer.release(&format!("2.{number}"));
        let mut bytes = release.artifact.clone();
        let (at, bit) = (random.random_range(0..bytes.len()), random.random_range(0..8));
        bytes[at] ^= 1 << bit;
        device.liar.publish(&release, Answer::ok(&bytes));
        let begun = clock::wall();
        device.desire(&release);
        device.says("a flipped bit", REFUSED, begun).await;
        device.check_still(&format!("bit {bit} of byte {at}"), &app);
    }
    let good = device.liar.signer.release("3.0");
    device.takes(&good).await;
    device.check("the good one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_drips_does_not_keep_the_device_from_another_release() {
    let (mut device, _) = Device::with_release("1.0", None).await;
    let app = device.steady().await;
    let slow = device.liar.signer.release("2.0");
    let drip = After::Drip(Duration::from_millis(50));
    device.liar.publish(&slow, Answer { after: drip, ..Answer::ok(&slow.artifact) });
    device.desire(&slow);
    crate::wait::seen("the first bytes", || {
        let done = device.liar.app_status()?.bytes_done;
        (done > 0).then_some(())
    })
    .await;
    device.check_still("dripping", &app);
    let good = device.liar.signer.release("3.0");
    device.takes(&good).await;
    device.check("the good one");
}
