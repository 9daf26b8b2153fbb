//! The two sums of one block that a gradient needs.

use std::ops::Range;

use super::apply::Affine;
use super::flow::Flow;
use super::reduce::{Zeros, lesser, trusted};
use super::{Pattern, TOGETHER};
use crate::simd::{Behind, Kernel, Real, Simd, Stored, Tile, columns, lanes, short_lanes};

/// Σdy and Σdy·(x − mean) of one cell.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct GradSums {
    pub(crate) dy: f64,
    pub(crate) dot: f64,
}

impl GradSums {
    #[inline(always)]
    pub(crate) fn add(self, other: GradSums) -> GradSums {
        GradSums { dy: self.dy + other.dy, dot: self.dot + other.dot }
    }

    /// Σdy·(x − mean) about the mean itself, where the kernels took it about the mean rounded to `T`.
    #[inline(always)]
    pub(crate) fn about<T: Real>(self, mean: f64) -> GradSums {
        let low = mean - T::from_f64(mean).to_f64();
        GradSums { dot: if low == 0.0 { self.dot } else { self.dot - low * self.dy }, ..self }
    }
}

/// Σdz and Σdz·(x − mean) over all elements of a block.
#[inline(always)]
pub(crate) fn gradient_rows<T: Real, E: Stored<T>, S: Simd<T>, F: Flow<T, K>, const K: usize>(
    s: S,
    tiles: [Tile<E>; K],
    cell: Affine<T>,
    flow: F,
    behind: &mut impl Behind,
) -> GradSums {
    let along = Affine { mean: s.splat(cell.mean), scale: s.splat(cell.scale), shift: s.splat(cell.shift) };
    let mut fill = [T::ZERO; K];
    fill[0] = cell.mean;
    let [sum, dot] = lanes(
        s,
        tiles,
        fill,
        behind,
        #[inline(always)]
        |operands| {
            let dz = flow.vector(s, operands, along);
            [dz, s.mul(dz, flow.deviation(s, operands, along))]
        },
    );
    if sum.is_finite() && trusted::<T>(dot) {
        GradSums { dy: sum, dot }
    } else {
        s.call(GradientAgain { tiles, cell, flow, sums: GradSums { dy: sum, dot } })
    }
}

/// The sums of a block where they have left the range of `T`, or are zero.
pub(super) struct GradientAgain<'t, T, E, F, const K: usize> {
    pub(super) tiles: [Tile<'t, E>; K],
    pub(super) cell: Affine<T>,
    pub(super) flow: F,
    pub(super) sums: GradSums,
}

impl<T: Real, E: Stored<T>, F: Flow<T, K>, const K: usize> Kernel<T> for GradientAgain<'_, T, E, F, K> {
    type Output = GradSums;
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> GradSums {
        let GradientAgain { tiles, cell, flow, sums } = self;
        let along = Affine { mean: s.splat(cell.mean), scale: s.splat(cell.scale), shift: s.splat(cell.shift) };
        let mut fill = [T::ZERO; K];
        fill[0] = cell.mean;
        if sums.dy.is_finite() && sums.dot == 0.0 && vanishes(s, tiles, fill, along, flow) {
            sums
        } else {
            gradient_wide(elements(tiles, 0..tiles[0].len()), cell, flow)
        }
    }
}

/// Whether of each product dz·(x − mean) a factor is zero. (Sums of products can be zero by underflow too.)
#[inline(always)]
fn vanishes<T: Real, E: Stored<T>, S: Simd<T>, F: Flow<T, K>, const K: usize>(
    s: S,
    tiles: [Tile<E>; K],
    fill: [T; K],
    along: Affine<S::V>,
    flow: F,
) -> bool {
    let [lesser] = short_lanes(
        s,
        tiles,
        fill,
        #[inline(always)]
        |operands| [lesser(s, flow.factor(s, operands, along), flow.deviation(s, operands, along))],
    );
    lesser == 0.0
}

/// Gives `add` the two sums of each cell of a block of columns; mean, scale and shift have a value for each
/// column.
#[inline(always)]
pub(crate) fn gradient_columns<T: Real, E: Stored<T>, S: Simd<T>, F: Flow<T, K>, const K: usize>(
    s: S,
    tiles: [Tile<E>; K],
    pattern: Pattern,
    [mean, scale, shift, sums, dots, sizes]: [&mut [T]; 6],
    flow: F,
    mut add: impl FnMut(usize, GradSums),
) {
    debug_assert!(tiles[0].len() == pattern.len());
    sums.fill(T::ZERO);
    dots.fill(T::ZERO);
    columns(
        s,
        tiles,
        [mean, scale, shift],
        [sums, dots],
        [],
        #[inline(always)]
        |operands, [mean, scale, shift]| {
            let along = Affine { mean, scale, shift };
            let dz = flow.vector(s, operands, along);
            [dz, s.mul(dz, flow.deviation(s, operands, along))]
        },
    );
    let mut zeros = Zeros::new(false);
    for part in pattern.parts() {
        let (sums, dots) = (pattern.sums(sums, part.start), pattern.sums(dots, part.start));
        let ordinary = |i: usize| sums[i].is_finite() & trusted::<T>(dots[i]);
        if part.len() == TOGETHER && (0..TOGETHER).fold(true, |all, i| all & ordinary(i)) {
            for (i, w) in part.enumerate() {
                add(w, GradSums { dy: sums[i], dot: dots[i] });
            }
            continue;
        }
        for (w, (dy, dot)) in part.zip(sums.into_iter().zip(dots)) {
            let block = GradSums { dy, dot };
            let first = w * pattern.fold;
            let cell = Affine { mean: mean[first], scale: scale[first], shift: shift[first] };
            let all = || (0..pattern.repeat).flat_map(move |p| elements(tiles, pattern.run(p, w)));
            let mut zero = || {
                zeros.at(pattern, w, |ask| {
                    if ask {
                        s.call(Lesser { tiles, along: [&*mean, &*scale, &*shift], sums: &mut *sizes, flow });
                    }
                    &*sizes
                })
            };
            let good = block.dy.is_finite() && (trusted::<T>(block.dot) || (block.dot == 0.0 && zero()));
            add(w, if good { block } else { gradient_wide(all(), cell, flow) });
        }
    }
}

/// The sum of the lesser of |a factor of dz| and |x − mean| down each column, which is zero only where all products are.
struct Lesser<'t, T, E, F, const K: usize> {
    tiles: [Tile<'t, E>; K],
    along: [&'t [T]; 3],
    sums: &'t mut [T],
    flow: F,
}

impl<T: Real, E: Stored<T>, F: Flow<T, K>, const K: usize> Kernel<T> for Lesser<'_, T, E, F, K> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Lesser { tiles, along, sums, flow } = self;
        sums.fill(T::ZERO);
        columns(
            s,
            tiles,
            along,
            [sums],
            [],
            #[inline(always)]
            |operands, [mean, scale, shift]| {
                let along = Affine { mean, scale, shift };
                [lesser(s, flow.factor(s, operands, along), flow.deviation(s, operands, along))]
            },
        );
    }
}

/// The operands of each element of some columns.
fn elements<T: Real, E: Stored<T>, const K: usize>(
    tiles: [Tile<E>; K],
    columns: Range<usize>,
) -> impl Iterator<Item = [T; K]> {
    (0..tiles[0].rows()).flat_map(move |r| columns.clone().map(move |i| tiles.map(|tile| tile.get(r, i).value())))
}

/// The same in float64 throughout.
#[cold]
#[inline(never)]
fn gradient_wide<T: Real, const K: usize>(
    elements: impl Iterator<Item = [T; K]>,
    cell: Affine<T>,
    flow: impl Flow<T, K>,
) -> GradSums {
    elements.fold(GradSums::default(), |sums, of| {
        let dz = flow.wide(of, cell);
        sums.add(GradSums { dy: dz, dot: dz * flow.wide_deviation(of, cell) })
    })
}
