//! What reductions of one block share, whatever they sum.

use super::apply::Affine;
use super::{Pattern, TOGETHER};
use crate::simd::{Real, Simd, Tile, short_lanes};

/// Room for the parameters and sums of the columns of a block, reused from block to block.
pub struct Scratch<T> {
    pub(crate) columns: Vec<T>,
    /// What is known of the statistics of a piece.
    pub(crate) known: Vec<Affine<T>>,
}

impl<T> Scratch<T> {
    pub(crate) fn new() -> Self {
        Scratch { columns: Vec::new(), known: Vec::new() }
    }

    /// How many elements so many columns take.
    pub(crate) const fn of(columns: usize) -> usize {
        7 * columns
    }
}

impl<T: Real> Scratch<T> {
    /// Arrays of `len` elements; their contents are those of the last that were as long, or old.
    #[inline(always)]
    pub(crate) fn take(&mut self, len: usize) -> [&mut [T]; 7] {
        if self.columns.len() < Self::of(len) {
            self.columns.resize(Self::of(len), T::ZERO);
        }
        let mut rest = &mut self.columns[..];
        std::array::from_fn(|_| {
            let (column, others) = std::mem::take(&mut rest).split_at_mut(len);
            rest = others;
            column
        })
    }
}

/// Whether float lanes can be trusted with a sum of products: neither overflow nor underflow has touched it.
#[inline(always)]
pub(crate) fn trusted<T: Real>(sum: f64) -> bool {
    (sum.abs() >= T::TINY) & (sum.abs() < f64::INFINITY)
}

/// Whether [`trusted`] holds of each of the sums of products, the first of these, or it is zero where the third is, which says
/// that all products are; and the second ones, the sums beside them, are finite. (No where one is just [`Real::TINY`].)
#[inline(always)]
pub(crate) fn all_trusted<T: Real, S: Simd<T>, const K: usize>(s: S, of: [&[T]; K]) -> bool {
    const { assert!(K == 2 || K == 3) };
    let (zero, one, tiny) = (s.splat(T::ZERO), s.splat(T::from_f64(1.0)), s.splat(T::from_f64(T::TINY)));
    let mut fill = [T::ZERO; K];
    fill[0] = T::from_f64(1.0);
    let [wrong] = short_lanes(
        s,
        of.map(|of| Tile::new(of, 1, of.len())),
        fill,
        #[inline(always)]
        |of| {
            let (product, sum) = (of[0], of[1]);
            let mut small = s.positive(s.sub(size(s, product), tiny), zero, one);
            if K > 2 {
                small = s.positive_or_nan(s.add(size(s, product), of[2]), small, zero);
            }
            // NaN, but for what is finite.
            [s.add(small, s.add(s.sub(product, product), s.sub(sum, sum)))]
        },
    );
    wrong == 0.0
}

/// Where the sums of products of a block of columns are zero because every product is: asked of all at once, when the first
/// zero is met.
pub(crate) struct Zeros {
    asked: bool,
    /// Sums that say so, of the statistics from one on.
    part: Option<(usize, [f64; TOGETHER])>,
}

impl Zeros {
    /// Nothing is known of the columns, or what is asked has been taken.
    #[inline(always)]
    pub(crate) fn new(asked: bool) -> Self {
        Zeros { asked, part: None }
    }

    /// Whether it is so of statistic `w`. `sizes` gives sums down the columns that are zero only where all products are; it is
    /// told whether to take them first.
    #[inline(always)]
    pub(crate) fn at<'t, T: Real>(&mut self, pattern: Pattern, w: usize, sizes: impl FnOnce(bool) -> &'t [T]) -> bool {
        let first = w / TOGETHER * TOGETHER;
        if self.part.as_ref().is_none_or(|&(of, _)| of != first) {
            let ask = !std::mem::replace(&mut self.asked, true);
            self.part = Some((first, pattern.sums(sizes(ask), first)));
        }
        self.part.as_ref().is_some_and(|(_, sums)| sums[w - first] == 0.0)
    }
}

/// |a|
#[inline(always)]
pub(super) fn size<T: Real, S: Simd<T>>(s: S, a: S::V) -> S::V {
    s.positive(a, a, s.sub(s.splat(T::ZERO), a))
}

/// The lesser of |a| and |b|: 0 only where their product is, and not where that is zero by underflow.
#[inline(always)]
pub(crate) fn lesser<T: Real, S: Simd<T>>(s: S, a: S::V, b: S::V) -> S::V {
    let (a, b) = (size(s, a), size(s, b));
    s.positive(s.sub(a, b), b, a)
}
