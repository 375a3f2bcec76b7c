//! TLS for the device port, the API, agents and the command line.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use farshore_domain::digest::Digest;
use farshore_domain::time::UnixMs;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::{self, CertificateError};
use crate::clock::{FlooredClock, to_unix_time};
use crate::device::DeviceKey;
use crate::key::SigningKey;
use crate::provider;

/// Why TLS couldn't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no root certificate to trust")]
    NoRoots,
    #[error("a root certificate couldn't be used")]
    Root(#[source] rustls::Error),
    #[error("the certificate chain couldn't be read")]
    Chain(#[source] CertificateError),
    #[error("the key and its certificate can't be used for TLS")]
    Key(#[source] rustls::Error),
    #[error("the verifier of client certificates couldn't be made")]
    ClientVerifier(#[source] rustls::server::VerifierBuilderError),
    #[error("the verifier of server certificates couldn't be made")]
    ServerVerifier(#[source] rustls::client::VerifierBuilderError),
    #[error("TLS couldn't be configured")]
    Config(#[source] rustls::Error),
}

/// A server's chain and key, which can be replaced while it serves.
#[derive(Debug)]
pub struct ServerCertificate(RwLock<Arc<CertifiedKey>>);

impl ServerCertificate {
    /// Serves `chain` (leaf first) with `key`.
    ///
    /// # Errors
    /// When they can't be used or don't belong together.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &SigningKey) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(RwLock::new(certified(chain, key)?))))
    }

    /// As [`ServerCertificate::new`], from PEM files an operator brings: any chain and any key rustls can use.
    ///
    /// # Errors
    /// When they can't be read or don't belong together.
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Arc<Self>, TlsError> {
        use rustls_pki_types::pem::PemObject as _;
        let chain = certificate::chain_from_pem(chain_pem).map_err(TlsError::Chain)?;
        let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|e| TlsError::Chain(CertificateError::Pem(e)))?;
        let key = CertifiedKey::from_der(chain, key, &provider::ring()).map_err(TlsError::Key)?;
        Ok(Arc::new(Self(RwLock::new(Arc::new(key)))))
    }

    /// Serves another chain and key to connections that start from now on.
    ///
    /// # Errors
    /// When they can't be used; what was there stays.
    pub fn replace(&self, chain: Vec<CertificateDer<'static>>, key: &SigningKey) -> Result<(), TlsError> {
        let next = certified(chain, key)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &SigningKey) -> Result<Arc<CertifiedKey>, TlsError> {
    certificate::check_chain(&chain).map_err(TlsError::Chain)?;
    CertifiedKey::from_der(chain, key.to_rustls(), &provider::ring()).map(Arc::new).map_err(TlsError::Key)
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The device port: TLS 1.3, client certificates optional (each route says what it needs), checked against `roots`.
///
/// **An expired client certificate passes the handshake**: the route reads it with
/// [`crate::identity::DeviceIdentity`] and lets it renew and nothing else. **A resumed session carries the certificate of
/// the first one**: whether a device is revoked is looked up for each connection, by the caller.
///
/// # Errors
/// When there is no usable root.
pub fn device_port_server_config(
    server: Arc<dyn ResolvesServerCert>,
    roots: &[CertificateDer<'_>],
    clock: FlooredClock,
) -> Result<ServerConfig, TlsError> {
    let verifier = DeviceCertVerifier {
        inner: WebPkiClientVerifier::builder_with_provider(Arc::new(root_store(roots)?), provider::ring())
            .allow_unauthenticated()
            .build()
            .map_err(TlsError::ClientVerifier)?,
    };
    let mut config = ServerConfig::builder_with_details(provider::ring(), Arc::new(clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Config)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(server);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Stateless tickets make a herd of reconnecting devices cheap: no certificates are sent or verified again.
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(TlsError::Config)?;
    Ok(config)
}

/// The API and the page: no client certificates, HTTP/2 and HTTP/1.1.
///
/// # Errors
/// When TLS can't be configured.
pub fn api_server_config(server: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider::ring())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_no_client_auth()
        .with_cert_resolver(server);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(TlsError::Config)?;
    Ok(config)
}

/// A client's own certificate: the chain, leaf first, and the key.
#[derive(Clone, Copy, Debug)]
pub struct ClientIdentity<'a> {
    pub chain: &'a [CertificateDer<'static>],
    pub key: &'a DeviceKey,
}

/// An agent, or the command line with a pinned root: the server's chain must end at one of `roots` and carry the name that
/// is connected to. `clock` judges expiry; a certificate that starts ahead
/// of it is judged at its start, because a device whose clock died while it was away must be able to come back. ALPN is left to
/// the caller.
///
/// # Errors
/// When there is no usable root, or the client's certificate can't be used.
pub fn client_config(
    roots: &[CertificateDer<'_>],
    identity: Option<ClientIdentity<'_>>,
    clock: FlooredClock,
) -> Result<ClientConfig, TlsError> {
    let verifier = Arc::new(PinnedServerVerifier { inner: server_verifier(root_store(roots)?)? });
    let builder = ClientConfig::builder_with_details(provider::ring(), Arc::new(clock))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(ClientIdentity { chain, key }) => {
            certificate::check_chain(chain).map_err(TlsError::Chain)?;
            builder.with_client_auth_cert(chain.to_vec(), key.to_rustls()).map_err(TlsError::Key)
        }
    }
}

/// The root that a server showed and whose fingerprint was as expected; empty until a handshake has succeeded.
#[derive(Clone, Debug, Default)]
pub struct PinnedRoot(Arc<OnceLock<CertificateDer<'static>>>);

impl PinnedRoot {
    /// The root certificate, to be kept and trusted from now on.
    #[must_use]
    pub fn get(&self) -> Option<&CertificateDer<'static>> {
        self.0.get()
    }
}

/// For a claim, and for `farshore login --ca-fingerprint`: the server's chain must contain the root certificate with this
/// `fingerprint`, and end at it.
///
/// # Errors
/// When TLS can't be configured.
pub fn pinned_by_fingerprint_config(
    fingerprint: Digest,
    clock: FlooredClock,
) -> Result<(ClientConfig, PinnedRoot), TlsError> {
    let root = PinnedRoot::default();
    let verifier = Arc::new(FingerprintVerifier {
        fingerprint,
        root: root.clone(),
        algorithms: provider::ring().signature_verification_algorithms,
    });
    let mut config = ClientConfig::builder_with_details(provider::ring(), Arc::new(clock))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok((config, root))
}

fn root_store(roots: &[CertificateDer<'_>]) -> Result<RootCertStore, TlsError> {
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    certificate::check_chain(roots).map_err(TlsError::Chain)?;
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone().into_owned()).map_err(TlsError::Root)?;
    }
    Ok(store)
}

fn server_verifier(store: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider::ring())
        .build()
        .map_err(TlsError::ServerVerifier)
}

fn bad_encoding(_: CertificateError) -> rustls::Error {
    rustls::Error::InvalidCertificate(TlsCertificateError::BadEncoding)
}

fn check_presented(leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
    if rest.len() >= certificate::MAX_CHAIN
        || rest.iter().chain([leaf]).any(|der| der.len() > certificate::MAX_CERTIFICATE_BYTES)
    {
        return Err(rustls::Error::InvalidCertificate(TlsCertificateError::BadEncoding));
    }
    Ok(())
}

fn to_ms(time: UnixTime) -> UnixMs {
    UnixMs(i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000))
}

/// Checks chain, usage and possession like webpki does, but judges an expired certificate at its last moment.
#[derive(Debug)]
struct DeviceCertVerifier {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for DeviceCertVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        check_presented(leaf, rest)?;
        let last = certificate::validity(leaf).map_err(bad_encoding)?.not_after;
        // The issuer clamps every leaf to its own end, so that the whole chain is valid at the leaf's last moment.
        self.inner.verify_client_cert(leaf, rest, to_unix_time(to_ms(now).min(last)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Checks a server against pinned roots, at the later of the clock and the start of the presented certificates.
///
/// A device whose clock died while it was away has a floor from before the server's certificate was renewed. That the
/// pinned authority issued it proves that its start has passed; refusing it would strand the device, and protects against nobody.
/// Expiry is judged by the clock and its floor, which this doesn't move.
#[derive(Debug)]
struct PinnedServerVerifier {
    inner: Arc<WebPkiServerVerifier>,
}

fn verify_server(
    inner: &WebPkiServerVerifier,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    check_presented(leaf, rest)?;
    let mut at = to_ms(now);
    for der in rest.iter().chain([leaf]) {
        at = at.max(certificate::validity(der).map_err(bad_encoding)?.not_before);
    }
    inner.verify_server_cert(leaf, rest, name, &[], to_unix_time(at))
}

impl ServerCertVerifier for PinnedServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server(&self.inner, leaf, rest, name, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct FingerprintVerifier {
    fingerprint: Digest,
    root: PinnedRoot,
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for FingerprintVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        check_presented(leaf, rest)?;
        let unknown = || rustls::Error::InvalidCertificate(TlsCertificateError::UnknownIssuer);
        let root =
            rest.iter().find(|der| certificate::fingerprint(der) == self.fingerprint).ok_or_else(unknown)?;
        let inner =
            root_store(std::slice::from_ref(root)).and_then(server_verifier).map_err(|_| unknown())?;
        let verified = verify_server(&inner, leaf, rest, name, now)?;
        // A second handshake finds the same root: its digest is the same.
        self.root.0.get_or_init(|| root.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
