//! `group_norm` and `instance_norm`, and their backward passes.

use normkit::Grouping;
use pyo3::intern;
use pyo3::prelude::*;

use crate::arguments::{Arg, compute, describe, integer, type_error, value_error};
use crate::arrays::{Array, with_element};
use crate::batch::{gradient, input};
use crate::epilogue::{Epilogue, Kept};
use crate::gradients::{Classes, with_residual};
use crate::parameters::{Channels, Parameter, statistics};

/// What the backward pass of a group norm needs: references to x and the parameters, and the statistics.
///
/// Attributes
/// ----------
/// mean, rstd : float64 arrays of shape (N, num_groups)
///     The mean and 1/sqrt(var + eps) that each group was normalized with.
#[pyclass(frozen, module = "normkit")]
pub(crate) struct GroupNormCache(Cache);

/// What the backward pass of an instance norm needs: references to x and the parameters, and the statistics.
///
/// Attributes
/// ----------
/// mean, rstd : float64 arrays of shape (N, C)
///     The mean and 1/sqrt(var + eps) that each channel of each sample was normalized with.
#[pyclass(frozen, module = "normkit")]
pub(crate) struct InstanceNormCache(Cache);

struct Cache {
    x: Py<PyAny>,
    weight: Option<Parameter>,
    bias: Option<Parameter>,
    axis: usize,
    samples: usize,
    groups: usize,
    mean: Vec<f64>,
    rstd: Vec<f64>,
    epilogue: Kept,
}

impl Cache {
    fn statistics<'py>(&self, py: Python<'py>, values: &[f64]) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, values, &[values.len().checked_div(self.groups).unwrap_or(self.samples), self.groups])
    }
}

#[pymethods]
impl GroupNormCache {
    /// The means, float64 of shape (N, num_groups).
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.statistics(py, &self.0.mean)
    }

    /// 1/sqrt(var + eps), float64 of shape (N, num_groups).
    #[getter]
    fn rstd<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.statistics(py, &self.0.rstd)
    }
}

#[pymethods]
impl InstanceNormCache {
    /// The means, float64 of shape (N, C).
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.statistics(py, &self.0.mean)
    }

    /// 1/sqrt(var + eps), float64 of shape (N, C).
    #[getter]
    fn rstd<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.statistics(py, &self.0.rstd)
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
/// x : float array (N, C, *spatial), or with the channels on another axis; samples are the first of the others
///     Any strides. It is kept by reference in the cache, so do not change it before the backward pass.
/// num_groups : int
///     Divides C.
/// weight, bias : float arrays of shape (C,), (1, C), (1, C, 1, 1), ..., optional
///     Scale and offset of each channel; 1 and 0 where None.
/// eps : float >= 0
///     Added to the variance.
/// axis : int
///     The channel axis of x.
/// activation : None, "relu", "leaky_relu" (slope 0.1) or "silu"
///     Applied to the result, after the residual has been added.
/// residual : float array of x's shape, optional
///     Added to the result before the activation. It is kept by reference in the cache.
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
    signature = (x, num_groups, weight=None, bias=None, *, eps=Arg(None), axis=Arg(None), activation=Arg(None),
        residual=Arg(None), out=Arg(None)),
    text_signature = "(x, num_groups, weight=None, bias=None, *, eps=1e-05, axis=1, activation=None, residual=None, \
        out=None)"
)]
pub(crate) fn group_norm<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    num_groups: &Bound<'py, PyAny>,
    weight: Option<&Bound<'py, PyAny>>,
    bias: Option<&Bound<'py, PyAny>>,
    eps: Arg<'py>,
    axis: Arg<'py>,
    activation: Arg<'py>,
    residual: Arg<'py>,
    out: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, GroupNormCache)> {
    const NAME: &str = "group_norm";
    let (x, axis, of) = input(NAME, "x", x, &axis)?;
    let channels = Channels { count: x.shape()[axis], of: &of };
    let groups = integer(NAME, "num_groups", num_groups)?;
    if groups < 1 || groups > channels.count.max(1) as i64 || channels.count as i64 % groups != 0 {
        let expected = format!("be at least 1 and divide {} ({of})", channels.count);
        return Err(value_error(NAME, "num_groups", expected, groups));
    }
    let epilogue = Epilogue::new(NAME, &activation, &residual, None, &x, axis)?;
    let (y, cache) = forward(py, NAME, x, axis, groups as usize, weight, bias, &eps, epilogue, &out, channels)?;
    Ok((y, GroupNormCache(cache)))
}

/// Any grouping.
fn forward<'py>(
    py: Python<'py>,
    function: &str,
    x: Array<'py>,
    axis: usize,
    groups: usize,
    weight: Option<&Bound<'py, PyAny>>,
    bias: Option<&Bound<'py, PyAny>>,
    eps: &Arg<'py>,
    epilogue: Epilogue<'py>,
    out: &Arg<'py>,
    channels: Channels,
) -> PyResult<(Bound<'py, PyAny>, Cache)> {
    let eps = eps.eps(function, 1e-5)?;
    let weight = Parameter::optional(function, "weight", weight, channels)?;
    let bias = Parameter::optional(function, "bias", bias, channels)?;
    let scale = weight.as_ref().map(|p| &p.values[..]);
    let shift = bias.as_ref().map(|p| &p.values[..]);
    let apart = [
        ("x", Some(&x.given)),
        ("weight", weight.as_ref().map(|p| p.array.bind(py))),
        ("bias", bias.as_ref().map(|p| p.array.bind(py))),
        epilogue.apart()[0],
    ];
    let y = Array::output(function, out, &x, None, &apart)?;
    let samples = x.shape()[usize::from(axis == 0)];
    let (grouping, extras) = (Grouping::new(groups), epilogue.extras());
    let statistics = if groups == 0 {
        normkit::Statistics::default() // no channels, nothing to do
    } else {
        with_element!(x.dtype, E => {
            // SAFETY: from `Array::output`, for this call alone.
            let (from, mut to) = (x.tensor::<E>(), unsafe { y.tensor_mut::<E>() });
            compute(py, function, x.bytes(), || {
                normkit::group_norm_fused(&from, axis, grouping, scale, shift, eps, &extras, &mut to)
            })
        })?
    };
    let y = y.finish()?;
    let x = x.object.into_any().unbind();
    let normkit::Statistics { mean, rstd, .. } = statistics;
    Ok((y, Cache { x, weight, bias, axis, samples, groups, mean, rstd, epilogue: epilogue.keep() }))
}

/// Instance normalization: each channel of each sample is normalized by its own mean and variance.
///
/// y = (x - mean) / sqrt(var + eps) * weight + bias
///
/// Mean and (biased) var are those of all positions of one channel of one sample, in training and inference alike.
///
/// Parameters
/// ----------
/// x : float array (N, C, *spatial), or with the channels on another axis; samples are the first of the others
///     Any strides. It is kept by reference in the cache, so do not change it before the backward pass.
/// weight, bias : float arrays of shape (C,), (1, C), (1, C, 1, 1), ..., optional
///     Scale and offset of each channel; 1 and 0 where None.
/// eps : float >= 0
///     Added to the variance.
/// axis : int
///     The channel axis of x.
/// activation : None, "relu", "leaky_relu" (slope 0.1) or "silu"
///     Applied to the result, after the residual has been added.
/// residual : float array of x's shape, optional
///     Added to the result before the activation. It is kept by reference in the cache.
/// out : array like x, optional
///     Where to write y. It must not overlap x.
///
/// Returns
/// -------
/// y : array of x's shape, dtype and memory order
/// cache : InstanceNormCache
///     For instance_norm_backward; cache.mean and cache.rstd are float64 arrays of shape (N, C).
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
/// Ulyanov, Vedaldi & Lempitsky 2016, "Instance Normalization: The Missing Ingredient for Fast Stylization".
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> x = np.array([[[1.0, 3.0], [10.0, 30.0]]])
/// >>> y, cache = nk.instance_norm(x, eps=0)
/// >>> y
/// array([[[-1.,  1.],
///         [-1.,  1.]]])
/// >>> cache.mean
/// array([[ 2., 20.]])
#[pyfunction]
#[pyo3(
    signature = (x, weight=None, bias=None, *, eps=Arg(None), axis=Arg(None), activation=Arg(None),
        residual=Arg(None), out=Arg(None)),
    text_signature = "(x, weight=None, bias=None, *, eps=1e-05, axis=1, activation=None, residual=None, out=None)"
)]
pub(crate) fn instance_norm<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weight: Option<&Bound<'py, PyAny>>,
    bias: Option<&Bound<'py, PyAny>>,
    eps: Arg<'py>,
    axis: Arg<'py>,
    activation: Arg<'py>,
    residual: Arg<'py>,
    out: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, InstanceNormCache)> {
    const NAME: &str = "instance_norm";
    let (x, axis, of) = input(NAME, "x", x, &axis)?;
    let channels = Channels { count: x.shape()[axis], of: &of };
    let epilogue = Epilogue::new(NAME, &activation, &residual, None, &x, axis)?;
    let groups = channels.count;
    let (y, cache) = forward(py, NAME, x, axis, groups, weight, bias, &eps, epilogue, &out, channels)?;
    Ok((y, InstanceNormCache(cache)))
}

/// Gradients of group normalization.
///
/// With xhat = (x - mean) * rstd, g = weight * dy and means over a group: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),
/// dweight = sum(dy * xhat) and dbias = sum(dy) over samples and positions.
///
/// Parameters
/// ----------
/// dy : float array of x's shape
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
    let Ok(cache) = cache.cast::<GroupNormCache>() else {
        return Err(type_error(NAME, "cache", "be the cache of group_norm", describe(cache)));
    };
    let classes = [intern!(py, "GroupNormGradients"), intern!(py, "GroupNormResidualGradients")];
    backward(py, NAME, classes, dy, &cache.get().0, &out)
}

/// Any grouping.
fn backward<'py>(
    py: Python<'py>,
    function: &str,
    classes: Classes<'_, 'py>,
    dy: &Bound<'py, PyAny>,
    cache: &Cache,
    out: &Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let x = Array::input(function, "x", cache.x.bind(py))?;
    let dy = gradient(function, dy, &x)?;
    let epilogue = cache.epilogue.back(py, function)?;
    let apart = [("x", Some(&x.given)), epilogue.apart()[0]];
    let dx = Array::output(function, out, &x, Some(("dy", &dy)), &apart)?;
    let dresidual = epilogue.residual.as_ref().map(Array::like).transpose()?;
    let weight = cache.weight.as_ref().map(|p| &p.values[..]);
    let bias = cache.bias.as_ref().map(|p| &p.values[..]);
    let (axis, grouping, mean, rstd) = (cache.axis, Grouping::new(cache.groups), &cache.mean, &cache.rstd);
    let (extras, operand) = (epilogue.extras(), dy.operand());
    let dtype = dresidual.as_ref().map_or(x.dtype, |of| of.dtype);
    let gradients = if cache.groups == 0 {
        normkit::ParameterGradients::default() // no channels, nothing to do
    } else {
        with_element!(x.dtype, E => with_element!(dtype, R => {
            // SAFETY: from `Array::output` and `Array::like`, for this call alone.
            let (from, mut to) = (x.tensor::<E>(), unsafe { dx.tensor_mut::<E>() });
            // SAFETY: as above.
            let mut beside = dresidual.as_ref().map(|of| unsafe { of.tensor_mut::<R>() });
            compute(py, function, x.bytes(), || {
                normkit::group_norm_fused_backward(
                    &operand, &from, axis, grouping, mean, rstd, weight, bias, &extras, &mut to, beside.as_mut(),
                )
            })
        }))?
    };
    let dweight = cache.weight.as_ref().map(|p| p.like(py, &gradients.weight)).transpose()?;
    let dbias = cache.bias.as_ref().map(|p| p.like(py, &gradients.bias)).transpose()?;
    with_residual(py, classes, dx.finish()?, dweight, dbias, dresidual)
}

/// Gradients of instance normalization.
///
/// With xhat = (x - mean) * rstd and means over the positions of a channel of a sample:
/// dx = weight * rstd * (dy - mean(dy) - xhat * mean(dy * xhat)), dweight = sum(dy * xhat) and dbias = sum(dy) over
/// samples and positions. With an activation, dy stands for dy * slope.
///
/// Parameters
/// ----------
/// dy : float array of x's shape
///     The gradient of the loss by y; any strides, and it may have another dtype than x.
/// cache : InstanceNormCache
///     From instance_norm.
/// out : array like x, optional
///     Where to write dx; it may be dy itself.
///
/// Returns
/// -------
/// InstanceNormGradients(dx, dweight, dbias), with a residual InstanceNormResidualGradients(…, dresidual)
///     dx has x's shape, dtype and memory order; the others have those of what they belong to, and are None where that
///     was None.
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
/// Ulyanov, Vedaldi & Lempitsky 2016.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> x = np.random.default_rng(0).standard_normal((2, 3, 5, 5))
/// >>> y, cache = nk.instance_norm(x, np.ones(3), np.zeros(3))
/// >>> dx, dweight, dbias = nk.instance_norm_backward(y, cache)
/// >>> bool(abs(dx).max() < 1e-4)  # y itself is a direction that normalization takes out
/// True
#[pyfunction]
#[pyo3(signature = (dy, cache, *, out=Arg(None)), text_signature = "(dy, cache, *, out=None)")]
pub(crate) fn instance_norm_backward<'py>(
    py: Python<'py>,
    dy: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "instance_norm_backward";
    let Ok(cache) = cache.cast::<InstanceNormCache>() else {
        return Err(type_error(NAME, "cache", "be the cache of instance_norm", describe(cache)));
    };
    let classes = [intern!(py, "InstanceNormGradients"), intern!(py, "InstanceNormResidualGradients")];
    backward(py, NAME, classes, dy, &cache.get().0, &out)
}
