//! Spectral normalization (Miyato et al. 2018): a weight divided by its largest singular value, by power iteration.
//!
//! The weight is a matrix W of shape (positions of `dim`, all others). A product with a vector is a sum of products over
//! the cells of W with the vector broadcast to its shape, so W stays where and as it is.

use super::cells::{Cells, affine, backward, dots, spreads};
use super::{check_len, check_shape, keep_dim, over};
use crate::element::Element;
use crate::error::{Error, Result, gathered};
use crate::kernels::apply::{Affine, GradAffine};
use crate::kernels::gradients::GradSums;
use crate::tensor::{Tensor, TensorMut, dense_strides};

/// A singular value of a matrix, as far as it has been found, with its vectors.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SingularTriple {
    /// Left: one entry for each row.
    pub u: Vec<f64>,
    /// Right: one for each column.
    pub v: Vec<f64>,
    /// uᵀ W v.
    pub sigma: f64,
}

/// A weight as a matrix: which axis the rows are.
struct Matrix<'t, 'a, E> {
    weight: &'t Tensor<'a, E>,
    rows: Vec<bool>,
    columns: Vec<bool>,
}

impl<'t, 'a, E: Element> Matrix<'t, 'a, E> {
    fn new(weight: &'t Tensor<'a, E>, dim: usize) -> Result<Self> {
        let rows = keep_dim("weight", &weight.shape, Some(dim))?;
        let columns = rows.iter().map(|row| !row).collect();
        Ok(Matrix { weight, rows, columns })
    }

    /// `u` and `v` have a number for each row and each column.
    fn check(&self, u: &[f64], v: &[f64]) -> Result<()> {
        let size = |axes: &[bool]| -> usize {
            self.weight.shape.iter().zip(axes).filter(|&(_, axis)| *axis).map(|(n, _)| n).product()
        };
        check_len("u", u, size(&self.rows), "rows of the weight as a matrix")?;
        check_len("v", v, size(&self.columns), "columns of the weight as a matrix")
    }

    /// A vector along some axes, the same along the others.
    fn along<'v>(&self, axes: &[bool], vector: &'v [f64]) -> Result<Tensor<'v, f64>> {
        let shape = &self.weight.shape;
        let sizes: Vec<usize> = shape.iter().zip(axes).map(|(&n, &axis)| if axis { n } else { 1 }).collect();
        let strides = dense_strides(&sizes).into_iter().zip(axes).map(|(stride, &axis)| if axis { stride } else { 0 });
        Tensor::strided(vector, shape, &strides.collect::<Vec<_>>())
    }

    /// W v
    fn times(&self, v: &[f64]) -> Result<Vec<f64>> {
        dots(self.weight, &self.along(&self.columns, v)?, &self.rows)
    }

    /// Wᵀ u
    fn transposed_times(&self, u: &[f64]) -> Result<Vec<f64>> {
        dots(self.weight, &self.along(&self.rows, u)?, &self.columns)
    }
}

/// Whether a vector has numbers, but no direction.
fn is_zero(vector: &[f64]) -> bool {
    !vector.is_empty() && vector.iter().all(|&x| x == 0.0)
}

/// A vector that is given has a direction: without one sigma is 0, and any weight would become zeros.
fn check_direction(name: &'static str, vector: &[f64]) -> Result<()> {
    if !is_zero(vector) {
        return Ok(());
    }
    let expected = "be a vector that is not all zeros (the direction that the power iteration starts from)";
    Err(Error::new(name, expected, format!("only zeros ({})", vector.len())))
}

/// `vector` divided by its norm, or by eps where that is more; `old` where it is zero, or becomes so, as that has no
/// direction.
fn direction(mut vector: Vec<f64>, eps: f64, old: Vec<f64>) -> Result<Vec<f64>> {
    let norm = spreads(&Tensor::dense(&vector, &[vector.len()])?, &[false])?[0].norm();
    if norm == 0.0 {
        return Ok(old);
    }
    let by = if norm < eps { eps } else { norm }; // NaN stays
    vector.iter_mut().for_each(|x| *x /= by);
    Ok(if is_zero(&vector) { old } else { vector }) // a large eps
}

/// σ to divide by: NaN where it is infinite, as that would make zeros of any weight.
fn divisor(sigma: f64) -> f64 {
    if sigma.is_infinite() { f64::NAN } else { sigma }
}

/// A σ that is too small to divide by is that of a weight of zeros, and of no other.
fn check_sigma<E: Element>(weight: &Tensor<E>, sigma: f64, iterations: usize, eps: f64) -> Result<()> {
    if over(1.0, divisor(sigma)) != 0.0 {
        return Ok(());
    }
    let norm = spreads(weight, &vec![false; weight.shape.len()])?[0].norm();
    if norm == 0.0 {
        return Ok(());
    }
    // Steps of vectors that are divided by more than their norm bring them down to zero.
    if iterations > 0 && norm < eps {
        let expected = format!("be at most the norm of weight, {norm:?}, as that is not all zeros");
        return Err(Error::new("eps", expected, format!("{eps:?}")));
    }
    let expected = "give a sigma = u @ W @ v to divide by, as weight is not all zeros (new random u and v will do)";
    Err(Error::new("u", expected, format!("sigma = {sigma:?}")))
}

/// w = W/σ, σ = uᵀ W v after so many steps of the power iteration u = W v/‖W v‖, v = Wᵀ u/‖Wᵀ u‖, norms being at
/// least eps. Returns u, v and σ. A product that is zero leaves u or v as it is, and so a weight of zeros stays zero and
/// leaves both. NaN in anything that is used, or an infinite σ, makes all of w NaN.
///
/// # Errors
/// `dim` is no axis of `weight`, `u`, `v` or `w` does not fit it, `u` or `v` is all zeros, eps is negative or not finite;
/// or σ comes out as 0 though the weight is not zero, as u is orthogonal to W v or eps above the weight's norm.
pub fn spectral_norm<E: Element>(
    weight: &Tensor<E>,
    dim: usize,
    u: &[f64],
    v: &[f64],
    iterations: usize,
    eps: f64,
    w: &mut TensorMut<E>,
) -> Result<SingularTriple> {
    let matrix = Matrix::new(weight, dim)?;
    matrix.check(u, v)?;
    check_direction("u", u)?;
    check_direction("v", v)?;
    if !(eps.is_finite() && eps >= 0.0) {
        return Err(Error::new("eps", "be finite and >= 0", eps));
    }
    check_shape("out", &w.shape, "weight", &weight.shape)?;
    let (mut u, mut v) = (gathered(u.iter().copied())?, gathered(v.iter().copied())?);
    if weight.size() == 0 {
        return Ok(SingularTriple { u, v, sigma: 0.0 });
    }
    for _ in 0..iterations {
        u = direction(matrix.times(&v)?, eps, u)?;
        v = direction(matrix.transposed_times(&u)?, eps, v)?;
    }
    let product = matrix.times(&v)?;
    let rows = [u.len()];
    let sigma = dots(&Tensor::dense(&u, &rows)?, &Tensor::dense(&product, &rows)?, &[false])?[0];
    check_sigma(weight, sigma, iterations, eps)?;
    affine(weight, &vec![false; weight.shape.len()], &[Affine::new(0.0, over(1.0, divisor(sigma)), 0.0)], w)?;
    Ok(SingularTriple { u, v, sigma })
}

/// dweight = (dw − ⟨dw, w⟩·u vᵀ)/σ: u and v are taken as constants, as in the paper. `of` is what the forward pass has
/// returned.
///
/// # Errors
/// `dim` is no axis of `weight`, or `of`, `dw` or `dweight` does not fit it.
pub fn spectral_norm_backward<E: Element, G: Element>(
    dw: &Tensor<G>,
    weight: &Tensor<E>,
    dim: usize,
    of: &SingularTriple,
    dweight: &mut TensorMut<E>,
) -> Result<()> {
    let SingularTriple { u, v, sigma } = of;
    let sigma = divisor(*sigma);
    let matrix = Matrix::new(weight, dim)?;
    matrix.check(u, v)?;
    check_shape("dw", &dw.shape, "weight", &weight.shape)?;
    check_shape("out", &dweight.shape, "weight", &weight.shape)?;
    let whole = vec![false; weight.shape.len()];
    let rule = |_: usize, sums: GradSums, cells: &mut [GradAffine<f64>]| {
        let dot = over(sums.dot, sigma);
        for (cell, u) in cells.iter_mut().zip(u) {
            *cell = GradAffine::new(0.0, 1.0, over(1.0, sigma), over(-dot * u, sigma), 0.0);
        }
    };
    let v = matrix.along(&matrix.columns, v)?;
    let (x, z) = (Cells { of: weight, kept: &whole }, Cells { of: &v, kept: &matrix.rows });
    backward(dw, x, None, z, rule, dweight)
}
