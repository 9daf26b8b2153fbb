//! What arrays hold, and what it is computed in.

use crate::pass::Passes;
use crate::simd::{Base, BaseMut, Real};

/// An element of `x`, `y` and their gradients.
pub trait Element: Copy + Send + Sync + 'static {
    /// The type that statistics and outputs are computed in.
    type Compute: Real + Passes;
    /// The same value, exactly.
    fn to_f64(self) -> f64;
    /// The nearest value, ties to even.
    fn from_f64(x: f64) -> Self;
    #[doc(hidden)]
    fn source(base: Base<'_, Self>) -> Source<'_>;
    #[doc(hidden)]
    fn sink(base: BaseMut<'_, Self>) -> Sink<'_>;
}

/// The memory of an operand that is read.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub enum Source<'a> {
    F32(Base<'a, f32>),
    F64(Base<'a, f64>),
    /// One value everywhere.
    Constant(f64),
    /// Bytes that count as 1 where they are not 0.
    Flags(Base<'a, u8>),
}

/// The memory of an operand that is written.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub enum Sink<'a> {
    F32(BaseMut<'a, f32>),
    F64(BaseMut<'a, f64>),
}

impl Element for f32 {
    type Compute = f32;
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn from_f64(x: f64) -> f32 {
        x as f32
    }
    fn source(base: Base<'_, f32>) -> Source<'_> {
        Source::F32(base)
    }
    fn sink(base: BaseMut<'_, f32>) -> Sink<'_> {
        Sink::F32(base)
    }
}

impl Element for f64 {
    type Compute = f64;
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn from_f64(x: f64) -> f64 {
        x
    }
    fn source(base: Base<'_, f64>) -> Source<'_> {
        Source::F64(base)
    }
    fn sink(base: BaseMut<'_, f64>) -> Sink<'_> {
        Sink::F64(base)
    }
}
