//! What arrays hold, and what it is computed in.

use half::{bf16, f16};

use crate::pass::Passes;
use crate::simd::{Base, BaseMut, Halves, Real, narrow, widen};

/// An element of `x`, `y` and their gradients.
pub trait Element: Copy + Send + Sync + 'static {
    /// The type that statistics and outputs are computed in.
    type Compute: Real + Passes;
    /// The same value, exactly.
    fn to_f64(self) -> f64;
    /// The nearest value, ties to even.
    fn from_f64(x: f64) -> Self;
    /// These elements as float32; both have one length.
    #[doc(hidden)]
    #[inline(always)]
    fn widen<S: Halves>(_s: S, from: &[Self], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.to_f64() as f32;
        }
    }
    /// Rounds to these elements; both have one length.
    #[doc(hidden)]
    #[inline(always)]
    fn narrow<S: Halves>(_s: S, from: &[f32], to: &mut [Self]) {
        for (to, &x) in to.iter_mut().zip(from) {
            *to = Self::from_f64(f64::from(x));
        }
    }
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
    F16(Base<'a, f16>),
    Bf16(Base<'a, bf16>),
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
    F16(BaseMut<'a, f16>),
    Bf16(BaseMut<'a, bf16>),
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

/// One of the two float32 around `x`, that with an odd last bit unless `x` is one itself: rounding it to a half is then
/// rounding `x` once. (`half` rounds twice where the processor converts, and drops 32 bits where it does not.)
#[inline(always)]
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    let (bits, wide) = (near.to_bits(), f64::from(near));
    if wide == x || x.is_nan() || bits & 1 == 1 {
        near
    } else {
        f32::from_bits(if wide.abs() > x.abs() { bits - 1 } else { bits + 1 })
    }
}

impl Element for f16 {
    type Compute = f32;
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
    #[inline(always)]
    fn from_f64(x: f64) -> f16 {
        f16::from_f32(to_odd(x))
    }
    #[inline(always)]
    fn widen<S: Halves>(s: S, from: &[f16], to: &mut [f32]) {
        widen(s, from, to);
    }
    #[inline(always)]
    fn narrow<S: Halves>(s: S, from: &[f32], to: &mut [f16]) {
        narrow(s, from, to);
    }
    fn source(base: Base<'_, f16>) -> Source<'_> {
        Source::F16(base)
    }
    fn sink(base: BaseMut<'_, f16>) -> Sink<'_> {
        Sink::F16(base)
    }
}

impl Element for bf16 {
    type Compute = f32;
    #[inline(always)]
    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
    #[inline(always)]
    fn from_f64(x: f64) -> bf16 {
        bf16::from_f32(to_odd(x))
    }
    #[inline(always)]
    fn widen<S: Halves>(s: S, from: &[bf16], to: &mut [f32]) {
        widen(s, from, to);
    }
    #[inline(always)]
    fn narrow<S: Halves>(s: S, from: &[f32], to: &mut [bf16]) {
        narrow(s, from, to);
    }
    fn source(base: Base<'_, bf16>) -> Source<'_> {
        Source::Bf16(base)
    }
    fn sink(base: BaseMut<'_, bf16>) -> Sink<'_> {
        Sink::Bf16(base)
    }
}
