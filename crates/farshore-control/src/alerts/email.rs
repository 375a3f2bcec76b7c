//! E-mail over SMTP.

use std::time::Duration;

use farshore_api::alert::{EmailTarget, MailTls};
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, RootCertStore};
use uuid::Uuid;

use super::guard::{self, Targets};

/// The server answers each command within this time.
const WITHIN: Duration = Duration::from_secs(15);
/// Most receivers of one route.
const MAX_TO: usize = 20;
/// Most authorities of one route, and most bytes of them.
const MAX_CA: usize = 10;
const MAX_CA_BYTES: usize = 64 * 1024;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Checks what a route says. Returns the field and what is wrong with it.
pub(super) fn check(target: &EmailTarget) -> Result<(), (&'static str, String)> {
    let wrong = |field, message: &str| Err((field, message.to_owned()));
    if target.to.is_empty() || target.to.len() > MAX_TO {
        return wrong("to", "has 1 to 20 addresses");
    }
    if let Some(bad) = target.to.iter().find(|to| to.len() > 254 || to.parse::<Mailbox>().is_err()) {
        return Err(("to", format!("{bad:?} is no e-mail address")));
    }
    if target.from.len() > 254 || target.from.parse::<Mailbox>().is_err() {
        return wrong("from", "is an e-mail address");
    }
    let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    if target.host.is_empty() || target.host.len() > 253 || !target.host.chars().all(host) {
        return wrong("host", "is the name or address of a mail server");
    }
    if target.port == 0 {
        return wrong("port", "is 1 to 65535");
    }
    if target.tls == MailTls::Unknown {
        return wrong("tls", "is tls, starttls or none");
    }
    if target.username.is_some() && target.tls == MailTls::None {
        return wrong(
            "tls",
            "is tls or starttls where there is a username: a password is not sent in the clear",
        );
    }
    match &target.ca {
        None => Ok(()),
        Some(_) if target.tls == MailTls::None => wrong("ca", "goes with tls or starttls"),
        Some(ca) => read_ca(ca).map(drop).map_err(|why| ("ca", why)),
    }
}

/// The authorities that a route names.
fn read_ca(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if pem.len() > MAX_CA_BYTES {
        return Err(format!("has at most {MAX_CA_BYTES} bytes"));
    }
    if pem.contains("PRIVATE KEY-----") {
        return Err("has a private key in it: only certificates belong here".to_owned());
    }
    let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(|error| format!("can't be used: {error}"))?;
    if certificates.is_empty() {
        return Err("is one or more certificates in PEM: -----BEGIN CERTIFICATE-----…".to_owned());
    }
    if certificates.len() > MAX_CA {
        return Err(format!("has at most {MAX_CA} certificates"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| format!("can't be used: {error}"))?;
    }
    Ok(certificates)
}

/// Whose certificates are taken: only those of the route's own authorities, where it names any.
fn parameters(target: &EmailTarget) -> Result<TlsParameters, Error> {
    let mut tls = TlsParameters::builder(target.host.clone());
    if let Some(ca) = &target.ca {
        tls = tls.certificate_store(CertificateStore::None);
        for certificate in read_ca(ca)? {
            tls = tls.add_root_certificate(Certificate::from_der(certificate.to_vec())?);
        }
    }
    Ok(tls.build()?)
}

/// What is wrong between this server and the mail server, where it is TLS.
fn about_tls(error: &(dyn std::error::Error + 'static), target: &EmailTarget) -> Option<String> {
    let at = format!("{}:{}", target.host, target.port);
    let mut cause = Some(error);
    while let Some(one) = cause {
        let inner = || one.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>();
        match one.downcast_ref::<rustls::Error>().or_else(inner) {
            Some(rustls::Error::InvalidCertificate(why)) => {
                return Some(format!("the certificate of {at} {}", about_certificate(why, target)));
            }
            Some(rustls::Error::InvalidMessage(_)) if target.tls == MailTls::Tls => {
                return Some(format!("{at} does not speak TLS from the first byte on: is it starttls?"));
            }
            Some(other) => return Some(format!("no TLS with {at}: {other}")),
            None => cause = one.source(),
        }
    }
    let asked = matches!(target.tls, MailTls::Starttls | MailTls::Unknown);
    (asked && crate::error::chain(error).contains("STARTTLS is not supported"))
        .then(|| format!("{at} does not offer STARTTLS, and nothing is sent without"))
}

fn about_certificate(why: &CertificateError, target: &EmailTarget) -> String {
    let host = &target.host;
    match why {
        // Signed by somebody who only has the authority's name is of no authority either.
        CertificateError::UnknownIssuer | CertificateError::BadSignature if target.ca.is_some() => {
            "is of no authority in this route's ca".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is of an authority that this machine does not know: give it as the route's ca".to_owned()
        }
        CertificateError::NotValidForName => format!("is not for {host}"),
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names = presented.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("is not for {host}; it is for {names}")
        }
        other => format!("is not good: {other}"),
    }
}

/// Sends one message to all receivers of the route. `id` makes the message's id, so that a repetition can be told.
pub(super) async fn send(
    targets: Targets,
    target: &EmailTarget,
    password: Option<String>,
    id: Uuid,
    (subject, text): (String, String),
) -> Result<(), Error> {
    let mut message = Message::builder()
        .from(target.from.parse()?)
        .subject(subject)
        .message_id(Some(format!("<{}@farshore>", id.simple())))
        .header(ContentType::TEXT_PLAIN);
    for to in &target.to {
        message = message.to(to.parse()?);
    }
    let message = message.body(text)?;
    let mut last: Error = "the server has no address".into();
    for address in guard::resolve(targets, &target.host, target.port).await? {
        let tls = match target.tls {
            MailTls::None => Tls::None,
            MailTls::Tls => Tls::Wrapper(parameters(target)?),
            MailTls::Starttls | MailTls::Unknown => Tls::Required(parameters(target)?),
        };
        let mut server = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string())
            .port(address.port())
            .tls(tls)
            .timeout(Some(WITHIN))
            .hello_name(ClientId::Domain("farshore".to_owned()));
        if let (Some(user), Some(password)) = (&target.username, &password) {
            server = server.credentials(Credentials::new(user.clone(), password.clone()));
        }
        match server.build().send(message.clone()).await {
            Ok(_) => return Ok(()),
            // It was refused, not out of reach: another address of the server would say the same.
            Err(error) if error.is_permanent() => return Err(Box::new(error)),
            Err(error) => {
                last = about_tls(&error, target).map_or_else(|| Box::new(error) as Error, Error::from);
            }
        }
    }
    Err(last)
}
