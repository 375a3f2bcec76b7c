//! From foreign bytes to points: pure, capped, total. A point that can't be read is told with its place and why; the others
//! of the same body are taken.

pub mod body;
pub mod json;
pub mod line;
pub mod otlp;
mod quick;
mod time;

pub use time::{Precision, parse_rfc3339};

use crate::limits::MAX_REJECTIONS_TOLD;
use crate::point::{Point, PointError};

/// Takes points; refuses those it has no room for.
pub type Sink<'s> = dyn FnMut(&Point<'_>) -> Result<(), PointError> + 's;

/// What became of a body's points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub accepted: usize,
    pub rejected: usize,
    /// The first of the rejected.
    pub told: Vec<Rejection>,
}

/// A point that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The line, or the place in an array; the first is 1.
    pub place: usize,
    pub error: PointError,
}

impl Outcome {
    fn count(&mut self, place: usize, result: Result<(), PointError>) {
        match result {
            Ok(()) => self.accepted += 1,
            Err(error) => {
                self.rejected += 1;
                if self.told.len() < MAX_REJECTIONS_TOLD {
                    self.told.push(Rejection { place, error });
                }
            }
        }
    }

    /// The rejections in one line, for an answer.
    #[must_use]
    pub fn message(&self) -> String {
        let mut message = String::new();
        for Rejection { place, error } in &self.told {
            if !message.is_empty() {
                message.push_str("; ");
            }
            message.push_str(&format!("{place}: {error}"));
        }
        if self.rejected > self.told.len() {
            message.push_str(&format!("; and {} more", self.rejected - self.told.len()));
        }
        message
    }
}
