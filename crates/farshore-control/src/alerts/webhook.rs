//! Webhooks, signed as Standard Webhooks 1.0 asks: `webhook-id`, `webhook-timestamp`, `webhook-signature`.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_domain::time::UnixMs;
use ring::hmac;
use uuid::Uuid;

use super::guard::{Resolver, Targets, allows};

/// A receiver answers within this time.
const WITHIN: Duration = Duration::from_secs(10);
const PREFIX: &str = "whsec_";

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{0}")]
    Failed(String),
    /// The receiver says that it will never be there again.
    #[error("the receiver answered 410 Gone")]
    Gone,
}

/// Reads `whsec_<base64>`: 24 to 64 bytes.
pub(crate) fn read_secret(text: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
    (24..=64).contains(&bytes.len()).then_some(bytes)
}

/// A new secret in its written form.
pub(crate) fn new_secret() -> Result<String, ring::error::Unspecified> {
    let mut bytes = [0; 32];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)?;
    Ok(format!("{PREFIX}{}", STANDARD.encode(bytes)))
}

/// `v1,<base64 HMAC-SHA256>` over `{id}.{seconds}.{body}`.
pub(crate) fn signature(secret: &[u8], id: &str, seconds: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(format!("{id}.{seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

/// Reads an address that a route may name. Says what is wrong with it otherwise.
pub(crate) fn check_url(targets: Targets, text: &str) -> Result<reqwest::Url, String> {
    if text.len() > 2_000 {
        return Err("has at most 2000 characters".to_owned());
    }
    let url: reqwest::Url =
        text.parse().map_err(|_| "is no address such as https://example.com/hook".to_owned())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("begins with https:// or http://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds no user and password; receivers check the signature".to_owned());
    }
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.is_empty() {
        return Err("names no host".to_owned());
    }
    // Names are judged when they are resolved, each time.
    if bare.parse().is_ok_and(|ip| !allows(targets, ip)) {
        return Err(format!(
            "is an address that the server's setting alert-targets ({targets}) does not allow"
        ));
    }
    Ok(url)
}

/// The client of all webhooks.
pub(crate) fn client(targets: Targets) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(WITHIN)
        .dns_resolver(Arc::new(Resolver(targets)))
        .user_agent(concat!("Farshore/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Posts a signed body, as JSON. An answer of any kind is one.
pub(crate) async fn post(
    client: &reqwest::Client,
    targets: Targets,
    url: &str,
    secret: &[u8],
    id: Uuid,
    body: Vec<u8>,
    now: UnixMs,
) -> Result<reqwest::Response, String> {
    let url = check_url(targets, url).map_err(|why| format!("the address {why}"))?;
    let id = format!("msg_{}", id.simple());
    let seconds = now.0 / 1_000;
    let request = client
        .post(url)
        .header("content-type", "application/json")
        .header("webhook-id", &id)
        .header("webhook-timestamp", seconds)
        .header("webhook-signature", signature(secret, &id, seconds, &body))
        .body(body);
    request.send().await.map_err(|error| crate::error::chain(&error.without_url()))
}

/// Sends one message.
pub(super) async fn send(
    client: &reqwest::Client,
    targets: Targets,
    url: &str,
    secret: &[u8],
    id: Uuid,
    body: Vec<u8>,
    now: UnixMs,
) -> Result<(), SendError> {
    let answer = post(client, targets, url, secret, id, body, now).await.map_err(SendError::Failed)?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        reqwest::StatusCode::GONE => Err(SendError::Gone),
        status => Err(SendError::Failed(format!("the receiver answered {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specifications_example() {
        let secret = read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed =
            signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_read_strictly_and_made_well() {
        assert_eq!(read_secret(&new_secret().unwrap()).map(|bytes| bytes.len()), Some(32));
        for bad in ["", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_%%%"] {
            assert_eq!(read_secret(bad), None, "{bad}");
        }
        assert_eq!(read_secret(&format!("whsec_{}", STANDARD.encode([0; 65]))), None);
    }

    #[test]
    fn addresses_that_lead_inside_are_refused() {
        for bad in [
            "ftp://example.com",
            "file:///etc/passwd",
            "https://user:word@example.com/",
            "not an address",
            "http://127.0.0.1/",
            "http://[::1]:8080/",
            "http://169.254.169.254/latest",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://10.0.0.1/",
        ] {
            assert!(check_url(Targets::Public, bad).is_err(), "{bad}");
        }
        assert!(check_url(Targets::Any, "http://127.0.0.1:9/hook").is_ok());
        assert!(check_url(Targets::Public, "https://example.com/hook").is_ok());
    }
}
