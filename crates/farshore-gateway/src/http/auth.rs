//! Who may ask.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use http::uri::Authority;
use zeroize::Zeroizing;

use crate::config::Credentials;

/// Whether the request brings what is asked for. Without credentials the gateway listens on loopback only, and is asked under a name of loopback: with a
/// forged name server a web page could ask under its own.
pub(super) fn allowed(credentials: &Credentials, headers: &HeaderMap, query: &[(String, String)]) -> bool {
    if credentials.is_empty() {
        return to_loopback(headers);
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

/// Whether it is not a web page of somebody else that makes a browser ask. A browser names the page's origin, and sends the credentials that it knows for
/// this host whatever page asks.
pub(super) fn own_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let origin = origin.to_str().unwrap_or_default();
    let origin = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    origin.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
}

fn to_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
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
    fn without_credentials_only_names_of_loopback_are_answered_to() {
        let open = Credentials::default();
        for (pairs, expected) in [
            (vec![], true),
            (vec![("host", "localhost:8000")], true),
            (vec![("host", "[::1]:8000")], true),
            (vec![("host", "127.0.0.1:8000")], true),
            (vec![("host", "evil.example:8000")], false),
            (vec![("host", "127.0.0.1.evil.example")], false),
            (vec![("host", "a b")], false),
        ] {
            assert_eq!(allowed(&open, &headers(&pairs), &[]), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_web_page_of_somebody_else_can_not_send() {
        for (host, origin, expected) in [
            ("127.0.0.1:8000", "http://127.0.0.1:8000", true),
            ("gateway.example", "https://gateway.example", true),
            ("Gateway.example", "https://gateway.example", true),
            ("127.0.0.1:8000", "https://evil.example", false),
            ("127.0.0.1:8000", "http://127.0.0.1:3000", false),
            ("127.0.0.1:8000", "http://127.0.0.1:8000.evil.example", false),
            ("127.0.0.1:8000", "null", false),
            ("127.0.0.1:8000", "", false),
        ] {
            let headers = headers(&[("host", host), ("origin", origin)]);
            assert_eq!(own_origin(&headers), expected, "{host} {origin}");
        }
        assert!(own_origin(&headers(&[("host", "127.0.0.1:8000")])));
        assert!(!own_origin(&headers(&[("origin", "http://127.0.0.1:8000")])));
    }
}
