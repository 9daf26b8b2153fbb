//! Folding batch normalization into the convolution before it.

use crate::element::Element;
use crate::error::{Error, Result, gathered, shape_text};
use crate::norms::{isa, rstd};
use crate::parallel::{Disjoint, num_threads, run};
use crate::simd::{Kernel, Real, Simd};

/// Elements of a task.
const TASK: usize = 1 << 15;

/// How a convolution's weight is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConvOf {
    /// Groups of channels that do not mix.
    pub groups: usize,
    /// (in, out/groups, …) rather than (out, in/groups, …).
    pub transposed: bool,
}

/// A batch normalization in inference: statistics and parameters, one value for each channel.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BatchNormOf<'a> {
    /// Running means.
    pub mean: &'a [f64],
    /// Running variances.
    pub var: &'a [f64],
    /// Scales, or ones.
    pub weight: Option<&'a [f64]>,
    /// Offsets, or zeros.
    pub bias: Option<&'a [f64]>,
    /// Added to the variance.
    pub eps: f64,
}

/// The weight (into `out`) and bias of a convolution that does what this one and the normalization after it do:
/// w' = w·s and b' = (b − mean)·s + bias, where s = weight·rstd of the output channel. In float64, rounded once.
///
/// # Errors
/// A shape does not fit the weight's output channels, a variance is negative, or eps is negative or not finite.
pub fn fold_conv_bn<E: Element>(
    weight: &[E],
    shape: &[usize],
    bias: Option<&[f64]>,
    conv: ConvOf,
    norm: BatchNormOf,
    out: &mut [E],
) -> Result<Vec<f64>> {
    let size: usize = shape.iter().product();
    if shape.len() < 2 || weight.len() != size || out.len() != size {
        let expected = "have at least two axes: output and input channels";
        return Err(Error::new("conv_weight", expected, format!("shape {}", shape_text(shape))));
    }
    let ConvOf { groups, transposed } = conv;
    if groups == 0 || !shape[0].is_multiple_of(groups) {
        let axis = if transposed { "input" } else { "output" };
        let expected = format!("divide the {} {axis} channels of conv_weight", shape[0]);
        return Err(Error::new("groups", expected, groups));
    }
    let channels = if transposed { shape[1] * groups } else { shape[0] };
    let BatchNormOf { mean, var, weight: scale, bias: shift, eps } = norm;
    let given = [
        ("conv_bias", bias),
        ("running_mean", Some(mean)),
        ("running_var", Some(var)),
        ("weight", scale),
        ("bias", shift),
    ];
    for (name, values) in given {
        if let Some(values) = values.filter(|values| values.len() != channels) {
            let expected = format!("have {channels} elements (output channels of conv_weight)");
            return Err(Error::new(name, expected, format!("{} elements", values.len())));
        }
    }
    if !(eps.is_finite() && eps >= 0.0) {
        return Err(Error::new("eps", "be finite and >= 0", eps));
    }
    if let Some(c) = var.iter().position(|&var| var < 0.0) {
        return Err(Error::new("running_var", "be >= 0", format!("{} in channel {c}", var[c])));
    }

    let scales = gathered((0..channels).map(|c| scale.map_or(1.0, |scale| scale[c]) * rstd(var[c], eps)))?;
    let fold =
        |c: usize| (bias.map_or(0.0, |bias| bias[c]) - mean[c]) * scales[c] + shift.map_or(0.0, |shift| shift[c]);
    let folded = gathered((0..channels).map(fold))?;
    // Runs of one output channel: rows of the weight, or of each input channel's part where it is transposed.
    let run_len: usize = if transposed { shape[2..].iter().product() } else { shape[1..].iter().product() };
    let channel = |i: usize| {
        if transposed { i / shape[1] / (shape[0] / groups) * shape[1] + i % shape[1] } else { i }
    };
    let runs = size.checked_div(run_len).unwrap_or(0);
    let each = (TASK / run_len.max(1)).max(1);
    let (isa, shared) = (isa()?, Disjoint::new(out));
    let threads = if size < 4 * TASK { 1 } else { num_threads() };
    run(
        threads,
        runs.div_ceil(each),
        || Ok(()),
        |task, ()| {
            for i in task * each..(task * each + each).min(runs) {
                let range = i * run_len..(i + 1) * run_len;
                let scale = scales[channel(i)];
                // SAFETY: runs are disjoint, and each is one task's: `part` asserts both where debugging.
                let out = unsafe { shared.part(range.clone()) };
                E::Compute::dispatch(isa, Scaled { from: &weight[range], scale, to: out });
            }
        },
        |()| (),
    )?;
    Ok(folded)
}

/// Elements times a number, in float64. (What compilers make of it without wider instructions takes longer than the memory.)
struct Scaled<'w, E> {
    from: &'w [E],
    scale: f64,
    to: &'w mut [E],
}

impl<E: Element> Kernel<E::Compute> for Scaled<'_, E> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<E::Compute>>(self, _: S) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = E::from_f64(from.to_f64() * self.scale);
        }
    }
}
