//! One pass over a block: y = (x − mean)·scale + shift, dx = a·dy + (b·x̂ + c), x̂ = (x − mean)·rstd.

use crate::simd::{Real, Simd, Tile, TileMut, map};

/// Coefficients of the forward pass for one cell.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Affine<T> {
    pub(crate) mean: T,
    pub(crate) scale: T,
    pub(crate) shift: T,
}

impl<T: Real> Affine<T> {
    /// y = (x − mean)·scale + bias, with what rounding the mean to `T` loses put into the shift.
    #[inline(always)]
    pub(crate) fn new(mean: f64, scale: f64, bias: f64) -> Self {
        let high = T::from_f64(mean);
        let low = mean - high.to_f64();
        // Where the mean is exact nothing is lost, and an infinite scale stays out of the shift.
        let shift = if low == 0.0 { bias } else { bias - low * scale };
        Affine { mean: high, scale: T::from_f64(scale), shift: T::from_f64(shift) }
    }
}

/// Coefficients of the backward pass for one cell.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GradAffine<T> {
    pub(crate) mean: T,
    pub(crate) rstd: T,
    pub(crate) a: T,
    pub(crate) b: T,
    pub(crate) c: T,
}

impl<T: Real> GradAffine<T> {
    /// dx = a·dy + b·x̂ + c, with what rounding the mean to `T` loses put into c. (One product b·rstd would save a
    /// multiplication, but is of the order of rstd², which leaves the range of `T` long before dx does.)
    #[inline(always)]
    pub(crate) fn new(mean: f64, rstd: f64, a: f64, b: f64, c: f64) -> Self {
        let high = T::from_f64(mean);
        let low = mean - high.to_f64();
        let c = if low == 0.0 { c } else { c - low * rstd * b };
        GradAffine { mean: high, rstd: T::from_f64(rstd), a: T::from_f64(a), b: T::from_f64(b), c: T::from_f64(c) }
    }
}

/// Coefficient of the backward pass through frozen statistics: dx = a·dy.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Scale<T>(pub(crate) T);

/// Forward, one cell.
#[inline(always)]
pub(crate) fn forward_rows<T: Real, S: Simd<T>>(s: S, x: Tile<T>, y: TileMut<T>, cell: Affine<T>, stream: bool) {
    let (mean, scale, shift) = (s.splat(cell.mean), s.splat(cell.scale), s.splat(cell.shift));
    map(
        s,
        [x],
        [],
        y,
        stream,
        #[inline(always)]
        |[x], []| s.add(s.mul(s.sub(x, mean), scale), shift),
    );
}

/// Forward, coefficients by column: `along` is mean, scale, shift.
#[inline(always)]
pub(crate) fn forward_columns<T: Real, S: Simd<T>>(s: S, x: Tile<T>, y: TileMut<T>, along: [&[T]; 3], stream: bool) {
    map(
        s,
        [x],
        along,
        y,
        stream,
        #[inline(always)]
        |[x], [mean, scale, shift]| s.add(s.mul(s.sub(x, mean), scale), shift),
    );
}

/// Backward, one cell.
#[inline(always)]
pub(crate) fn backward_rows<T: Real, S: Simd<T>>(
    s: S,
    x: Tile<T>,
    dy: Tile<T>,
    dx: TileMut<T>,
    cell: GradAffine<T>,
    stream: bool,
) {
    let (mean, rstd) = (s.splat(cell.mean), s.splat(cell.rstd));
    let (a, b, c) = (s.splat(cell.a), s.splat(cell.b), s.splat(cell.c));
    map(
        s,
        [x, dy],
        [],
        dx,
        stream,
        #[inline(always)]
        |[x, dy], []| s.add(s.mul(dy, a), s.add(s.mul(s.mul(s.sub(x, mean), rstd), b), c)),
    );
}

/// Backward, coefficients by column: `along` is mean, rstd, a, b, c.
#[inline(always)]
pub(crate) fn backward_columns<T: Real, S: Simd<T>>(
    s: S,
    x: Tile<T>,
    dy: Tile<T>,
    dx: TileMut<T>,
    along: [&[T]; 5],
    stream: bool,
) {
    map(
        s,
        [x, dy],
        along,
        dx,
        stream,
        #[inline(always)]
        |[x, dy], [mean, rstd, a, b, c]| s.add(s.mul(dy, a), s.add(s.mul(s.mul(s.sub(x, mean), rstd), b), c)),
    );
}

/// Backward through frozen statistics, one cell: dx = a·dy.
#[inline(always)]
pub(crate) fn scale_rows<T: Real, S: Simd<T>>(s: S, dy: Tile<T>, dx: TileMut<T>, a: T, stream: bool) {
    let a = s.splat(a);
    map(
        s,
        [dy],
        [],
        dx,
        stream,
        #[inline(always)]
        |[dy], []| s.mul(dy, a),
    );
}

/// Backward through frozen statistics, coefficients by column.
#[inline(always)]
pub(crate) fn scale_columns<T: Real, S: Simd<T>>(s: S, dy: Tile<T>, dx: TileMut<T>, a: &[T], stream: bool) {
    map(
        s,
        [dy],
        [a],
        dx,
        stream,
        #[inline(always)]
        |[dy], [a]| s.mul(dy, a),
    );
}
