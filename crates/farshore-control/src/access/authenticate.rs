//! From a request's headers to a proved identity.
//!
//! A browser sends its session as a cookie, and then `Origin` must name this very server on everything that changes something;
//! programs send a session or an API token as `Authorization: Bearer`.

use axum::http::{HeaderMap, Method, header};
use farshore_api::ErrorCode;
use farshore_domain::name::Name;
use farshore_store::{Principal, StoreError};
use farshore_trust::token::SecretKind;

use super::hash;
use crate::app::App;
use crate::clock::now;
use crate::error::ApiError;

/// The cookie that holds a session; `__Host-` binds it to this host, `/` and TLS.
pub const SESSION_COOKIE: &str = "__Host-farshore-session";
/// Chooses one of the tenants that a user may act in.
const TENANT_HEADER: &str = "farshore-tenant";
/// No secret of ours is longer.
const MAX_SECRET_BYTES: usize = 128;

/// A secret as it was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presented<'a> {
    Cookie(&'a str),
    Bearer(&'a str),
}

/// What the request carries: a bearer token before a cookie, which a browser sends by itself.
pub(super) fn presented(headers: &HeaderMap) -> Option<Presented<'_>> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, secret) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| Presented::Bearer(secret.trim()));
    }
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == SESSION_COOKIE)
        .map(|(_, secret)| Presented::Cookie(secret))
}

fn unauthenticated(detail: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, detail)
}

/// Finds out who sent the request, from its cookie or its bearer token.
pub async fn authenticate(app: &App, method: &Method, headers: &HeaderMap) -> Result<Principal, ApiError> {
    let presented = presented(headers).ok_or_else(|| {
        unauthenticated("Log in with POST /api/login, or send an API token as Authorization: Bearer.")
    })?;
    let secret = match presented {
        Presented::Cookie(secret) => {
            if !method.is_safe() {
                check_origin(headers, Missing::Refused)?;
            }
            secret
        }
        Presented::Bearer(secret) => secret,
    };
    if secret.len() > MAX_SECRET_BYTES {
        return Err(unauthenticated("This is no session and no API token."));
    }
    let tenant = wanted_tenant(headers)?;
    let (store, hash, now) = (app.store(), hash(secret), now());
    let is_api_token = secret.starts_with(SecretKind::ApiToken.prefix());
    let principal = if is_api_token && matches!(presented, Presented::Bearer(_)) {
        let principal = store.authenticate_api_token(&hash, now).await?;
        if let (Some(principal), Some(tenant)) = (&principal, &tenant)
            && principal.tenant_name() != tenant
        {
            return Err(ApiError::not_found("tenant", tenant.as_str()));
        }
        principal
    } else {
        match store.authenticate_session(&hash, tenant.as_ref(), now).await {
            Err(StoreError::NotFound("tenant")) => {
                return Err(ApiError::not_found("tenant", tenant.as_ref().map_or("", Name::as_str)));
            }
            other => other?,
        }
    };
    principal.ok_or_else(|| unauthenticated("Your session or token has ended or was revoked. Log in again."))
}

fn wanted_tenant(headers: &HeaderMap) -> Result<Option<Name>, ApiError> {
    headers
        .get(TENANT_HEADER)
        .map(|value| {
            value
                .to_str()
                .ok()
                .and_then(|text| Name::new(text).ok())
                .ok_or_else(|| ApiError::field("Farshore-Tenant", "is the name of a tenant"))
        })
        .transpose()
}

/// What a missing `Origin` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// A browser's cookie came along: it must say where from.
    Refused,
    /// Nothing that a browser adds by itself is believed here.
    Accepted,
}

/// Refuses what another site's page made a browser send.
pub(super) fn check_origin(headers: &HeaderMap, missing: Missing) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let own = match (headers.get(header::ORIGIN), missing) {
        (None, Missing::Accepted) => true,
        (None, Missing::Refused) => false,
        (Some(_), _) => match (text(header::ORIGIN), text(header::HOST)) {
            (Some(origin), Some(host)) => origin.strip_prefix("https://") == Some(host),
            _ => false,
        },
    };
    if own {
        Ok(())
    } else {
        Err(ApiError::new(
            ErrorCode::Forbidden,
            "A request with a session cookie must come from this server's own page: its Origin does not say so. Programs send Authorization: Bearer.",
        ))
    }
}

/// An e-mail address in lower case; or why it is none. What matters here is that it is one plain word with one `@`.
pub fn check_email(text: &str) -> Result<String, &'static str> {
    let email = text.trim().to_lowercase();
    let (local, domain) = email.split_once('@').ok_or("it has no @")?;
    if email.len() > 254 {
        return Err("it has more than 254 characters");
    }
    if local.is_empty() || domain.is_empty() || domain.contains('@') {
        return Err("it needs one @ with something on both sides");
    }
    if email.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it holds a space or a control character");
    }
    Ok(email)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_bearer_token_goes_before_a_cookie_and_the_cookie_is_found_among_others() {
        let cookie = ("cookie", "a=1; __Host-farshore-session=s1; b=2");
        assert_eq!(presented(&headers(&[cookie])), Some(Presented::Cookie("s1")));
        assert_eq!(
            presented(&headers(&[cookie, ("authorization", "bearer t1")])),
            Some(Presented::Bearer("t1"))
        );
        assert_eq!(presented(&headers(&[cookie, ("authorization", "Basic eDp5")])), None);
        assert_eq!(presented(&headers(&[("cookie", "farshore-session=s1")])), None);
    }

    #[test]
    fn a_cookie_from_another_origin_is_refused() {
        let check = |origin: Option<&str>, missing| {
            let mut all = headers(&[("host", "fleet.example:8443")]);
            if let Some(origin) = origin {
                all.insert("origin", origin.parse().unwrap());
            }
            check_origin(&all, missing).is_ok()
        };
        assert!(check(Some("https://fleet.example:8443"), Missing::Refused));
        for foreign in
            ["https://evil.example", "http://fleet.example:8443", "https://fleet.example", "null", ""]
        {
            assert!(!check(Some(foreign), Missing::Refused), "{foreign}");
            assert!(!check(Some(foreign), Missing::Accepted), "{foreign}");
        }
        assert!(!check(None, Missing::Refused));
        assert!(check(None, Missing::Accepted));
    }

    #[test]
    fn an_address_is_one_word_with_one_at() {
        assert_eq!(check_email(" Ann@Example.COM ").unwrap(), "ann@example.com");
        for bad in ["", "ann", "@", "a@", "@b", "a@b@c", "a b@c", "a\n@c", &format!("{}@c", "a".repeat(300))]
        {
            assert!(check_email(bad).is_err(), "{bad:?}");
        }
    }
}
