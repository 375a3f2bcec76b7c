//! Why something is as it is: `GET /api/rollouts/{id}/why`, `GET /api/devices/{id}/why`.

use farshore_domain::name::Name;
use farshore_domain::object::Reason;
use farshore_domain::rollout::{Owner, Waiting};
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The chain of reasons of one object, from the state at the moment of the request. The first link is what the object is
/// now; each further one is a reason of those before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub subject: ExplainedObject,
    pub chain: Vec<Cause>,
}

/// What is explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedObject {
    /// `Rollout` or `Device`.
    pub kind: String,
    pub uid: Uuid,
    pub name: Name,
}

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// One CamelCase word for programs, such as `Budget`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMs>,
    /// Who has to act, where somebody or something is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// When the waiting ends, whatever happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<UnixMs>,
    /// The object that it is about, as the command line names it: `rollout/web-1-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

impl Cause {
    /// A link without owner, deadline or object.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>, since: Option<UnixMs>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            since,
            owner: None,
            deadline: None,
            link: None,
        }
    }

    /// The same about an object, as the command line names it.
    #[must_use]
    pub fn about(mut self, kind: &str, name: &Name) -> Self {
        self.link = Some(format!("{kind}/{name}"));
        self
    }
}

impl From<Reason> for Cause {
    fn from(reason: Reason) -> Self {
        Self::new(&reason.code, reason.message, Some(reason.since))
    }
}

impl From<Waiting> for Cause {
    fn from(waiting: Waiting) -> Self {
        Self { owner: Some(waiting.owner), deadline: Some(waiting.until), ..waiting.reason.into() }
    }
}
