//! Operations on weights rather than activations.

mod fold;

pub use fold::{BatchNormOf, ConvOf, fold_conv_bn};
