//! What can go wrong between the control plane and its database.

/// Why a statement did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the principal may not {0}")]
    Denied(farshore_domain::access::Permission),
    /// Not allowed for a reason that is no single permission; the text is for people.
    #[error("{0}")]
    Refused(String),
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// Something with this name, key or state is there already; the text is for people.
    #[error("{0}")]
    Conflict(String),
    #[error("the object is at version {current}, not {expected}")]
    VersionMismatch { expected: i64, current: i64 },
    #[error("the lease was lost to another holder")]
    LeaseLost,
    /// The caller's certificate authority could not issue what belongs to the change.
    #[error("the certificate could not be issued")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("stored data can't be read: {0}")]
    Corrupt(String),
    #[error("the database did not answer as it should")]
    Database(#[source] sqlx::Error),
    #[error("the database could not be brought to this version")]
    Migrate(#[source] sqlx::migrate::MigrateError),
}

pub type StoreResult<T> = Result<T, StoreError>;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(inner) if inner.is_unique_violation() => {
                Self::Conflict("something with this name or key is there already".to_owned())
            }
            sqlx::Error::Database(inner) if inner.is_foreign_key_violation() => {
                Self::Conflict("it refers to something that is not there, or is still referred to".to_owned())
            }
            _ => Self::Database(error),
        }
    }
}
