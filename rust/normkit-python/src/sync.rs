//! The halves of batch norm, for `SyncBatchNorm`: what ranks compute between their exchanges.

use normkit::{Extras, ParameterGradients, Used};
use pyo3::prelude::*;

use crate::arguments::{Arg, compute, describe, type_error};
use crate::arrays::{Array, with_element};
use crate::batch::{BatchNormCache, check_variances, gradient, inference, input};
use crate::parameters::{Channels, Parameter, collect, statistics};

/// The training forward pass with statistics that the caller has gathered: (y, cache).
#[pyfunction]
#[pyo3(
    signature = (x, mean, var, weight=None, bias=None, *, eps=Arg(None), axis=Arg(None), out=Arg(None)),
    text_signature = "(x, mean, var, weight=None, bias=None, *, eps=1e-05, axis=1, out=None)"
)]
pub(crate) fn batch_norm_with_statistics<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    mean: &Bound<'py, PyAny>,
    var: &Bound<'py, PyAny>,
    weight: Option<&Bound<'py, PyAny>>,
    bias: Option<&Bound<'py, PyAny>>,
    eps: Arg<'py>,
    axis: Arg<'py>,
    out: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, BatchNormCache)> {
    const NAME: &str = "batch_norm_with_statistics";
    let (x, axis, of) = input(NAME, "x", x, &axis)?;
    let channels = Channels { count: x.shape()[axis], of: &of };
    let eps = eps.eps(NAME, 1e-5)?;
    let mean = Parameter::required(NAME, "mean", mean, channels)?;
    let var = Parameter::required(NAME, "var", var, channels)?;
    let weight = Parameter::optional(NAME, "weight", weight, channels)?;
    let bias = Parameter::optional(NAME, "bias", bias, channels)?;
    check_variances(NAME, "var", &var.values)?;
    let rstd = collect(var.values.iter().map(|&var| normkit::rstd(var, eps)))?;
    let scale = weight.as_ref().map(|p| &p.values[..]);
    let shift = bias.as_ref().map(|p| &p.values[..]);
    let apart = [
        ("x in training", Some(&x.given)),
        ("weight", weight.as_ref().map(|p| p.array.bind(py))),
        ("bias", bias.as_ref().map(|p| p.array.bind(py))),
    ];
    let y = Array::output(NAME, &out, &x, None, &apart)?;
    let y = inference(py, NAME, &x, axis, &mean.values, &rstd, scale, shift, &Extras::default(), y)?;
    let x = x.object.into_any().unbind();
    Ok((y, BatchNormCache::training(x, weight, bias, axis, mean.values, rstd)))
}

fn cache_of<'a, 'py>(function: &str, cache: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, BatchNormCache>> {
    cache
        .cast::<BatchNormCache>()
        .map_err(|_| type_error(function, "cache", "be the cache of batch_norm_with_statistics", describe(cache)))
}

/// sum(dy * (x - mean)) and sum(dy) of each channel of this process's x, float64.
#[pyfunction]
pub(crate) fn batch_norm_gradient_sums<'py>(
    py: Python<'py>,
    dy: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    const NAME: &str = "batch_norm_gradient_sums";
    let cache = cache_of(NAME, cache)?.get();
    let x = Array::input(NAME, "x", cache.x.bind(py))?;
    let dy = gradient(NAME, dy, &x)?;
    let (axis, mean) = (cache.axis, &cache.mean);
    let sums = with_element!(x.dtype, E => with_element!(dy.dtype, G => {
        let (dy, from) = (dy.tensor::<G>(), x.tensor::<E>());
        compute(py, NAME, x.bytes(), move || normkit::batch_norm_gradient_sums(&dy, &from, axis, mean))
    }))?;
    let shape = [cache.mean.len()];
    Ok((statistics(py, &sums.weight, &shape)?, statistics(py, &sums.bias, &shape)?))
}

/// dx = weight * rstd * (dy - total / count - (x - mean) * rstd**2 * dot / count) by sums over all processes.
#[pyfunction]
#[pyo3(
    signature = (dy, cache, dot, total, count, *, out=Arg(None)),
    text_signature = "(dy, cache, dot, total, count, *, out=None)"
)]
pub(crate) fn batch_norm_gradient_apply<'py>(
    py: Python<'py>,
    dy: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    dot: &Bound<'py, PyAny>,
    total: &Bound<'py, PyAny>,
    count: f64,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "batch_norm_gradient_apply";
    let cache = cache_of(NAME, cache)?.get();
    let x = Array::input(NAME, "x", cache.x.bind(py))?;
    let dy = gradient(NAME, dy, &x)?;
    let channels = Channels { count: cache.mean.len(), of: &"channels of x" };
    let weight = Parameter::required(NAME, "dot", dot, channels)?.values;
    let bias = Parameter::required(NAME, "total", total, channels)?.values;
    let sums = ParameterGradients { weight, bias };
    let dx = Array::output(NAME, &out, &x, Some(("dy", &dy)), &[("x", Some(&x.given))])?;
    let weight = cache.weight.as_ref().map(|p| &p.values[..]);
    let (axis, used) = (cache.axis, Used { mean: &cache.mean, rstd: &cache.rstd, frozen: false });
    with_element!(x.dtype, E => with_element!(dy.dtype, G => {
        // SAFETY: from `Array::output`, for this call alone.
        let (dy, from, mut to) = (dy.tensor::<G>(), x.tensor::<E>(), unsafe { dx.tensor_mut::<E>() });
        compute(py, NAME, x.bytes(), || {
            normkit::batch_norm_gradient_apply(&dy, &from, axis, used, weight, &sums, count, &mut to)
        })
    }))?;
    dx.finish()
}
