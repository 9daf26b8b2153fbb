//! Parametric normalizers: `weight_norm`, `spectral_norm`, `scaled_weight_standardization` and their backward passes.

use normkit::{SingularTriple, Standardized, shape_text};
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::intern;
use pyo3::prelude::*;

use crate::arguments::{Arg, compute, describe, integer, type_error, value_error};
use crate::arrays::{Array, Output, with_element};
use crate::gradients::named;
use crate::parameters::{Channels, Parameter, statistics};

/// An axis of the weight called `name`.
fn axis(function: &str, name: &str, dim: i64, weight: &Array) -> PyResult<usize> {
    let n = weight.shape().len() as i64;
    if (-n..n).contains(&dim) {
        return Ok(dim.rem_euclid(n) as usize);
    }
    Err(value_error(function, "dim", format!("be an axis of {name}, from {} to {}", -n, n - 1), dim))
}

/// A float array to read with at least so many axes.
fn input<'py>(function: &str, name: &str, object: &Bound<'py, PyAny>, ndim: usize) -> PyResult<Array<'py>> {
    let array = Array::input(function, name, object)?;
    if array.shape().len() >= ndim {
        return Ok(array);
    }
    let expected = if ndim == 1 { "have at least one axis" } else { "have at least two axes, those of channels" };
    Err(value_error(function, name, expected, format!("shape {}", shape_text(array.shape()))))
}

/// The gradient of the weight called `name`, of its shape.
fn gradient<'py>(
    function: &str,
    object: &Bound<'py, PyAny>,
    (name, weight): (&str, &Array<'py>),
) -> PyResult<Array<'py>> {
    let dw = Array::input(function, "dw", object)?;
    if dw.shape() == weight.shape() {
        return Ok(dw);
    }
    let expected = format!("have the shape of {name}, {}", shape_text(weight.shape()));
    Err(value_error(function, "dw", expected, format!("shape {}", shape_text(dw.shape()))))
}

/// Where the gradient of the weight called `name` goes: it may be `dw` itself.
fn output<'py>(
    function: &str,
    out: &Arg<'py>,
    (name, weight): (&str, &Array<'py>),
    dw: &Array<'py>,
) -> PyResult<Output<'py>> {
    if let Some(array) = out.0.as_ref().and_then(|out| out.cast::<PyUntypedArray>().ok()) {
        if array.shape() != weight.shape() {
            let expected = format!("have the shape of {name}, {}", shape_text(weight.shape()));
            return Err(value_error(function, "out", expected, format!("shape {}", shape_text(array.shape()))));
        }
        let (found, expected) = (array.dtype(), weight.object.dtype());
        if found.kind() != expected.kind() || found.itemsize() != expected.itemsize() {
            let expected = format!("have the dtype of {name}, {expected}");
            return Err(type_error(function, "out", expected, format!("dtype {found}")));
        }
    }
    Array::output(function, out, weight, Some(("dw", dw)), &[(name, Some(&weight.given))])
}

/// g; of the whole weight it may be an array of no axes too, as PyTorch has it.
fn scale(function: &str, g: &Bound<'_, PyAny>, dim: Option<usize>, channels: Channels) -> PyResult<Parameter> {
    match g.cast_exact::<PyUntypedArray>() {
        Ok(array) if dim.is_none() && array.ndim() == 0 => {
            let line = array.call_method1("reshape", (1,))?;
            Ok(Parameter { array: array.clone().unbind(), ..Parameter::required(function, "g", &line, channels)? })
        }
        _ => Parameter::required(function, "g", g, channels),
    }
}

/// What the backward pass of a weight norm needs: references to v and g, and the norms.
///
/// Attributes
/// ----------
/// norm : float64 array of shape (v.shape[dim],), or (1,) where dim is None
///     The norms of v.
#[pyclass(frozen, module = "normkit")]
pub(crate) struct WeightNormCache {
    v: Py<PyAny>,
    g: Parameter,
    dim: Option<usize>,
    norm: Vec<f64>,
}

#[pymethods]
impl WeightNormCache {
    /// The norms of v, float64.
    #[getter]
    fn norm<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.norm, &[self.norm.len()])
    }
}

/// Weight normalization: the direction of a weight is v, its length is g.
///
/// w = g * v / norm(v), the Euclidean norm over all axes but dim.
///
/// Parameters
/// ----------
/// v : float array of any shape
///     Any strides. It is kept by reference in the cache, so do not change it before the backward pass.
/// g : float array with one element for each position of dim
///     Shaped (n,), or as it broadcasts: (n, 1, 1, 1). One element, shaped (1,) or (), where dim is None.
/// dim : int or None
///     The axis whose positions have a norm each, counted as in NumPy; None is one norm of all of v. (PyTorch's -1 is
///     None here.)
///
/// Returns
/// -------
/// w : array of v's shape, dtype and memory order
///     A new one. Computed in float64 and rounded once; squares that leave v's dtype do no harm. Where v is all zeros
///     its direction is not defined: w is zero there, and so are the gradients (PyTorch gives NaN). So are float64
///     norms below 5.6e-309, whose inverse is infinite.
/// cache : WeightNormCache
///     For weight_norm_backward; cache.norm are the norms, float64.
///
/// Raises
/// ------
/// ValueError
///     A shape or axis that does not fit.
/// TypeError
///     An argument of the wrong type or dtype.
///
/// References
/// ----------
/// Salimans & Kingma 2016, "Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep Neural
/// Networks".
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> w, cache = nk.weight_norm(np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([10.0, 1.0]))
/// >>> w
/// array([[6., 8.],
///        [0., 1.]])
/// >>> cache.norm
/// array([5., 2.])
#[pyfunction]
#[pyo3(signature = (v, g, *, dim=Arg(None)), text_signature = "(v, g, *, dim=0)")]
pub(crate) fn weight_norm<'py>(
    py: Python<'py>,
    v: &Bound<'py, PyAny>,
    g: &Bound<'py, PyAny>,
    dim: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, WeightNormCache)> {
    const NAME: &str = "weight_norm";
    let v = input(NAME, "v", v, 1)?;
    let dim = match &dim.0 {
        Some(dim) if dim.is_none() => None,
        Some(dim) => Some(axis(NAME, "v", integer(NAME, "dim", dim)?, &v)?),
        None => Some(0),
    };
    let of = dim.map_or_else(|| "the norm of all of v".to_owned(), |dim| format!("positions of v on axis {dim}"));
    let channels = Channels { count: dim.map_or(1, |dim| v.shape()[dim]), of: &of };
    let g = scale(NAME, g, dim, channels)?;
    let w = Array::output(NAME, &Arg(None), &v, None, &[])?;
    let norm = with_element!(v.dtype, E => {
        // SAFETY: from `Array::output`, for this call alone.
        let (from, mut to, g) = (v.tensor::<E>(), unsafe { w.tensor_mut::<E>() }, &g.values);
        compute(py, NAME, v.bytes(), move || normkit::weight_norm(&from, dim, g, &mut to))
    })?;
    let w = w.finish()?;
    Ok((w, WeightNormCache { v: v.object.into_any().unbind(), g, dim, norm }))
}

/// Gradients of weight normalization.
///
/// dg = sum(dw * v / norm(v)) and dv = g / norm(v) * (dw - dg * v / norm(v)), sums over all axes but dim.
///
/// Parameters
/// ----------
/// dw : float array of v's shape
///     The gradient of the loss by w; any strides, and it may have another dtype than v.
/// cache : WeightNormCache
///     From weight_norm.
/// out : array like v, optional
///     Where to write dv; it may be dw itself, but not overlap v.
///
/// Returns
/// -------
/// WeightNormGradients(dv, dg)
///     dv has v's shape, dtype and memory order, dg the shape and dtype of g.
///
/// Raises
/// ------
/// ValueError
///     dw or out does not fit v.
/// TypeError
///     An argument of the wrong type or dtype, or the cache of another function.
///
/// References
/// ----------
/// Salimans & Kingma 2016, equation 3.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> v, g = np.array([[3.0, 4.0]]), np.array([10.0])
/// >>> w, cache = nk.weight_norm(v, g)
/// >>> dv, dg = nk.weight_norm_backward(np.array([[1.0, 0.0]]), cache)
/// >>> dg
/// array([0.6])
/// >>> bool(abs((dv * v).sum()) < 1e-12)  # a step along dv turns v
/// True
#[pyfunction]
#[pyo3(signature = (dw, cache, *, out=Arg(None)), text_signature = "(dw, cache, *, out=None)")]
pub(crate) fn weight_norm_backward<'py>(
    py: Python<'py>,
    dw: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "weight_norm_backward";
    let Ok(cache) = cache.cast::<WeightNormCache>() else {
        return Err(type_error(NAME, "cache", "be the cache of weight_norm", describe(cache)));
    };
    let cache = cache.get();
    let v = Array::input(NAME, "v", cache.v.bind(py))?;
    let dw = gradient(NAME, dw, ("v", &v))?;
    let dv = output(NAME, &out, ("v", &v), &dw)?;
    let (dim, g, norm) = (cache.dim, &cache.g.values, &cache.norm);
    let dg = with_element!(v.dtype, E => with_element!(dw.dtype, G => {
        // SAFETY: from `Array::output`, for this call alone.
        let (dw, from, mut to) = (dw.tensor::<G>(), v.tensor::<E>(), unsafe { dv.tensor_mut::<E>() });
        compute(py, NAME, v.bytes(), move || normkit::weight_norm_backward(&dw, &from, dim, g, norm, &mut to))
    }))?;
    let dg = cache.g.like(py, &dg)?;
    named(py, intern!(py, "WeightNormGradients"), (dv.finish()?, dg))
}

/// What the backward pass of a spectral norm needs: a reference to the weight, and what the power iteration has found.
///
/// Attributes
/// ----------
/// u, v : float64 arrays, shaped as they were given
///     The singular vectors after the iteration: what the next call should be given.
/// sigma : float
///     The singular value u @ W @ v that the weight was divided by.
#[pyclass(frozen, module = "normkit")]
pub(crate) struct SpectralNormCache {
    weight: Py<PyAny>,
    dim: usize,
    of: SingularTriple,
    shapes: [Vec<usize>; 2],
}

#[pymethods]
impl SpectralNormCache {
    /// The left singular vector, float64, of the shape of u.
    #[getter]
    fn u<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.of.u, &self.shapes[0])
    }

    /// The right singular vector, float64, of the shape of v.
    #[getter]
    fn v<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.of.v, &self.shapes[1])
    }

    /// The singular value.
    #[getter]
    fn sigma(&self) -> f64 {
        self.of.sigma
    }
}

/// Spectral normalization: a weight divided by (an estimate of) its largest singular value.
///
/// With W the weight as a matrix of weight.shape[dim] rows, each step of the power iteration is
///
///     u = W @ v / max(norm(W @ v), eps), v = W.T @ u / max(norm(W.T @ u), eps)
///
/// and w = weight / sigma, sigma = u @ W @ v.
///
/// Parameters
/// ----------
/// weight : float array of any shape
///     Any strides. It is kept by reference in the cache, so do not change it before the backward pass.
/// u, v : float arrays with an element for each row and each column of W
///     Where the iteration starts; unit vectors, random at first, cache.u and cache.v of the last call from then on.
///     They are not changed. Columns are counted in C order over the other axes, as in PyTorch. Neither may be all
///     zeros, as these have no direction. NaN and infinity are not refused: w is NaN then, unless they are in a u that
///     the iteration replaces.
/// n_power_iterations : int >= 0
///     Steps; 0 (as in evaluation) uses u and v as they are.
/// eps : float >= 0
///     The least norm that is divided by.
/// dim : int
///     The axis of the rows: 0, or 1 for transposed convolutions.
///
/// Returns
/// -------
/// w : array of the weight's shape, dtype and memory order
///     A new one. Computed in float64 and rounded once. A weight of zeros gives zeros (PyTorch: NaN), NaN in the weight
///     or a sigma that is infinite gives NaN.
/// cache : SpectralNormCache
///     For spectral_norm_backward; cache.u and cache.v (float64) and cache.sigma are what was found. Where W @ v or
///     W.T @ u is all zeros, the old u or v is kept: a weight of zeros leaves both as they are.
///
/// Raises
/// ------
/// ValueError
///     A shape, axis or value that does not fit; u or v is all zeros; or sigma is 0 after the iteration though the
///     weight is not all zeros, as u is orthogonal to W @ v, or as eps is above the norm of the weight.
/// TypeError
///     An argument of the wrong type or dtype.
///
/// References
/// ----------
/// Miyato, Kataoka, Koyama & Yoshida 2018, "Spectral Normalization for Generative Adversarial Networks", algorithm 1.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> weight = np.diag([2.0, 4.0])
/// >>> u = v = np.sqrt([0.5, 0.5])
/// >>> w, cache = nk.spectral_norm(weight, u, v, n_power_iterations=30)
/// >>> w
/// array([[0.5, 0. ],
///        [0. , 1. ]])
/// >>> cache.sigma
/// 4.0
/// >>> same, _ = nk.spectral_norm(weight, cache.u, cache.v, n_power_iterations=0)  # in evaluation
/// >>> bool((same == w).all())
/// True
#[pyfunction]
#[pyo3(
    signature = (weight, u, v, *, n_power_iterations=Arg(None), eps=Arg(None), dim=Arg(None)),
    text_signature = "(weight, u, v, *, n_power_iterations=1, eps=1e-12, dim=0)"
)]
pub(crate) fn spectral_norm<'py>(
    py: Python<'py>,
    weight: &Bound<'py, PyAny>,
    u: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    n_power_iterations: Arg<'py>,
    eps: Arg<'py>,
    dim: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, SpectralNormCache)> {
    const NAME: &str = "spectral_norm";
    /// Bytes that the iterations of a part read, about: some tenths of a second.
    const PART: usize = 1 << 31;
    /// Iterations of a part, however small the weight.
    const MOST: usize = 1 << 12;
    let weight = input(NAME, "weight", weight, 1)?;
    let dim = axis(NAME, "weight", dim.integer(NAME, "dim", 0)?, &weight)?;
    let iterations = n_power_iterations.integer(NAME, "n_power_iterations", 1)?;
    let Ok(iterations) = usize::try_from(iterations) else {
        return Err(value_error(NAME, "n_power_iterations", "be >= 0", iterations));
    };
    let eps = eps.eps(NAME, 1e-12)?;
    let shape = weight.shape();
    let of = format!("positions of weight on axis {dim}");
    let u = Parameter::required(NAME, "u", u, Channels { count: shape[dim], of: &of })?;
    let of = format!("positions of weight on all axes but {dim}");
    let columns = shape[..dim].iter().chain(&shape[dim + 1..]).product();
    let v = Parameter::required(NAME, "v", v, Channels { count: columns, of: &of })?;
    let w = Array::output(NAME, &Arg(None), &weight, None, &[])?;
    let (mut left, mut so_far) = (iterations, None);
    let of = loop {
        // Many iterations go in parts, to the same result, so that Ctrl-C can end the call between them.
        let part = left.min((PART / weight.bytes().max(1)).clamp(16, MOST));
        let of = with_element!(weight.dtype, E => {
            // SAFETY: from `Array::output`, for this call alone.
            let (from, mut to) = (weight.tensor::<E>(), unsafe { w.tensor_mut::<E>() });
            let (u, v) = so_far.as_ref().map_or((&u.values, &v.values), |of: &SingularTriple| (&of.u, &of.v));
            compute(py, NAME, weight.bytes(), move || {
                normkit::spectral_norm(&from, dim, u, v, part, eps, &mut to)
            })
        })?;
        left -= part;
        if left == 0 {
            break of;
        }
        // Small parts keep the interpreter's lock: others have a turn here.
        py.detach(|| ());
        py.check_signals()?;
        so_far = Some(of);
    };
    let shapes = [u, v].map(|vector| vector.array.bind(py).shape().to_vec());
    let w = w.finish()?;
    Ok((w, SpectralNormCache { weight: weight.object.into_any().unbind(), dim, of, shapes }))
}

/// The gradient of spectral normalization.
///
/// dweight = (dw - sum(dw * w) * outer(u, v)) / sigma: u and v count as constants, as in the paper.
///
/// Parameters
/// ----------
/// dw : float array of the weight's shape
///     The gradient of the loss by w; any strides, and it may have another dtype than the weight.
/// cache : SpectralNormCache
///     From spectral_norm.
/// out : array like weight, optional
///     Where to write dweight; it may be dw itself, but not overlap the weight.
///
/// Returns
/// -------
/// dweight : array of the weight's shape, dtype and memory order
///
/// Raises
/// ------
/// ValueError
///     dw or out does not fit the weight.
/// TypeError
///     An argument of the wrong type or dtype, or the cache of another function.
///
/// References
/// ----------
/// Miyato et al. 2018, equation 12.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> weight = np.diag([2.0, 4.0])
/// >>> w, cache = nk.spectral_norm(weight, np.array([0.0, 1.0]), np.array([0.0, 1.0]))
/// >>> nk.spectral_norm_backward(np.ones((2, 2)), cache)
/// array([[ 0.25 ,  0.25 ],
///        [ 0.25 , -0.125]])
#[pyfunction]
#[pyo3(signature = (dw, cache, *, out=Arg(None)), text_signature = "(dw, cache, *, out=None)")]
pub(crate) fn spectral_norm_backward<'py>(
    py: Python<'py>,
    dw: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "spectral_norm_backward";
    let Ok(cache) = cache.cast::<SpectralNormCache>() else {
        return Err(type_error(NAME, "cache", "be the cache of spectral_norm", describe(cache)));
    };
    let cache = cache.get();
    let weight = Array::input(NAME, "weight", cache.weight.bind(py))?;
    let dw = gradient(NAME, dw, ("weight", &weight))?;
    let dweight = output(NAME, &out, ("weight", &weight), &dw)?;
    let (dim, of) = (cache.dim, &cache.of);
    with_element!(weight.dtype, E => with_element!(dw.dtype, G => {
        // SAFETY: from `Array::output`, for this call alone.
        let (dw, from, mut to) = (dw.tensor::<G>(), weight.tensor::<E>(), unsafe { dweight.tensor_mut::<E>() });
        compute(py, NAME, weight.bytes(), move || normkit::spectral_norm_backward(&dw, &from, dim, of, &mut to))
    }))?;
    dweight.finish()
}

/// What the backward pass of a scaled weight standardization needs: references to weight and gain, and the statistics.
///
/// Attributes
/// ----------
/// mean, rstd : float64 arrays of shape (out,)
///     The mean and 1/sqrt(max(var * fan_in, eps)) of each output channel.
#[pyclass(frozen, module = "normkit")]
pub(crate) struct ScaledWeightStandardizationCache {
    weight: Py<PyAny>,
    gain: Option<Parameter>,
    eps: f64,
    of: Standardized,
}

#[pymethods]
impl ScaledWeightStandardizationCache {
    /// The means, float64 of shape (out,).
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.of.mean, &[self.of.mean.len()])
    }

    /// 1/sqrt(max(var * fan_in, eps)), float64 of shape (out,).
    #[getter]
    fn rstd<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.of.rstd, &[self.of.rstd.len()])
    }
}

/// Scaled weight standardization: weights of mean 0 and variance gain**2 / fan_in for each output channel.
///
/// w = (weight - mean) * gain / sqrt(max(var * fan_in, eps)), mean and (biased) var over all axes but the first;
/// fan_in is how many weights these are.
///
/// Parameters
/// ----------
/// weight : float array (out, in/groups, *kernel), or (out, in) of a linear layer
///     Any strides. It is kept by reference in the cache, so do not change it before the backward pass.
/// gain : float array of shape (out,), (out, 1), (out, 1, 1, 1), ..., optional
///     Starts at 1 in training; 1 where None.
/// eps : float >= 0
///     The least var * fan_in that is divided by.
///
/// Returns
/// -------
/// w : array of the weight's shape, dtype and memory order
///     A new one. Computed in float64 and rounded once. A channel of equal weights gives exactly zeros.
/// cache : ScaledWeightStandardizationCache
///     For scaled_weight_standardization_backward; cache.mean and cache.rstd are float64 arrays of shape (out,).
///
/// Raises
/// ------
/// ValueError
///     A shape or value that does not fit.
/// TypeError
///     An argument of the wrong type or dtype.
///
/// References
/// ----------
/// Brock, De & Smith 2021, "Characterizing signal propagation to close the performance gap in unnormalized ResNets";
/// with this eps and gain in Brock, De, Smith & Simonyan 2021, "High-Performance Large-Scale Image Recognition Without
/// Normalization".
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> weight = np.array([[1.0, 3.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
/// >>> w, cache = nk.scaled_weight_standardization(weight)
/// >>> w
/// array([[-0.5,  0.5, -0.5,  0.5],
///        [ 0. ,  0. ,  0. ,  0. ]])
/// >>> cache.mean
/// array([2., 5.])
#[pyfunction]
#[pyo3(signature = (weight, gain=None, *, eps=Arg(None)), text_signature = "(weight, gain=None, *, eps=0.0001)")]
pub(crate) fn scaled_weight_standardization<'py>(
    py: Python<'py>,
    weight: &Bound<'py, PyAny>,
    gain: Option<&Bound<'py, PyAny>>,
    eps: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, ScaledWeightStandardizationCache)> {
    const NAME: &str = "scaled_weight_standardization";
    let weight = input(NAME, "weight", weight, 2)?;
    let eps = eps.eps(NAME, 1e-4)?;
    let channels = Channels { count: weight.shape()[0], of: &"output channels of weight on axis 0" };
    let gain = Parameter::optional(NAME, "gain", gain, channels)?;
    let w = Array::output(NAME, &Arg(None), &weight, None, &[])?;
    let of = with_element!(weight.dtype, E => {
        // SAFETY: from `Array::output`, for this call alone.
        let (from, mut to) = (weight.tensor::<E>(), unsafe { w.tensor_mut::<E>() });
        let gain = gain.as_ref().map(|p| &p.values[..]);
        compute(py, NAME, weight.bytes(), move || {
            normkit::scaled_weight_standardization(&from, gain, eps, &mut to)
        })
    })?;
    let w = w.finish()?;
    Ok((w, ScaledWeightStandardizationCache { weight: weight.object.into_any().unbind(), gain, eps, of }))
}

/// Gradients of scaled weight standardization.
///
/// With what = (weight - mean) * rstd: dgain = sum(dw * what) and
/// dweight = gain * rstd * (dw - mean(dw) - what * sum(dw * what)), over all axes but the first. Where var * fan_in <= eps
/// the divisor is a constant, and the last term is missing.
///
/// Parameters
/// ----------
/// dw : float array of the weight's shape
///     The gradient of the loss by w; any strides, and it may have another dtype than the weight.
/// cache : ScaledWeightStandardizationCache
///     From scaled_weight_standardization.
/// out : array like weight, optional
///     Where to write dweight; it may be dw itself, but not overlap the weight.
///
/// Returns
/// -------
/// ScaledWeightStandardizationGradients(dweight, dgain)
///     dweight has the weight's shape, dtype and memory order; dgain has the gain's shape and dtype, and is None where
///     that was None.
///
/// Raises
/// ------
/// ValueError
///     dw or out does not fit the weight.
/// TypeError
///     An argument of the wrong type or dtype, or the cache of another function.
///
/// References
/// ----------
/// Brock, De & Smith 2021.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> weight = np.random.default_rng(0).standard_normal((3, 5))
/// >>> w, cache = nk.scaled_weight_standardization(weight, np.ones(3))
/// >>> dweight, dgain = nk.scaled_weight_standardization_backward(w, cache)
/// >>> dgain.round(6)
/// array([1., 1., 1.])
/// >>> bool(abs(dweight).max() < 1e-12)  # w itself is the one direction that standardization takes out
/// True
#[pyfunction]
#[pyo3(signature = (dw, cache, *, out=Arg(None)), text_signature = "(dw, cache, *, out=None)")]
pub(crate) fn scaled_weight_standardization_backward<'py>(
    py: Python<'py>,
    dw: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "scaled_weight_standardization_backward";
    let Ok(cache) = cache.cast::<ScaledWeightStandardizationCache>() else {
        return Err(type_error(NAME, "cache", "be the cache of scaled_weight_standardization", describe(cache)));
    };
    let cache = cache.get();
    let weight = Array::input(NAME, "weight", cache.weight.bind(py))?;
    let dw = gradient(NAME, dw, ("weight", &weight))?;
    let dweight = output(NAME, &out, ("weight", &weight), &dw)?;
    let gain = cache.gain.as_ref().map(|p| &p.values[..]);
    let (eps, of) = (cache.eps, &cache.of);
    let dgain = with_element!(weight.dtype, E => with_element!(dw.dtype, G => {
        // SAFETY: from `Array::output`, for this call alone.
        let (dw, from, mut to) = (dw.tensor::<G>(), weight.tensor::<E>(), unsafe { dweight.tensor_mut::<E>() });
        compute(py, NAME, weight.bytes(), move || {
            normkit::scaled_weight_standardization_backward(&dw, &from, gain, eps, of, &mut to)
        })
    }))?;
    let dgain = cache.gain.as_ref().map(|p| p.like(py, &dgain)).transpose()?;
    named(py, intern!(py, "ScaledWeightStandardizationGradients"), (dweight.finish()?, dgain))
}
