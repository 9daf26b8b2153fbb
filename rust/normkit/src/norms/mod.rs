//! Norms: each a grouping (which axes a statistic keeps) and a rule for coefficients; no loop over elements.

mod adaptive;
mod batch;
mod group;
mod layer;
mod mechanics;
mod moments;
mod parts;

pub use adaptive::{Adapted, adaptive_instance_norm, adaptive_instance_norm_backward};
pub use batch::{
    Bounds, Used, batch_norm, batch_norm_backward, batch_norm_fused, batch_norm_fused_backward,
    batch_norm_gradient_apply, batch_norm_gradient_sums, batch_norm_inference, batch_norm_inference_fused,
    batch_renorm, batch_renorm_backward, update_running,
};
pub use group::{
    Grouping, affine_per_sample, group_norm, group_norm_backward, group_norm_fused, group_norm_fused_backward,
};
pub use layer::{Layer, layer_norm, layer_norm_backward};
pub use mechanics::{Extras, Operand};
pub use moments::{MomentsOf, moments};

use crate::error::{Error, Result, shape_text, zeros};
use crate::explain::hear;
use crate::machine::Caches;
use crate::parallel::num_threads;
use crate::plan::{Plan, Schedule, Work};
use crate::simd::Isa;
use crate::tensor::{Tensor, TensorMut};

/// What a forward pass has measured: one entry for each statistic, all in float64.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Statistics {
    /// Elements of a statistic.
    pub count: usize,
    /// Means.
    pub mean: Vec<f64>,
    /// Biased variances.
    pub var: Vec<f64>,
    /// 1/sqrt(var + eps).
    pub rstd: Vec<f64>,
}

impl Statistics {
    fn new(count: usize, statistics: usize) -> Result<Self> {
        let zeros = || zeros(statistics);
        Ok(Statistics { count, mean: zeros()?, var: zeros()?, rstd: zeros()? })
    }
}

/// Gradients of the parameters, in float64.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ParameterGradients {
    /// Σ dy·x̂ for each channel.
    pub weight: Vec<f64>,
    /// Σ dy for each channel.
    pub bias: Vec<f64>,
}

/// 1/sqrt(var + eps); 0 where that is infinite, so that a constant gives the bias and a zero gradient even if eps is 0.
#[inline(always)]
pub fn rstd(var: f64, eps: f64) -> f64 {
    let sum = var + eps;
    if sum == 0.0 { 0.0 } else { 1.0 / sum.sqrt() }
}

/// The channels of `x`.
fn channels<E>(x: &Tensor<E>, axis: usize) -> Result<usize> {
    let expected = || format!("be an axis of x, which has shape {}", shape_text(&x.shape));
    x.shape.get(axis).copied().ok_or_else(|| Error::new("axis", expected(), axis))
}

fn check_eps(eps: f64) -> Result<()> {
    if eps.is_finite() && eps >= 0.0 { Ok(()) } else { Err(Error::new("eps", "be finite and >= 0", eps)) }
}

/// One value for each channel, where there are any.
fn check_parameter(name: &'static str, values: Option<&[f64]>, channels: usize, axis: usize) -> Result<()> {
    match values {
        Some(values) if values.len() != channels => {
            let expected = format!("have {channels} elements (channels of x on axis {axis})");
            Err(Error::new(name, expected, format!("{} elements", values.len())))
        }
        _ => Ok(()),
    }
}

fn check_like<E, F>(name: &'static str, x: &Tensor<E>, out: &TensorMut<F>) -> Result<()> {
    check_shape(name, &x.shape, &out.shape)
}

fn check_shape(name: &'static str, expected: &[usize], found: &[usize]) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let text = format!("have the shape of x, {}", shape_text(expected));
    Err(Error::new(name, text, format!("shape {}", shape_text(found))))
}

/// The value for channel `c`, where there are any.
#[inline(always)]
fn parameter(values: Option<&[f64]>, c: usize, default: f64) -> f64 {
    values.map_or(default, |values| values[c])
}

/// The instruction set in force.
pub(crate) fn isa() -> Result<Isa> {
    Isa::current()
}

/// The plan for this work on this machine.
pub(crate) fn plan(work: &Work) -> Plan {
    planned(work, Plan::new)
}

/// The same where nothing is reduced, as the coefficients are given.
pub(crate) fn plan_application(work: &Work) -> Plan {
    planned(work, |work, threads, caches| Plan::alone(work, threads, caches, Schedule::Given))
}

/// The same where lines are taken by themselves.
pub(crate) fn plan_lines(work: &Work) -> Plan {
    planned(work, |work, threads, caches| Plan::alone(work, threads, caches, Schedule::Lines))
}

fn planned(work: &Work, plan: impl Fn(&Work, usize, &Caches) -> Plan) -> Plan {
    let caches = Caches::detect();
    let plan = plan(work, num_threads(), &caches);
    hear(work, &plan, &caches);
    plan
}
