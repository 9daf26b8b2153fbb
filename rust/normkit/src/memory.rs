//! The elements that a pass works on, which are not always those that it computes in.

use std::ops::Range;

use crate::simd::{Aligned, Half, Real, Simd, Stored, Tile, TileMut};
use crate::view::{Input, Output};

/// Elements that a pass works on: those of `T` in place or through a block in cache, others in place alone.
pub trait Memory<T: Real>: Stored<T> {
    /// Columns of some rows of kept position `k`; through `stage` where they cannot be used in place.
    #[doc(hidden)]
    fn tile<'t, S: Simd<T>>(
        input: &'t Input<'_, T>,
        s: S,
        k: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        stage: &'t mut Aligned<T>,
    ) -> Tile<'t, Self>;
    /// Lets `f` write columns of some rows of kept position `k`.
    /// # Safety
    /// No other thread touches these elements meanwhile.
    #[doc(hidden)]
    unsafe fn fill<S: Simd<T>>(
        output: &Output<'_, T>,
        s: S,
        k: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        stage: &mut Aligned<T>,
        f: impl FnOnce(TileMut<Self>),
    );
}

impl<T: Real> Memory<T> for T {
    #[inline(always)]
    fn tile<'t, S: Simd<T>>(
        input: &'t Input<'_, T>,
        s: S,
        k: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        stage: &'t mut Aligned<T>,
    ) -> Tile<'t, T> {
        input.tile(s, k, rows, columns, stage)
    }
    #[inline(always)]
    unsafe fn fill<S: Simd<T>>(
        output: &Output<'_, T>,
        s: S,
        k: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        stage: &mut Aligned<T>,
        f: impl FnOnce(TileMut<T>),
    ) {
        // SAFETY: as the caller vouches.
        unsafe { output.write(s, k, rows, columns, stage, f) }
    }
}

/// What was found before a pass over such elements was begun.
const IN_PLACE: &str = "halves are worked on where all memory is used in place";

impl<H: Half> Memory<f32> for H {
    #[inline(always)]
    fn tile<'t, S: Simd<f32>>(
        input: &'t Input<'_, f32>,
        _s: S,
        k: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        _stage: &'t mut Aligned<f32>,
    ) -> Tile<'t, H> {
        input.direct(k, rows, columns).expect(IN_PLACE)
    }
    #[inline(always)]
    unsafe fn fill<S: Simd<f32>>(
        output: &Output<'_, f32>,
        _s: S,
        k: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        _stage: &mut Aligned<f32>,
        f: impl FnOnce(TileMut<H>),
    ) {
        // SAFETY: as the caller vouches.
        f(unsafe { output.tile(k, rows, columns) }.expect(IN_PLACE));
    }
}
