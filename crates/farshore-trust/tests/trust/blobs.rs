use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_trust::blob::{BlobError, MAX_SIGNATURE_FILE_BYTES, sign_bundle, sign_detached, verify_blob};
use farshore_trust::key::{Algorithm, PublicKey, SigningKey};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::openssl::OpenSsl;

const ARTIFACT: &[u8] = include_bytes!("../fixtures/cosign/artifact.txt");
const DETACHED: &[u8] = include_bytes!("../fixtures/cosign/artifact.txt.sig");
const BUNDLE: &[u8] = include_bytes!("../fixtures/cosign/bundle.sigstore.json");
const KEY: &str = include_str!("../fixtures/cosign/key.pub");

fn cosign_key() -> PublicKey {
    PublicKey::from_pem(KEY).unwrap()
}

fn stranger() -> PublicKey {
    SigningKey::generate(Algorithm::P256).unwrap().public().clone()
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

#[test]
fn what_cosign_signed_verifies_in_both_forms_and_names_the_key() {
    let keys = [stranger(), cosign_key()];
    for file in [DETACHED, BUNDLE, &[DETACHED, b" \r\n\n"].concat(), &[b"\n", BUNDLE, b"\n"].concat()] {
        assert_eq!(verify_blob(&keys, ARTIFACT, file).unwrap(), cosign_key().key_id());
        assert!(matches!(verify_blob(&keys[..1], ARTIFACT, file), Err(BlobError::NotTrusted)));
        assert!(verify_blob(&keys, b"another", file).is_err());
        assert!(matches!(verify_blob(&[], ARTIFACT, file), Err(BlobError::NoKeys)));
    }
    let older =
        String::from_utf8(BUNDLE.to_vec()).unwrap().replace("bundle.v0.3+json", "bundle+json;version=0.3");
    verify_blob(&keys, ARTIFACT, older.as_bytes()).unwrap();
}

#[test]
fn every_single_bit_counts() {
    let key = [cosign_key()];
    for bit in 0..ARTIFACT.len() * 8 {
        let message = flipped(ARTIFACT, bit);
        assert!(verify_blob(&key, &message, DETACHED).is_err(), "message bit {bit}");
        assert!(verify_blob(&key, &message, BUNDLE).is_err(), "message bit {bit}, bundle");
    }
    for bit in 0..DETACHED.len() * 8 {
        assert!(verify_blob(&key, ARTIFACT, &flipped(DETACHED, bit)).is_err(), "file bit {bit}");
    }
    let raw = STANDARD.decode(DETACHED).unwrap();
    for bit in 0..raw.len() * 8 {
        assert!(
            verify_blob(&key, ARTIFACT, STANDARD.encode(flipped(&raw, bit)).as_bytes()).is_err(),
            "signature bit {bit}"
        );
    }
    let spki = cosign_key().spki_der();
    for bit in 0..spki.len() * 8 {
        let accepted = PublicKey::from_spki_der(&flipped(&spki, bit))
            .is_ok_and(|key| verify_blob(&[key], ARTIFACT, DETACHED).is_ok());
        assert!(!accepted, "key bit {bit}");
    }
}

#[test]
fn every_single_bit_counts_with_ed25519_too() {
    let signer = SigningKey::generate(Algorithm::Ed25519).unwrap();
    let signature = signer.sign(ARTIFACT).unwrap();
    let verify = |key: &PublicKey, signature: &[u8]| {
        verify_blob(std::slice::from_ref(key), ARTIFACT, STANDARD.encode(signature).as_bytes())
    };
    verify(signer.public(), &signature).unwrap();
    for bit in 0..signature.len() * 8 {
        assert!(verify(signer.public(), &flipped(&signature, bit)).is_err(), "signature bit {bit}");
    }
    let spki = signer.public().spki_der();
    for bit in 0..spki.len() * 8 {
        assert!(
            !PublicKey::from_spki_der(&flipped(&spki, bit)).is_ok_and(|key| verify(&key, &signature).is_ok()),
            "key bit {bit}"
        );
    }
}

#[test]
fn a_bundle_is_refused_for_what_it_says_even_when_its_signature_is_good() {
    let key = [cosign_key()];
    let good: Value = serde_json::from_slice(BUNDLE).unwrap();
    let verify = |bundle: &Value| verify_blob(&key, ARTIFACT, bundle.to_string().as_bytes());
    verify(&good).unwrap();
    let with = |pointer: &str, value: Value| {
        let mut bundle = good.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        bundle.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(name.to_owned(), value);
        verify(&bundle)
    };
    let without = |pointer: &str| {
        let mut bundle = good.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        bundle.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
        verify(&bundle)
    };
    for media_type in [
        "",
        "application/json",
        "application/vnd.dev.sigstore.bundle.v0.4+json",
        "application/vnd.dev.sigstore.bundle+json;version=0.2",
    ] {
        assert!(
            matches!(with("/mediaType", json!(media_type)), Err(BlobError::UnknownMediaType)),
            "{media_type}"
        );
    }
    assert!(matches!(with("/dsseEnvelope", json!({"payload": ""})), Err(BlobError::TwoContents)));
    assert!(matches!(without("/messageSignature"), Err(BlobError::NoSignature)));
    assert!(matches!(
        with("/verificationMaterial/certificate", json!({"rawBytes": ""})),
        Err(BlobError::CertificateMaterial)
    ));
    assert!(matches!(
        with("/verificationMaterial/x509CertificateChain", json!({})),
        Err(BlobError::CertificateMaterial)
    ));
    assert!(matches!(without("/verificationMaterial/publicKey"), Err(BlobError::NoPublicKey)));
    assert!(matches!(with("/messageSignature/signature", json!("")), Err(BlobError::NoSignature)));
    assert!(matches!(with("/messageSignature/signature", json!("!")), Err(BlobError::NotBase64(_))));
    assert!(matches!(with("/messageSignature/signature", json!(["a", "b"])), Err(BlobError::BadBundle(_))));
    assert!(matches!(
        with("/messageSignature/messageDigest/algorithm", json!("SHA2_512")),
        Err(BlobError::UnknownDigest)
    ));
    assert!(matches!(
        with("/messageSignature/messageDigest/digest", json!(STANDARD.encode([0; 32]))),
        Err(BlobError::DigestMismatch)
    ));
    assert!(matches!(
        with("/messageSignature/messageDigest/digest", json!("")),
        Err(BlobError::DigestMismatch)
    ));
    assert!(matches!(without("/messageSignature/messageDigest"), Err(BlobError::BadBundle(_))));
    assert!(matches!(with("/surprise", json!(1)), Err(BlobError::BadBundle(_))));
    // The hint selects nothing: another key's hint changes nothing.
    with("/verificationMaterial/publicKey/hint", json!(STANDARD.encode(stranger().digest().as_bytes())))
        .unwrap();
    with("/verificationMaterial/publicKey", json!({})).unwrap();
    without("/verificationMaterial/tlogEntries").unwrap();

    let text = good.to_string();
    let refused = |file: String| verify_blob(&key, ARTIFACT, file.as_bytes()).unwrap_err();
    assert!(matches!(refused(format!("{text}{{}}")), BlobError::BadBundle(_)));
    assert!(matches!(refused(format!("{text}x")), BlobError::BadBundle(_)));
    assert!(matches!(
        refused(text.replacen("\"signature\":", "\"signature\":\"\",\"signature\":", 1)),
        BlobError::BadBundle(_)
    ));
    assert!(matches!(
        refused(format!("{text}{}", " ".repeat(MAX_SIGNATURE_FILE_BYTES))),
        BlobError::TooLarge
    ));
    let mut envelope = good.clone();
    envelope.as_object_mut().unwrap().remove("messageSignature");
    envelope["dsseEnvelope"] =
        json!({"payload": "", "payloadType": "application/vnd.in-toto+json", "signatures": []});
    assert!(matches!(verify(&envelope), Err(BlobError::Envelope)));
    // cosign's older bundle.
    let signature = std::str::from_utf8(DETACHED).unwrap();
    assert!(matches!(
        verify(&json!({"base64Signature": signature, "cert": "", "rekorBundle": {}})),
        Err(BlobError::BadBundle(_))
    ));
}

#[test]
fn a_detached_signature_is_one_base64_text_and_nothing_else() {
    let key = [cosign_key()];
    let verify = |file: &[u8]| verify_blob(&key, ARTIFACT, file);
    assert!(matches!(verify(b""), Err(BlobError::Empty)));
    assert!(matches!(verify(b" \n"), Err(BlobError::Empty)));
    let twice = [DETACHED, b"\n", DETACHED].concat();
    let folded = [&DETACHED[..64], b"\n", &DETACHED[64..]].concat();
    let raw = STANDARD.decode(DETACHED).unwrap();
    for bad in [twice.as_slice(), &folded, &raw, b"AA", &DETACHED[..DETACHED.len() - 1], &vec![b'A'; 4_096]] {
        assert!(verify(bad).is_err(), "{}", String::from_utf8_lossy(bad));
    }
    assert!(matches!(verify(&vec![b'A'; MAX_SIGNATURE_FILE_BYTES + 1]), Err(BlobError::TooLarge)));
}

#[test]
fn ten_thousand_random_mutations_neither_panic_nor_pass() {
    let key = [cosign_key()];
    let seed = 0x000f_a125_804e;
    let mut random = StdRng::seed_from_u64(seed);
    let core: Value = serde_json::from_slice(BUNDLE).unwrap();
    // Without the parts that decide nothing, a mutation that passes would be a fault.
    let small = json!({
        "mediaType": core["mediaType"], "verificationMaterial": {"publicKey": {}}, "messageSignature": core["messageSignature"],
    })
    .to_string();
    verify_blob(&key, ARTIFACT, small.as_bytes()).unwrap();
    for round in 0..10_000 {
        let original = if round % 2 == 0 { small.as_bytes() } else { DETACHED };
        let mut file = original.to_vec();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..file.len().max(1));
            if file.is_empty() {
                break;
            }
            match random.random_range(0..4) {
                0 => file[at] = random.random(),
                1 => drop(file.remove(at)),
                2 => file.insert(at, random.random()),
                _ => file.truncate(at.max(1)),
            }
        }
        if verify_blob(&key, ARTIFACT, &file).is_ok() {
            // White space around tokens is the one thing that may differ.
            let strip =
                |bytes: &[u8]| bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect::<Vec<_>>();
            assert_eq!(
                strip(&file),
                strip(original),
                "seed {seed}, round {round}: {}",
                String::from_utf8_lossy(&file)
            );
        }
    }
}

#[test]
fn openssl_signs_what_we_verify() {
    let openssl = OpenSsl::new();
    openssl.write("artifact", ARTIFACT);
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.pem");
    openssl.run("ec -in ec.pem -out sec1.pem");
    openssl.run("genpkey -algorithm ed25519 -out ed.pem");
    for (private, sign) in [
        ("ec.pem", "dgst -sha256 -sign ec.pem -out sig artifact"),
        ("sec1.pem", "dgst -sha256 -sign sec1.pem -out sig artifact"),
        ("ed.pem", "pkeyutl -sign -rawin -inkey ed.pem -in artifact -out sig"),
    ] {
        openssl.run(&format!("pkey -in {private} -pubout -out pub.pem"));
        openssl.run(sign);
        let public = PublicKey::from_pem(&openssl.read_text("pub.pem")).unwrap();
        let detached = format!("{}\n", STANDARD.encode(openssl.read("sig")));
        assert_eq!(
            verify_blob(std::slice::from_ref(&public), ARTIFACT, detached.as_bytes()).unwrap(),
            public.key_id(),
            "{private}"
        );
        assert!(verify_blob(&[cosign_key()], ARTIFACT, detached.as_bytes()).is_err());
        // And we read its private key as the same one.
        let text = openssl.read_text(private);
        assert!(private != "sec1.pem" || text.contains("BEGIN EC PRIVATE KEY"), "{text}");
        assert_eq!(*SigningKey::from_pem(&text).unwrap().public(), public, "{private}");
    }
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out other.pem");
    assert!(SigningKey::from_pem(&openssl.read_text("other.pem")).is_err());
    openssl.run("pkey -in other.pem -pubout -out other.pub");
    assert!(PublicKey::from_pem(&openssl.read_text("other.pub")).is_err());
}

#[test]
fn openssl_reads_our_keys_and_verifies_what_we_sign() {
    let openssl = OpenSsl::new();
    openssl.write("artifact", ARTIFACT);
    for (algorithm, verify) in [
        (Algorithm::P256, "dgst -sha256 -verify pub.pem -signature sig artifact"),
        (Algorithm::Ed25519, "pkeyutl -verify -rawin -pubin -inkey pub.pem -sigfile sig -in artifact"),
    ] {
        let key = SigningKey::generate(algorithm).unwrap();
        openssl.write("key.pem", key.to_pem().as_bytes());
        openssl.run("pkey -in key.pem -pubout -out pub.pem");
        assert_eq!(openssl.read_text("pub.pem"), key.public().to_pem());
        let detached = sign_detached(&key, ARTIFACT).unwrap();
        openssl.write("sig", STANDARD.decode(&detached).unwrap());
        openssl.run(verify);
        let keys = [key.public().clone()];
        verify_blob(&keys, ARTIFACT, detached.as_bytes()).unwrap();
        verify_blob(&keys, ARTIFACT, sign_bundle(&key, ARTIFACT).unwrap().as_bytes()).unwrap();
    }
}
