//! `fold_conv_bn`.

use normkit::{BatchNormOf, ConvOf, Element};
use pyo3::prelude::*;

use crate::arguments::{Arg, compute, value_error};
use crate::arrays::{Array, with_element};
use crate::batch::check_variances;
use crate::parameters::{Channels, Parameter};

/// Fold a batch normalization into the convolution (or linear layer) before it.
///
/// With s = weight / sqrt(running_var + eps) for each output channel: w = conv_weight * s and
/// b = (conv_bias - running_mean) * s + bias, so that conv(x; w, b) = batch_norm_inference(conv(x)).
///
/// Parameters
/// ----------
/// conv_weight : float32 or float64 array
///     (out, in/groups, *kernel); (in, out/groups, *kernel) if transposed; (out, in) for a linear layer.
/// conv_bias : float array of shape (out,), or None
/// running_mean, running_var : float arrays of shape (out,)
/// weight, bias : float arrays of shape (out,), optional
///     Of the normalization; 1 and 0 where None.
/// eps : float >= 0
///     Required: it is not in a checkpoint, and a wrong one costs accuracy silently.
/// groups : int
///     Groups of the convolution.
/// transposed : bool
///     Whether it is a transposed convolution.
///
/// Returns
/// -------
/// w, b : arrays
///     New ones, the inputs are not changed. w is shaped like conv_weight, b is (out,); both have conv_weight's dtype.
///     Computed in float64 and rounded once.
///
/// Raises
/// ------
/// ValueError
///     A shape that does not fit the output channels, a negative variance, or groups that do not divide the channels.
/// TypeError
///     An argument of the wrong type or dtype, or eps missing.
///
/// References
/// ----------
/// Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
/// section 3.2.
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> rng = np.random.default_rng(0)
/// >>> w, b, x = rng.standard_normal((3, 5)), rng.standard_normal(3), rng.standard_normal((4, 5))
/// >>> mean, var = rng.standard_normal(3), rng.random(3)
/// >>> folded_w, folded_b = nk.fold_conv_bn(w, b, mean, var, eps=1e-5)
/// >>> expected = nk.batch_norm_inference(x @ w.T + b, mean, var, eps=1e-5)
/// >>> bool(np.allclose(x @ folded_w.T + folded_b, expected))
/// True
#[pyfunction]
#[pyo3(
    signature = (conv_weight, conv_bias, running_mean, running_var, weight=None, bias=None, *, eps, groups=Arg(None),
        transposed=Arg(None)),
    text_signature = "(conv_weight, conv_bias, running_mean, running_var, weight=None, bias=None, *, eps, groups=1, \
        transposed=False)"
)]
pub(crate) fn fold_conv_bn<'py>(
    py: Python<'py>,
    conv_weight: &Bound<'py, PyAny>,
    conv_bias: Option<&Bound<'py, PyAny>>,
    running_mean: &Bound<'py, PyAny>,
    running_var: &Bound<'py, PyAny>,
    weight: Option<&Bound<'py, PyAny>>,
    bias: Option<&Bound<'py, PyAny>>,
    eps: Arg<'py>,
    groups: Arg<'py>,
    transposed: Arg<'py>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    const NAME: &str = "fold_conv_bn";
    let w = Array::input(NAME, "conv_weight", conv_weight)?;
    let shape = w.shape().to_vec();
    if shape.len() < 2 {
        let found = format!("shape {}", normkit::shape_text(&shape));
        return Err(value_error(NAME, "conv_weight", "have at least two axes, those of channels", found));
    }
    let eps = eps.eps(NAME, f64::NAN)?;
    let transposed = transposed.flag(NAME, "transposed", false)?;
    let groups = groups.integer(NAME, "groups", 1)?;
    if groups < 1 || shape[0] as i64 % groups != 0 {
        let kind = if transposed { "input" } else { "output" };
        let expected = format!("be at least 1 and divide {} ({kind} channels of conv_weight)", shape[0]);
        return Err(value_error(NAME, "groups", expected, groups));
    }
    let groups = groups as usize;
    let count = if transposed { shape[1] * groups } else { shape[0] };
    let channels = Channels { count, of: &"output channels of conv_weight" };
    let conv_bias = Parameter::optional(NAME, "conv_bias", conv_bias, channels)?;
    let mean = Parameter::required(NAME, "running_mean", running_mean, channels)?;
    let var = Parameter::required(NAME, "running_var", running_var, channels)?;
    let weight = Parameter::optional(NAME, "weight", weight, channels)?;
    let bias = Parameter::optional(NAME, "bias", bias, channels)?;
    check_variances(NAME, "running_var", &var.values)?;

    let w = w.contiguous()?;
    let folded = Array::like(&w)?;
    let norm = BatchNormOf {
        mean: &mean.values,
        var: &var.values,
        weight: weight.as_ref().map(|p| &p.values[..]),
        bias: bias.as_ref().map(|p| &p.values[..]),
        eps,
    };
    let conv_bias = conv_bias.as_ref().map(|p| &p.values[..]);
    let conv = ConvOf { groups, transposed };
    with_element!(w.dtype, E => {
        // SAFETY: `w` is contiguous, and the new array is ours.
        let (from, to) = unsafe { (w.slice::<E>(), folded.slice_mut::<E>()) };
        let b = compute(py, NAME, w.bytes(), || normkit::fold_conv_bn(from, &shape, conv_bias, conv, norm, to))?;
        let bias = Array::vector(py, w.dtype, b.len())?;
        // SAFETY: contiguous, new and ours.
        for (to, x) in unsafe { bias.slice_mut::<E>() }.iter_mut().zip(b) {
            *to = Element::from_f64(x);
        }
        Ok((folded.object.into_any(), bias.object.into_any()))
    })
}
