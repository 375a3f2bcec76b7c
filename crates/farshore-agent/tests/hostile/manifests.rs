//! Manifests that should not be obeyed, referred to by a desired state whose signature is good.

use farshore_agent::clock;
use farshore_protocol::server_frame::Body;
use rand::{Rng, SeedableRng};

use crate::device::{Device, long};
use crate::liar::Answer;
use crate::release::{Release, Signer};

/// The same manifest with another signature file.
fn signed_as(release: &Release, signature: &[u8]) -> Release {
    let mut release = release.clone();
    release.signed.signature = signature.to_vec();
    release
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_release_that_a_release_key_did_not_sign_for_this_device_is_executed() {
    let (mut device, good) = Device::with_release("1.5", Some("1.2")).await;
    let app = device.steady().await;
    let liar = std::sync::Arc::clone(&device.liar);
    let own = &liar.signer;
    let (unknown, other) = (Signer::new("acme"), Signer::new("umbrella"));
    let field = |path: &'static str, value: serde_json::Value| {
        move |manifest: &mut serde_json::Value| *manifest.pointer_mut(path).unwrap() = value
    };
    let fresh = || own.release("2.0");
    let stolen = unknown.sign(fresh().signed.document).signature;
    let of_another = own.release("2.1").signed.signature;
    let cases: Vec<(&str, &[&str], Release)> = vec![
        ("unknown key", &["BadSignature"], unknown.release("2.0")),
        ("unsigned", &["BadSignature"], signed_as(&fresh(), b"")),
        ("no signature but text", &["BadSignature"], signed_as(&fresh(), b"MEUCIQ==")),
        ("two signatures", &["BadSignature"], {
            let release = fresh();
            let twice = [release.signed.signature.as_slice(), &release.signed.signature].concat();
            signed_as(&release, &twice)
        }),
        ("an unknown key's signature", &["BadSignature"], signed_as(&fresh(), &stolen)),
        ("another manifest's signature", &["BadSignature"], signed_as(&fresh(), &of_another)),
        ("another tenant's, by its own key", &["BadSignature"], other.release("2.0")),
        ("another tenant's, by this tenant's key", &["WrongTenant"], {
            own.changed("2.0", field("/tenant", "umbrella".into()))
        }),
        (
            "another platform",
            &["WrongPlatform"],
            own.changed("2.0", field("/platforms/0/arch", "riscv64".into())),
        ),
        ("another system", &["WrongPlatform"], own.changed("2.0", field("/platforms/0/os", "plan9".into()))),
        ("below the floor", &["BelowFloor"], own.release("1.1")),
        ("another schema", &["Unsupported"], {
            own.changed("2.0", field("/schema", "farshore.dev/release/v2".into()))
        }),
        ("an unknown field", &["Unsupported"], {
            own.changed("2.0", |manifest| manifest["preInstall"] = serde_json::json!(["bin/app"]))
        }),
        ("another app's", &["WrongRelease"], own.changed("2.0", field("/app", "till".into()))),
        ("another version", &["WrongRelease"], {
            let mut release = own.release("2.0");
            release.version = "2.2".to_owned();
            release
        }),
        ("a program outside", &["BadManifest"], {
            own.changed("2.0", field("/run/command/0", "../../../../record".into()))
        }),
        (
            "a program of the system",
            &["BadManifest"],
            own.changed("2.0", field("/run/command/0", "/bin/sh".into())),
        ),
        ("a check outside", &["BadManifest"], {
            own.changed("2.0", field("/health/0/probe/command/0", "/bin/sh".into()))
        }),
        ("a loader's variable", &["BadManifest"], {
            own.changed("2.0", |manifest| {
                manifest["run"]["env"] = serde_json::json!({"LD_PRELOAD": "bin/app"})
            })
        }),
        ("an absurd size", &["BadManifest"], {
            own.changed("2.0", field("/platforms/0/artifact/size", u64::MAX.into()))
        }),
        ("a digest of other bytes", &["DigestMismatch"], {
            let another = own.release("2.9");
            let digest = serde_json::json!(another.artifact_digest);
            let mut release = own.changed("2.0", field("/platforms/0/artifact/digest", digest));
            release.artifact_digest = another.artifact_digest;
            release
        }),
        ("a missing program", &["NoProgram"], own.changed("2.0", field("/run/command/0", "bin/none".into()))),
    ];
    for (what, codes, release) in cases {
        liar.publish(&release, Answer::ok(&release.artifact));
        let begun = clock::wall();
        device.desire(&release);
        device.says(what, codes, begun).await;
        device.check_still(what, &app);
    }
    // The manifest that came is not the one that is meant, or none came.
    for (what, code, manifests) in
        [("no manifest", "ManifestMissing", Vec::new()), ("another manifest", "ManifestMissing", vec![&good])]
    {
        let wanted = own.release("2.5");
        let (begun, generation) = (clock::wall(), device.next());
        let signed = liar.sign(&liar.state(generation, &wanted), &manifests);
        liar.tell(Body::Desired(signed));
        device.says(what, &[code], begun).await;
        device.check_still(what, &app);
    }
    let good = own.release("3.0");
    device.takes(&good).await;
    device.check("the good one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flipped_bit_of_a_manifest_or_its_signature_is_obeyed() {
    let (mut device, _) = Device::with_release("1.0", None).await;
    let app = device.steady().await;
    let liar = std::sync::Arc::clone(&device.liar);
    let mut random = rand::rngs::StdRng::seed_from_u64(3);
    for number in 0..if long() { 2_000 } else { 60 } {
        let mut release = liar.signer.release(&format!("2.{number}"));
        liar.publish(&release, Answer::ok(&release.artifact));
        let bytes =
            if number % 3 == 0 { &mut release.signed.signature } else { &mut release.signed.document };
        let (at, bit) = (random.random_range(0..bytes.len()), random.random_range(0..7));
        bytes[at] ^= 1 << bit;
        // The stolen online key refers to what it has bent.
        release.manifest = farshore_domain::digest::Digest::of(&release.signed.document);
        let begun = clock::wall();
        device.desire(&release);
        device.says("a flipped bit", &["BadSignature"], begun).await;
        device.check_still(&format!("bit {bit} of byte {at} in round {number}"), &app);
    }
    let good = liar.signer.release("3.0");
    device.takes(&good).await;
    device.check("the good one");
}
