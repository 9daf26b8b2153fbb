//! The calls themselves: the functions of the core, with what is to be wrong made wrong.

use normkit::reference::{General, Statistics as Expected};
use normkit::{
    Element, Error, Extras, Grouping, Layer, Operand, ParameterGradients, Statistics, Tensor, TensorMut, Used, moments,
};

use super::{Call, Kind, Spoil};
use crate::common::{Array, Float};

/// All outputs of a call.
pub struct Found<E, G> {
    pub statistics: Statistics,
    pub y: Array<E>,
    pub dx: Array<E>,
    pub dresidual: Option<Array<G>>,
    pub gradients: ParameterGradients,
    /// r and d of a renormalization.
    pub corrections: [Vec<f64>; 2],
}

impl<E: Float, G: Float> Found<E, G>
where
    E::Compute: Element,
{
    /// Nothing yet.
    pub fn new(call: &Call) -> Self {
        let spoilt = |spoil| {
            let mut shape = call.shape.clone();
            shape[0] += usize::from(call.spoil == Some(spoil));
            shape
        };
        let fused = matches!(call.kind, Kind::Batch | Kind::Frozen | Kind::Group(..));
        Found {
            statistics: Statistics::default(),
            y: Array::output(&spoilt(Spoil::Out), &call.layouts[3]),
            dx: Array::output(&spoilt(Spoil::Dx), &call.layouts[4]),
            dresidual: (fused && call.residual).then(|| Array::output(&call.shape, &call.layouts[5])),
            gradients: ParameterGradients::default(),
            corrections: [Vec::new(), Vec::new()],
        }
    }

    /// Whether nothing has been written by the call that was refused: forward or backward.
    pub fn is_untouched(&self, spoil: Spoil) -> bool {
        (spoil.is_backward() || self.y.is_untouched())
            && self.dx.is_untouched()
            && self.dresidual.as_ref().is_none_or(Array::is_untouched)
    }

    /// Panics if anything but elements has been written.
    pub fn assert_gaps_untouched(&self) {
        self.y.assert_gaps_untouched();
        self.dx.assert_gaps_untouched();
        self.dresidual.iter().for_each(Array::assert_gaps_untouched);
    }

    /// Forward and backward.
    pub fn make(
        &mut self,
        call: &Call,
        norm: &General,
        [x]: [&Array<E>; 1],
        [dy, residual]: [&Array<G>; 2],
        mask: Option<&[bool]>,
        given: &Expected,
        running: &[Vec<f64>; 2],
    ) -> Result<(), Error> {
        let spoilt = |spoil| call.spoil == Some(spoil);
        let longer = |values: &[f64], spoil| [values, if spoilt(spoil) { &[1.0][..] } else { &[] }].concat();
        let weight = norm.weight.map(|weight| longer(weight, Spoil::Weight));
        let bias = norm.bias.map(|bias| longer(bias, Spoil::Bias));
        let (weight, bias) = (weight.as_deref(), bias.as_deref());
        let eps = if spoilt(Spoil::Eps) { [f64::NAN, -1e-5, f64::INFINITY][call.seed as usize % 3] } else { call.eps };
        let axis = if spoilt(Spoil::Axis) { call.shape.len() + call.seed as usize % 3 } else { call.axis };
        let mut taller = call.shape.clone();
        taller[0] += 1;
        let other = Array::<G>::new(&taller, &crate::common::Layout::dense(taller.len()), |_| 1.0);
        let dy = if spoilt(Spoil::Dy) { &other } else { dy };
        let residual = if spoilt(Spoil::Residual) { &other } else { residual };
        let strides = mask_strides(&call.shape, call.axis);
        let mask = mask.map(|mask| Tensor::strided(mask, &call.shape, &strides)).transpose()?;
        let extras = Extras {
            activation: call.activation,
            residual: call.residual.then(|| Operand::from(&residual.tensor())),
            mask,
        };
        let Found { statistics, y, dx, dresidual, gradients, corrections } = self;
        let (x, y, dx, dys) = (&x.tensor(), &mut y.tensor_mut(), &mut dx.tensor_mut(), dy.tensor());
        let dy = &Operand::from(&dys);
        let mut dresidual = dresidual.as_mut().map(Array::tensor_mut);
        let dresidual: Option<&mut TensorMut<G>> = dresidual.as_mut();
        match call.kind {
            Kind::Batch => {
                *statistics = normkit::batch_norm_fused(x, axis, weight, bias, eps, &extras, y)?;
                let mean = longer(&statistics.mean, Spoil::Mean);
                let used = Used { mean: &mean, rstd: &statistics.rstd, frozen: false };
                *gradients =
                    normkit::batch_norm_fused_backward(dy, x, axis, used, weight, bias, &extras, dx, dresidual)?;
            }
            Kind::Frozen => {
                let (mean, rstd) = (&given.mean, &given.rstd);
                normkit::batch_norm_inference_fused(x, axis, mean, rstd, weight, bias, &extras, y)?;
                let mean = longer(mean, Spoil::Mean);
                let used = Used { mean: &mean, rstd, frozen: true };
                *gradients =
                    normkit::batch_norm_fused_backward(dy, x, axis, used, weight, bias, &extras, dx, dresidual)?;
            }
            Kind::Sharded => {
                let others: Vec<usize> = (0..call.shape.len()).filter(|&other| other != call.axis).collect();
                let of = moments(x, &others)?;
                let var: Vec<f64> = of.m2.iter().map(|m2| m2 / of.count.max(1) as f64).collect();
                let rstd = var.iter().map(|&var| normkit::rstd(var, eps)).collect();
                *statistics = Statistics { count: of.count, mean: of.mean, var, rstd };
                let Statistics { mean, rstd, .. } = &*statistics;
                normkit::batch_norm_inference(x, axis, mean, rstd, weight, bias, y)?;
                let mean = longer(mean, Spoil::Mean);
                let mut sums = normkit::batch_norm_gradient_sums(&dys, x, axis, &mean)?;
                let used = Used { mean: &mean, rstd, frozen: false };
                normkit::batch_norm_gradient_apply(&dys, x, axis, used, weight, &sums, of.count as f64, dx)?;
                sums.weight.iter_mut().zip(rstd).for_each(|(dot, rstd)| *dot *= rstd);
                *gradients = sums;
            }
            Kind::Renorm(bounds) => {
                let [mean, var] = running;
                let (of, r, d) = normkit::batch_renorm(x, axis, weight, bias, eps, [mean, var], bounds, y)?;
                *statistics = of;
                *corrections = [r, d];
                let mean = longer(&statistics.mean, Spoil::Mean);
                let used = Used { mean: &mean, rstd: &statistics.rstd, frozen: false };
                let [r, d] = &*corrections;
                *gradients = normkit::batch_renorm_backward(dy, x, axis, used, weight, [r, d], dx)?;
            }
            Kind::Group(groups, per_sample, ddof) => {
                let groups = if spoilt(Spoil::Groups) { call.shape[axis].max(1) + 1 } else { groups };
                let of = Grouping { groups, ddof, per_sample };
                *statistics = normkit::group_norm_fused(x, axis, of, weight, bias, eps, &extras, y)?;
                let (mean, rstd) = (longer(&statistics.mean, Spoil::Mean), &statistics.rstd);
                *gradients = normkit::group_norm_fused_backward(
                    dy, x, axis, of, &mean, rstd, weight, bias, &extras, dx, dresidual,
                )?;
            }
            Kind::Layer(centred) => {
                let mut axes = call.axes.clone();
                axes.extend(spoilt(Spoil::Axis).then_some(axis));
                let layer = Layer { axes, centred };
                *statistics = normkit::layer_norm(x, &layer, weight, bias, eps, y)?;
                let (mean, rstd) = (longer(&statistics.mean, Spoil::Mean), &statistics.rstd);
                *gradients = normkit::layer_norm_backward(dy, x, &layer, &mean, rstd, weight, true, dx)?;
            }
        }
        Ok(())
    }
}

/// Strides of a dense array without the channels' axis, along which a mask does not vary.
fn mask_strides(shape: &[usize], axis: usize) -> Vec<isize> {
    let mut strides = vec![0; shape.len()];
    let mut next = 1;
    for i in (0..shape.len()).rev().filter(|&i| i != axis) {
        strides[i] = next;
        next *= shape[i].max(1) as isize;
    }
    strides
}
