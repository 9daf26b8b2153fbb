//! The passes that norms are made of, compiled once for each type, and here rather than in each crate that calls a norm.

use super::runs::Runs;
use super::{Application, OfAffine, OfFused, OfInner, OfParameters, Pass, SumsOf};
use crate::error::Result;
use crate::kernels::apply::{Affine, Fused, GradAffine, GradFused, GradInner, Inner, Scale};
use crate::kernels::reduce::MomentSums;
use crate::plan::Plan;
use crate::simd::{Isa, Real};

/// Moments of x, then y of `L` operands.
type Forward<'a, T, C, const L: usize> = Pass<'a, T, MomentSums, C, 1, L, 3>;
/// Two sums of `K` operands, then dx of `L`.
type Backward<'a, T, Of, C, const K: usize, const L: usize, const J: usize> = Pass<'a, T, SumsOf<Of>, C, K, L, J>;

macro_rules! passes {
    (
        types $first:ty, $second:ty;
        passes { $($pass:ident: $Pass:ty, $pass_doc:literal;)* }
        applications { $($apply:ident: $K:literal, $Cell:ty, $apply_doc:literal;)* }
    ) => {
        /// The passes that norms are made of.
        pub trait Passes: Real {
            $(#[doc = $pass_doc] fn $pass(pass: &$Pass, isa: Isa, plan: &Plan) -> Result<()>;)*
            #[doc = "dx of x and dy, where runs are statistics with weights inside; the parameters' gradients."]
            fn runs(pass: &Runs<Self>, isa: Isa, plan: &Plan) -> Result<()>;
            $(#[doc = $apply_doc] fn $apply(apply: &Application<Self, $K>, isa: Isa, plan: &Plan, cells: &[$Cell]) -> Result<()>;)*
        }
        passes! { impl $first; passes { $($pass: $Pass;)* } applications { $($apply: $K, $Cell;)* } }
        passes! { impl $second; passes { $($pass: $Pass;)* } applications { $($apply: $K, $Cell;)* } }
    };
    (impl $T:ty; passes { $($pass:ident: $Pass:ty;)* } applications { $($apply:ident: $K:literal, $Cell:ty;)* }) => {
        impl Passes for $T {
            $(fn $pass(pass: &$Pass, isa: Isa, plan: &Plan) -> Result<()> { pass.run(isa, plan) })*
            fn runs(pass: &Runs<Self>, isa: Isa, plan: &Plan) -> Result<()> { pass.run(isa, plan.threads) }
            $(fn $apply(apply: &Application<Self, $K>, isa: Isa, plan: &Plan, cells: &[$Cell]) -> Result<()> {
                apply.run(isa, plan, cells, false)
            })*
        }
    };
}

passes! {
    types f32, f64;
    passes {
    forward: Forward<Self, Affine<Self>, 1>, "y of x.";
    forward_fused: Forward<Self, Fused<Self>, 1>, "y of x, with an activation.";
    forward_residual: Forward<Self, Fused<Self>, 2>, "y of x and a residual, with an activation.";
    forward_inner: Forward<Self, Inner<Self>, 3>, "y of x, weight and bias that vary inside the cell.";
    backward: Backward<Self, OfAffine, GradAffine<Self>, 2, 2, 5>, "dx of x and dy.";
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
