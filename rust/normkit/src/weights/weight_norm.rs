//! Weight normalization (Salimans & Kingma 2016): a weight's direction and length as parameters of their own.

use super::cells::{Cells, affine, backward, spreads};
use super::{check_len, check_shape, keep_dim, over};
use crate::element::Element;
use crate::error::{Result, gathered, zeros};
use crate::kernels::apply::{Affine, GradAffine};
use crate::kernels::gradients::GradSums;
use crate::parallel::Slots;
use crate::tensor::{Tensor, TensorMut};

/// How many norms `v` has: one for each position of `dim`, or one.
fn check<E>(v: &Tensor<E>, dim: Option<usize>, g: &[f64]) -> Result<Vec<bool>> {
    let kept = keep_dim("v", &v.shape, dim)?;
    let of = dim.map_or_else(|| "the whole of v".to_owned(), |dim| format!("positions of v on axis {dim}"));
    check_len("g", g, dim.map_or(1, |dim| v.shape[dim]), &of)?;
    Ok(kept)
}

/// w = g·v/‖v‖, a norm over all axes but `dim`, or over all; the norms are returned. Where v is zero, so is w.
///
/// # Errors
/// `dim` is no axis of `v`, or `g` or `w` does not fit it.
pub fn weight_norm<E: Element>(v: &Tensor<E>, dim: Option<usize>, g: &[f64], w: &mut TensorMut<E>) -> Result<Vec<f64>> {
    let kept = check(v, dim, g)?;
    check_shape("out", &w.shape, "v", &v.shape)?;
    let norms = gathered(spreads(v, &kept)?.iter().map(|spread| spread.norm()))?;
    let cells = gathered(g.iter().zip(&norms).map(|(&g, &norm)| Affine::new(0.0, over(g, norm), 0.0)))?;
    affine(v, &kept, &cells, w)?;
    Ok(norms)
}

/// dv, and dg, which is returned: dg = Σdw·v/‖v‖ and dv = g/‖v‖·(dw − dg·v/‖v‖). `norms` are those of the forward pass.
///
/// # Errors
/// `dim` is no axis of `v`, or `g`, `norms`, `dw` or `dv` does not fit it.
pub fn weight_norm_backward<E: Element, G: Element>(
    dw: &Tensor<G>,
    v: &Tensor<E>,
    dim: Option<usize>,
    g: &[f64],
    norms: &[f64],
    dv: &mut TensorMut<E>,
) -> Result<Vec<f64>> {
    let kept = check(v, dim, g)?;
    check_len("norms", norms, g.len(), "as g has")?;
    check_shape("dw", &dw.shape, "v", &v.shape)?;
    check_shape("out", &dv.shape, "v", &v.shape)?;
    let mut dg = zeros(g.len())?;
    let slots = Slots::new(&mut dg);
    let rule = |t: usize, sums: GradSums, cells: &mut [GradAffine<f64>]| {
        let (dg, a) = (over(sums.dot, norms[t]), over(g[t], norms[t]));
        slots.set(t, dg);
        cells[0] = GradAffine::new(0.0, over(1.0, norms[t]), a, -a * dg, 0.0);
    };
    let cells = || Cells { of: v, kept: &kept };
    backward(dw, cells(), None, cells(), rule, dv)?;
    Ok(dg)
}
