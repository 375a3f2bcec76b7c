//! A number of devices, or a share of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number, or a percentage written `"25%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AmountText", into = "AmountText")]
pub enum Amount {
    Count(u32),
    Percent(u8),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum AmountText {
    Number(u32),
    Text(String),
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for Amount {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
        OneOfBuilder::new()
            .item(ObjectBuilder::new().schema_type(Type::Integer))
            .item(ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,3}%$")))
            .description(Some("A number of devices, or a percentage such as \"25%\"."))
            .into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for Amount {}

/// The text is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an amount is a number such as 3, or a percentage such as \"25%\"")]
pub struct AmountError;

impl Default for Amount {
    fn default() -> Self {
        Self::Percent(25)
    }
}

impl Amount {
    /// How many of `population`: rounded down, at least one.
    #[must_use]
    pub fn of(self, population: u32) -> u32 {
        let count = match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                u32::try_from(u64::from(population) * u64::from(percent) / 100).unwrap_or(u32::MAX)
            }
        };
        count.max(1)
    }

    /// How many of `population`: rounded up.
    #[must_use]
    pub fn at_least(self, population: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                let share = (u64::from(population) * u64::from(percent)).div_ceil(100);
                u32::try_from(share).unwrap_or(u32::MAX)
            }
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Amount {
    type Err = AmountError;
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match text.strip_suffix('%') {
            Some(number) if digits(number) => number.parse().map(Self::Percent).map_err(|_| AmountError),
            None if digits(text) => text.parse().map(Self::Count).map_err(|_| AmountError),
            _ => Err(AmountError),
        }
    }
}

impl TryFrom<AmountText> for Amount {
    type Error = AmountError;
    fn try_from(text: AmountText) -> Result<Self, AmountError> {
        match text {
            AmountText::Number(count) => Ok(Self::Count(count)),
            AmountText::Text(text) => text.parse(),
        }
    }
}

impl From<Amount> for AmountText {
    fn from(amount: Amount) -> Self {
        match amount {
            Amount::Count(count) => Self::Number(count),
            Amount::Percent(_) => Self::Text(amount.to_string()),
        }
    }
}
