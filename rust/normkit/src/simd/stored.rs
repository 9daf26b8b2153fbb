//! What memory holds: values of `T` themselves, or two-byte elements that are float32 in registers.

use super::{Base, BaseMut, Real, Simd};
use crate::element::{Sink, Source};

/// An element of memory that is a value of `T` in registers.
pub trait Stored<T: Real>: Copy + Send + Sync + 'static {
    /// The value.
    fn value(self) -> T;
    /// What holds zero.
    fn zero() -> Self;
    /// The memory of an operand if it holds these elements.
    #[doc(hidden)]
    fn read(source: Source<'_>) -> Option<Base<'_, Self>>;
    /// The memory of an output if it holds these elements.
    #[doc(hidden)]
    fn write(sink: Sink<'_>) -> Option<BaseMut<'_, Self>>;
    /// Load `N` elements.
    /// # Safety
    /// `p..p + N` is readable.
    unsafe fn load<S: Simd<T>>(s: S, p: *const Self) -> S::V;
    /// Load `n` elements; the other lanes take `fill` and are not read.
    /// # Safety
    /// `n <= N` and `p..p + n` is readable.
    unsafe fn load_or<S: Simd<T>>(s: S, p: *const Self, n: usize, fill: S::V) -> S::V;
    /// Store `N` elements.
    /// # Safety
    /// `p..p + N` is writable.
    unsafe fn store<S: Simd<T>>(s: S, p: *mut Self, v: S::V);
    /// Store the first `n` lanes.
    /// # Safety
    /// `n <= N` and `p..p + n` is writable.
    unsafe fn store_n<S: Simd<T>>(s: S, p: *mut Self, n: usize, v: S::V);
    /// Store past the caches; end a series of these with [`Simd::fence`].
    /// # Safety
    /// `p..p + N` is writable and `p` is aligned to the register.
    unsafe fn stream<S: Simd<T>>(s: S, p: *mut Self, v: S::V);
}

// SAFETY (every block below): as the caller vouches.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<T: Real> Stored<T> for T {
    #[inline(always)]
    fn value(self) -> T {
        self
    }
    #[inline(always)]
    fn zero() -> T {
        T::ZERO
    }
    #[inline]
    fn read(source: Source<'_>) -> Option<Base<'_, T>> {
        <T as Real>::read(source)
    }
    #[inline]
    fn write(sink: Sink<'_>) -> Option<BaseMut<'_, T>> {
        <T as Real>::write(sink)
    }
    #[inline(always)]
    unsafe fn load<S: Simd<T>>(s: S, p: *const T) -> S::V {
        unsafe { s.load(p) }
    }
    #[inline(always)]
    unsafe fn load_or<S: Simd<T>>(s: S, p: *const T, n: usize, fill: S::V) -> S::V {
        unsafe { s.load_or(p, n, fill) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd<T>>(s: S, p: *mut T, v: S::V) {
        unsafe { s.store(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n<S: Simd<T>>(s: S, p: *mut T, n: usize, v: S::V) {
        unsafe { s.store_n(p, n, v) }
    }
    #[inline(always)]
    unsafe fn stream<S: Simd<T>>(s: S, p: *mut T, v: S::V) {
        unsafe { s.stream(p, v) }
    }
}
