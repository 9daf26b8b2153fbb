//! What is taken from the elements of a statistic.

use crate::kernels::Pattern;
use crate::kernels::activation::Activation;
use crate::kernels::apply::Affine;
use crate::kernels::flow::{Flow, Normalized, Plain, Through, Weighted};
use crate::kernels::gradients::{GradSums, gradient_columns, gradient_rows};
use crate::kernels::lines::{gradient_lines, moments_lines};
use crate::kernels::moments::{MomentSums, moments_columns, moments_rows};
use crate::kernels::reduce::Scratch;
use crate::simd::{Behind, Lines, Real, Simd, Stored, Tile};

/// What a reduction knows beforehand of its statistics from number t on.
pub type Known<'a, T> = &'a (dyn Fn(usize, &mut [Affine<T>]) + Sync);

/// What is taken from the elements of `K` operands.
pub trait Statistic<T: Real, const K: usize> {
    /// The numbers themselves.
    type Total: Copy + Default + Send + Sync;
    /// Of both parts together.
    fn merge(one: Self::Total, other: Self::Total) -> Self::Total;
    /// Of a block that belongs to one statistic, merged into `into`; `behind` follows.
    fn rows<E: Stored<T>, S: Simd<T>>(
        s: S,
        tiles: [Tile<E>; K],
        cell: Affine<T>,
        activation: Activation,
        into: &mut Self::Total,
        behind: &mut impl Behind,
    );
    /// Of lines, each merged into its own of `into`; `behind` follows.
    fn lines<E: Stored<T>, S: Simd<T>>(
        s: S,
        lines: [Lines<E>; K],
        cells: &[Affine<T>],
        activation: Activation,
        into: &mut [Self::Total],
        behind: &mut impl Behind,
    );
    /// Called before the blocks of some columns.
    fn prepare(_pattern: Pattern, _cells: &[Affine<T>], _scratch: &mut Scratch<T>) {}
    /// Of a block of columns, merged into `into`.
    fn columns<E: Stored<T>, S: Simd<T>>(
        s: S,
        tiles: [Tile<E>; K],
        pattern: Pattern,
        activation: Activation,
        scratch: &mut Scratch<T>,
        into: &mut [Self::Total],
    );
}

impl<T: Real> Statistic<T, 1> for MomentSums {
    type Total = MomentSums;
    #[inline(always)]
    fn merge(one: MomentSums, other: MomentSums) -> MomentSums {
        one.merge(other)
    }
    #[inline(always)]
    fn rows<E: Stored<T>, S: Simd<T>>(
        s: S,
        [x]: [Tile<E>; 1],
        _cell: Affine<T>,
        _activation: Activation,
        into: &mut MomentSums,
        behind: &mut impl Behind,
    ) {
        moments_rows(s, x, into, behind);
    }
    #[inline(always)]
    fn lines<E: Stored<T>, S: Simd<T>>(
        s: S,
        [x]: [Lines<E>; 1],
        _cells: &[Affine<T>],
        _activation: Activation,
        into: &mut [Self::Total],
        behind: &mut impl Behind,
    ) {
        moments_lines(s, x, into, behind);
    }
    #[inline(always)]
    fn columns<E: Stored<T>, S: Simd<T>>(
        s: S,
        [x]: [Tile<E>; 1],
        pattern: Pattern,
        _activation: Activation,
        scratch: &mut Scratch<T>,
        into: &mut [Self::Total],
    ) {
        moments_columns(s, x, pattern, scratch, into);
    }
}

/// The two sums of a backward pass, by the kind of forward pass that `F` undoes.
#[derive(Clone, Copy, Debug)]
pub struct SumsOf<F>(std::marker::PhantomData<F>);

/// Kinds of [`Flow`] that an activation completes.
pub(crate) trait Kind: Copy + Send + Sync {
    /// The flow itself.
    type Flow;
    /// With the activation of a pass, if the kind has one.
    fn flow(activation: Activation) -> Self::Flow;
}

macro_rules! kinds {
    ($($Kind:ident => $Flow:ty = $value:expr, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[derive(Clone, Copy, Debug)]
        pub struct $Kind;
        impl Kind for $Kind {
            type Flow = $Flow;
            #[inline(always)]
            fn flow(activation: Activation) -> $Flow {
                ($value)(activation)
            }
        }
    )*};
}
kinds! {
    OfAffine => Plain = |_| Plain, "Of an affine map.";
    OfFused => Through = Through, "Of an affine map and an activation.";
    OfInner => Weighted = |_| Weighted, "Of an affine map and weights that vary inside the cell.";
    OfParameters => Normalized = |_| Normalized, "For parameters that vary inside the cell.";
}

impl<T: Real, F: Kind, const K: usize> Statistic<T, K> for SumsOf<F>
where
    F::Flow: Flow<T, K>,
{
    type Total = GradSums;
    #[inline(always)]
    fn merge(one: GradSums, other: GradSums) -> GradSums {
        one.add(other)
    }
    #[inline(always)]
    fn rows<E: Stored<T>, S: Simd<T>>(
        s: S,
        tiles: [Tile<E>; K],
        cell: Affine<T>,
        activation: Activation,
        into: &mut GradSums,
        behind: &mut impl Behind,
    ) {
        *into = into.add(gradient_rows(s, tiles, cell, F::flow(activation), behind));
    }
    #[inline(always)]
    fn lines<E: Stored<T>, S: Simd<T>>(
        s: S,
        lines: [Lines<E>; K],
        cells: &[Affine<T>],
        activation: Activation,
        into: &mut [Self::Total],
        behind: &mut impl Behind,
    ) {
        let add = |l: usize, sums: GradSums| into[l] = into[l].add(sums);
        gradient_lines(s, lines, [], |_, _| [], cells, F::flow(activation), behind, add);
    }
    #[inline(always)]
    fn prepare(pattern: Pattern, cells: &[Affine<T>], scratch: &mut Scratch<T>) {
        let [mean, scale, shift, ..] = scratch.take(pattern.len());
        let cells = &cells[..pattern.width];
        pattern.expand(mean, |w| cells[w].mean);
        pattern.expand(scale, |w| cells[w].scale);
        pattern.expand(shift, |w| cells[w].shift);
    }
    #[inline(always)]
    fn columns<E: Stored<T>, S: Simd<T>>(
        s: S,
        tiles: [Tile<E>; K],
        pattern: Pattern,
        activation: Activation,
        scratch: &mut Scratch<T>,
        into: &mut [Self::Total],
    ) {
        let [mean, scale, shift, sums, dots, sizes, _] = scratch.take(pattern.len());
        let add = |w: usize, sums: GradSums| into[w] = into[w].add(sums);
        gradient_columns(s, tiles, pattern, [mean, scale, shift, sums, dots, sizes], F::flow(activation), add);
    }
}
