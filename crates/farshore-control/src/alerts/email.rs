//! E-mail over SMTP.

use std::time::Duration;

use farshore_api::alert::{EmailTarget, MailTls};
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use uuid::Uuid;

use super::guard::{self, Targets};

/// The server answers each command within this time.
const WITHIN: Duration = Duration::from_secs(15);
/// Most receivers of one route.
const MAX_TO: usize = 20;

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
    Ok(())
}

/// Sends one message to all receivers of the route. `id` makes the message's id, so that a repetition can be told.
pub(super) async fn send(
    targets: Targets,
    target: &EmailTarget,
    password: Option<String>,
    id: Uuid,
    (subject, text): (String, String),
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut message = Message::builder()
        .from(target.from.parse()?)
        .subject(subject)
        .message_id(Some(format!("<{}@farshore>", id.simple())))
        .header(ContentType::TEXT_PLAIN);
    for to in &target.to {
        message = message.to(to.parse()?);
    }
    let message = message.body(text)?;
    let mut last: Box<dyn std::error::Error + Send + Sync> = "the server has no address".into();
    for address in guard::resolve(targets, &target.host, target.port).await? {
        let tls = match target.tls {
            MailTls::None => Tls::None,
            MailTls::Tls => Tls::Wrapper(TlsParameters::new(target.host.clone())?),
            MailTls::Starttls | MailTls::Unknown => Tls::Required(TlsParameters::new(target.host.clone())?),
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
            Err(error) => last = Box::new(error),
        }
    }
    Err(last)
}
