//! Signing, verifying, pushing; keys and their rotation. `openssl` is the second opinion.

use std::process::Command;

use crate::stage::Stage;

const MANIFEST: &str = "\
tenant: default
app: edge-web
version: '1.0'
run: {command: [bin/app]}
";

fn openssl(stage: &Stage, line: &str) -> bool {
    let status =
        Command::new("openssl").args(line.split_whitespace()).current_dir(stage.path("")).output().unwrap();
    status.status.success()
}

/// A packed folder, a key, and a trusted set.
async fn prepared(algorithm: &str) -> Stage {
    let stage = Stage::new().await;
    std::fs::create_dir_all(stage.path("app/bin")).unwrap();
    stage.write("app/bin/app", "#!/bin/sh\n");
    stage.write("manifest.yaml", MANIFEST);
    stage.run("release pack app").await.ok();
    stage.run(&format!("key generate --algorithm {algorithm}")).await.ok();
    stage.run("key init --key release.key").await.ok();
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_release_is_verified_by_openssl_and_taken_by_the_server() {
    for algorithm in ["p256", "ed25519"] {
        let stage = prepared(algorithm).await;
        let sign = "release sign manifest.yaml --key release.key --artifact linux/x86_64=app.tar.gz";
        assert_eq!(stage.run(sign).await.ok(), "out/edge-web-1.0.manifest.json\n");
        let decode = Command::new("base64")
            .args(["-d", "out/edge-web-1.0.manifest.json.sig"])
            .current_dir(stage.path(""))
            .output()
            .unwrap();
        std::fs::write(stage.path("raw.sig"), decode.stdout).unwrap();
        let verify = match algorithm {
            "p256" => {
                "dgst -sha256 -verify release.key.pub -signature raw.sig out/edge-web-1.0.manifest.json"
            }
            _ => {
                "pkeyutl -verify -pubin -inkey release.key.pub -rawin -sigfile raw.sig -in out/edge-web-1.0.manifest.json"
            }
        };
        assert!(openssl(&stage, verify), "{algorithm}");
        stage.run("release verify out/edge-web-1.0.manifest.json").await.ok();
        assert_eq!(stage.run("release push out").await.ok(), "release/edge-web-1.0 pushed\n");
        let table = stage.run("get releases").await.ok();
        assert!(
            table.contains("edge-web-1.0") && table.contains("linux/x86_64") && table.contains("main"),
            "{table}"
        );
        assert!(stage.run("get artifacts").await.ok().contains("app.tar.gz"));
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_openssl_signed_is_pushed_and_what_was_changed_is_rejected() {
    let stage = prepared("p256").await;
    stage.run("release sign manifest.yaml --key release.key --artifact linux/x86_64=app.tar.gz").await.ok();
    assert!(openssl(&stage, "dgst -sha256 -sign release.key -out own.raw out/edge-web-1.0.manifest.json"));
    let text = Command::new("base64").args(["-w0", "own.raw"]).current_dir(stage.path("")).output().unwrap();
    std::fs::write(stage.path("own.sig"), text.stdout).unwrap();
    let manifest = std::fs::read_to_string(stage.path("out/edge-web-1.0.manifest.json")).unwrap();
    stage.write("changed.manifest.json", &manifest.replace("bin/app", "bin/other"));
    let changed = stage.run("release push changed.manifest.json --signature own.sig --artifact out").await;
    assert_eq!(changed.code, 7, "{}", changed.stderr);
    let offline =
        stage.run("release verify changed.manifest.json --signature own.sig --key release.key.pub").await;
    assert_eq!(offline.code, 7, "{}", offline.stderr);
    stage.run("key generate --out other.key").await.ok();
    stage
        .run("release sign manifest.yaml --key other.key --artifact linux/x86_64=app.tar.gz --out foreign")
        .await
        .ok();
    let foreign = stage.run("release push foreign").await;
    assert_eq!(foreign.code, 7, "{}", foreign.stderr);
    stage.run("release push out/edge-web-1.0.manifest.json --signature own.sig").await.ok();
    stage.run("release sign manifest.yaml --release-version 1.1 --key release.key --artifact linux/x86_64=app.tar.gz --bundle").await.ok();
    stage.run("release push out/edge-web-1.1.manifest.json").await.ok();
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_keys_are_rotated_by_keys_that_are_trusted() {
    let stage = prepared("p256").await;
    stage.run("key generate --out second.key --algorithm ed25519").await.ok();
    let stranger = stage.run("key add second second.key.pub --signed-by second.key").await;
    assert_eq!(stranger.code, 7, "{}", stranger.stderr);
    stage.run("key add second second.key.pub --signed-by release.key").await.ok();
    insta::assert_snapshot!(stage.run("key list -o name").await.ok(), @r#"
    trusted-key/main
    trusted-key/second
    "#);
    let typo = stage.run("key remove mian --signed-by second.key").await;
    assert_eq!((typo.code, typo.stderr.contains("did you mean \"main\"?")), (3, true), "{}", typo.stderr);
    insta::assert_snapshot!(stage.run("key remove main --signed-by second.key").await.ok(), @r#"
    trusted-keys version 3 with 1 keys
    "#);
    stage.run("release sign manifest.yaml --key release.key --artifact linux/x86_64=app.tar.gz").await.ok();
    assert_eq!(stage.run("release push out").await.code, 7, "signed by a key that is not trusted any more");
    let again = stage.run("key generate").await;
    assert_eq!(again.code, 1, "a key that is there is never overwritten");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(stage.path("release.key")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_of_several_pieces_is_uploaded_once() {
    let stage = Stage::new().await;
    let bytes: Vec<u8> =
        (0..9_500_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    std::fs::write(stage.path("big.tar"), &bytes).unwrap();
    let first = stage.run("artifact push big.tar").await.ok();
    assert!(first.starts_with("artifact/sha256:") && first.ends_with(" uploaded\n"), "{first}");
    assert!(stage.run("artifact push big.tar").await.ok().ends_with(" there already\n"));
    stage.stop().await;
}
