//! `batch_renorm` and its backward pass.

use normkit::{Used, rstd};
use pyo3::intern;
use pyo3::prelude::*;

use crate::arguments::{Arg, compute, describe, type_error, value_error};
use crate::arrays::{Array, with_element};
use crate::batch::{check_variances, gradient, inference, input};
use crate::gradients::named;
use crate::overlap::overlaps;
use crate::parameters::{Channels, Parameter, Running, collect, statistics};

/// What the backward pass of a batch renorm needs: references to x and the parameters, and the statistics.
///
/// Attributes
/// ----------
/// mean, rstd : float64 arrays of shape (C,)
///     The mean and 1/sqrt(var + eps) that each channel was normalized with.
/// r, d : float64 arrays of shape (C,)
///     The corrections; 1 and 0 with training=False.
#[pyclass(frozen, module = "normkit")]
pub(crate) struct BatchRenormCache {
    x: Py<PyAny>,
    weight: Option<Parameter>,
    bias: Option<Parameter>,
    axis: usize,
    mean: Vec<f64>,
    rstd: Vec<f64>,
    r: Vec<f64>,
    d: Vec<f64>,
    frozen: bool,
    /// y has been written over x.
    overwritten: bool,
}

#[pymethods]
impl BatchRenormCache {
    /// The means, float64 of shape (C,).
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.mean, &[self.mean.len()])
    }

    /// 1/sqrt(var + eps), float64 of shape (C,).
    #[getter]
    fn rstd<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.rstd, &[self.rstd.len()])
    }

    /// The corrections of the deviations, float64 of shape (C,).
    #[getter]
    fn r<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.r, &[self.r.len()])
    }

    /// The corrections of the means, float64 of shape (C,).
    #[getter]
    fn d<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.d, &[self.d.len()])
    }
}

/// Batch renormalization: batch norm whose result is corrected towards what the running statistics would give, so that
/// training and inference agree where batches are small.
///
/// y = ((x - mean) / std * r + d) * weight + bias, std = sqrt(var + eps), of the batch;
/// r = clip(std / running_std, 1 / r_max, r_max), d = clip((mean - running_mean) / running_std, -d_max, d_max), from the
/// running statistics as they were. These become (1 - momentum) * running + momentum * batch in place afterwards, the
/// variance with count - running_var_ddof. With training=False y is normalized by the running statistics.
///
/// Parameters
/// ----------
/// x : float array (N, C, *spatial), or with the channels on another axis
///     Any strides. It is kept by reference in the cache, so do not change it before the backward pass.
/// running_mean, running_var : float arrays of shape (C,), (1, C), (1, C, 1, 1), ...
/// weight, bias : float arrays shaped like running_mean, optional
/// r_max : float >= 1
/// d_max : float >= 0
///     Bounds of the corrections: 1 and 0 make this batch norm. The paper raises them to 3 and 5 while it trains.
/// training : bool
/// momentum : float in [0, 1]
/// eps : float >= 0
/// axis : int
///     The channel axis of x.
/// running_var_ddof : 0 or 1
/// out : array like x, optional
///     Where to write y; in training it must not overlap x, otherwise it may be x itself, but then there is no dweight.
///
/// Returns
/// -------
/// y : array of x's shape, dtype and memory order
/// cache : BatchRenormCache
///     For batch_renorm_backward; cache.mean, cache.rstd, cache.r and cache.d are float64 arrays of shape (C,).
///
/// Raises
/// ------
/// ValueError
///     A shape, axis or value that does not fit; in training a channel with a single value; a negative running_var.
/// TypeError
///     An argument of the wrong type or dtype.
///
/// References
/// ----------
/// Ioffe 2017, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models".
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> x = np.array([[1.0], [3.0]])
/// >>> y, cache = nk.batch_renorm(x, np.zeros(1), np.ones(1), r_max=3.0, d_max=5.0, eps=0)
/// >>> y.ravel()  # as the running statistics would have it: mean 0, deviation 1
/// array([1., 3.])
/// >>> cache.r, cache.d
/// (array([1.]), array([2.]))
#[pyfunction]
#[pyo3(
    signature = (x, running_mean, running_var, weight=None, bias=None, *, r_max=Arg(None), d_max=Arg(None),
        training=Arg(None), momentum=Arg(None), eps=Arg(None), axis=Arg(None), running_var_ddof=Arg(None),
        out=Arg(None)),
    text_signature = "(x, running_mean, running_var, weight=None, bias=None, *, r_max=1.0, d_max=0.0, training=True, \
        momentum=0.1, eps=1e-05, axis=1, running_var_ddof=1, out=None)"
)]
pub(crate) fn batch_renorm<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    running_mean: &Bound<'py, PyAny>,
    running_var: &Bound<'py, PyAny>,
    weight: Option<&Bound<'py, PyAny>>,
    bias: Option<&Bound<'py, PyAny>>,
    r_max: Arg<'py>,
    d_max: Arg<'py>,
    training: Arg<'py>,
    momentum: Arg<'py>,
    eps: Arg<'py>,
    axis: Arg<'py>,
    running_var_ddof: Arg<'py>,
    out: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, BatchRenormCache)> {
    const NAME: &str = "batch_renorm";
    let (x, axis, of) = input(NAME, "x", x, &axis)?;
    let channels = Channels { count: x.shape()[axis], of: &of };
    let training = training.flag(NAME, "training", true)?;
    let eps = eps.eps(NAME, 1e-5)?;
    let momentum = momentum.float(NAME, "momentum", 0.1)?;
    if !(0.0..=1.0).contains(&momentum) {
        return Err(value_error(NAME, "momentum", "be from 0 to 1", momentum));
    }
    let r_max = r_max.float(NAME, "r_max", 1.0)?;
    if r_max.is_nan() || r_max < 1.0 {
        return Err(value_error(NAME, "r_max", "be >= 1", r_max));
    }
    let d_max = d_max.float(NAME, "d_max", 0.0)?;
    if d_max.is_nan() || d_max < 0.0 {
        return Err(value_error(NAME, "d_max", "be >= 0", d_max));
    }
    let ddof = running_var_ddof.integer(NAME, "running_var_ddof", 1)?;
    if !(0..=1).contains(&ddof) {
        return Err(value_error(NAME, "running_var_ddof", "be 0 or 1", ddof));
    }
    let weight = Parameter::optional(NAME, "weight", weight, channels)?;
    let bias = Parameter::optional(NAME, "bias", bias, channels)?;
    let apart = [
        ("x", Some(&x.given)),
        ("weight", weight.as_ref().map(|p| p.array.bind(py))),
        ("bias", bias.as_ref().map(|p| p.array.bind(py))),
    ];
    let running = [Some(running_mean), Some(running_var)];
    let Some(mut running) = Running::optional(py, NAME, running[0], running[1], channels, training, &apart)? else {
        return Err(type_error(NAME, "running_mean", "be a NumPy array", "None"));
    };
    check_variances(NAME, "running_var", &running.var.values)?;
    let others = [
        apart[0],
        apart[1],
        apart[2],
        ("running_mean", Some(running.mean.array.bind(py))),
        ("running_var", Some(running.var.array.bind(py))),
    ];
    let scale = weight.as_ref().map(|p| &p.values[..]);
    let shift = bias.as_ref().map(|p| &p.values[..]);
    let y = if training {
        Array::output(NAME, &out, &x, None, &others)?
    } else {
        Array::output(NAME, &out, &x, Some(("x", &x)), &others[1..])?
    };
    let (y, mean, rstd, r, d) = if training {
        let bounds = normkit::Bounds { r: r_max, d: d_max };
        let (means, vars) = (&running.mean.values, &running.var.values);
        let (of, r, d) = with_element!(x.dtype, E => {
            // SAFETY: from `Array::output`, for this call alone.
            let (from, mut to) = (x.tensor::<E>(), unsafe { y.tensor_mut::<E>() });
            compute(py, NAME, x.bytes(), || {
                normkit::batch_renorm(&from, axis, scale, shift, eps, [means, vars], bounds, &mut to)
            })
        })?;
        let y = y.finish()?;
        normkit::update_running(&of, momentum, ddof as f64, &mut running.mean.values, &mut running.var.values);
        if of.count > 0 {
            running.write(py)?;
        }
        (y, of.mean, of.rstd, r, d)
    } else {
        let rstds = collect(running.var.values.iter().map(|&var| rstd(var, eps)))?;
        let unmoved = |x: f64| collect(running.mean.values.iter().map(|_| x));
        let (r, d) = (unmoved(1.0)?, unmoved(0.0)?);
        let means = running.mean.values;
        let y = inference(py, NAME, &x, axis, &means, &rstds, scale, shift, &normkit::Extras::default(), y)?;
        (y, means, rstds, r, d)
    };
    // In training `out` must not overlap x.
    let overwritten = !training && out.given().is_some() && overlaps(&x.object, y.cast()?)?;
    let x = x.object.into_any().unbind();
    Ok((y, BatchRenormCache { x, weight, bias, axis, mean, rstd, r, d, frozen: !training, overwritten }))
}

/// Gradients of batch renormalization.
///
/// No gradient flows through r and d. With xhat = (x - mean) * rstd and means over a channel:
/// dx = weight * r * rstd * (dy - mean(dy) - xhat * mean(dy * xhat)), dweight = r * sum(dy * xhat) + d * sum(dy),
/// dbias = sum(dy). After a forward pass with training=False the statistics are constants: dx = weight * rstd * dy.
///
/// Parameters
/// ----------
/// dy : float array of x's shape
///     The gradient of the loss by y; any strides, and it may have another dtype than x.
/// cache : BatchRenormCache
///     From batch_renorm.
/// out : array like x, optional
///     Where to write dx; it may be dy itself.
///
/// Returns
/// -------
/// BatchRenormGradients(dx, dweight, dbias)
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
/// Ioffe 2017, section 3.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> x = np.array([[1.0], [3.0]])
/// >>> y, cache = nk.batch_renorm(x, np.zeros(1), np.ones(1), np.ones(1), r_max=3.0, d_max=5.0, eps=0)
/// >>> nk.batch_renorm_backward(np.array([[1.0], [0.0]]), cache).dweight
/// array([1.])
#[pyfunction]
#[pyo3(signature = (dy, cache, *, out=Arg(None)), text_signature = "(dy, cache, *, out=None)")]
pub(crate) fn batch_renorm_backward<'py>(
    py: Python<'py>,
    dy: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "batch_renorm_backward";
    let Ok(cache) = cache.cast::<BatchRenormCache>() else {
        return Err(type_error(NAME, "cache", "be the cache of batch_renorm", describe(cache)));
    };
    let cache = cache.get();
    if cache.overwritten && cache.weight.is_some() {
        let expected = "still have its x, which dweight needs (give batch_renorm another out)";
        return Err(value_error(NAME, "cache", expected, "one whose x was overwritten by out=x"));
    }
    let x = Array::input(NAME, "x", cache.x.bind(py))?;
    let dy = gradient(NAME, dy, &x)?;
    let dx = Array::output(NAME, &out, &x, Some(("dy", &dy)), &[("x", Some(&x.given))])?;
    let weight = cache.weight.as_ref().map(|p| &p.values[..]);
    let used = Used { mean: &cache.mean, rstd: &cache.rstd, frozen: cache.frozen };
    let (axis, corrections, operand) = (cache.axis, [&cache.r[..], &cache.d], dy.operand());
    let gradients = with_element!(x.dtype, E => {
        // SAFETY: from `Array::output`, for this call alone.
        let (from, mut to) = (x.tensor::<E>(), unsafe { dx.tensor_mut::<E>() });
        compute(py, NAME, x.bytes(), || {
            normkit::batch_renorm_backward(&operand, &from, axis, used, weight, corrections, &mut to)
        })
    })?;
    let dweight = cache.weight.as_ref().map(|p| p.like(py, &gradients.weight)).transpose()?;
    let dbias = cache.bias.as_ref().map(|p| p.like(py, &gradients.bias)).transpose()?;
    named(py, intern!(py, "BatchRenormGradients"), (dx.finish()?, dweight, dbias))
}
