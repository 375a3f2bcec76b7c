//! Conditions and their parameters, gathered for a statement whose shape depends on the request.

use std::fmt::Write;

use uuid::Uuid;

/// A parameter of a gathered statement.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Argument {
    Uuid(Uuid),
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// The text after `WHERE`, all of whose conditions must hold, and the parameters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    sql: String,
    pub(crate) arguments: Vec<Argument>,
}

impl Conditions {
    /// Adds a parameter and returns how the text refers to it.
    pub(crate) fn argument(&mut self, argument: Argument) -> String {
        self.arguments.push(argument);
        format!("${}", self.arguments.len())
    }

    pub(crate) fn uuid(&mut self, uuid: Uuid) -> String {
        self.argument(Argument::Uuid(uuid))
    }

    pub(crate) fn integer(&mut self, integer: i64) -> String {
        self.argument(Argument::Integer(integer))
    }

    pub(crate) fn text(&mut self, text: &str) -> String {
        self.argument(Argument::Text(text.to_owned()))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> String {
        self.argument(Argument::Bytes(bytes.to_vec()))
    }

    /// `$4, $5, $6`
    pub(crate) fn texts<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) -> String {
        let mut sql = String::new();
        for text in texts {
            let parameter = self.text(text);
            // Writing to a String can't fail.
            let _ = write!(sql, "{}{parameter}", if sql.is_empty() { "" } else { ", " });
        }
        sql
    }

    /// `$4, $5, $6`
    pub(crate) fn uuids(&mut self, uuids: impl IntoIterator<Item = Uuid>) -> String {
        let mut sql = String::new();
        for uuid in uuids {
            let parameter = self.uuid(uuid);
            let _ = write!(sql, "{}{parameter}", if sql.is_empty() { "" } else { ", " });
        }
        sql
    }

    /// Adds a condition.
    pub(crate) fn and(&mut self, condition: &str) {
        if !self.sql.is_empty() {
            self.sql.push_str(" AND ");
        }
        self.sql.push_str(condition);
    }

    /// The text.
    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }
}

/// Binds all arguments, in order.
macro_rules! bind_all {
    ($query:expr, $arguments:expr) => {{
        let mut query = $query;
        for argument in $arguments {
            query = match argument {
                $crate::condition::Argument::Uuid(value) => query.bind(*value),
                $crate::condition::Argument::Integer(value) => query.bind(*value),
                $crate::condition::Argument::Text(value) => query.bind(value.as_str()),
                $crate::condition::Argument::Bytes(value) => query.bind(value.as_slice()),
            };
        }
        query
    }};
}
pub(crate) use bind_all;
