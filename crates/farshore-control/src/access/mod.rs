//! Who asks: sessions, API tokens, users, tenants.

mod authenticate;
mod housekeeping;
mod login;
mod passwords;
mod roles;
mod tenants;
mod tokens;
mod users;

pub use authenticate::{SESSION_COOKIE, authenticate, check_email};
pub use housekeeping::spawn;
pub use login::{AccessDocs, SESSION_MS};
pub use passwords::Passwords;

use crate::error::ApiError;
use crate::route::Route;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    [login::routes(), tenants::routes(), users::routes(), tokens::routes(), roles::routes()]
        .into_iter()
        .flatten()
        .collect()
}

/// A new secret of one kind.
fn secret(
    kind: farshore_trust::token::SecretKind,
) -> Result<(farshore_trust::token::Secret, farshore_store::SecretHash), ApiError> {
    let (secret, hash) = farshore_trust::token::Secret::generate(kind).map_err(ApiError::internal)?;
    Ok((secret, farshore_store::SecretHash(*hash.as_bytes())))
}

/// The hash of a secret that somebody presents.
fn hash(secret: &str) -> farshore_store::SecretHash {
    farshore_store::SecretHash(*farshore_trust::token::hash_secret(secret).as_bytes())
}
