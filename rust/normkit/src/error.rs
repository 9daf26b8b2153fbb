//! One form of error: the argument, what was expected, what was found.

use std::fmt::Display;

/// A call that cannot be carried out. Nothing has been written when one is returned.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{argument}` must {expected}, found {found}")]
pub struct Error {
    /// The argument at fault.
    pub argument: &'static str,
    /// What it must be: completes "must …".
    pub expected: String,
    /// What it is.
    pub found: String,
}

impl Error {
    /// `argument` must `expected`, found `found`.
    pub fn new(argument: &'static str, expected: impl Into<String>, found: impl Display) -> Self {
        Error { argument, expected: expected.into(), found: found.to_string() }
    }
}

/// What every fallible function here returns.
pub type Result<T> = std::result::Result<T, Error>;

/// A shape as Python writes it: `(32,)`, `(2, 3)`.
pub fn shape_text(shape: &[usize]) -> String {
    match shape {
        [one] => format!("({one},)"),
        many => format!("({})", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}
