//! Normalization kernels on strided arrays: batch and group norm, forward and backward, moments, and folding of batch
//! norm into convolutions; SIMD with run-time dispatch, several threads, and the same bits whatever both are.
//!
//! ```
//! use normkit::{Tensor, TensorMut, batch_norm};
//! let x = [1.0f32, 4.0, 1.0]; // three samples of one channel
//! let mut y = [0.0f32; 3];
//! let statistics =
//!     batch_norm(&Tensor::dense(&x, &[3, 1])?, 1, None, None, 0.0, &mut TensorMut::dense(&mut y, &[3, 1])?)?;
//! assert_eq!(statistics.mean, [2.0]);
//! assert_eq!(y, [-0.70710677, 1.4142135, -0.70710677]);
//! # Ok::<(), normkit::Error>(())
//! ```
//!
//! Data flows one way: *check* the arguments, *view* memory as a grid of runs ([`layout`]), *plan* who does what
//! ([`plan`]), *reduce* cells to statistics, *apply* coefficients.

mod element;
mod error;
mod explain;
mod kernels;
pub mod layout;
mod machine;
mod memory;
mod moments;
mod norms;
mod parallel;
mod pass;
pub mod plan;
pub mod reference;
mod simd;
mod tensor;
mod view;
mod weights;

pub use element::Element;
pub use error::{Error, Result, shape_text};
pub use explain::{hear_plans, plans_heard};
pub use kernels::activation::Activation;
pub use machine::{Caches, Stores, force_stores};
pub use moments::Moments;
pub use norms::{
    Adapted, Bounds, Extras, Grouping, Layer, MomentsOf, Operand, ParameterGradients, Statistics, Used,
    adaptive_instance_norm, adaptive_instance_norm_backward, affine_per_sample, batch_norm, batch_norm_backward,
    batch_norm_fused, batch_norm_fused_backward, batch_norm_gradient_apply, batch_norm_gradient_sums,
    batch_norm_inference, batch_norm_inference_fused, batch_renorm, batch_renorm_backward, group_norm,
    group_norm_backward, group_norm_fused, group_norm_fused_backward, layer_norm, layer_norm_backward, moments, rstd,
    update_running,
};
pub use parallel::{MOST_THREADS, num_threads, set_num_threads};
pub use simd::{Isa, Real, force as force_isa};
pub use tensor::{Tensor, TensorMut, overlaps_in_units, overlaps_itself};
pub use weights::{
    BatchNormOf, ConvOf, SingularTriple, Standardized, fold_conv_bn, scaled_weight_standardization,
    scaled_weight_standardization_backward, spectral_norm, spectral_norm_backward, weight_norm, weight_norm_backward,
};
