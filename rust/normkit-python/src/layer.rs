//! `layer_norm` and `rms_norm`, and their backward passes.

use normkit::Layer;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arguments::{Arg, axis as check_axis, compute, describe, integer, type_error, value_error};
use crate::arrays::{Array, with_element};
use crate::batch::gradient;
use crate::gradients::named;
use crate::parameters::{Parameter, statistics};

/// What the backward pass of a layer norm needs: references to x and the parameters, and the statistics.
///
/// Attributes
/// ----------
/// mean, rstd : float64 arrays of the shape of the axes that are not normalized
///     The mean and 1/sqrt(var + eps) that each position was normalized with.
#[pyclass(frozen, module = "normkit")]
pub(crate) struct LayerNormCache(Cache);

/// What the backward pass of an RMS norm needs: references to x and the weight, and the statistics.
///
/// Attributes
/// ----------
/// mean, rstd : float64 arrays of the shape of the axes that are not normalized
///     0, and 1/sqrt(mean(x**2) + eps), that each position was normalized with.
#[pyclass(frozen, module = "normkit")]
pub(crate) struct RMSNormCache(Cache);

struct Cache {
    x: Py<PyAny>,
    weight: Option<Parameter>,
    bias: Option<Parameter>,
    layer: Layer,
    /// Of the axes that are not normalized.
    shape: Vec<usize>,
    mean: Vec<f64>,
    rstd: Vec<f64>,
}

#[pymethods]
impl LayerNormCache {
    /// The means, float64.
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.0.mean, &self.0.shape)
    }

    /// 1/sqrt(var + eps), float64.
    #[getter]
    fn rstd<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.0.rstd, &self.0.shape)
    }
}

#[pymethods]
impl RMSNormCache {
    /// Zeros, float64.
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.0.mean, &self.0.shape)
    }

    /// 1/sqrt(mean(x**2) + eps), float64.
    #[getter]
    fn rstd<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.0.rstd, &self.0.shape)
    }
}

/// An axis or a tuple of different axes of an array with `ndim` of them, in ascending order.
pub(crate) fn axes(function: &str, axis: &Bound<'_, PyAny>, ndim: usize) -> PyResult<Vec<usize>> {
    let one = |object: &Bound<'_, PyAny>| check_axis(function, integer(function, "axis", object)?, ndim);
    let mut axes = match axis.cast::<PyTuple>() {
        Ok(tuple) => tuple.iter().map(|object| one(&object)).collect::<PyResult<Vec<_>>>()?,
        Err(_) => vec![one(axis)?],
    };
    axes.sort_unstable();
    if let Some(pair) = axes.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(value_error(function, "axis", "name each axis once", format!("axis {} twice", pair[0])));
    }
    Ok(axes)
}

/// Both norms.
fn forward<'py>(
    py: Python<'py>,
    function: &str,
    centred: bool,
    x: &Bound<'py, PyAny>,
    weight: Option<&Bound<'py, PyAny>>,
    bias: Option<&Bound<'py, PyAny>>,
    axis: &Arg<'py>,
    eps: f64,
    out: &Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, Cache)> {
    let x = Array::input(function, "x", x)?;
    let ndim = x.shape().len();
    let axes = match &axis.0 {
        Some(axis) => axes(function, axis, ndim)?,
        None => vec![check_axis(function, -1, ndim)?],
    };
    if axes.is_empty() {
        return Err(value_error(function, "axis", "name at least one axis of x", "()"));
    }
    let inner: Vec<usize> = axes.iter().map(|&axis| x.shape()[axis]).collect();
    let weight = Parameter::shaped(function, "weight", weight, &inner)?;
    let bias = Parameter::shaped(function, "bias", bias, &inner)?;
    let apart = [
        ("x", Some(&x.given)),
        ("weight", weight.as_ref().map(|p| p.array.bind(py))),
        ("bias", bias.as_ref().map(|p| p.array.bind(py))),
    ];
    let y = Array::output(function, out, &x, None, &apart)?;
    let shape = (0..ndim).filter(|axis| !axes.contains(axis)).map(|axis| x.shape()[axis]).collect();
    let layer = Layer { axes, centred };
    let scale = weight.as_ref().map(|p| &p.values[..]);
    let shift = bias.as_ref().map(|p| &p.values[..]);
    let of = with_element!(x.dtype, E => {
        // SAFETY: from `Array::output`, for this call alone.
        let (from, mut to) = (x.tensor::<E>(), unsafe { y.tensor_mut::<E>() });
        compute(py, function, x.bytes(), || normkit::layer_norm(&from, &layer, scale, shift, eps, &mut to))
    })?;
    let y = y.finish()?;
    let x = x.object.into_any().unbind();
    Ok((y, Cache { x, weight, bias, layer, shape, mean: of.mean, rstd: of.rstd }))
}

/// dx, dweight and dbias.
fn backward<'py>(
    py: Python<'py>,
    function: &str,
    dy: &Bound<'py, PyAny>,
    cache: &Cache,
    out: &Arg<'py>,
) -> PyResult<[Option<Bound<'py, PyAny>>; 3]> {
    let x = Array::input(function, "x", cache.x.bind(py))?;
    let dy = gradient(function, dy, &x)?;
    let dx = Array::output(function, out, &x, Some(("dy", &dy)), &[("x", Some(&x.given))])?;
    let weight = cache.weight.as_ref().map(|p| &p.values[..]);
    let wanted = cache.weight.is_some() || cache.bias.is_some();
    let (layer, mean, rstd, dy) = (&cache.layer, &cache.mean, &cache.rstd, dy.operand());
    let gradients = with_element!(x.dtype, E => {
        // SAFETY: from `Array::output`, for this call alone.
        let (from, mut to) = (x.tensor::<E>(), unsafe { dx.tensor_mut::<E>() });
        compute(py, function, x.bytes(), || {
            normkit::layer_norm_backward(&dy, &from, layer, mean, rstd, weight, wanted, &mut to)
        })
    })?;
    let dweight = cache.weight.as_ref().map(|p| p.like(py, &gradients.weight)).transpose()?;
    let dbias = cache.bias.as_ref().map(|p| p.like(py, &gradients.bias)).transpose()?;
    Ok([Some(dx.finish()?), dweight, dbias])
}

/// Layer normalization: each position of the axes that are not named is normalized over those that are.
///
/// y = (x - mean) / sqrt(var + eps) * weight + bias, with the biased variance
///
/// Parameters
/// ----------
/// x : float array of any shape and strides
///     It is kept by reference in the cache, so do not change it before the backward pass.
/// weight, bias : float arrays of the shape of the normalized axes, optional
///     Scale and offset of each normalized position; 1 and 0 where None.
/// axis : int or tuple of ints
///     The axes to normalize over, in any order; they need not be the last ones: axis=1 normalizes the channels of NCHW
///     without a transpose.
/// eps : float >= 0
///     Added to the variance.
/// out : array like x, optional
///     Where to write y. It must not overlap x.
///
/// Returns
/// -------
/// y : array of x's shape, dtype and memory order
/// cache : LayerNormCache
///     For layer_norm_backward; cache.mean and cache.rstd are float64 arrays of the shape of the other axes.
///
/// Raises
/// ------
/// ValueError
///     A shape, axis or value that does not fit.
/// TypeError
///     An argument of the wrong type or dtype.
///
/// References
/// ----------
/// Ba, Kiros & Hinton 2016, "Layer Normalization".
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> x = np.array([[1.0, 3.0], [10.0, 30.0]])
/// >>> y, cache = nk.layer_norm(x, np.array([1.0, 2.0]), eps=0)
/// >>> y
/// array([[-1.,  2.],
///        [-1.,  2.]])
/// >>> cache.mean
/// array([ 2., 20.])
#[pyfunction]
#[pyo3(
    signature = (x, weight=None, bias=None, *, axis=Arg(None), eps=Arg(None), out=Arg(None)),
    text_signature = "(x, weight=None, bias=None, *, axis=-1, eps=1e-05, out=None)"
)]
pub(crate) fn layer_norm<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weight: Option<&Bound<'py, PyAny>>,
    bias: Option<&Bound<'py, PyAny>>,
    axis: Arg<'py>,
    eps: Arg<'py>,
    out: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, LayerNormCache)> {
    const NAME: &str = "layer_norm";
    let eps = eps.eps(NAME, 1e-5)?;
    let (y, cache) = forward(py, NAME, true, x, weight, bias, &axis, eps, &out)?;
    Ok((y, LayerNormCache(cache)))
}

/// Gradients of layer normalization.
///
/// With xhat = (x - mean) * rstd, g = weight * dy and means over the normalized axes:
/// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)), dweight = sum(dy * xhat), dbias = sum(dy) over the other axes.
///
/// Parameters
/// ----------
/// dy : float array of x's shape
///     The gradient of the loss by y; any strides, and it may have another dtype than x.
/// cache : LayerNormCache
///     From layer_norm.
/// out : array like x, optional
///     Where to write dx; it may be dy itself.
///
/// Returns
/// -------
/// LayerNormGradients(dx, dweight, dbias)
///     dx has x's shape, dtype and memory order; dweight and dbias have those of their parameters, and are None where
///     these were None.
///
/// Raises
/// ------
/// ValueError
///     dy or out does not fit x.
/// TypeError
///     An argument of the wrong type or dtype, or the cache of another function.
///
/// References
/// ----------
/// Ba, Kiros & Hinton 2016.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> y, cache = nk.layer_norm(np.array([[1.0, 3.0]]), np.ones(2), np.zeros(2), eps=0)
/// >>> nk.layer_norm_backward(np.array([[1.0, 0.0]]), cache).dweight
/// array([-1.,  0.])
#[pyfunction]
#[pyo3(signature = (dy, cache, *, out=Arg(None)), text_signature = "(dy, cache, *, out=None)")]
pub(crate) fn layer_norm_backward<'py>(
    py: Python<'py>,
    dy: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "layer_norm_backward";
    let Ok(cache) = cache.cast::<LayerNormCache>() else {
        return Err(type_error(NAME, "cache", "be the cache of layer_norm", describe(cache)));
    };
    let [dx, dweight, dbias] = backward(py, NAME, dy, &cache.get().0, &out)?;
    named(py, intern!(py, "LayerNormGradients"), (dx, dweight, dbias))
}

/// RMS normalization: each position of the axes that are not named is divided by its root mean square over those that are.
///
/// y = x / sqrt(mean(x**2) + eps) * weight
///
/// Parameters
/// ----------
/// x : float array of any shape and strides
///     It is kept by reference in the cache, so do not change it before the backward pass.
/// weight : float array of the shape of the normalized axes, optional
///     Scale of each normalized position; 1 where None.
/// axis : int or tuple of ints
///     The axes to normalize over, in any order.
/// eps : float >= 0
///     Added to the mean square.
/// out : array like x, optional
///     Where to write y. It must not overlap x.
///
/// Returns
/// -------
/// y : array of x's shape, dtype and memory order
/// cache : RMSNormCache
///     For rms_norm_backward; cache.rstd is a float64 array of the shape of the other axes.
///
/// Raises
/// ------
/// ValueError
///     A shape, axis or value that does not fit.
/// TypeError
///     An argument of the wrong type or dtype.
///
/// References
/// ----------
/// Zhang & Sennrich 2019, "Root Mean Square Layer Normalization".
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> y, cache = nk.rms_norm(np.array([[3.0, 4.0]]), eps=0)
/// >>> y.round(4)
/// array([[0.8485, 1.1314]])
#[pyfunction]
#[pyo3(
    signature = (x, weight=None, *, axis=Arg(None), eps=Arg(None), out=Arg(None)),
    text_signature = "(x, weight=None, *, axis=-1, eps=1e-06, out=None)"
)]
pub(crate) fn rms_norm<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weight: Option<&Bound<'py, PyAny>>,
    axis: Arg<'py>,
    eps: Arg<'py>,
    out: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, RMSNormCache)> {
    const NAME: &str = "rms_norm";
    let eps = eps.eps(NAME, 1e-6)?;
    let (y, cache) = forward(py, NAME, false, x, weight, None, &axis, eps, &out)?;
    Ok((y, RMSNormCache(cache)))
}

/// Gradients of RMS normalization.
///
/// With xhat = x * rstd, g = weight * dy and the mean over the normalized axes: dx = rstd * (g - xhat * mean(g * xhat)),
/// dweight = sum(dy * xhat) over the other axes.
///
/// Parameters
/// ----------
/// dy : float array of x's shape
///     The gradient of the loss by y; any strides, and it may have another dtype than x.
/// cache : RMSNormCache
///     From rms_norm.
/// out : array like x, optional
///     Where to write dx; it may be dy itself.
///
/// Returns
/// -------
/// RMSNormGradients(dx, dweight)
///     dx has x's shape, dtype and memory order; dweight has those of weight, and is None where that was None.
///
/// Raises
/// ------
/// ValueError
///     dy or out does not fit x.
/// TypeError
///     An argument of the wrong type or dtype, or the cache of another function.
///
/// References
/// ----------
/// Zhang & Sennrich 2019.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> y, cache = nk.rms_norm(np.array([[3.0, 4.0]]), np.ones(2), eps=0)
/// >>> nk.rms_norm_backward(np.array([[1.0, 0.0]]), cache).dweight.round(4)
/// array([0.8485, 0.    ])
#[pyfunction]
#[pyo3(signature = (dy, cache, *, out=Arg(None)), text_signature = "(dy, cache, *, out=None)")]
pub(crate) fn rms_norm_backward<'py>(
    py: Python<'py>,
    dy: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "rms_norm_backward";
    let Ok(cache) = cache.cast::<RMSNormCache>() else {
        return Err(type_error(NAME, "cache", "be the cache of rms_norm", describe(cache)));
    };
    let [dx, dweight, _] = backward(py, NAME, dy, &cache.get().0, &out)?;
    named(py, intern!(py, "RMSNormGradients"), (dx, dweight))
}
