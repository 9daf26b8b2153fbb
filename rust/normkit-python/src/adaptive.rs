//! `adaptive_instance_norm` and its backward pass.

use normkit::Adapted;
use pyo3::intern;
use pyo3::prelude::*;

use crate::arguments::{Arg, compute, describe, type_error, value_error};
use crate::arrays::{Array, with_element};
use crate::batch::{gradient, input};
use crate::gradients::named;
use crate::parameters::statistics;

/// What the backward pass of an adaptive instance norm needs: references to content and style, and the statistics.
///
/// Attributes
/// ----------
/// mean, rstd : float64 arrays of shape (N, C)
///     The mean and 1/sqrt(var + eps) of each channel of each sample of the content.
#[pyclass(frozen, module = "normkit")]
pub(crate) struct AdaptiveInstanceNormCache {
    content: Py<PyAny>,
    style: Py<PyAny>,
    axis: usize,
    ddof: usize,
    shape: [usize; 2],
    adapted: Adapted,
}

#[pymethods]
impl AdaptiveInstanceNormCache {
    /// The content's means, float64 of shape (N, C).
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.adapted.content.mean, &self.shape)
    }

    /// 1/sqrt(var + eps) of the content, float64 of shape (N, C).
    #[getter]
    fn rstd<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.adapted.content.rstd, &self.shape)
    }
}

/// Adaptive instance normalization: each channel of each sample of the content takes the mean and the deviation that it
/// has in the style.
///
/// y = std(style) * (content - mean(content)) / std(content) + mean(style), std = sqrt(var + eps)
///
/// Parameters
/// ----------
/// content : float array (N, C, *spatial), or with the channels on another axis; samples are the first of the others
///     Any strides. Content and style are kept by reference in the cache: do not change them before the backward pass.
/// style : float array with the same N and C; its positions may be other ones
/// eps : float >= 0
///     Added to both variances.
/// ddof : 0 or 1
///     1 takes the unbiased variances.
/// axis : int
///     The channel axis of both.
/// out : array like content, optional
///     Where to write y. It must not overlap content or style.
///
/// Returns
/// -------
/// y : array of the content's shape, dtype and memory order
/// cache : AdaptiveInstanceNormCache
///     For adaptive_instance_norm_backward; cache.mean and cache.rstd are the content's, float64 of shape (N, C).
///
/// Raises
/// ------
/// ValueError
///     A shape, axis or value that does not fit, or a channel without more than ddof values.
/// TypeError
///     An argument of the wrong type or dtype.
///
/// References
/// ----------
/// Huang & Belongie 2017, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization".
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> content, style = np.array([[[1.0, 3.0]]]), np.array([[[10.0, 30.0, 10.0, 30.0]]])
/// >>> nk.adaptive_instance_norm(content, style, eps=0)[0]
/// array([[[10., 30.]]])
#[pyfunction]
#[pyo3(
    signature = (content, style, *, eps=Arg(None), ddof=Arg(None), axis=Arg(None), out=Arg(None)),
    text_signature = "(content, style, *, eps=1e-05, ddof=0, axis=1, out=None)"
)]
pub(crate) fn adaptive_instance_norm<'py>(
    py: Python<'py>,
    content: &Bound<'py, PyAny>,
    style: &Bound<'py, PyAny>,
    eps: Arg<'py>,
    ddof: Arg<'py>,
    axis: Arg<'py>,
    out: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, AdaptiveInstanceNormCache)> {
    const NAME: &str = "adaptive_instance_norm";
    let (content, axis, _) = input(NAME, "content", content, &axis)?;
    let style = Array::input(NAME, "style", style)?;
    let eps = eps.eps(NAME, 1e-5)?;
    let ddof = ddof.integer(NAME, "ddof", 0)?;
    if !(0..=1).contains(&ddof) {
        return Err(value_error(NAME, "ddof", "be 0 or 1", ddof));
    }
    let ddof = ddof as usize;
    let apart = [("content", Some(&content.given)), ("style", Some(&style.given))];
    let y = Array::output(NAME, &out, &content, None, &apart)?;
    let adapted = with_element!(content.dtype, E => with_element!(style.dtype, S => {
        // SAFETY: from `Array::output`, for this call alone.
        let (from, of, mut to) = (content.tensor::<E>(), style.tensor::<S>(), unsafe { y.tensor_mut::<E>() });
        compute(py, NAME, content.bytes(), || {
            normkit::adaptive_instance_norm(&from, &of, axis, eps, ddof, &mut to)
        })
    }))?;
    let y = y.finish()?;
    let shape = [content.shape()[usize::from(axis == 0)], content.shape()[axis]];
    let content = content.object.into_any().unbind();
    let style = style.object.into_any().unbind();
    Ok((y, AdaptiveInstanceNormCache { content, style, axis, ddof, shape, adapted }))
}

/// Gradients of adaptive instance normalization.
///
/// With xhat the normalized content: dcontent is the gradient of an instance norm whose weight is std(style);
/// dstyle = sum(dy) / M + sum(dy * xhat) * (style - mean(style)) / ((M - ddof) * std(style)), M positions of the style.
///
/// Parameters
/// ----------
/// dy : float array of the content's shape
///     The gradient of the loss by y; any strides, and it may have another dtype than the content.
/// cache : AdaptiveInstanceNormCache
///     From adaptive_instance_norm.
/// out : array like the content, optional
///     Where to write dcontent; it may be dy itself.
///
/// Returns
/// -------
/// AdaptiveInstanceNormGradients(dcontent, dstyle)
///     Each has the shape and dtype of what it belongs to.
///
/// Raises
/// ------
/// ValueError
///     dy or out does not fit the content.
/// TypeError
///     An argument of the wrong type or dtype, or the cache of another function.
///
/// References
/// ----------
/// Huang & Belongie 2017.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> content, style = np.array([[[1.0, 3.0]]]), np.array([[[10.0, 30.0]]])
/// >>> y, cache = nk.adaptive_instance_norm(content, style, eps=0)
/// >>> nk.adaptive_instance_norm_backward(np.array([[[0.0, 1.0]]]), cache).dstyle
/// array([[[0., 1.]]])
#[pyfunction]
#[pyo3(signature = (dy, cache, *, out=Arg(None)), text_signature = "(dy, cache, *, out=None)")]
pub(crate) fn adaptive_instance_norm_backward<'py>(
    py: Python<'py>,
    dy: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    out: Arg<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    const NAME: &str = "adaptive_instance_norm_backward";
    let Ok(cache) = cache.cast::<AdaptiveInstanceNormCache>() else {
        return Err(type_error(NAME, "cache", "be the cache of adaptive_instance_norm", describe(cache)));
    };
    let cache = cache.get();
    let content = Array::input(NAME, "content", cache.content.bind(py))?;
    let style = Array::input(NAME, "style", cache.style.bind(py))?;
    let dy = gradient(NAME, dy, &content)?;
    let apart = [("content", Some(&content.given)), ("style", Some(&style.given))];
    let dcontent = Array::output(NAME, &out, &content, Some(("dy", &dy)), &apart)?;
    let dstyle = Array::like(&style)?;
    let (axis, ddof, adapted, operand) = (cache.axis, cache.ddof, &cache.adapted, dy.operand());
    with_element!(content.dtype, E => with_element!(style.dtype, S => {
        // SAFETY: from `Array::output` and `Array::like`, for this call alone.
        let (from, of, mut to) = (content.tensor::<E>(), style.tensor::<S>(), unsafe { dcontent.tensor_mut::<E>() });
        // SAFETY: as above.
        let mut to_style = unsafe { dstyle.tensor_mut::<S>() };
        compute(py, NAME, content.bytes(), || {
            normkit::adaptive_instance_norm_backward(
                &operand, &from, &of, axis, adapted, ddof, &mut to, &mut to_style,
            )
        })
    }))?;
    named(py, intern!(py, "AdaptiveInstanceNormGradients"), (dcontent.finish()?, dstyle.object))
}
