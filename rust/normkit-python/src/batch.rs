//! `batch_norm` and its kin.

use std::fmt::{Display, Formatter};

use normkit::{Extras, Used, rstd};
use pyo3::intern;
use pyo3::prelude::*;

use crate::arguments::{Arg, compute, describe, type_error, value_error};
use crate::arrays::{Array, Output, with_element};
use crate::epilogue::{Epilogue, Kept};
use crate::gradients::with_residual;
use crate::overlap::overlaps;
use crate::parameters::{Channels, Parameter, Running, collect, statistics};

/// What the backward pass of a batch norm needs: references to x and the parameters, and the statistics.
///
/// Attributes
/// ----------
/// mean, rstd : float64 arrays of shape (C,)
///     The mean and 1/sqrt(var + eps) that each channel was normalized with.
#[pyclass(frozen, module = "normkit")]
pub(crate) struct BatchNormCache {
    pub(crate) x: Py<PyAny>,
    pub(crate) weight: Option<Parameter>,
    bias: Option<Parameter>,
    pub(crate) axis: usize,
    pub(crate) mean: Vec<f64>,
    pub(crate) rstd: Vec<f64>,
    frozen: bool,
    /// y has been written over x.
    overwritten: bool,
    epilogue: Kept,
}

#[pymethods]
impl BatchNormCache {
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
}

impl BatchNormCache {
    /// Of a plain training pass.
    pub(crate) fn training(
        x: Py<PyAny>,
        weight: Option<Parameter>,
        bias: Option<Parameter>,
        axis: usize,
        mean: Vec<f64>,
        rstd: Vec<f64>,
    ) -> Self {
        let epilogue = Kept::default();
        BatchNormCache { x, weight, bias, axis, mean, rstd, frozen: false, overwritten: false, epilogue }
    }
}

/// How messages call the channels of x on this axis.
pub(crate) struct OnAxis(usize);

impl Display for OnAxis {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        write!(f, "channels of x on axis {}", self.0)
    }
}

/// x, its channel axis and how messages call its channels.
pub(crate) fn input<'py>(
    function: &str,
    name: &str,
    x: &Bound<'py, PyAny>,
    axis: &Arg<'py>,
) -> PyResult<(Array<'py>, usize, OnAxis)> {
    let x = Array::input(function, name, x)?;
    if x.shape().len() < 2 {
        let found = format!("shape {}", normkit::shape_text(x.shape()));
        return Err(value_error(function, name, "have at least two axes, samples and channels", found));
    }
    let axis = axis.axis(function, 1, x.shape().len())?;
    Ok((x, axis, OnAxis(axis)))
}

/// Variances that can be used to normalize.
pub(crate) fn check_variances(function: &str, name: &str, values: &[f64]) -> PyResult<()> {
    match values.iter().position(|&var| var < 0.0) {
        Some(c) => Err(value_error(function, name, "be >= 0", format!("{} in channel {c}", values[c]))),
        None => Ok(()),
    }
}

/// Batch normalization: each channel of x is normalized by its mean and variance over all samples and positions.
///
/// y = (x - mean) / sqrt(var + eps) * weight + bias
///
/// With training=True, mean and (biased) var are those of the batch, and the running statistics, where given, become
/// (1 - momentum) * running + momentum * batch in place, the variance with count - running_var_ddof. With
/// training=False, mean and var are the running statistics, and the backward pass treats them as constants.
///
/// Parameters
/// ----------
/// x : float array (N, C, *spatial), or with the channels on another axis
///     Any strides. It is kept by reference in the cache, so do not change it before the backward pass.
/// weight, bias : float arrays of shape (C,), (1, C), (1, C, 1, 1), ..., optional
///     Scale and offset of each channel; 1 and 0 where None.
/// running_mean, running_var : float arrays shaped like weight, optional
///     Both or neither. Updated in place in training, after everything else has succeeded.
/// training : bool
/// momentum : float in [0, 1]
///     The weight of the new batch (PyTorch's sense; Keras and Flax call 1 - momentum momentum).
/// eps : float >= 0
///     Added to the variance.
/// axis : int
///     The channel axis of x.
/// running_var_ddof : 0 or 1
///     1 puts the unbiased variance into running_var (PyTorch), 0 the biased one (Keras, ONNX).
/// activation : None, "relu", "leaky_relu" (slope 0.1) or "silu"
///     Applied to the result, after the residual has been added.
/// residual : float array of x's shape, optional
///     Added to the result before the activation. It is kept by reference in the cache.
/// mask : bool array of x's shape without its channel axis, or that broadcasts to it, optional
///     True where an element counts. The others touch no statistic, whatever they are, and give y = 0 and dx = 0.
/// out : array like x, optional
///     Where to write y. In training it must not overlap x; otherwise it may be x itself, but then there is no dweight.
///
/// Returns
/// -------
/// y : array of x's shape, dtype and memory order
/// cache : BatchNormCache
///     For batch_norm_backward; cache.mean and cache.rstd are float64 arrays of shape (C,).
///
/// Raises
/// ------
/// ValueError
///     A shape, axis or value that does not fit; in training a channel with a single value; a negative running_var with
///     training=False. An empty batch is fine: y is empty and running statistics stay as they are.
/// TypeError
///     An argument of the wrong type or dtype.
///
/// References
/// ----------
/// Ioffe & Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift".
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> x = np.array([[1.0], [4.0], [1.0]], np.float32)
/// >>> y, cache = nk.batch_norm(x, eps=0)
/// >>> y.ravel()
/// array([-0.70710677,  1.4142135 , -0.70710677], dtype=float32)
/// >>> cache.mean
/// array([2.])
///
/// A training step updates the running statistics, and the backward pass gives all gradients:
///
/// >>> rng = np.random.default_rng(0)
/// >>> x = rng.standard_normal((8, 3, 4, 4), dtype=np.float32)
/// >>> weight, bias = np.ones(3, np.float32), np.zeros(3, np.float32)
/// >>> running_mean, running_var = np.zeros(3, np.float32), np.ones(3, np.float32)
/// >>> y, cache = nk.batch_norm(x, weight, bias, running_mean, running_var)
/// >>> dx, dweight, dbias = nk.batch_norm_backward(np.ones_like(y), cache)
/// >>> dx.shape, dweight.shape, dbias
/// ((8, 3, 4, 4), (3,), array([128., 128., 128.], dtype=float32))
#[pyfunction]
#[pyo3(
    signature = (x, weight=None, bias=None, running_mean=None, running_var=None, *, training=Arg(None),
        momentum=Arg(None), eps=Arg(None), axis=Arg(None), running_var_ddof=Arg(None), activation=Arg(None),
        residual=Arg(None), mask=Arg(None), out=Arg(None)),
    text_signature = "(x, weight=None, bias=None, running_mean=None, running_var=None, *, training=True, \
        momentum=0.1, eps=1e-05, axis=1, running_var_ddof=1, activation=None, residual=None, mask=None, out=None)"
)]
pub(crate) fn batch_norm<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weight: Option<&Bound<'py, PyAny>>,
    bias: Option<&Bound<'py, PyAny>>,
    running_mean: Option<&Bound<'py, PyAny>>,
    running_var: Option<&Bound<'py, PyAny>>,
    training: Arg<'py>,
    momentum: Arg<'py>,
    eps: Arg<'py>,
    axis: Arg<'py>,
    running_var_ddof: Arg<'py>,
    activation: Arg<'py>,
    residual: Arg<'py>,
    mask: Arg<'py>,
    out: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, BatchNormCache)> {
    const NAME: &str = "batch_norm";
    let (x, axis, of) = input(NAME, "x", x, &axis)?;
    let channels = Channels { count: x.shape()[axis], of: &of };
    let training = training.flag(NAME, "training", true)?;
    let eps = eps.eps(NAME, 1e-5)?;
    let momentum = momentum.float(NAME, "momentum", 0.1)?;
    if !(0.0..=1.0).contains(&momentum) {
        return Err(value_error(NAME, "momentum", "be from 0 to 1", momentum));
    }
    let ddof = running_var_ddof.integer(NAME, "running_var_ddof", 1)?;
    if !(0..=1).contains(&ddof) {
        return Err(value_error(NAME, "running_var_ddof", "be 0 or 1", ddof));
    }
    let epilogue = Epilogue::new(NAME, &activation, &residual, Some(&mask), &x, axis)?;
    let extras = epilogue.extras();
    let weight = Parameter::optional(NAME, "weight", weight, channels)?;
    let bias = Parameter::optional(NAME, "bias", bias, channels)?;
    let inputs = [
        ("x", Some(&x.given)),
        ("weight", weight.as_ref().map(|p| p.array.bind(py))),
        ("bias", bias.as_ref().map(|p| p.array.bind(py))),
        epilogue.apart()[0],
        epilogue.apart()[1],
    ];
    let running = Running::optional(py, NAME, running_mean, running_var, channels, training, &inputs)?;
    let scale = weight.as_ref().map(|p| &p.values[..]);
    let shift = bias.as_ref().map(|p| &p.values[..]);

    let apart = [
        ("x in training", Some(&x.given)),
        ("weight", weight.as_ref().map(|p| p.array.bind(py))),
        ("bias", bias.as_ref().map(|p| p.array.bind(py))),
        ("running_mean", running.as_ref().map(|r| r.mean.array.bind(py))),
        ("running_var", running.as_ref().map(|r| r.var.array.bind(py))),
        epilogue.apart()[0],
        epilogue.apart()[1],
    ];
    let (y, mean, rstds) = if training {
        let values = if channels.count == 0 { 0 } else { extras.count(x.shape(), axis) };
        if values == 1 {
            let masked = if epilogue.mask.is_some() { ", all but one masked" } else { "" };
            let found = format!("shape {}{masked}", normkit::shape_text(x.shape()));
            return Err(value_error(NAME, "x", "have more than one value per channel in training", found));
        }
        let y = Array::output(NAME, &out, &x, None, &apart)?;
        let statistics = with_element!(x.dtype, E => {
            // SAFETY: from `Array::output`, for this call alone.
            let (from, mut to) = (x.tensor::<E>(), unsafe { y.tensor_mut::<E>() });
            compute(py, NAME, x.bytes(), || normkit::batch_norm_fused(&from, axis, scale, shift, eps, &extras, &mut to))
        })?;
        let y = y.finish()?;
        if let Some(mut running) = running {
            let (mean, var) = (&mut running.mean.values, &mut running.var.values);
            normkit::update_running(&statistics, momentum, ddof as f64, mean, var);
            if statistics.count > 0 {
                running.write(py)?;
            }
        }
        (y, statistics.mean, statistics.rstd)
    } else {
        let Some(Running { mean, var }) = &running else {
            let expected = "be given with training=False, as must running_var";
            return Err(value_error(NAME, "running_mean", expected, "None"));
        };
        check_variances(NAME, "running_var", &var.values)?;
        let rstds = collect(var.values.iter().map(|&var| rstd(var, eps)))?;
        let means = collect(mean.values.iter().copied())?;
        let y = Array::output(NAME, &out, &x, Some(("x", &x)), &apart[1..])?;
        let y = inference(py, NAME, &x, axis, &mean.values, &rstds, scale, shift, &extras, y)?;
        (y, means, rstds)
    };
    // In training `out` must not overlap x.
    let overwritten = !training && out.given().is_some() && overlaps(&x.object, y.cast()?)?;
    let x = x.object.into_any().unbind();
    let cache = BatchNormCache {
        x,
        weight,
        bias,
        axis,
        mean,
        rstd: rstds,
        frozen: !training,
        overwritten,
        epilogue: epilogue.keep(),
    };
    Ok((y, cache))
}

pub(crate) fn inference<'py>(
    py: Python<'py>,
    function: &str,
    x: &Array<'py>,
    axis: usize,
    mean: &[f64],
    rstds: &[f64],
    scale: Option<&[f64]>,
    shift: Option<&[f64]>,
    extras: &Extras,
    y: Output<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    with_element!(x.dtype, E => {
        // SAFETY: from `Array::output`, for this call alone.
        let (from, mut to) = (x.tensor::<E>(), unsafe { y.tensor_mut::<E>() });
        compute(py, function, x.bytes(), || {
            normkit::batch_norm_inference_fused(&from, axis, mean, rstds, scale, shift, extras, &mut to)
        })
    })?;
    y.finish()
}

/// Batch normalization with given statistics, and nothing kept for a backward pass.
///
/// y = (x - mean) / sqrt(var + eps) * weight + bias
///
/// Parameters
/// ----------
/// x : float array (N, C, *spatial), or with the channels on another axis
/// mean, var : float arrays of shape (C,), (1, C), (1, C, 1, 1), ...
///     Statistics of each channel, usually the running ones.
/// weight, bias : float arrays shaped like mean, optional
/// eps : float >= 0
/// axis : int
///     The channel axis of x.
/// activation : None, "relu", "leaky_relu" (slope 0.1) or "silu"
///     Applied to the result, after the residual has been added.
/// residual : float array of x's shape, optional
///     Added to the result before the activation.
/// out : array like x, optional
///     Where to write y; it may be x itself.
///
/// Returns
/// -------
/// y : array of x's shape, dtype and memory order
///
/// Raises
/// ------
/// ValueError
///     A shape, axis or value that does not fit, or a negative variance.
/// TypeError
///     An argument of the wrong type or dtype.
///
/// References
/// ----------
/// Ioffe & Szegedy 2015, section 3.1.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
/// >>> nk.batch_norm_inference(x, np.array([2.0, 20.0]), np.array([1.0, 100.0]), eps=0)
/// array([[-1., -1.],
///        [ 1.,  1.]])
#[pyfunction]
#[pyo3(
    signature = (x, mean, var, weight=None, bias=None, *, eps=Arg(None), axis=Arg(None), activation=Arg(None),
        residual=Arg(None), out=Arg(None)),
    text_signature = "(x, mean, var, weight=None, bias=None, *, eps=1e-05, axis=1, activation=None, residual=None, \
        out=None)"
)]
pub(crate) fn batch_norm_inference<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    mean: &Bound<'py, PyAny>,
    var: &Bound<'py, PyAny>,
    weight: Option<&Bound<'py, PyAny>>,
    bias: Option<&Bound<'py, PyAny>>,
    eps: Arg<'py>,
    axis: Arg<'py>,
    activation: Arg<'py>,
    residual: Arg<'py>,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "batch_norm_inference";
    let (x, axis, of) = input(NAME, "x", x, &axis)?;
    let epilogue = Epilogue::new(NAME, &activation, &residual, None, &x, axis)?;
    let channels = Channels { count: x.shape()[axis], of: &of };
    let eps = eps.eps(NAME, 1e-5)?;
    let mean = Parameter::required(NAME, "mean", mean, channels)?;
    let var = Parameter::required(NAME, "var", var, channels)?;
    let weight = Parameter::optional(NAME, "weight", weight, channels)?;
    let bias = Parameter::optional(NAME, "bias", bias, channels)?;
    check_variances(NAME, "var", &var.values)?;
    let rstds = collect(var.values.iter().map(|&var| rstd(var, eps)))?;
    let scale = weight.as_ref().map(|p| &p.values[..]);
    let shift = bias.as_ref().map(|p| &p.values[..]);
    let others = [
        ("mean", Some(mean.array.bind(py))),
        ("var", Some(var.array.bind(py))),
        ("weight", weight.as_ref().map(|p| p.array.bind(py))),
        ("bias", bias.as_ref().map(|p| p.array.bind(py))),
        epilogue.apart()[0],
    ];
    let y = Array::output(NAME, &out, &x, Some(("x", &x)), &others)?;
    inference(py, NAME, &x, axis, &mean.values, &rstds, scale, shift, &epilogue.extras(), y)
}

/// Gradients of batch normalization.
///
/// With xhat = (x - mean) * rstd and means over a channel: dx = weight * rstd * (dy - mean(dy) - xhat * mean(dy * xhat)),
/// dweight = sum(dy * xhat), dbias = sum(dy). After a forward pass with training=False the statistics are constants:
/// dx = weight * rstd * dy. With an activation, dy stands for dy * slope, which is taken from x (and the residual) again.
///
/// Parameters
/// ----------
/// dy : float array of x's shape
///     The gradient of the loss by y; any strides, and it may have another dtype than x.
/// cache : BatchNormCache
///     From batch_norm.
/// out : array like x, optional
///     Where to write dx; it may be dy itself.
///
/// Returns
/// -------
/// BatchNormGradients(dx, dweight, dbias), with a residual BatchNormResidualGradients(dx, dweight, dbias, dresidual)
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
/// Ioffe & Szegedy 2015, section 3.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> x = np.array([[1.0], [4.0], [1.0]])
/// >>> y, cache = nk.batch_norm(x, np.array([2.0]), np.array([0.0]))
/// >>> gradients = nk.batch_norm_backward(np.array([[1.0], [0.0], [0.0]]), cache)
/// >>> gradients.dweight.round(4), gradients.dbias
/// (array([-0.7071]), array([1.]))
#[pyfunction]
#[pyo3(signature = (dy, cache, *, out=Arg(None)), text_signature = "(dy, cache, *, out=None)")]
pub(crate) fn batch_norm_backward<'py>(
    py: Python<'py>,
    dy: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "batch_norm_backward";
    let Ok(cache) = cache.cast::<BatchNormCache>() else {
        return Err(type_error(NAME, "cache", "be the cache of batch_norm", describe(cache)));
    };
    let cache = cache.get();
    if cache.overwritten && (cache.weight.is_some() || cache.epilogue.needs_x()) {
        let expected = "still have its x, which the gradient needs (give batch_norm another out)";
        return Err(value_error(NAME, "cache", expected, "one whose x was overwritten by out=x"));
    }
    let x = Array::input(NAME, "x", cache.x.bind(py))?;
    let dy = gradient(NAME, dy, &x)?;
    let epilogue = cache.epilogue.back(py, NAME)?;
    let [residual, mask] = epilogue.apart();
    let dx = Array::output(NAME, &out, &x, Some(("dy", &dy)), &[("x", Some(&x.given)), residual, mask])?;
    let dresidual = epilogue.residual.as_ref().map(Array::like).transpose()?;
    let weight = cache.weight.as_ref().map(|p| &p.values[..]);
    let bias = cache.bias.as_ref().map(|p| &p.values[..]);
    let used = Used { mean: &cache.mean, rstd: &cache.rstd, frozen: cache.frozen };
    let (axis, extras, operand) = (cache.axis, epilogue.extras(), dy.operand());
    let dtype = dresidual.as_ref().map_or(x.dtype, |of| of.dtype);
    let gradients = with_element!(x.dtype, E => with_element!(dtype, R => {
        // SAFETY: from `Array::output` and `Array::like`, for this call alone.
        let (from, mut to) = (x.tensor::<E>(), unsafe { dx.tensor_mut::<E>() });
        // SAFETY: as above.
        let mut beside = dresidual.as_ref().map(|of| unsafe { of.tensor_mut::<R>() });
        compute(py, NAME, x.bytes(), || {
            let beside = beside.as_mut();
            normkit::batch_norm_fused_backward(&operand, &from, axis, used, weight, bias, &extras, &mut to, beside)
        })
    }))?;
    let dweight = cache.weight.as_ref().map(|p| p.like(py, &gradients.weight)).transpose()?;
    let dbias = cache.bias.as_ref().map(|p| p.like(py, &gradients.bias)).transpose()?;
    let classes = [intern!(py, "BatchNormGradients"), intern!(py, "BatchNormResidualGradients")];
    with_residual(py, classes, dx.finish()?, dweight, dbias, dresidual)
}

/// The gradient of y: it must have x's shape.
pub(crate) fn gradient<'py>(function: &str, dy: &Bound<'py, PyAny>, x: &Array<'py>) -> PyResult<Array<'py>> {
    let dy = Array::input(function, "dy", dy)?;
    if dy.shape() == x.shape() {
        return Ok(dy);
    }
    let expected = format!("have the shape of x, {}", normkit::shape_text(x.shape()));
    Err(value_error(function, "dy", expected, format!("shape {}", normkit::shape_text(dy.shape()))))
}
