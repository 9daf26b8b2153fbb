//! One pass over a block: y = (x − mean)·scale + shift, dx = a·dy + (b·x̂ + c), x̂ = (x − mean)·rstd.

use std::marker::PhantomData;

use super::activation::Activation;
use crate::simd::{Each, Lines, LinesMut, Real, Simd, Stored, Tile, TileMut, inlined, map, map_both, map_lines};

/// Coefficients of the forward pass for one cell.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Affine<T> {
    pub(crate) mean: T,
    pub(crate) scale: T,
    pub(crate) shift: T,
}

impl<T: Real> Affine<T> {
    /// Where there is nothing to know.
    pub(crate) const EMPTY: Self = Affine { mean: T::ZERO, scale: T::ZERO, shift: T::ZERO };

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

/// What is done to the `K` operands of an element, by `J` coefficients of its cell: written once for coefficients that
/// are constant along a run and for those that vary.
pub trait Coefficients<T: Real, const K: usize, const J: usize>: Copy + Send + Sync {
    /// Fills arrays before the rule does.
    const NONE: Self;
    /// Whether the code is long, so that one copy of it is enough.
    const HEAVY: bool = false;
    /// Whether there is a second output.
    const SECOND: bool = false;
    /// Whether cells may wait while others are reduced, which takes code of its own.
    const WAITS: bool = false;
    /// The coefficients of a cell, in order.
    fn coefficients(self) -> [T; J];
    /// The output.
    fn of<S: Simd<T>>(self, s: S, operands: [S::V; K], coefficients: [S::V; J]) -> S::V;
    /// This and a second output, where there is one.
    #[inline(always)]
    fn both<S: Simd<T>>(self, s: S, operands: [S::V; K], coefficients: [S::V; J]) -> [S::V; 2] {
        [self.of(s, operands, coefficients), operands[0]]
    }
}

/// The first or the second output.
#[inline(always)]
fn output<T: Real, S: Simd<T>, B: Coefficients<T, K, J>, const K: usize, const J: usize>(
    s: S,
    like: B,
    second: bool,
    operands: [S::V; K],
    coefficients: [S::V; J],
) -> S::V {
    if B::SECOND && second {
        let [_, second] = like.both(s, operands, coefficients);
        second
    } else {
        like.of(s, operands, coefficients)
    }
}

/// A cell's coefficients in registers.
#[inline(always)]
pub(crate) fn splat<T: Real, S: Simd<T>, B: Coefficients<T, K, J>, const K: usize, const J: usize>(
    s: S,
    cell: B,
) -> [S::V; J] {
    let values = cell.coefficients();
    let mut coefficients = [s.splat(T::ZERO); J];
    for j in 0..J {
        coefficients[j] = s.splat(values[j]);
    }
    coefficients
}

/// Coefficients applied behind a reduction.
pub(crate) struct Applied<C, const J: usize>(PhantomData<C>);

impl<T: Real, C: Coefficients<T, K, J>, const K: usize, const J: usize> Each<T, K> for Applied<C, J> {
    type Of = C;
    type Along<S: Simd<T>> = [S::V; J];
    const NONE: C = C::NONE;
    #[inline(always)]
    fn along<S: Simd<T>>(s: S, cell: C) -> [S::V; J] {
        splat(s, cell)
    }
    #[inline(always)]
    fn between<S: Simd<T>>(s: S, n: usize, one: [S::V; J], other: [S::V; J]) -> [S::V; J] {
        let mut both = one;
        for j in 0..J {
            both[j] = s.first(n, one[j], other[j]);
        }
        both
    }
    #[inline(always)]
    fn output<S: Simd<T>>(s: S, operands: [S::V; K], along: [S::V; J]) -> S::V {
        C::NONE.of(s, operands, along)
    }
}

/// A block of one cell.
#[inline(always)]
pub(crate) fn apply_rows<
    T: Real,
    E: Stored<T>,
    S: Simd<T>,
    B: Coefficients<T, K, J>,
    const K: usize,
    const J: usize,
>(
    s: S,
    tiles: [Tile<E>; K],
    out: TileMut<E>,
    cell: B,
    second: bool,
    stream: bool,
) {
    let coefficients = splat(s, cell);
    if B::HEAVY {
        let f = inlined(
            #[inline(always)]
            |operands, ([], ()): ([S::V; 0], ())| output(s, cell, second, operands, coefficients),
        );
        map::<T, E, S, (), K, 0, true>(s, tiles, out, stream, |_| ([], ()), f);
    } else {
        let f = inlined(
            #[inline(always)]
            |operands, ([], ()): ([S::V; 0], ())| output(s, cell, second, operands, coefficients),
        );
        map::<T, E, S, (), K, 0, false>(s, tiles, out, stream, |_| ([], ()), f);
    }
}

/// A block of lines, each of its own cell.
#[inline(always)]
pub(crate) fn apply_lines<
    T: Real,
    E: Stored<T>,
    S: Simd<T>,
    B: Coefficients<T, K, J>,
    const K: usize,
    const J: usize,
>(
    s: S,
    lines: [Lines<E>; K],
    out: &LinesMut<E>,
    cells: &[B],
    second: bool,
    stream: bool,
) {
    map_lines(
        s,
        lines,
        out,
        stream,
        #[inline(always)]
        |l| splat(s, cells[l]),
        #[inline(always)]
        |operands, coefficients| output(s, cells[0], second, operands, coefficients),
    );
}

/// A block of lines, each of its own cell, with a second output.
#[inline(always)]
pub(crate) fn apply_both<
    T: Real,
    E: Stored<T>,
    S: Simd<T>,
    B: Coefficients<T, K, J>,
    const K: usize,
    const J: usize,
>(
    s: S,
    lines: [Lines<E>; K],
    outs: [&LinesMut<E>; 2],
    cells: &[B],
) {
    map_both(
        s,
        lines,
        outs,
        #[inline(always)]
        |l| splat(s, cells[l]),
        #[inline(always)]
        |operands, coefficients| cells[0].both(s, operands, coefficients),
    );
}

/// A block of columns; `along` are the coefficients by column, `like` any of the cells.
#[inline(always)]
pub(crate) fn apply_columns<
    T: Real,
    E: Stored<T>,
    S: Simd<T>,
    B: Coefficients<T, K, J>,
    const K: usize,
    const J: usize,
>(
    s: S,
    tiles: [Tile<E>; K],
    out: TileMut<E>,
    along: [&[T]; J],
    like: B,
    second: bool,
    stream: bool,
) {
    if B::HEAVY {
        let f = inlined(
            #[inline(always)]
            |operands, (coefficients, ())| output(s, like, second, operands, coefficients),
        );
        map::<T, E, S, (), K, J, true>(s, tiles, out, stream, |_| (along, ()), f);
    } else {
        let f = inlined(
            #[inline(always)]
            |operands, (coefficients, ())| output(s, like, second, operands, coefficients),
        );
        map::<T, E, S, (), K, J, false>(s, tiles, out, stream, |_| (along, ()), f);
    }
}

/// Rows of one cell each, then a weight and a bias for each column; `of` gives the cell of a row, and its weights and biases.
#[inline(always)]
pub(crate) fn apply_weights<'a, T: Real, E: Stored<T>, S: Simd<T>>(
    s: S,
    x: Tile<E>,
    out: TileMut<E>,
    of: impl Fn(usize) -> (Affine<T>, [&'a [T]; 2]),
    stream: bool,
) {
    let f = inlined(
        #[inline(always)]
        |[x]: [S::V; 1], ([weight, bias], cell): ([S::V; 2], [S::V; 3])| s.add(s.mul(affine(s, x, cell), weight), bias),
    );
    map::<T, E, S, [S::V; 3], 1, 2, false>(
        s,
        [x],
        out,
        stream,
        #[inline(always)]
        |r| {
            let (cell, along) = of(r);
            (along, splat(s, cell))
        },
        f,
    );
}

/// (x − mean)·scale + shift
#[inline(always)]
pub(crate) fn affine<T: Real, S: Simd<T>>(s: S, x: S::V, [mean, scale, shift]: [S::V; 3]) -> S::V {
    s.add(s.mul(s.sub(x, mean), scale), shift)
}

impl<T: Real> Coefficients<T, 1, 3> for Affine<T> {
    const WAITS: bool = true;
    const NONE: Self = Affine::EMPTY;
    #[inline(always)]
    fn coefficients(self) -> [T; 3] {
        [self.mean, self.scale, self.shift]
    }
    #[inline(always)]
    fn of<S: Simd<T>>(self, s: S, [x]: [S::V; 1], coefficients: [S::V; 3]) -> S::V {
        affine(s, x, coefficients)
    }
}

/// The affine map, a residual where there is one (the second operand), and an activation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fused<T> {
    pub(crate) cell: Affine<T>,
    pub(crate) activation: Activation,
}

impl<T: Real, const K: usize> Coefficients<T, K, 3> for Fused<T> {
    const HEAVY: bool = true;
    const NONE: Self = Fused { cell: Affine::EMPTY, activation: Activation::Identity };
    #[inline(always)]
    fn coefficients(self) -> [T; 3] {
        [self.cell.mean, self.cell.scale, self.cell.shift]
    }
    #[inline(always)]
    fn of<S: Simd<T>>(self, s: S, operands: [S::V; K], coefficients: [S::V; 3]) -> S::V {
        let z = affine(s, operands[0], coefficients);
        self.activation.of(s, if K > 1 { s.add(z, operands[1]) } else { z })
    }
}

/// [`Fused`] with the activation that most networks have, whose code is short: cells may wait while others are reduced.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rectified<T>(pub(crate) Affine<T>);

impl<T: Real, const K: usize> Coefficients<T, K, 3> for Rectified<T> {
    const WAITS: bool = true;
    const NONE: Self = Rectified(Affine::EMPTY);
    #[inline(always)]
    fn coefficients(self) -> [T; 3] {
        Coefficients::<T, 1, 3>::coefficients(self.0)
    }
    #[inline(always)]
    fn of<S: Simd<T>>(self, s: S, operands: [S::V; K], coefficients: [S::V; 3]) -> S::V {
        Fused { cell: self.0, activation: Activation::Relu }.of(s, operands, coefficients)
    }
}

/// The affine map, then weight and bias that vary inside the cell (the second and third operand).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Inner<T>(pub(crate) Affine<T>);

impl<T: Real> Coefficients<T, 3, 3> for Inner<T> {
    const NONE: Self = Inner(Affine::EMPTY);
    #[inline(always)]
    fn coefficients(self) -> [T; 3] {
        self.0.coefficients()
    }
    #[inline(always)]
    fn of<S: Simd<T>>(self, s: S, [x, weight, bias]: [S::V; 3], coefficients: [S::V; 3]) -> S::V {
        s.add(s.mul(affine(s, x, coefficients), weight), bias)
    }
}

/// a·dz + (x − mean)·rstd·b + c
#[inline(always)]
fn backward<T: Real, S: Simd<T>>(s: S, x: S::V, dz: S::V, [mean, rstd, a, b, c]: [S::V; 5]) -> S::V {
    s.add(s.mul(dz, a), s.add(s.mul(s.mul(s.sub(x, mean), rstd), b), c))
}

impl<T: Real> Coefficients<T, 2, 5> for GradAffine<T> {
    const WAITS: bool = true;
    const NONE: Self = GradAffine { mean: T::ZERO, rstd: T::ZERO, a: T::ZERO, b: T::ZERO, c: T::ZERO };
    #[inline(always)]
    fn coefficients(self) -> [T; 5] {
        [self.mean, self.rstd, self.a, self.b, self.c]
    }
    #[inline(always)]
    fn of<S: Simd<T>>(self, s: S, [x, dy]: [S::V; 2], coefficients: [S::V; 5]) -> S::V {
        backward(s, x, dy, coefficients)
    }
}

/// The backward pass of [`Inner`]: dz = dy·weight, the third operand.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GradInner<T>(pub(crate) GradAffine<T>);

impl<T: Real> Coefficients<T, 3, 5> for GradInner<T> {
    const NONE: Self = GradInner(GradAffine::NONE);
    #[inline(always)]
    fn coefficients(self) -> [T; 5] {
        self.0.coefficients()
    }
    #[inline(always)]
    fn of<S: Simd<T>>(self, s: S, [x, dy, weight]: [S::V; 3], coefficients: [S::V; 5]) -> S::V {
        backward(s, x, s.mul(dy, weight), coefficients)
    }
}

/// The backward pass of [`Fused`]: dz = dy·slope, taken where the forward pass has taken its activation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GradFused<T> {
    pub(crate) grad: GradAffine<T>,
    pub(crate) scale: T,
    pub(crate) shift: T,
    pub(crate) activation: Activation,
    /// Whether statistics do not depend on x: dx = a·dz.
    pub(crate) frozen: bool,
}

impl<T: Real, const K: usize> Coefficients<T, K, 7> for GradFused<T> {
    const HEAVY: bool = true;
    const SECOND: bool = true;
    const NONE: Self = GradFused {
        grad: GradAffine::NONE,
        scale: T::ZERO,
        shift: T::ZERO,
        activation: Activation::Identity,
        frozen: false,
    };
    #[inline(always)]
    fn coefficients(self) -> [T; 7] {
        let GradAffine { mean, rstd, a, b, c } = self.grad;
        [mean, rstd, a, b, c, self.scale, self.shift]
    }
    #[inline(always)]
    fn of<S: Simd<T>>(self, s: S, operands: [S::V; K], coefficients: [S::V; 7]) -> S::V {
        let [dx, _] = Coefficients::<T, K, 7>::both(self, s, operands, coefficients);
        dx
    }
    /// dx, and dz, the gradient of a residual.
    #[inline(always)]
    fn both<S: Simd<T>>(self, s: S, operands: [S::V; K], [mean, rstd, a, b, c, scale, shift]: [S::V; 7]) -> [S::V; 2] {
        let dz = pulled(s, self.activation, operands, [mean, scale, shift]);
        [if self.frozen { s.mul(dz, a) } else { backward(s, operands[0], dz, [mean, rstd, a, b, c]) }, dz]
    }
}

/// What flows through the activation: operands are x, dy and the residual where there is one.
#[inline(always)]
pub(crate) fn pulled<T: Real, S: Simd<T>, const K: usize>(
    s: S,
    activation: Activation,
    operands: [S::V; K],
    cell: [S::V; 3],
) -> S::V {
    if activation == Activation::Identity {
        return operands[1];
    }
    let z = affine(s, operands[0], cell);
    activation.pull(s, if K > 2 { s.add(z, operands[2]) } else { z }, operands[1])
}

impl<T: Real> Coefficients<T, 1, 1> for Scale<T> {
    const NONE: Self = Scale(T::ZERO);
    #[inline(always)]
    fn coefficients(self) -> [T; 1] {
        [self.0]
    }
    #[inline(always)]
    fn of<S: Simd<T>>(self, s: S, [dy]: [S::V; 1], [a]: [S::V; 1]) -> S::V {
        s.mul(dy, a)
    }
}
