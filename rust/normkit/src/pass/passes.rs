//! The passes that norms are made of, compiled once for each type, and here rather than in each crate that calls a norm.

use half::{bf16, f16};

use super::runs::Runs;
use super::weighted::WeightedLines;
use super::{Application, OfAffine, OfFused, OfInner, OfParameters, Pass, Statistic, SumsOf};
use crate::error::Result;
use crate::kernels::apply::{Affine, Coefficients, Fused, GradAffine, GradFused, GradInner, Inner, Rectified, Scale};
use crate::kernels::moments::MomentSums;
use crate::memory::Memory;
use crate::plan::Plan;
use crate::simd::{Isa, Real, Stored};

/// Moments of x, then y of `L` operands.
type Forward<'a, T, C, const L: usize> = Pass<'a, T, MomentSums, C, 1, L, 3>;
/// Two sums of `K` operands, then dx of `L`.
type Backward<'a, T, Of, C, const K: usize, const L: usize, const J: usize> = Pass<'a, T, SumsOf<Of>, C, K, L, J>;

/// Work over the elements of memory, whichever these are.
trait Over<T: Real> {
    /// Whether all memory holds these, and is used in place.
    fn is_of<E: Stored<T>>(&self) -> bool;
    /// Does it over these.
    fn run<E: Memory<T>>(&self) -> Result<()>;
}

impl<T, A, C, const K: usize, const L: usize, const J: usize> Over<T> for (&Pass<'_, T, A, C, K, L, J>, Isa, &Plan)
where
    T: Real,
    A: Statistic<T, K>,
    C: Coefficients<T, L, J>,
{
    fn is_of<E: Stored<T>>(&self) -> bool {
        self.0.is_of::<E>()
    }
    fn run<E: Memory<T>>(&self) -> Result<()> {
        let (pass, isa, plan) = self;
        pass.run::<E>(*isa, plan)
    }
}

/// An application by given coefficients.
struct Given<'w, 'a, T, C, const K: usize, const J: usize> {
    apply: &'w Application<'a, T, K>,
    isa: Isa,
    plan: &'w Plan,
    cells: &'w [C],
}

impl<T: Real, C: Coefficients<T, K, J>, const K: usize, const J: usize> Over<T> for Given<'_, '_, T, C, K, J> {
    fn is_of<E: Stored<T>>(&self) -> bool {
        self.apply.is_direct::<E>()
    }
    fn run<E: Memory<T>>(&self) -> Result<()> {
        self.apply.run::<E, C, J>(self.isa, self.plan, self.cells, false)
    }
}

impl<T: Passes> Over<T> for (&WeightedLines<'_, T>, Isa, &Plan) {
    fn is_of<E: Stored<T>>(&self) -> bool {
        self.0.is_of::<E>()
    }
    fn run<E: Memory<T>>(&self) -> Result<()> {
        let (pass, isa, plan) = self;
        pass.run::<E>(*isa, plan)
    }
}

/// Types with other forms in memory, over which work is done without a copy.
trait Forms: Real {
    fn over(work: impl Over<Self>) -> Result<()>;
}

impl Forms for f32 {
    fn over(work: impl Over<f32>) -> Result<()> {
        if work.is_of::<f16>() {
            work.run::<f16>()
        } else if work.is_of::<bf16>() {
            work.run::<bf16>()
        } else {
            work.run::<f32>()
        }
    }
}

impl Forms for f64 {
    fn over(work: impl Over<f64>) -> Result<()> {
        work.run::<f64>()
    }
}

macro_rules! passes {
    (
        types $first:ty, $second:ty;
        over_any { $($place:ident: $Place:ty, $place_doc:literal;)* }
        passes { $($pass:ident: $Pass:ty, $pass_doc:literal;)* }
        applications { $($apply:ident: $K:literal, $Cell:ty, $apply_doc:literal;)* }
    ) => {
        /// The passes that norms are made of.
        pub trait Passes: Real {
            $(#[doc = $place_doc] fn $place(pass: &$Place, isa: Isa, plan: &Plan) -> Result<()>;)*
            $(#[doc = $pass_doc] fn $pass(pass: &$Pass, isa: Isa, plan: &Plan) -> Result<()>;)*
            #[doc = "dx of x and dy, where runs are statistics with weights inside; the parameters' gradients."]
            fn runs(pass: &Runs<Self>, isa: Isa, plan: &Plan) -> Result<()>;
            #[doc = "y of x, where runs are statistics with weights inside."]
            fn weighted(pass: &WeightedLines<Self>, isa: Isa, plan: &Plan) -> Result<()>;
            $(#[doc = $apply_doc] fn $apply(apply: &Application<Self, $K>, isa: Isa, plan: &Plan, cells: &[$Cell]) -> Result<()>;)*
        }
        passes! { impl $first; over_any { $($place: $Place;)* } passes { $($pass: $Pass;)* } applications { $($apply: $K, $Cell;)* } }
        passes! { impl $second; over_any { $($place: $Place;)* } passes { $($pass: $Pass;)* } applications { $($apply: $K, $Cell;)* } }
    };
    (impl $T:ty; over_any { $($place:ident: $Place:ty;)* } passes { $($pass:ident: $Pass:ty;)* } applications { $($apply:ident: $K:literal, $Cell:ty;)* }) => {
        impl Passes for $T {
            $(fn $place(pass: &$Place, isa: Isa, plan: &Plan) -> Result<()> { <$T>::over((pass, isa, plan)) })*
            $(fn $pass(pass: &$Pass, isa: Isa, plan: &Plan) -> Result<()> { pass.run::<$T>(isa, plan) })*
            fn runs(pass: &Runs<Self>, isa: Isa, plan: &Plan) -> Result<()> { pass.run(isa, plan) }
            fn weighted(pass: &WeightedLines<Self>, isa: Isa, plan: &Plan) -> Result<()> { <$T>::over((pass, isa, plan)) }
            $(fn $apply(apply: &Application<Self, $K>, isa: Isa, plan: &Plan, cells: &[$Cell]) -> Result<()> {
                <$T>::over(Given { apply, isa, plan, cells })
            })*
        }
    };
}

passes! {
    types f32, f64;
    over_any {
    forward: Forward<Self, Affine<Self>, 1>, "y of x.";
    backward: Backward<Self, OfAffine, GradAffine<Self>, 2, 2, 5>, "dx of x and dy.";
    }
    passes {
    forward_relu: Forward<Self, Rectified<Self>, 1>, "y of x, with ReLU.";
    forward_residual_relu: Forward<Self, Rectified<Self>, 2>, "y of x and a residual, with ReLU.";
    forward_fused: Forward<Self, Fused<Self>, 1>, "y of x, with any activation.";
    forward_residual: Forward<Self, Fused<Self>, 2>, "y of x and a residual, with any activation.";
    forward_inner: Forward<Self, Inner<Self>, 3>, "y of x, weight and bias that vary inside the cell.";
    backward_frozen: Backward<Self, OfAffine, Scale<Self>, 2, 1, 1>, "dx of dy, through statistics that do not depend on x.";
    backward_fused: Backward<Self, OfFused, GradFused<Self>, 2, 2, 7>, "dx of x and dy through an activation.";
    backward_residual: Backward<Self, OfFused, GradFused<Self>, 3, 3, 7>, "dx and dz of x, dy and a residual.";
    backward_inner: Backward<Self, OfInner, GradInner<Self>, 3, 3, 5>, "dx of x, dy and the weight.";
    parameters: Backward<Self, OfParameters, Scale<Self>, 5, 1, 1>, "Gradients of parameters that vary inside the cell.";
    }
    applications {
    affine: 1, Affine<Self>, "y of x by given coefficients.";
    affine_fused: 1, Fused<Self>, "y of x by given coefficients, with an activation.";
    affine_residual: 2, Fused<Self>, "y of x and a residual by given coefficients, with an activation.";
    backward_affine: 2, GradAffine<Self>, "dx of x and dy by given coefficients.";
    }
}
