//! Claim rules: what happens to a device that shows a valid claim token.

use serde::{Deserialize, Serialize};

use crate::label::Labels;
use crate::name::Name;
use crate::selector::Selector;

/// What a claim rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ClaimAction {
    /// Claimed at once.
    Auto,
    /// Waits as `pending` until a person approves.
    Hold,
    Reject,
}

/// One rule; the first that matches, in order of `(order, name)`, decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimRule {
    pub order: i32,
    pub action: ClaimAction,
    /// Only for devices that come with this token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Name>,
    /// Only for devices whose labels match: the token's labels and, under `hardware/`, what the device says of itself.
    #[serde(default)]
    pub selector: Selector,
}

/// Decides a claim. Without a matching rule a valid token is enough: the token itself was made by somebody with the right to.
#[must_use]
pub fn decide_claim<'a>(
    rules: impl IntoIterator<Item = (&'a Name, &'a ClaimRule)>,
    token: &Name,
    labels: &Labels,
) -> (ClaimAction, Option<&'a Name>) {
    let mut rules: Vec<_> = rules.into_iter().collect();
    rules.sort_by_key(|(name, rule)| (rule.order, *name));
    rules
        .into_iter()
        .find(|(_, rule)| rule.token.as_ref().is_none_or(|t| t == token) && rule.selector.matches(labels))
        .map_or((ClaimAction::Auto, None), |(name, rule)| (rule.action, Some(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_rule_decides() {
        let name = |text: &str| Name::new(text).unwrap();
        let rule = |order, action, token: Option<&str>, selector: &str| ClaimRule {
            order,
            action,
            token: token.map(name),
            selector: selector.parse().unwrap(),
        };
        let rules = [
            (name("z"), rule(1, ClaimAction::Reject, None, "site=closed")),
            (name("a"), rule(2, ClaimAction::Hold, Some("factory"), "")),
        ];
        let decide = |token: &str, site: &str| {
            let labels = Labels::try_from([("site", site)]).unwrap();
            decide_claim(rules.iter().map(|(n, r)| (n, r)), &name(token), &labels).0
        };
        assert_eq!(decide("factory", "closed"), ClaimAction::Reject);
        assert_eq!(decide("factory", "riga"), ClaimAction::Hold);
        assert_eq!(decide("shop", "riga"), ClaimAction::Auto);
    }
}
