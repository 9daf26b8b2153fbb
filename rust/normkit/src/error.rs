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

impl Error {
    /// What [`zeros`] returns where memory does not suffice.
    const MEMORY: &str = "memory";

    /// Whether memory did not suffice, rather than an argument.
    pub fn is_memory(&self) -> bool {
        self.argument == Error::MEMORY
    }
}

/// Room for `n` numbers, if there is memory for them.
#[inline]
pub(crate) fn room<T>(n: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    if n == 0 {
        return Ok(room);
    }
    let failed = |_| Error::new(Error::MEMORY, format!("hold {n} numbers"), "not enough of it");
    room.try_reserve_exact(n).map_err(failed)?;
    Ok(room)
}

/// `n` zeros, or defaults, if there is memory for them.
pub(crate) fn zeros<T: Clone + Default>(n: usize) -> Result<Vec<T>> {
    let mut zeros = room(n)?;
    zeros.resize(n, T::default());
    Ok(zeros)
}

/// All of these, if there is memory for them.
pub(crate) fn gathered<T>(items: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>> {
    let mut all = room(items.len())?;
    all.extend(items);
    Ok(all)
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
