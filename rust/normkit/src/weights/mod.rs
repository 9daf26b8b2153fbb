//! Operations on weights rather than activations.
//!
//! The parametric normalizers are groupings and rules like any norm's; `cells` takes them through the same passes, in
//! float64.

mod cells;
mod fold;
mod spectral;
mod standardize;
mod weight_norm;

pub use fold::{BatchNormOf, ConvOf, fold_conv_bn};
pub use spectral::{SingularTriple, spectral_norm, spectral_norm_backward};
pub use standardize::{Standardized, scaled_weight_standardization, scaled_weight_standardization_backward};
pub use weight_norm::{weight_norm, weight_norm_backward};

use crate::error::{Error, Result, shape_text};

/// Which axes are kept: `dim` alone, or none.
fn keep_dim(argument: &'static str, shape: &[usize], dim: Option<usize>) -> Result<Vec<bool>> {
    let mut kept = vec![false; shape.len()];
    if let Some(dim) = dim {
        let expected = || format!("be an axis of {argument}, which has shape {}", shape_text(shape));
        *kept.get_mut(dim).ok_or_else(|| Error::new("dim", expected(), dim))? = true;
    }
    Ok(kept)
}

/// `values` has one number for each of so many places.
fn check_len(name: &'static str, values: &[f64], expected: usize, of: &str) -> Result<()> {
    if values.len() == expected {
        return Ok(());
    }
    Err(Error::new(name, format!("have {expected} elements ({of})"), format!("{} elements", values.len())))
}

/// An array has the shape of the weight that it belongs to.
fn check_shape(name: &'static str, found: &[usize], of: &str, expected: &[usize]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let text = format!("have the shape of {of}, {}", shape_text(expected));
    Err(Error::new(name, text, format!("shape {}", shape_text(found))))
}

/// `a / norm`; 0 where 1/norm is infinite, so that zeros stay zeros and have a gradient of zero.
fn over(a: f64, norm: f64) -> f64 {
    if (1.0 / norm).is_infinite() { 0.0 } else { a / norm }
}
