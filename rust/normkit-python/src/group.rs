//! `group_norm` and its backward pass.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use crate::arguments::{Arg, compute, describe, integer, type_error, value_error};
use crate::arrays::{Array, Channels, Parameter, statistics, with_element};
use crate::batch::{gradient, input};

/// What the backward pass of a group norm needs: references to x and the parameters, and the statistics.
///
/// Attributes
/// ----------
/// mean, rstd : float64 arrays of shape (N, num_groups)
///     The mean and 1/sqrt(var + eps) that each group was normalized with.
#[pyclass(frozen, module = "normkit")]
pub(crate) struct GroupNormCache {
    x: Py<PyAny>,
    weight: Option<Parameter>,
    bias: Option<Parameter>,
    axis: usize,
    groups: usize,
    mean: Vec<f64>,
    rstd: Vec<f64>,
}

impl GroupNormCache {
    fn statistics<'py>(&self, py: Python<'py>, values: &[f64]) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, values, &[values.len() / self.groups, self.groups])
    }
}

#[pymethods]
impl GroupNormCache {
    /// The means, float64 of shape (N, num_groups).
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.statistics(py, &self.mean)
    }

    /// 1/sqrt(var + eps), float64 of shape (N, num_groups).
    #[getter]
    fn rstd<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.statistics(py, &self.rstd)
    }
}

/// Group normalization: the channels of each sample are normalized in groups of adjacent ones.
///
/// y = (x - mean) / sqrt(var + eps) * weight + bias
///
/// Mean and (biased) var are those of a group: C / num_groups channels at all positions of one sample. They do not
/// depend on the batch, so training and inference are the same. num_groups=1 normalizes whole samples, num_groups=C
/// each channel of each sample.
///
/// Parameters
/// ----------
/// x : float32 or float64 array (N, C, *spatial), or with the channels on another axis; samples are the first of the others
///     Any strides. It is kept by reference in the cache, so do not change it before the backward pass.
/// num_groups : int
///     Divides C.
/// weight, bias : float arrays of shape (C,), (1, C), (1, C, 1, 1), ..., optional
///     Scale and offset of each channel; 1 and 0 where None.
/// eps : float >= 0
///     Added to the variance.
/// axis : int
///     The channel axis of x.
/// out : array like x, optional
///     Where to write y. It must not overlap x.
///
/// Returns
/// -------
/// y : array of x's shape, dtype and memory order
/// cache : GroupNormCache
///     For group_norm_backward; cache.mean and cache.rstd are float64 arrays of shape (N, num_groups).
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
/// Wu & He 2018, "Group Normalization".
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> x = np.array([[1.0, 3.0, 10.0, 30.0]])
/// >>> y, cache = nk.group_norm(x, 2, eps=0)
/// >>> y
/// array([[-1.,  1., -1.,  1.]])
/// >>> cache.mean
/// array([[ 2., 20.]])
#[pyfunction]
#[pyo3(
    signature = (x, num_groups, weight=None, bias=None, *, eps=Arg(None), axis=Arg(None), out=Arg(None)),
    text_signature = "(x, num_groups, weight=None, bias=None, *, eps=1e-05, axis=1, out=None)"
)]
pub(crate) fn group_norm<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    num_groups: &Bound<'py, PyAny>,
    weight: Option<&Bound<'py, PyAny>>,
    bias: Option<&Bound<'py, PyAny>>,
    eps: Arg<'py>,
    axis: Arg<'py>,
    out: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, GroupNormCache)> {
    const NAME: &str = "group_norm";
    let (x, axis, of) = input(NAME, x, &axis)?;
    let channels = Channels { count: x.shape()[axis], of: &of };
    let groups = integer(NAME, "num_groups", num_groups)?;
    if groups < 1 || groups > channels.count.max(1) as i64 || channels.count as i64 % groups != 0 {
        let expected = format!("be at least 1 and divide {} ({of})", channels.count);
        return Err(value_error(NAME, "num_groups", expected, groups));
    }
    let groups = groups as usize;
    let eps = eps.eps(NAME, 1e-5)?;
    let weight = Parameter::optional(NAME, "weight", weight, channels)?;
    let bias = Parameter::optional(NAME, "bias", bias, channels)?;
    let scale = weight.as_ref().map(|p| &p.values[..]);
    let shift = bias.as_ref().map(|p| &p.values[..]);
    let apart = [
        ("x", Some(&x.given)),
        ("weight", weight.as_ref().map(|p| p.array.bind(py))),
        ("bias", bias.as_ref().map(|p| p.array.bind(py))),
    ];
    let y = Array::output(NAME, &out, &x, None, &apart)?;
    let statistics = with_element!(x.dtype, E => {
        // SAFETY: from `Array::output`, for this call alone.
        let (from, mut to) = (x.tensor::<E>(), unsafe { y.tensor_mut::<E>() });
        compute(py, NAME, x.bytes(), move || normkit::group_norm(&from, axis, groups, scale, shift, eps, &mut to))
    })?;
    let y = y.finish()?;
    let x = x.object.into_any().unbind();
    let cache = GroupNormCache { x, weight, bias, axis, groups, mean: statistics.mean, rstd: statistics.rstd };
    Ok((y, cache))
}

/// Gradients of group normalization.
///
/// With xhat = (x - mean) * rstd, g = weight * dy and means over a group: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),
/// dweight = sum(dy * xhat) and dbias = sum(dy) over samples and positions.
///
/// Parameters
/// ----------
/// dy : float32 or float64 array of x's shape
///     The gradient of the loss by y; any strides, and it may have another dtype than x.
/// cache : GroupNormCache
///     From group_norm.
/// out : array like x, optional
///     Where to write dx; it may be dy itself.
///
/// Returns
/// -------
/// GroupNormGradients(dx, dweight, dbias)
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
/// Wu & He 2018.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> x = np.random.default_rng(0).standard_normal((2, 4, 5, 5))
/// >>> y, cache = nk.group_norm(x, 2, np.ones(4), np.zeros(4))
/// >>> dx, dweight, dbias = nk.group_norm_backward(y, cache)
/// >>> bool(abs(dx).max() < 1e-4)  # y itself is the one direction that normalization takes out
/// True
#[pyfunction]
#[pyo3(signature = (dy, cache, *, out=Arg(None)), text_signature = "(dy, cache, *, out=None)")]
pub(crate) fn group_norm_backward<'py>(
    py: Python<'py>,
    dy: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "group_norm_backward";
    static GRADIENTS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let Ok(cache) = cache.cast::<GroupNormCache>() else {
        return Err(type_error(NAME, "cache", "be the cache of group_norm", describe(cache)));
    };
    let cache = cache.get();
    let x = Array::input(NAME, "x", cache.x.bind(py))?;
    let dy = gradient(NAME, dy, &x)?;
    let dx = Array::output(NAME, &out, &x, Some(("dy", &dy)), &[("x", Some(&x.given))])?;
    let weight = cache.weight.as_ref().map(|p| &p.values[..]);
    let (axis, groups, mean, rstd) = (cache.axis, cache.groups, &cache.mean, &cache.rstd);
    let gradients = with_element!(x.dtype, E => with_element!(dy.dtype, G => {
        // SAFETY: from `Array::output`, for this call alone.
        let (dy, from, mut to) = (dy.tensor::<G>(), x.tensor::<E>(), unsafe { dx.tensor_mut::<E>() });
        compute(py, NAME, x.bytes(), move || {
            normkit::group_norm_backward(&dy, &from, axis, groups, mean, rstd, weight, &mut to)
        })
    }))?;
    let dweight = cache.weight.as_ref().map(|p| p.like(py, &gradients.weight)).transpose()?;
    let dbias = cache.bias.as_ref().map(|p| p.like(py, &gradients.bias)).transpose()?;
    let class = GRADIENTS.import(py, "normkit._gradients", "GroupNormGradients")?;
    class.call1(PyTuple::new(py, [Some(dx.finish()?), dweight, dbias])?)
}
