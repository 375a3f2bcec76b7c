//! What decides when both sides changed the same: a strategy for each collection, and for paths in it.

use serde::{Deserialize, Serialize};

use super::resolver::Resolver;
use super::{DocumentError, path};

/// Most rules of a collection.
pub const MAX_RULES: usize = 64;

/// How a conflict is decided. All but `merge` take what they are set for (a whole document, or what is at a path) as one: it is a conflict when both
/// sides changed something in it. `merge` goes down to the leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Strategy {
    /// The later edit, by hybrid logical clocks; the cloud's when they are equal.
    LastWriteWins,
    CloudWins,
    EdgeWins,
    /// Field by field: different leaves both stay, the same leaf gets its later value.
    #[default]
    Merge,
    /// The cloud's value stays until somebody chooses; the device's is kept beside it.
    Manual,
    /// A CEL expression over `base`, `edge` and `cloud`.
    Custom,
}

impl Strategy {
    /// All, by the names of [`Strategy::as_str`].
    pub const ALL: [Self; 6] =
        [Self::LastWriteWins, Self::CloudWins, Self::EdgeWins, Self::Merge, Self::Manual, Self::Custom];

    /// As people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LastWriteWins => "last-write-wins",
            Self::CloudWins => "cloud-wins",
            Self::EdgeWins => "edge-wins",
            Self::Merge => "merge",
            Self::Manual => "manual",
            Self::Custom => "custom",
        }
    }
}

impl std::str::FromStr for Strategy {
    type Err = DocumentError;
    fn from_str(text: &str) -> Result<Self, DocumentError> {
        Self::ALL.into_iter().find(|strategy| strategy.as_str() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::as_str).collect();
            DocumentError::new(format!("{text:?} is no strategy; there are {}", names.join(", ")))
        })
    }
}

/// The strategy for what is at a path of the documents of a collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rule {
    /// A JSON Pointer; empty for the whole document.
    #[serde(default)]
    pub path: String,
    pub strategy: Strategy,
    /// For `custom`: CEL over `base`, `edge`, `cloud` (`null` where there is none), `edgeTime`, `cloudTime` (milliseconds) and `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolver: Option<String>,
}

impl Rule {
    /// # Errors
    /// When the path is none, or the resolver is missing, superfluous or does not compile.
    pub fn check(&self) -> Result<(), DocumentError> {
        path::check(&self.path)?;
        match (self.strategy, &self.resolver) {
            (Strategy::Custom, Some(text)) => Resolver::compile(text).map(|_| ()),
            (Strategy::Custom, None) => Err(DocumentError::new(
                "the strategy custom needs a resolver, such as edge.count > cloud.count ? edge : cloud",
            )),
            (_, Some(_)) => Err(DocumentError::new("only the strategy custom has a resolver")),
            (_, None) => Ok(()),
        }
    }
}

/// Checks the rules of one collection together.
///
/// # Errors
/// When one is wrong, or two are for the same path.
pub fn check_rules(rules: &[Rule]) -> Result<(), DocumentError> {
    if rules.len() > MAX_RULES {
        return Err(DocumentError::new(format!("a collection has at most {MAX_RULES} rules")));
    }
    for (index, rule) in rules.iter().enumerate() {
        rule.check()?;
        if rules.iter().take(index).any(|other| other.path == rule.path) {
            return Err(DocumentError::new(format!("there are two rules for the path {:?}", rule.path)));
        }
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Compiled {
    rule: Rule,
    /// For `custom`; the reason where it does not compile.
    resolver: Option<Result<Resolver, DocumentError>>,
}

/// The rules of a collection, ready to be used.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The deepest paths first.
    rules: Vec<Compiled>,
    whole: Compiled,
}

impl Default for Rules {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Rules {
    /// A resolver that does not compile fails whenever it is asked, which is as good as `manual`.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let compile = |rule: Rule| {
            let resolver = (rule.strategy == Strategy::Custom)
                .then(|| Resolver::compile(rule.resolver.as_deref().unwrap_or_default()));
            Compiled { rule, resolver }
        };
        let (whole, mut rest): (Vec<Rule>, Vec<Rule>) =
            rules.into_iter().partition(|rule| rule.path.is_empty());
        rest.sort_by(|a, b| b.path.len().cmp(&a.path.len()).then_with(|| a.path.cmp(&b.path)));
        Self {
            rules: rest.into_iter().map(compile).collect(),
            whole: compile(whole.into_iter().next().unwrap_or_default()),
        }
    }

    fn of(&self, at: &str) -> &Compiled {
        self.rules.iter().find(|compiled| path::within(at, &compiled.rule.path)).unwrap_or(&self.whole)
    }

    /// The rule that holds at a place.
    #[must_use]
    pub fn at(&self, at: &str) -> &Rule {
        &self.of(at).rule
    }

    pub(super) fn resolver(&self, at: &str) -> Option<&Result<Resolver, DocumentError>> {
        self.of(at).resolver.as_ref()
    }

    /// Whether something in this place has a rule of its own.
    pub(super) fn below(&self, at: &str) -> bool {
        self.rules.iter().any(|compiled| compiled.rule.path != at && path::within(&compiled.rule.path, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, strategy: Strategy) -> Rule {
        Rule { path: path.to_owned(), strategy, resolver: None }
    }

    #[test]
    fn the_deepest_path_holds() {
        let rules = Rules::new(vec![
            rule("/a", Strategy::EdgeWins),
            rule("", Strategy::CloudWins),
            rule("/a/b", Strategy::Manual),
        ]);
        for (at, strategy) in [
            ("", Strategy::CloudWins),
            ("/ab", Strategy::CloudWins),
            ("/a", Strategy::EdgeWins),
            ("/a/c", Strategy::EdgeWins),
            ("/a/b/c", Strategy::Manual),
        ] {
            assert_eq!(rules.at(at).strategy, strategy, "{at}");
        }
        assert!(rules.below("") && rules.below("/a") && !rules.below("/a/b"));
        assert_eq!(Rules::default().at("/x").strategy, Strategy::Merge);
    }

    #[test]
    fn wrong_rules_are_refused() {
        let custom = |resolver: Option<&str>| Rule {
            path: String::new(),
            strategy: Strategy::Custom,
            resolver: resolver.map(str::to_owned),
        };
        assert!(custom(Some("edge")).check().is_ok());
        for wrong in [custom(None), custom(Some("edge +")), custom(Some("egde")), rule("a", Strategy::Merge)]
        {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        assert!(check_rules(&[rule("/a", Strategy::Merge), rule("/a", Strategy::Manual)]).is_err());
        assert_eq!("edge-wins".parse::<Strategy>().unwrap(), Strategy::EdgeWins);
        assert!("newest".parse::<Strategy>().unwrap_err().0.contains("last-write-wins"));
    }
}
