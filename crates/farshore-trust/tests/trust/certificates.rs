use std::time::Duration;

use farshore_domain::digest::Digest;
use farshore_domain::time::{DAY_MS, MINUTE_MS};
use farshore_trust::authority::{Authority, AuthorityError, Issuer, NewAuthority, fingerprint};
use farshore_trust::certificate::{CertificateError, chain_from_pem, chain_to_pem, validity};
use farshore_trust::device::{DeviceKey, certificate_public_key_digest, csr_public_key_digest};
use farshore_trust::identity::{DeviceIdentity, IdentityError, TrustDomain};
use farshore_trust::key::{Algorithm, SigningKey};
use farshore_trust::online::OnlineSigner;

use crate::openssl::OpenSsl;
use crate::{DAY, DEVICE, NOW, TENANT, days, domain, issuer};

#[test]
fn a_device_gets_a_certificate_for_its_key_and_nothing_it_asked_for_besides() {
    let issuer = issuer();
    let key = DeviceKey::from_pem(&DeviceKey::generate().unwrap().to_pem()).unwrap();
    let csr = key.csr_pem().unwrap();
    assert_eq!(csr_public_key_digest(csr.as_bytes()).unwrap(), key.public_key_digest());
    let issued = issuer.issue_device(csr.as_bytes(), TENANT, DEVICE, NOW, DAY).unwrap();
    let identity = DeviceIdentity::from_certificate(&issued.chain[0], &domain()).unwrap();
    let expect = DeviceIdentity {
        trust_domain: domain(),
        tenant: TENANT,
        device: DEVICE,
        serial: issued.serial.clone(),
        not_before: NOW.plus_ms(-5 * MINUTE_MS),
        not_after: NOW.plus_ms(DAY_MS),
        public_key: key.public_key_digest(),
    };
    assert_eq!(identity, expect);
    assert_eq!(
        (issued.not_before, issued.not_after, issued.public_key),
        (expect.not_before, expect.not_after, expect.public_key)
    );
    assert_eq!(issued.serial.len(), 32);
    assert_eq!(certificate_public_key_digest(&issued.chain[0]).unwrap(), key.public_key_digest());
    assert!(!identity.expired(NOW) && identity.expired(days(2)));
    assert_eq!(chain_from_pem(&issued.chain_pem()).unwrap(), issued.chain);
    assert_ne!(issuer.issue_device(csr.as_bytes(), TENANT, DEVICE, NOW, DAY).unwrap().serial, issued.serial);
    let other = TrustDomain::new("other.example").unwrap();
    assert!(matches!(
        DeviceIdentity::from_certificate(&issued.chain[0], &other),
        Err(IdentityError::OtherTrustDomain(_))
    ));
}

#[test]
fn openssl_makes_requests_we_sign_and_verifies_what_we_issue() {
    let issuer = issuer();
    let openssl = OpenSsl::new();
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem");
    openssl.run("req -new -key key.pem -subj /CN=root -addext subjectAltName=URI:spiffe://fleet.example/tenant/x,DNS:evil.example -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign -out csr.pem");
    openssl.run("req -in csr.pem -outform DER -out csr.der");
    let issued = issuer.issue_device(&openssl.read("csr.pem"), TENANT, DEVICE, NOW, DAY).unwrap();
    let from_der = issuer.issue_device(&openssl.read("csr.der"), TENANT, DEVICE, NOW, DAY).unwrap();
    assert_eq!(issued.public_key, from_der.public_key);
    openssl.write("leaf.pem", chain_to_pem(&issued.chain[..1]));
    openssl.write("intermediate.pem", chain_to_pem([issuer.intermediate_cert()]));
    openssl.write("root.pem", chain_to_pem([issuer.root_cert()]));
    let text = openssl.run("x509 -in leaf.pem -noout -text");
    for present in [
        "TLS Web Client Authentication",
        "CA:FALSE",
        "Digital Signature",
        "X509v3 Authority Key Identifier",
        &format!("URI:spiffe://fleet.example/tenant/{TENANT}/device/{DEVICE}"),
    ] {
        assert!(text.contains(present), "{present}: {text}");
    }
    for absent in ["evil.example", "CA:TRUE", "Certificate Sign", "CN = root", "Server Authentication"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    let at = NOW.0 / 1_000;
    openssl.run(&format!("verify -x509_strict -attime {at} -purpose sslclient -CAfile root.pem -untrusted intermediate.pem leaf.pem"));
    let server =
        issuer.issue_server(&["fleet.example".into(), "127.0.0.1".into(), "::1".into()], NOW, DAY).unwrap();
    openssl.write("server.pem", chain_to_pem(&server.certificate.chain[..1]));
    for name in ["-verify_hostname fleet.example", "-verify_ip 127.0.0.1", "-verify_ip ::1"] {
        openssl.run(&format!("verify -x509_strict -attime {at} -purpose sslserver {name} -CAfile root.pem -untrusted intermediate.pem server.pem"));
    }
    assert!(openssl.run("x509 -in intermediate.pem -noout -text").contains("CA:TRUE, pathlen:0"));
    assert!(openssl.run("x509 -in root.pem -noout -text").contains("CA:TRUE, pathlen:1"));
}

#[test]
fn a_request_that_its_key_didnt_sign_is_refused() {
    let issuer = issuer();
    let openssl = OpenSsl::new();
    openssl.write("csr.pem", DeviceKey::generate().unwrap().csr_pem().unwrap());
    openssl.run("req -in csr.pem -outform DER -out csr.der");
    let der = openssl.read("csr.der");
    issuer.issue_device(&der, TENANT, DEVICE, NOW, DAY).unwrap();
    for bit in 0..der.len() * 8 {
        let mut changed = der.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let issued = issuer.issue_device(&changed, TENANT, DEVICE, NOW, DAY);
        // What the request says about its signature's algorithm decides nothing, so its bits may differ; the key may not.
        assert!(
            issued.is_err()
                || csr_public_key_digest(&changed).unwrap() == csr_public_key_digest(&der).unwrap(),
            "bit {bit}"
        );
    }
    for bad in [
        &b""[..],
        b"-----BEGIN CERTIFICATE REQUEST-----",
        &[der.as_slice(), &[0]].concat(),
        &vec![0x30; 70_000],
    ] {
        assert!(matches!(
            issuer.issue_device(bad, TENANT, DEVICE, NOW, DAY),
            Err(AuthorityError::Request(_))
        ));
    }
    openssl.run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem");
    openssl.run("req -new -key rsa.pem -subj /CN=x -out rsa.csr");
    assert!(matches!(
        issuer.issue_device(&openssl.read("rsa.csr"), TENANT, DEVICE, NOW, DAY),
        Err(AuthorityError::Request(CertificateError::Key(_)))
    ));
}

#[test]
fn nothing_outlives_its_issuer() {
    let NewAuthority { root_cert, root_key, intermediate_cert, intermediate_key } =
        Authority::generate(&domain(), NOW).unwrap();
    let root_end = validity(&root_cert).unwrap().not_after;
    let end = validity(&intermediate_cert).unwrap().not_after;
    assert_eq!((root_end, end), (days(20 * 365), days(5 * 365)));
    let issuer = Issuer::new(domain(), root_cert.clone(), intermediate_cert, intermediate_key).unwrap();
    assert_eq!(issuer.root_fingerprint(), fingerprint(&root_cert));
    let csr = DeviceKey::generate().unwrap().csr_pem().unwrap();
    let century = Duration::from_secs(100 * 365 * 86_400);
    assert_eq!(issuer.issue_device(csr.as_bytes(), TENANT, DEVICE, NOW, century).unwrap().not_after, end);
    assert_eq!(issuer.issue_server(&["a".into()], NOW, Duration::MAX).unwrap().certificate.not_after, end);
    assert!(matches!(
        issuer.issue_device(csr.as_bytes(), TENANT, DEVICE, end, DAY),
        Err(AuthorityError::Expired)
    ));
    let (late, _) = Authority::issue_intermediate(&domain(), &root_cert, &root_key, days(18 * 365)).unwrap();
    assert_eq!(validity(&late).unwrap().not_after, root_end);
}

#[test]
fn an_issuer_whose_parts_dont_belong_together_is_refused() {
    let [a, b] = [(); 2].map(|()| Authority::generate(&domain(), NOW).unwrap());
    let copy = |key: &SigningKey| SigningKey::from_pem(&key.to_pem()).unwrap();
    let new = |root: &NewAuthority, cert: &NewAuthority, key: &NewAuthority| {
        Issuer::new(
            domain(),
            root.root_cert.clone(),
            cert.intermediate_cert.clone(),
            copy(&key.intermediate_key),
        )
    };
    assert!(new(&a, &a, &a).is_ok());
    assert!(matches!(new(&a, &a, &b), Err(AuthorityError::OtherKey)));
    assert!(matches!(new(&b, &a, &a), Err(AuthorityError::OtherRoot)));
    assert!(Authority::issue_intermediate(&domain(), &a.root_cert, &b.root_key, NOW).is_err());
    let issuer = new(&a, &a, &a).unwrap();
    for names in [vec![], vec!["not a name".to_owned()], vec![String::new()], vec!["a".to_owned(); 65]] {
        assert!(matches!(issuer.issue_server(&names, NOW, DAY), Err(AuthorityError::BadNames)), "{names:?}");
    }
}

#[test]
fn only_a_device_certificate_names_a_device() {
    let issuer = issuer();
    let server = issuer.issue_server(&["fleet.example".into()], NOW, DAY).unwrap();
    let online = issuer.issue_online(NOW, DAY).unwrap();
    for der in
        [&server.certificate.chain[0], &online.chain()[0], issuer.root_cert(), issuer.intermediate_cert()]
    {
        assert!(matches!(DeviceIdentity::parse(der), Err(IdentityError::NotADevice)));
    }
    for bad in [&b""[..], b"x", &vec![0x30; 20_000]] {
        assert!(matches!(DeviceIdentity::parse(bad), Err(IdentityError::Certificate(_))));
    }
}

#[test]
fn a_device_has_one_name_in_one_spelling() {
    let parsed = |names: &[&String]| {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names =
            names.iter().map(|name| rcgen::SanType::URI(name.as_str().try_into().unwrap())).collect();
        DeviceIdentity::parse(params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der())
    };
    let name = format!("spiffe://fleet.example/tenant/{TENANT}/device/{DEVICE}");
    let other = name.replace("fleet", "other");
    assert_eq!(parsed(&[&name]).unwrap().device, DEVICE);
    let braced = format!("spiffe://fleet.example/tenant/{{{TENANT}}}/device/{DEVICE}");
    let bare = format!("spiffe://fleet.example/tenant/{}/device/{DEVICE}", TENANT.0.simple());
    let upper = format!(
        "spiffe://fleet.example/tenant/{TENANT}/device/{}",
        DEVICE.to_string().replace("0193", "ABCD")
    );
    for names in
        [&[][..], &[&name, &other], &[&name, &name], &[&braced], &[&bare], &[&upper], &[&format!("{name}?x")]]
    {
        assert!(matches!(parsed(names), Err(IdentityError::NotADevice)), "{names:?}");
    }
}

#[test]
fn chains_are_capped() {
    let root = issuer().root_cert().clone();
    assert!(chain_from_pem(&chain_to_pem(vec![&root; 5])).is_ok());
    assert!(matches!(chain_from_pem(&chain_to_pem(vec![&root; 6])), Err(CertificateError::ChainLength(6))));
    assert!(matches!(chain_from_pem(""), Err(CertificateError::ChainLength(0))));
    assert!(matches!(chain_from_pem(&" ".repeat(70_000)), Err(CertificateError::TooLarge)));
}

#[test]
fn the_online_signer_survives_storage_and_knows_its_key() {
    let issuer = issuer();
    let signer = issuer.issue_online(NOW, DAY).unwrap();
    assert_eq!(signer.not_after(), days(1));
    let key = SigningKey::from_pem(&signer.key().to_pem()).unwrap();
    let again = OnlineSigner::load(key, signer.chain().to_vec()).unwrap();
    assert_eq!(again.not_after(), signer.not_after());
    assert!(
        OnlineSigner::load(SigningKey::generate(Algorithm::P256).unwrap(), signer.chain().to_vec()).is_err()
    );
    assert_eq!(Digest::of(&signer.chain()[1]), fingerprint(issuer.intermediate_cert()));
}
