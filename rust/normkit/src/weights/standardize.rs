//! Scaled weight standardization (Brock, De & Smith 2021): weights of mean 0 and variance gain²/fan-in for each output.

use super::cells::{Cells, affine, backward, spreads};
use super::{check_len, check_shape, over};
use crate::element::Element;
use crate::error::{Error, Result, gathered, shape_text, zeros};
use crate::kernels::apply::{Affine, GradAffine};
use crate::kernels::gradients::GradSums;
use crate::layout::keep;
use crate::norms::rstd;
use crate::parallel::Slots;
use crate::tensor::{Tensor, TensorMut};

/// What a weight has been standardized with: one entry for each output channel.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Standardized {
    /// Means.
    pub mean: Vec<f64>,
    /// 1/sqrt(max(var·fan_in, eps)).
    pub rstd: Vec<f64>,
}

fn check<E>(weight: &Tensor<E>, gain: Option<&[f64]>, eps: f64) -> Result<()> {
    if weight.shape.len() < 2 {
        let expected = "have at least two axes: output and input channels";
        return Err(Error::new("weight", expected, format!("shape {}", shape_text(&weight.shape))));
    }
    if !(eps.is_finite() && eps >= 0.0) {
        return Err(Error::new("eps", "be finite and >= 0", eps));
    }
    gain.map_or(Ok(()), |gain| check_len("gain", gain, weight.shape[0], "output channels of weight"))
}

/// w = (weight − mean)·gain/sqrt(max(var·fan_in, eps)), mean and (biased) variance over all axes but the first. The
/// statistics are returned.
///
/// # Errors
/// `weight` has fewer than two axes, `gain` or `w` does not fit it, or eps is negative or not finite.
pub fn scaled_weight_standardization<E: Element>(
    weight: &Tensor<E>,
    gain: Option<&[f64]>,
    eps: f64,
    w: &mut TensorMut<E>,
) -> Result<Standardized> {
    check(weight, gain, eps)?;
    check_shape("out", &w.shape, "weight", &weight.shape)?;
    let kept = keep(weight.shape.len(), [0]);
    let spreads = spreads(weight, &kept)?;
    // fan_in is the number of elements of a variance: their product is the sum of squared deviations.
    let scale = |deviation: f64| if deviation <= eps.sqrt() { rstd(0.0, eps) } else { over(1.0, deviation) };
    let of = Standardized {
        mean: gathered(spreads.iter().map(|spread| spread.mean()))?,
        rstd: gathered(spreads.iter().map(|spread| scale(spread.deviation())))?,
    };
    let cell = |c: usize| Affine::new(of.mean[c], gain.map_or(1.0, |gain| gain[c]) * of.rstd[c], 0.0);
    let cells = gathered((0..weight.shape[0]).map(cell))?;
    affine(weight, &kept, &cells, w)?;
    Ok(of)
}

/// dweight, and dgain = Σdw·ŵ, which is returned, with ŵ = (weight − mean)·rstd. Where eps does not hold the variance,
/// dweight = gain·rstd·(dw − mean(dw) − ŵ·Σdw·ŵ); where it does, the last term is missing. `of` and `eps` are those of
/// the forward pass.
///
/// # Errors
/// `dw`, `gain`, `of` or `dweight` does not fit `weight`, or eps is negative or not finite.
pub fn scaled_weight_standardization_backward<E: Element, G: Element>(
    dw: &Tensor<G>,
    weight: &Tensor<E>,
    gain: Option<&[f64]>,
    eps: f64,
    of: &Standardized,
    dweight: &mut TensorMut<E>,
) -> Result<Vec<f64>> {
    check(weight, gain, eps)?;
    let channels = weight.shape[0];
    for (name, values) in [("mean", &of.mean), ("rstd", &of.rstd)] {
        check_len(name, values, channels, "output channels of weight")?;
    }
    check_shape("dw", &dw.shape, "weight", &weight.shape)?;
    check_shape("out", &dweight.shape, "weight", &weight.shape)?;
    let kept = keep(weight.shape.len(), [0]);
    let count = weight.size().checked_div(channels).unwrap_or(0) as f64;
    let held = rstd(0.0, eps);
    let mut dgain = zeros(channels)?;
    let slots = Slots::new(&mut dgain);
    let rule = |t: usize, sums: GradSums, cells: &mut [GradAffine<f64>]| {
        let rstd = of.rstd[t];
        let dot = sums.dot * rstd;
        slots.set(t, dot);
        let a = gain.map_or(1.0, |gain| gain[t]) * rstd;
        let b = if rstd == held { 0.0 } else { -a * dot };
        cells[0] = GradAffine::new(of.mean[t], rstd, a, b, -a * sums.dy / count);
    };
    let cells = || Cells { of: weight, kept: &kept };
    backward(dw, cells(), Some(&of.mean), cells(), rule, dweight)?;
    Ok(dgain)
}
