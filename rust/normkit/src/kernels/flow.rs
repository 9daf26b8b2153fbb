//! What flows backward into the affine map, for each kind of forward pass.

use super::activation::Activation;
use super::apply::{Affine, affine, pulled};
use crate::simd::{Real, Simd};

/// A gradient as kernels see it, from the operands of an element. The first operand is x, the second dy.
pub(crate) trait Flow<T: Real, const K: usize>: Copy {
    /// From vectors; `along` is the cell.
    fn vector<S: Simd<T>>(self, s: S, operands: [S::V; K], along: Affine<S::V>) -> S::V;
    /// From single elements, in float64.
    fn wide(self, operands: [T; K], cell: Affine<T>) -> f64;
    /// Zero only where that is, too, or where sums go with `vector` into dx alone: wide ones would not fit it. Short code.
    #[inline(always)]
    fn factor<S: Simd<T>>(self, s: S, operands: [S::V; K], along: Affine<S::V>) -> S::V {
        self.vector(s, operands, along)
    }
    /// What it is multiplied with in the second sum: x − mean.
    #[inline(always)]
    fn deviation<S: Simd<T>>(self, s: S, operands: [S::V; K], along: Affine<S::V>) -> S::V {
        s.sub(operands[0], along.mean)
    }
    /// The same in float64.
    fn wide_deviation(self, operands: [T; K], cell: Affine<T>) -> f64 {
        operands[0].to_f64() - cell.mean.to_f64()
    }
}

/// dy itself.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl<T: Real> Flow<T, 2> for Plain {
    #[inline(always)]
    fn vector<S: Simd<T>>(self, _s: S, [_, dy]: [S::V; 2], _along: Affine<S::V>) -> S::V {
        dy
    }
    fn wide(self, [_, dy]: [T; 2], _cell: Affine<T>) -> f64 {
        dy.to_f64()
    }
}

/// dy through an activation; the third operand is the residual where there is one.
#[derive(Clone, Copy)]
pub(crate) struct Through(pub(crate) Activation);

impl<T: Real, const K: usize> Flow<T, K> for Through {
    #[inline(always)]
    fn vector<S: Simd<T>>(self, s: S, operands: [S::V; K], along: Affine<S::V>) -> S::V {
        pulled(s, self.0, operands, [along.mean, along.scale, along.shift])
    }
    fn wide(self, operands: [T; K], cell: Affine<T>) -> f64 {
        // Rounded as the kernels round, so that signs agree.
        let round = |x: f64| T::from_f64(x).to_f64();
        let z = round(round(operands[0].to_f64() - cell.mean.to_f64()) * cell.scale.to_f64());
        let z = round(z + cell.shift.to_f64());
        let z = if K > 2 { round(z + operands[2].to_f64()) } else { z };
        self.0.pull_wide(z, operands[1].to_f64())
    }
    #[inline(always)]
    fn factor<S: Simd<T>>(self, s: S, operands: [S::V; K], along: Affine<S::V>) -> S::V {
        match self.0 {
            Activation::Relu => pulled(s, Activation::Relu, operands, [along.mean, along.scale, along.shift]),
            // A slope of zero is left to float64.
            _ => operands[1],
        }
    }
}

/// dy·weight, the third operand.
#[derive(Clone, Copy)]
pub(crate) struct Weighted;

impl<T: Real> Flow<T, 3> for Weighted {
    #[inline(always)]
    fn vector<S: Simd<T>>(self, s: S, [_, dy, weight]: [S::V; 3], _along: Affine<S::V>) -> S::V {
        s.mul(dy, weight)
    }
    fn wide(self, [_, dy, weight]: [T; 3], _cell: Affine<T>) -> f64 {
        dy.to_f64() * weight.to_f64()
    }
}

/// dy, and x̂ = (x − mean)·rstd + low by operands that vary inside the cell.
#[derive(Clone, Copy)]
pub(crate) struct Normalized;

impl<T: Real> Flow<T, 5> for Normalized {
    #[inline(always)]
    fn vector<S: Simd<T>>(self, _s: S, [_, dy, ..]: [S::V; 5], _along: Affine<S::V>) -> S::V {
        dy
    }
    fn wide(self, [_, dy, ..]: [T; 5], _cell: Affine<T>) -> f64 {
        dy.to_f64()
    }
    #[inline(always)]
    fn deviation<S: Simd<T>>(self, s: S, [x, _, mean, rstd, low]: [S::V; 5], _along: Affine<S::V>) -> S::V {
        affine(s, x, [mean, rstd, low])
    }
    fn wide_deviation(self, [x, _, mean, rstd, low]: [T; 5], _cell: Affine<T>) -> f64 {
        (x.to_f64() - mean.to_f64()) * rstd.to_f64() + low.to_f64()
    }
}
