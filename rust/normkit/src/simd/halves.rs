//! Two-byte elements to float32 and back, a register at a time.

use half::{bf16, f16};

use super::{Real, Simd};

/// Vectors of float32 that are loaded from, and rounded to, two-byte elements: to nearest, ties to even; NaN stays NaN.
pub trait Halves: Simd<f32> {
    /// Load `N` float16.
    /// # Safety
    /// `p..p + N` is readable.
    unsafe fn load_f16(self, p: *const f16) -> Self::V;
    /// Store as `N` float16.
    /// # Safety
    /// `p..p + N` is writable.
    unsafe fn store_f16(self, p: *mut f16, v: Self::V);
    /// Load `N` bfloat16.
    /// # Safety
    /// `p..p + N` is readable.
    unsafe fn load_bf16(self, p: *const bf16) -> Self::V;
    /// Store as `N` bfloat16.
    /// # Safety
    /// `p..p + N` is writable.
    unsafe fn store_bf16(self, p: *mut bf16, v: Self::V);
}

/// One of the two-byte elements.
pub(crate) trait Half: Copy {
    /// Zero.
    const ZERO: Self;
    /// A register of them.
    /// # Safety
    /// `p..p + N` is readable.
    unsafe fn load<S: Halves>(s: S, p: *const Self) -> S::V;
    /// A register as them.
    /// # Safety
    /// `p..p + N` is writable.
    unsafe fn store<S: Halves>(s: S, p: *mut Self, v: S::V);
}

impl Half for f16 {
    const ZERO: f16 = f16::ZERO;
    #[inline(always)]
    unsafe fn load<S: Halves>(s: S, p: *const f16) -> S::V {
        // SAFETY: as the caller vouches.
        unsafe { s.load_f16(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Halves>(s: S, p: *mut f16, v: S::V) {
        // SAFETY: as the caller vouches.
        unsafe { s.store_f16(p, v) }
    }
}

impl Half for bf16 {
    const ZERO: bf16 = bf16::ZERO;
    #[inline(always)]
    unsafe fn load<S: Halves>(s: S, p: *const bf16) -> S::V {
        // SAFETY: as the caller vouches.
        unsafe { s.load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Halves>(s: S, p: *mut bf16, v: S::V) {
        // SAFETY: as the caller vouches.
        unsafe { s.store_bf16(p, v) }
    }
}

/// The most lanes of a register.
const MOST: usize = 16;

/// These elements as float32.
#[inline(always)]
pub(crate) fn widen<S: Halves, E: Half>(s: S, from: &[E], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    const { assert!(S::N <= MOST) };
    let whole = from.len() / S::N * S::N;
    let mut i = 0;
    while i < whole {
        debug_assert!(i + S::N <= from.len());
        let p = from.as_ptr().wrapping_add(i);
        s.will_read(p.cast());
        // SAFETY: a whole register is left of both.
        unsafe { s.store(to.as_mut_ptr().add(i), E::load(s, p)) };
        i += S::N;
    }
    let (from, to) = (&from[whole..], &mut to[whole..]);
    if !from.is_empty() {
        let (mut halves, mut floats) = ([E::ZERO; MOST], [f32::ZERO; MOST]);
        halves[..from.len()].copy_from_slice(from);
        // SAFETY: a register fits in either.
        unsafe { s.store(floats.as_mut_ptr(), E::load(s, halves.as_ptr())) };
        to.copy_from_slice(&floats[..from.len()]);
    }
}

/// Rounds to these elements.
#[inline(always)]
pub(crate) fn narrow<S: Halves, E: Half>(s: S, from: &[f32], to: &mut [E]) {
    assert_eq!(from.len(), to.len());
    const { assert!(S::N <= MOST) };
    let whole = from.len() / S::N * S::N;
    let mut i = 0;
    while i < whole {
        debug_assert!(i + S::N <= to.len());
        let p = to.as_mut_ptr().wrapping_add(i);
        s.will_write(p.cast());
        // SAFETY: a whole register is left of both.
        unsafe { E::store(s, p, s.load(from.as_ptr().add(i))) };
        i += S::N;
    }
    let (from, to) = (&from[whole..], &mut to[whole..]);
    if !from.is_empty() {
        let (mut halves, mut floats) = ([E::ZERO; MOST], [f32::ZERO; MOST]);
        floats[..from.len()].copy_from_slice(from);
        // SAFETY: a register fits in either.
        unsafe { E::store(s, halves.as_mut_ptr(), s.load(floats.as_ptr())) };
        to.copy_from_slice(&halves[..to.len()]);
    }
}
