use farshore_trust::CertificateDer;
use farshore_trust::authority::Issuer;
use farshore_trust::device::DeviceKey;
use farshore_trust::identity::TrustDomain;
use farshore_trust::key::{Algorithm, SigningKey};
use farshore_trust::online::{
    DesiredError, MAX_BODY_BYTES, OnlineSigner, SignedDesired, sign_desired, verify_desired,
};

use crate::{DAY, DEVICE, NOW, TENANT, days, domain, issuer};

const BODY: &[u8] = br#"{"generation":7}"#;

fn signed(issuer: &Issuer) -> SignedDesired {
    sign_desired(&issuer.issue_online(NOW, DAY).unwrap(), BODY.to_vec()).unwrap()
}

fn verify(issuer: &Issuer, signed: &SignedDesired) -> Result<(), DesiredError> {
    verify_desired(&[issuer.root_cert().clone()], &domain(), signed, NOW)
}

#[test]
fn any_root_of_the_set_will_do_and_no_other() {
    let [old, new, stranger] = [(); 3].map(|()| issuer());
    let roots = [old.root_cert().clone(), new.root_cert().clone()];
    for issuer in [&old, &new] {
        verify_desired(&roots, &domain(), &signed(issuer), NOW).unwrap();
    }
    assert!(matches!(
        verify_desired(&roots, &domain(), &signed(&stranger), NOW),
        Err(DesiredError::Chain(_))
    ));
    assert!(matches!(verify_desired(&[], &domain(), &signed(&old), NOW), Err(DesiredError::NoRoots)));
    let elsewhere = TrustDomain::new("other.example").unwrap();
    assert!(matches!(verify_desired(&roots, &elsewhere, &signed(&old), NOW), Err(DesiredError::WrongSigner)));
    // A root that the sender brings along is no root of ours.
    let mut brought = signed(&stranger);
    brought.chain.push(stranger.root_cert().to_vec());
    assert!(matches!(verify_desired(&roots, &domain(), &brought, NOW), Err(DesiredError::Chain(_))));
}

#[test]
fn a_signer_is_good_from_its_start_to_its_end() {
    let issuer = issuer();
    let signed = signed(&issuer);
    let at = |now| verify_desired(&[issuer.root_cert().clone()], &domain(), &signed, now);
    at(NOW).unwrap();
    at(days(1)).unwrap();
    assert!(matches!(at(days(1).plus_ms(1_000)), Err(DesiredError::Chain(_))));
    assert!(matches!(at(days(-1)), Err(DesiredError::Chain(_))));
}

#[test]
fn every_bit_of_body_signature_and_certificate_counts() {
    let issuer = issuer();
    let good = signed(&issuer);
    verify(&issuer, &good).unwrap();
    let check = |change: &dyn Fn(&mut SignedDesired) -> &mut Vec<u8>, what: &str| {
        let bits = change(&mut good.clone()).len() * 8;
        for bit in 0..bits {
            let mut changed = good.clone();
            change(&mut changed)[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&issuer, &changed).is_err(), "{what} bit {bit}");
        }
    };
    check(&|signed| &mut signed.body, "body");
    check(&|signed| &mut signed.signature, "signature");
    check(&|signed| &mut signed.chain[0], "certificate");
    check(&|signed| &mut signed.chain[1], "intermediate");
}

#[test]
fn a_signature_for_another_purpose_is_refused() {
    let issuer = issuer();
    let signer = issuer.issue_online(NOW, DAY).unwrap();
    let mut bare = sign_desired(&signer, BODY.to_vec()).unwrap();
    bare.signature = signer.key().sign(BODY).unwrap();
    assert!(matches!(verify(&issuer, &bare), Err(DesiredError::Signature(_))));
}

#[test]
fn neither_a_device_nor_a_server_nor_the_intermediate_signs_desired_state() {
    let issuer = issuer();
    let device = DeviceKey::generate().unwrap();
    let as_signer = |key: &SigningKey, chain: &[CertificateDer<'static>]| {
        let signer =
            OnlineSigner::load(SigningKey::from_pem(&key.to_pem()).unwrap(), chain.to_vec()).unwrap();
        sign_desired(&signer, BODY.to_vec()).unwrap()
    };
    let issued = issuer.issue_device(device.csr_pem().unwrap().as_bytes(), TENANT, DEVICE, NOW, DAY).unwrap();
    assert!(matches!(
        verify(&issuer, &as_signer(device.signing_key(), &issued.chain)),
        Err(DesiredError::Chain(_))
    ));
    let server = issuer.issue_server(&["fleet.example".into()], NOW, DAY).unwrap();
    assert!(matches!(
        verify(&issuer, &as_signer(&server.key, &server.certificate.chain)),
        Err(DesiredError::Chain(_))
    ));
    let authority = farshore_trust::authority::Authority::generate(&domain(), NOW).unwrap();
    let by_intermediate = as_signer(&authority.intermediate_key, &[authority.intermediate_cert]);
    assert!(matches!(
        verify_desired(&[authority.root_cert], &domain(), &by_intermediate, NOW),
        Err(DesiredError::Chain(_))
    ));
}

#[test]
fn a_leaf_cannot_issue_a_signer() {
    let issuer = issuer();
    let leaf = issuer.issue_online(NOW, DAY).unwrap();
    let leaf_key = rcgen::KeyPair::from_pem(&leaf.key().to_pem()).unwrap();
    let forger = rcgen::Issuer::from_ca_cert_der(&leaf.chain()[0], leaf_key).unwrap();
    let key = SigningKey::generate(Algorithm::P256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names =
        vec![rcgen::SanType::URI("spiffe://fleet.example/control/desired-state".try_into().unwrap())];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 36])];
    let forged = params.signed_by(&rcgen::KeyPair::from_pem(&key.to_pem()).unwrap(), &forger).unwrap();
    let mut chain = vec![CertificateDer::from(forged)];
    chain.extend_from_slice(leaf.chain());
    let signed = sign_desired(&OnlineSigner::load(key, chain).unwrap(), BODY.to_vec()).unwrap();
    assert!(matches!(verify(&issuer, &signed), Err(DesiredError::Chain(_))));
}

#[test]
fn a_certificate_of_the_right_name_for_another_use_is_no_signer() {
    let authority = farshore_trust::authority::Authority::generate(&domain(), NOW).unwrap();
    let issuing_key = rcgen::KeyPair::from_pem(&authority.intermediate_key.to_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&authority.intermediate_cert, issuing_key).unwrap();
    let verified = |usages: &[rcgen::KeyUsagePurpose],
                    extended: Vec<rcgen::ExtendedKeyUsagePurpose>,
                    names: &[&str]| {
        let key = SigningKey::generate(Algorithm::P256).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.key_usages = usages.to_vec();
        params.extended_key_usages = extended;
        params.subject_alt_names =
            names.iter().map(|name| rcgen::SanType::URI((*name).try_into().unwrap())).collect();
        let leaf = params.signed_by(&rcgen::KeyPair::from_pem(&key.to_pem()).unwrap(), &issuer).unwrap();
        let signer = OnlineSigner::load(key, vec![leaf.into(), authority.intermediate_cert.clone()]).unwrap();
        verify_desired(
            std::slice::from_ref(&authority.root_cert),
            &domain(),
            &sign_desired(&signer, BODY.to_vec()).unwrap(),
            NOW,
        )
    };
    let right = "spiffe://fleet.example/control/desired-state";
    let documents = || vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 36])];
    let signature = [rcgen::KeyUsagePurpose::DigitalSignature];
    verified(&signature, documents(), &[right]).unwrap();
    assert!(matches!(verified(&signature, vec![], &[right]), Err(DesiredError::WrongSigner)));
    let also_tls = [documents(), vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]].concat();
    assert!(matches!(verified(&signature, also_tls, &[right]), Err(DesiredError::WrongSigner)));
    assert!(matches!(verified(&[], documents(), &[right]), Err(DesiredError::WrongSigner)));
    assert!(matches!(
        verified(&[rcgen::KeyUsagePurpose::KeyAgreement], documents(), &[right]),
        Err(DesiredError::WrongSigner)
    ));
    assert!(matches!(
        verified(&signature, vec![rcgen::ExtendedKeyUsagePurpose::Any], &[right]),
        Err(DesiredError::Chain(_))
    ));
    for names in [
        &[][..],
        &["spiffe://fleet.example/control"],
        &[right, right],
        &["spiffe://fleet.example/control/desired-state/"],
    ] {
        assert!(
            matches!(verified(&signature, documents(), names), Err(DesiredError::WrongSigner)),
            "{names:?}"
        );
    }
}

#[test]
fn sizes_are_capped() {
    let issuer = issuer();
    let signer = issuer.issue_online(NOW, DAY).unwrap();
    assert!(matches!(sign_desired(&signer, vec![0; MAX_BODY_BYTES + 1]), Err(DesiredError::TooLarge)));
    let good = signed(&issuer);
    let with_chain = |chain: Vec<Vec<u8>>| verify(&issuer, &SignedDesired { chain, ..good.clone() });
    assert!(matches!(with_chain(vec![]), Err(DesiredError::Certificate(_))));
    assert!(matches!(with_chain(vec![good.chain[0].clone(); 6]), Err(DesiredError::Certificate(_))));
    assert!(matches!(with_chain(vec![vec![0x30; 20_000]]), Err(DesiredError::Certificate(_))));
    assert!(matches!(
        verify(&issuer, &SignedDesired { body: vec![0; MAX_BODY_BYTES + 1], ..good.clone() }),
        Err(DesiredError::TooLarge)
    ));
}
