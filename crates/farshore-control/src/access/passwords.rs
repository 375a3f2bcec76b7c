//! Passwords: argon2id, a few at a time.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use farshore_api::ErrorCode;
use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Each takes 19 MiB and a core for a while.
const AT_ONCE: usize = 4;
/// How many may wait for their turn.
const WAITING: usize = 64;

/// The shortest password that is taken, and the longest.
pub(super) const MIN_CHARACTERS: usize = 12;
const MAX_BYTES: usize = 1_024;

/// The hasher: bounded, so that logins can't take all memory and cores.
#[derive(Debug)]
pub struct Passwords {
    turn: Semaphore,
    queue: Semaphore,
    /// Verified in place of the hash of a user who does not exist, so that an unknown address takes as long as a wrong password.
    nobody: tokio::sync::OnceCell<String>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(AT_ONCE),
            queue: Semaphore::new(WAITING),
            nobody: tokio::sync::OnceCell::new(),
        }
    }
}

fn hash_now(password: &str) -> Result<String, argon2::password_hash::Error> {
    // Argon2id v19 with m = 19 MiB, t = 2, p = 1: OWASP, "Password Storage Cheat Sheet".
    Ok(Argon2::default().hash_password(password.as_bytes())?.to_string())
}

impl Passwords {
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let busy = || {
            ApiError::new(ErrorCode::Unavailable, "Too many logins at the same time. Try again in a moment.")
                .retry_after(2)
        };
        let _waiting = self.queue.try_acquire().map_err(|_| busy())?;
        let _turn = self.turn.acquire().await.map_err(|_| busy())?;
        tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)
    }

    /// The PHC string of a new password.
    pub(super) async fn hash(&self, password: &str) -> Result<String, ApiError> {
        if password.chars().count() < MIN_CHARACTERS {
            return Err(ApiError::field("password", format!("has at least {MIN_CHARACTERS} characters")));
        }
        if password.len() > MAX_BYTES {
            return Err(ApiError::field("password", format!("has at most {MAX_BYTES} bytes")));
        }
        let password = password.to_owned();
        self.work(move || hash_now(&password)).await?.map_err(|error| ApiError::internal(error.to_string()))
    }

    /// Whether the password is the one of `stored`; `None` takes as long, and is never right.
    pub(super) async fn verify(&self, password: &str, stored: Option<&str>) -> Result<bool, ApiError> {
        if password.len() > MAX_BYTES {
            return Ok(false);
        }
        let nobody = self
            .nobody
            .get_or_try_init(|| async {
                self.work(|| hash_now("nobody has this password"))
                    .await?
                    .map_err(|error| ApiError::internal(error.to_string()))
            })
            .await?;
        let known = stored.is_some();
        let (password, hash) = (password.to_owned(), stored.unwrap_or(nobody).to_owned());
        let right = self
            .work(move || {
                PasswordHash::new(&hash)
                    .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
            })
            .await?;
        Ok(right && known)
    }
}
