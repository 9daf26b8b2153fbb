//! Two-byte elements to float32 and back, a register at a time.

use half::{bf16, f16};

use super::{Base, BaseMut, Real, Simd, Stored};
use crate::element::{Sink, Source};

/// Vectors of float32 that are made of, and rounded to, two-byte elements: to nearest, ties to even; NaN stays NaN.
pub trait Halves: Simd<f32> {
    /// A register of `N` two-byte elements.
    type H: Copy;
    /// Load `N` of them.
    /// # Safety
    /// `p..p + N` is readable.
    unsafe fn load_halves(self, p: *const u16) -> Self::H;
    /// Load `n`; the other lanes are zero, and not read.
    /// # Safety
    /// `n <= N` and `p..p + n` is readable.
    unsafe fn load_first(self, p: *const u16, n: usize) -> Self::H;
    /// Store `N` of them.
    /// # Safety
    /// `p..p + N` is writable.
    unsafe fn store_halves(self, p: *mut u16, v: Self::H);
    /// Store `N` of them past the caches, where there is such a store.
    /// # Safety
    /// `p..p + N` is writable and `p` is aligned to the register.
    unsafe fn stream_halves(self, p: *mut u16, v: Self::H);
    /// Store the first `n`.
    /// # Safety
    /// `n <= N` and `p..p + n` is writable.
    unsafe fn store_first(self, p: *mut u16, n: usize, v: Self::H);
    /// From float16.
    fn of_f16(self, v: Self::H) -> Self::V;
    /// To float16.
    fn to_f16(self, v: Self::V) -> Self::H;
    /// From bfloat16.
    fn of_bf16(self, v: Self::H) -> Self::V;
    /// To bfloat16.
    fn to_bf16(self, v: Self::V) -> Self::H;
}

/// One of the two-byte elements.
pub(crate) trait Half: Copy + Send + Sync + 'static {
    /// Zero.
    const ZERO: Self;
    /// The same value.
    fn to_f32(self) -> f32;
    /// The memory of an operand if it holds these.
    fn source(source: Source<'_>) -> Option<Base<'_, Self>>;
    /// The memory of an output if it holds these.
    fn sink(sink: Sink<'_>) -> Option<BaseMut<'_, Self>>;
    /// A register of them.
    fn widen<S: Halves>(s: S, v: S::H) -> S::V;
    /// A register as them.
    fn narrow<S: Halves>(s: S, v: S::V) -> S::H;
}

impl Half for f16 {
    const ZERO: f16 = f16::ZERO;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn source(source: Source<'_>) -> Option<Base<'_, f16>> {
        if let Source::F16(base) = source { Some(base) } else { None }
    }
    fn sink(sink: Sink<'_>) -> Option<BaseMut<'_, f16>> {
        if let Sink::F16(base) = sink { Some(base) } else { None }
    }
    #[inline(always)]
    fn widen<S: Halves>(s: S, v: S::H) -> S::V {
        s.of_f16(v)
    }
    #[inline(always)]
    fn narrow<S: Halves>(s: S, v: S::V) -> S::H {
        s.to_f16(v)
    }
}

impl Half for bf16 {
    const ZERO: bf16 = bf16::ZERO;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    fn source(source: Source<'_>) -> Option<Base<'_, bf16>> {
        if let Source::Bf16(base) = source { Some(base) } else { None }
    }
    fn sink(sink: Sink<'_>) -> Option<BaseMut<'_, bf16>> {
        if let Sink::Bf16(base) = sink { Some(base) } else { None }
    }
    #[inline(always)]
    fn widen<S: Halves>(s: S, v: S::H) -> S::V {
        s.of_bf16(v)
    }
    #[inline(always)]
    fn narrow<S: Halves>(s: S, v: S::V) -> S::H {
        s.to_bf16(v)
    }
}

/// The bits of halves.
#[inline(always)]
fn halves<H: Half>(p: *const H) -> *const u16 {
    const { assert!(size_of::<H>() == size_of::<u16>() && align_of::<H>() == align_of::<u16>()) };
    p.cast()
}

/// The same, to write.
#[inline(always)]
fn halves_mut<H: Half>(p: *mut H) -> *mut u16 {
    halves(p.cast_const()).cast_mut()
}

// SAFETY (every block below): as the caller vouches; a half has two bytes.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<H: Half> Stored<f32> for H {
    #[inline(always)]
    fn value(self) -> f32 {
        self.to_f32()
    }
    fn zero() -> H {
        H::ZERO
    }
    #[inline]
    fn read(source: Source<'_>) -> Option<Base<'_, H>> {
        H::source(source)
    }
    #[inline]
    fn write(sink: Sink<'_>) -> Option<BaseMut<'_, H>> {
        H::sink(sink)
    }
    #[inline(always)]
    unsafe fn load<S: Simd<f32>>(s: S, p: *const H) -> S::V {
        let single = s.single();
        s.of_single(H::widen(single, unsafe { single.load_halves(halves(p)) }))
    }
    #[inline(always)]
    unsafe fn load_or<S: Simd<f32>>(s: S, p: *const H, n: usize, fill: S::V) -> S::V {
        debug_assert!(n <= S::N);
        let single = s.single();
        let v = H::widen(single, unsafe { single.load_first(halves(p), n) });
        s.of_single(single.first(n, v, s.to_single(fill)))
    }
    #[inline(always)]
    unsafe fn store<S: Simd<f32>>(s: S, p: *mut H, v: S::V) {
        let single = s.single();
        unsafe { single.store_halves(halves_mut(p), H::narrow(single, s.to_single(v))) }
    }
    #[inline(always)]
    unsafe fn store_n<S: Simd<f32>>(s: S, p: *mut H, n: usize, v: S::V) {
        debug_assert!(n <= S::N);
        let single = s.single();
        unsafe { single.store_first(halves_mut(p), n, H::narrow(single, s.to_single(v))) }
    }
    #[inline(always)]
    unsafe fn stream<S: Simd<f32>>(s: S, p: *mut H, v: S::V) {
        let single = s.single();
        unsafe { single.stream_halves(halves_mut(p), H::narrow(single, s.to_single(v))) }
    }
}

/// These elements as float32.
#[inline(always)]
pub(crate) fn widen<S: Halves, E: Stored<f32>>(s: S, from: &[E], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let zero = s.splat(f32::ZERO);
    let mut i = 0;
    while i < from.len() {
        let n = (from.len() - i).min(S::N);
        let (p, to) = (from.as_ptr().wrapping_add(i), to.as_mut_ptr().wrapping_add(i));
        s.will_read(p);
        // SAFETY: so many are left of both.
        unsafe {
            if n == S::N {
                s.store(to, E::load(s, p));
            } else {
                s.store_n(to, n, E::load_or(s, p, n, zero));
            }
        }
        i += n;
    }
}

/// Rounds to these elements.
#[inline(always)]
pub(crate) fn narrow<S: Halves, E: Stored<f32>>(s: S, from: &[f32], to: &mut [E]) {
    assert_eq!(from.len(), to.len());
    let zero = s.splat(f32::ZERO);
    let mut i = 0;
    while i < from.len() {
        let n = (from.len() - i).min(S::N);
        let (p, to) = (from.as_ptr().wrapping_add(i), to.as_mut_ptr().wrapping_add(i));
        s.will_write(to);
        // SAFETY: so many are left of both.
        unsafe {
            if n == S::N {
                E::store(s, to, s.load(p));
            } else {
                E::store_n(s, to, n, s.load_or(p, n, zero));
            }
        }
        i += n;
    }
}
