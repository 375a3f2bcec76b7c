//! How a person names a release.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::ReleaseId;
use crate::name::Name;
use crate::version::Version;

/// A release as a person names it: its uid, or `app@version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ReleaseRef {
    Uid(ReleaseId),
    Version { app: Name, version: Version },
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for ReleaseRef {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("A release by its uid, or as app@version."))
            .examples(["edge-web@1.1"])
            .into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for ReleaseRef {}

/// The text names no release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a release is named by its uid, or as app@version, for example edge-web@1.1")]
pub struct ReleaseRefError;

impl fmt::Display for ReleaseRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "{uid}"),
            Self::Version { app, version } => write!(f, "{app}@{version}"),
        }
    }
}

impl FromStr for ReleaseRef {
    type Err = ReleaseRefError;
    fn from_str(text: &str) -> Result<Self, ReleaseRefError> {
        match text.split_once('@') {
            None => text.parse().map(Self::Uid).map_err(|_| ReleaseRefError),
            Some((app, version)) => Ok(Self::Version {
                app: app.parse().map_err(|_| ReleaseRefError)?,
                version: version.parse().map_err(|_| ReleaseRefError)?,
            }),
        }
    }
}

impl TryFrom<String> for ReleaseRef {
    type Error = ReleaseRefError;
    fn try_from(text: String) -> Result<Self, ReleaseRefError> {
        text.parse()
    }
}

impl From<ReleaseRef> for String {
    fn from(release: ReleaseRef) -> Self {
        release.to_string()
    }
}
