//! What a condition may speak of: names with types, declared by whoever evaluates it.

use std::collections::BTreeMap;
use std::fmt;

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Bool,
    /// Whole and fractional numbers are one type: `devices.failed > 2.5` needs no conversion.
    Number,
    Text,
    /// A span of time, written `duration("5m")`.
    Duration,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::Number => "number",
            Self::Text => "text",
            Self::Duration => "duration",
        })
    }
}

/// A value of one of the types.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    /// Never NaN or infinite inside an evaluation: such a value counts as missing.
    Number(f64),
    Text(String),
    /// Milliseconds.
    Duration(i64),
}

impl Value {
    /// Its type.
    #[must_use]
    pub const fn kind(&self) -> Type {
        match self {
            Self::Bool(_) => Type::Bool,
            Self::Number(_) => Type::Number,
            Self::Text(_) => Type::Text,
            Self::Duration(_) => Type::Duration,
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Number(f64::from(value))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// What one argument of a function may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    Of(Type),
    /// A text written out in the condition, one of these words: a wrong word is refused before anything runs.
    OneOf(Vec<String>),
}

/// A function that a condition may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    pub params: Vec<Param>,
    /// So many of the last `params` may be left out.
    pub optional: usize,
    pub returns: Type,
}

/// The declared names. Everything else is refused when a condition is compiled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    variables: BTreeMap<String, Type>,
    functions: BTreeMap<String, Function>,
}

impl Vocabulary {
    /// Nothing declared yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a variable; its name may have dots: `devices.failed`.
    #[must_use]
    pub fn variable(mut self, name: &str, kind: Type) -> Self {
        self.variables.insert(name.to_owned(), kind);
        self
    }

    /// Declares a function.
    #[must_use]
    pub fn function(mut self, name: &str, params: Vec<Param>, returns: Type) -> Self {
        self.functions.insert(name.to_owned(), Function { params, optional: 0, returns });
        self
    }

    /// Declares a function whose last `optional` arguments may be left out.
    #[must_use]
    pub fn function_with_optional(
        mut self,
        name: &str,
        params: Vec<Param>,
        optional: usize,
        returns: Type,
    ) -> Self {
        let optional = optional.min(params.len());
        self.functions.insert(name.to_owned(), Function { params, optional, returns });
        self
    }

    pub(super) fn type_of(&self, variable: &str) -> Option<Type> {
        self.variables.get(variable).copied()
    }

    pub(super) fn find(&self, function: &str) -> Option<&Function> {
        self.functions.get(function)
    }

    /// All names, for suggestions and for documentation.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().chain(self.functions.keys()).map(String::as_str)
    }
}
