//! Real handshakes, in memory.

use std::sync::Arc;

use farshore_domain::digest::Digest;
use farshore_domain::time::UnixMs;
use farshore_trust::CertificateDer;
use farshore_trust::authority::{IssuedServer, Issuer, fingerprint};
use farshore_trust::clock::FlooredClock;
use farshore_trust::device::DeviceKey;
use farshore_trust::identity::DeviceIdentity;
use farshore_trust::tls::{
    ClientIdentity, ServerCertificate, TlsError, api_server_config, client_config, device_port_server_config,
    pinned_by_fingerprint_config,
};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;

use crate::{DAY, DEVICE, NOW, TENANT, days, domain, issuer, issuer_made};

const NAME: &str = "fleet.example";

fn clock(at: UnixMs) -> FlooredClock {
    FlooredClock::new(move || at, UnixMs(0))
}

fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(client.clone(), ServerName::try_from(name.to_owned()).unwrap())?;
    let mut server = ServerConnection::new(server.clone())?;
    for _ in 0..20 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
        if !client.is_handshaking()
            && !server.is_handshaking()
            && !client.wants_write()
            && !server.wants_write()
        {
            return Ok((client, server));
        }
    }
    panic!("the handshake doesn't end");
}

fn issued_server(issuer: &Issuer, at: UnixMs) -> IssuedServer {
    issuer.issue_server(&[NAME.into(), "127.0.0.1".into()], at, DAY * 90).unwrap()
}

/// A device port of `issuer` at the time `at`.
fn port(issuer: &Issuer, at: UnixMs) -> Arc<ServerConfig> {
    let server = issued_server(issuer, at);
    let shown = ServerCertificate::new(server.certificate.chain, &server.key).unwrap();
    Arc::new(device_port_server_config(shown, &[issuer.root_cert().clone()], clock(at)).unwrap())
}

/// A device that trusts `roots` and was given a certificate by `issuer` at the time `at`.
fn device(
    issuer: &Issuer,
    roots: &[CertificateDer<'static>],
    issued: UnixMs,
    at: FlooredClock,
) -> Arc<ClientConfig> {
    let key = DeviceKey::generate().unwrap();
    let certificate =
        issuer.issue_device(key.csr_pem().unwrap().as_bytes(), TENANT, DEVICE, issued, DAY).unwrap();
    Arc::new(client_config(roots, Some(ClientIdentity { chain: &certificate.chain, key: &key }), at).unwrap())
}

fn anonymous(root: &Issuer, at: FlooredClock) -> Arc<ClientConfig> {
    Arc::new(client_config(&[root.root_cert().clone()], None, at).unwrap())
}

#[test]
fn a_device_and_the_port_know_each_other() {
    farshore_trust::provider::install();
    let issuer = issuer();
    let client = device(&issuer, &[issuer.root_cert().clone()], NOW, clock(NOW));
    for name in [NAME, "127.0.0.1"] {
        let (client, server) = shake(&client, &port(&issuer, NOW), name).unwrap();
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let identity =
            DeviceIdentity::from_certificate(&server.peer_certificates().unwrap()[0], &domain()).unwrap();
        assert_eq!((identity.tenant, identity.device), (TENANT, DEVICE));
    }
}

#[test]
fn a_client_without_certificate_gets_through_and_is_nobody() {
    let issuer = issuer();
    let (_, server) = shake(&anonymous(&issuer, clock(NOW)), &port(&issuer, NOW), NAME).unwrap();
    assert!(server.peer_certificates().is_none());
}

#[test]
fn a_device_ninety_days_away_gets_through_and_is_seen_to_be_expired() {
    let issuer = issuer();
    let client = device(&issuer, &[issuer.root_cert().clone()], NOW, clock(days(90)));
    let (_, server) = shake(&client, &port(&issuer, days(90)), NAME).unwrap();
    let identity =
        DeviceIdentity::from_certificate(&server.peer_certificates().unwrap()[0], &domain()).unwrap();
    assert!(identity.expired(days(90)));
}

#[test]
fn a_device_certificate_that_starts_in_the_future_is_refused() {
    let issuer = issuer();
    let client = device(&issuer, &[issuer.root_cert().clone()], days(2), clock(NOW));
    assert!(shake(&client, &port(&issuer, NOW), NAME).is_err());
}

#[test]
fn certificates_of_others_and_for_other_uses_are_no_device() {
    let (issuer, stranger) = (issuer(), issuer());
    let port = port(&issuer, NOW);
    let roots = [issuer.root_cert().clone()];
    assert!(shake(&device(&stranger, &roots, NOW, clock(NOW)), &port, NAME).is_err());
    // An expired one of another authority isn't let through by the exception either.
    assert!(shake(&device(&stranger, &roots, days(-30), clock(NOW)), &port, NAME).is_err());
    let server = issued_server(&issuer, NOW);
    let online = issuer.issue_online(NOW, DAY).unwrap();
    for (chain, key) in [(server.certificate.chain.as_slice(), &server.key), (online.chain(), online.key())] {
        let key = DeviceKey::from_pem(&key.to_pem()).unwrap();
        let client = client_config(&roots, Some(ClientIdentity { chain, key: &key }), clock(NOW)).unwrap();
        assert!(shake(&Arc::new(client), &port, NAME).is_err());
    }
}

#[test]
fn a_device_cannot_issue_certificates() {
    let issuer = issuer();
    let parent = DeviceKey::generate().unwrap();
    let issued = issuer.issue_device(parent.csr_pem().unwrap().as_bytes(), TENANT, DEVICE, NOW, DAY).unwrap();
    let forger = rcgen::Issuer::from_ca_cert_der(
        &issued.chain[0],
        rcgen::KeyPair::from_pem(&parent.to_pem()).unwrap(),
    )
    .unwrap();
    let key = DeviceKey::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let forged = params.signed_by(&rcgen::KeyPair::from_pem(&key.to_pem()).unwrap(), &forger).unwrap();
    let mut chain = vec![CertificateDer::from(forged)];
    chain.extend(issued.chain);
    let client = client_config(
        &[issuer.root_cert().clone()],
        Some(ClientIdentity { chain: &chain, key: &key }),
        clock(NOW),
    )
    .unwrap();
    assert!(shake(&Arc::new(client), &port(&issuer, NOW), NAME).is_err());
}

#[test]
fn a_client_refuses_another_authority_another_name_and_an_expired_server() {
    let (issuer, stranger) = (issuer(), issuer());
    let client = anonymous(&issuer, clock(NOW));
    assert!(shake(&client, &port(&stranger, NOW), NAME).is_err());
    assert!(shake(&client, &port(&issuer, NOW), "other.example").is_err());
    assert!(shake(&client, &port(&issuer, NOW), "127.0.0.2").is_err());
    assert!(shake(&anonymous(&issuer, clock(days(91))), &port(&issuer, NOW), NAME).is_err());
    // A clock that is set back doesn't revive it: the floor judges.
    let floored = FlooredClock::new(|| UnixMs(0), days(91));
    assert!(shake(&anonymous(&issuer, floored), &port(&issuer, NOW), NAME).is_err());
    // A device's certificate is no server's.
    let key = DeviceKey::generate().unwrap();
    let certificate =
        issuer.issue_device(key.csr_pem().unwrap().as_bytes(), TENANT, DEVICE, NOW, DAY).unwrap();
    let shown = ServerCertificate::new(certificate.chain, key.signing_key()).unwrap();
    let port = Arc::new(device_port_server_config(shown, &[issuer.root_cert().clone()], clock(NOW)).unwrap());
    assert!(shake(&client, &port, NAME).is_err());
}

#[test]
fn a_clock_that_starts_in_1970_stops_nobody() {
    let issuer = issuer_made(days(-400));
    let roots = [issuer.root_cert().clone()];
    // With a floor of yesterday; with one from before the server's certificate was renewed; and with none at all.
    for floor in [days(-1), days(-100), UnixMs(0)] {
        let client = device(&issuer, &roots, days(-100), FlooredClock::new(|| UnixMs(3_000), floor));
        shake(&client, &port(&issuer, NOW), NAME).unwrap();
    }
}

#[test]
fn both_roots_of_a_rotation_are_trusted() {
    let (old, new) = (issuer(), issuer());
    let roots = [old.root_cert().clone(), new.root_cert().clone()];
    for issuer in [&old, &new] {
        shake(&device(issuer, &roots, NOW, clock(NOW)), &port(issuer, NOW), NAME).unwrap();
    }
}

#[test]
fn a_claim_finds_the_root_by_its_fingerprint() {
    let issuer = issuer();
    let (config, root) = pinned_by_fingerprint_config(issuer.root_fingerprint(), clock(NOW)).unwrap();
    assert!(root.get().is_none());
    shake(&Arc::new(config), &port(&issuer, NOW), NAME).unwrap();
    assert_eq!(root.get(), Some(issuer.root_cert()));
    let trusted = client_config(&[root.get().unwrap().clone()], None, clock(NOW)).unwrap();
    shake(&Arc::new(trusted), &port(&issuer, NOW), NAME).unwrap();
}

#[test]
fn a_fingerprint_is_not_satisfied_by_showing_the_root_without_ending_at_it() {
    let (issuer, stranger) = (issuer(), issuer());
    let refused = |chain: Vec<CertificateDer<'static>>,
                   key: &farshore_trust::key::SigningKey,
                   pin: Digest,
                   name: &str| {
        let shown = ServerCertificate::new(chain, key).unwrap();
        let port =
            Arc::new(device_port_server_config(shown, &[stranger.root_cert().clone()], clock(NOW)).unwrap());
        let (config, root) = pinned_by_fingerprint_config(pin, clock(NOW)).unwrap();
        shake(&Arc::new(config), &port, name).is_err() && root.get().is_none()
    };
    let pin = issuer.root_fingerprint();
    let theirs = issued_server(&stranger, NOW);
    // A stranger's own chain; and with the real root, which is no secret, put behind it.
    assert!(refused(theirs.certificate.chain.clone(), &theirs.key, pin, NAME));
    let mut with_root = theirs.certificate.chain.clone();
    with_root.push(issuer.root_cert().clone());
    assert!(refused(with_root, &theirs.key, pin, NAME));
    // The right server under a wrong name; one that hides its root; a pin on the intermediate's or leaf's digest of somebody else.
    let ours = issued_server(&issuer, NOW);
    assert!(refused(ours.certificate.chain.clone(), &ours.key, pin, "other.example"));
    assert!(refused(ours.certificate.chain[..2].to_vec(), &ours.key, pin, NAME));
    assert!(refused(ours.certificate.chain.clone(), &ours.key, Digest::of(b""), NAME));
    assert!(refused(
        ours.certificate.chain.clone(),
        &ours.key,
        fingerprint(&ours.certificate.chain[0]),
        NAME
    ));
}

#[test]
fn a_reconnect_is_resumed_and_still_says_who_it_is() {
    let issuer = issuer();
    let port = port(&issuer, NOW);
    let client = device(&issuer, &[issuer.root_cert().clone()], NOW, clock(NOW));
    let (_, first) = shake(&client, &port, NAME).unwrap();
    assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
    let (_, second) = shake(&client, &port, NAME).unwrap();
    assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(first.peer_certificates(), second.peer_certificates());
}

#[test]
fn a_server_certificate_is_replaced_while_serving() {
    let issuer = issuer();
    let server = issued_server(&issuer, days(-89));
    let shown = ServerCertificate::new(server.certificate.chain, &server.key).unwrap();
    let port = Arc::new(
        device_port_server_config(shown.clone(), &[issuer.root_cert().clone()], clock(NOW)).unwrap(),
    );
    let later = anonymous(&issuer, clock(days(2)));
    assert!(shake(&later, &port, NAME).is_err());
    let next = issued_server(&issuer, NOW);
    assert!(matches!(shown.replace(next.certificate.chain.clone(), &server.key), Err(TlsError::Key(_))));
    shown.replace(next.certificate.chain, &next.key).unwrap();
    shake(&later, &port, NAME).unwrap();
}

#[test]
fn the_api_speaks_http_2_and_asks_for_no_certificate() {
    let issuer = issuer();
    let server = issued_server(&issuer, NOW);
    let shown = ServerCertificate::from_pem(&server.certificate.chain_pem(), &server.key.to_pem()).unwrap();
    let api = Arc::new(api_server_config(shown).unwrap());
    let mut client = client_config(&[issuer.root_cert().clone()], None, clock(NOW)).unwrap();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let (client, server) = shake(&Arc::new(client), &api, NAME).unwrap();
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    assert!(server.peer_certificates().is_none());
}

#[test]
fn no_root_means_no_trust() {
    assert!(matches!(client_config(&[], None, clock(NOW)), Err(TlsError::NoRoots)));
    let issuer = issuer();
    let server = issued_server(&issuer, NOW);
    let shown = ServerCertificate::new(server.certificate.chain, &server.key).unwrap();
    assert!(matches!(device_port_server_config(shown, &[], clock(NOW)), Err(TlsError::NoRoots)));
    assert!(client_config(&[CertificateDer::from(vec![1, 2, 3])], None, clock(NOW)).is_err());
}
