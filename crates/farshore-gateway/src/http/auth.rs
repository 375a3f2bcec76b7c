//! Who may ask.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use http::uri::Authority;
use zeroize::Zeroizing;

use crate::config::Credentials;

/// Whether the request brings what is asked for. Without credentials the gateway listens on loopback only, and the one thing to keep out is
/// a web page that makes the browser of this machine ask.
pub(super) fn allowed(credentials: &Credentials, headers: &HeaderMap, query: &[(String, String)]) -> bool {
    if credentials.is_empty() {
        return from_here(headers);
    }
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scheme, rest) = header.split_once(' ').unwrap_or_default();
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token") {
        // InfluxDB 1 clients write `Token user:password`.
        let (user, password) = rest.split_once(':').unwrap_or_default();
        return credentials.accepts_token(rest) | credentials.accepts(user, password);
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let Ok(bytes) = STANDARD.decode(rest).map(Zeroizing::new) else { return false };
        let Some((user, password)) = std::str::from_utf8(&bytes).ok().and_then(|text| text.split_once(':'))
        else {
            return false;
        };
        return credentials.accepts(user, password);
    }
    // InfluxDB 1 clients may put them there.
    let of = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    of("u").zip(of("p")).is_some_and(|(user, password)| credentials.accepts(user, password))
}

/// A browser names the page's origin, and with a forged name server the host is not a loopback name.
fn from_here(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let loopback = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let own = headers.get(ORIGIN).is_none_or(|origin| {
        origin.to_str().is_ok_and(|origin| origin.strip_prefix("http://") == Some(authority.as_str()))
    });
    loopback && own
}

#[cfg(test)]
mod tests {
    use farshore_trust::token::hash_secret;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn every_way_to_bring_credentials() {
        let credentials =
            Credentials { token: Some(hash_secret("t0ken")), user: Some(("u".to_owned(), hash_secret("p"))) };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for (header, expected) in [
            ("Bearer t0ken".to_owned(), true),
            ("Token t0ken".to_owned(), true),
            ("token u:p".to_owned(), true),
            (basic("u:p"), true),
            (basic("x:t0ken"), true),
            (basic("u:q"), false),
            (basic("u"), false),
            ("Basic !".to_owned(), false),
            ("Bearer".to_owned(), false),
            ("Bearer t0ken2".to_owned(), false),
            (String::new(), false),
        ] {
            let headers = headers(&[("authorization", &header)]);
            assert_eq!(allowed(&credentials, &headers, &[]), expected, "{header}");
        }
        let query = [("u".to_owned(), "u".to_owned()), ("p".to_owned(), "p".to_owned())];
        assert!(allowed(&credentials, &HeaderMap::new(), &query));
        assert!(!allowed(&credentials, &HeaderMap::new(), &[]));
    }

    #[test]
    fn without_credentials_a_web_page_can_not_send() {
        let open = Credentials::default();
        for (pairs, expected) in [
            (vec![], true),
            (vec![("host", "localhost:8000")], true),
            (vec![("host", "[::1]:8000")], true),
            (vec![("host", "127.0.0.1:8000"), ("origin", "http://127.0.0.1:8000")], true),
            (vec![("host", "127.0.0.1:8000"), ("origin", "https://evil.example")], false),
            (vec![("host", "evil.example:8000")], false),
            (vec![("host", "127.0.0.1:8000"), ("origin", "null")], false),
        ] {
            assert_eq!(allowed(&open, &headers(&pairs), &[]), expected, "{pairs:?}");
        }
    }
}
