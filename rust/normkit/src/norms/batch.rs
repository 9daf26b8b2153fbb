//! Batch normalization (Ioffe & Szegedy 2015) and renormalization (Ioffe 2017): statistics of a channel over all samples
//! and positions.

use super::mechanics::{Backward, Extras, Forward, affine, known_means};
use super::{
    ParameterGradients, Statistics, channels, check_eps, check_like, check_parameter, check_shape, isa, parameter,
    plan, plan_application, rstd,
};
use crate::element::Element;
use crate::error::{Error, Result, gathered, zeros};
use crate::kernels::activation::Activation;
use crate::kernels::apply::{Affine, GradAffine, Scale};
use crate::kernels::gradients::GradSums;
use crate::layout::{ADJOINING, Grid, Walk, grid, keep, plain_grid};
use crate::moments::Moments;
use crate::parallel::Slots;
use crate::pass::{Pass, Passes, Reduction};
use crate::plan::Work;
use crate::simd::Real;
use crate::tensor::{Tensor, TensorMut};
use crate::view::{Input, Output};

/// y = (x − mean)·rstd·weight + bias with the statistics of the batch, which are returned.
///
/// # Errors
/// A parameter or `y` does not fit `x`, eps is negative or not finite, or a channel has a single value.
pub fn batch_norm<E: Element>(
    x: &Tensor<E>,
    axis: usize,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
    y: &mut TensorMut<E>,
) -> Result<Statistics> {
    batch_norm_fused(x, axis, weight, bias, eps, &Extras::default(), y)
}

/// [`batch_norm`] with an activation, a residual and a mask.
///
/// # Errors
/// As for [`batch_norm`]; the residual or the mask does not fit `x`.
pub fn batch_norm_fused<E: Element>(
    x: &Tensor<E>,
    axis: usize,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
    extras: &Extras,
    y: &mut TensorMut<E>,
) -> Result<Statistics> {
    check_parameter("weight", weight, channels(x, axis)?, axis)?;
    check_parameter("bias", bias, channels(x, axis)?, axis)?;
    training(x, axis, eps, extras, y, |c, _, _| (parameter(weight, c, 1.0), parameter(bias, c, 0.0)))
}

/// Bounds of a renormalization's corrections.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounds {
    /// r lies between its inverse and it.
    pub r: f64,
    /// d lies between its negative and it.
    pub d: f64,
}

/// y = (x̂·r + d)·weight + bias: batch renormalization. r = σ/σ_running and d = (mean − mean_running)/σ_running within
/// their bounds, σ = sqrt(var + eps); they are returned too.
///
/// # Errors
/// As for [`batch_norm`]; the running statistics do not fit `x`.
pub fn batch_renorm<E: Element>(
    x: &Tensor<E>,
    axis: usize,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
    [running_mean, running_var]: [&[f64]; 2],
    bounds: Bounds,
    y: &mut TensorMut<E>,
) -> Result<(Statistics, Vec<f64>, Vec<f64>)> {
    let channels = channels(x, axis)?;
    let running = [("running_mean", Some(running_mean)), ("running_var", Some(running_var))];
    for (name, values) in [("weight", weight), ("bias", bias)].into_iter().chain(running) {
        check_parameter(name, values, channels, axis)?;
    }
    let (mut r, mut d) = (zeros(channels)?, zeros(channels)?);
    let (rs, ds) = (Slots::new(&mut r), Slots::new(&mut d));
    let statistics = training(x, axis, eps, &Extras::default(), y, |c, mean, var| {
        let inverse = rstd(running_var[c], eps);
        // Not `clamp`: NaN stays NaN, and bounds may be infinite.
        let within = |x: f64, low: f64, high: f64| {
            if x < low {
                low
            } else if x > high {
                high
            } else {
                x
            }
        };
        let r = within((var + eps).sqrt() * inverse, 1.0 / bounds.r, bounds.r);
        let d = within((mean - running_mean[c]) * inverse, -bounds.d, bounds.d);
        rs.set(c, r);
        ds.set(c, d);
        let weight = parameter(weight, c, 1.0);
        (weight * r, parameter(bias, c, 0.0) + weight * d)
    })?;
    Ok((statistics, r, d))
}

/// A training pass; `parameters` gives weight and bias of a channel, by its mean and biased variance.
fn training<E: Element>(
    x: &Tensor<E>,
    axis: usize,
    eps: f64,
    extras: &Extras,
    y: &mut TensorMut<E>,
    parameters: impl Fn(usize, f64, f64) -> (f64, f64) + Sync,
) -> Result<Statistics> {
    let channels = channels(x, axis)?;
    check_eps(eps)?;
    check_like("out", x, y)?;
    extras.check(&x.shape, axis)?;
    let isa = isa()?;
    let count = if channels == 0 { 0 } else { extras.count(&x.shape, axis) };
    let mut statistics = Statistics::new(count, channels)?;
    if x.size() == 0 {
        statistics.rstd.fill(rstd(0.0, eps));
        return Ok(statistics);
    }
    if count == 1 {
        return Err(Error::new("x", "have more than one value per channel in training", "1"));
    }
    let kept = keep(x.shape.len(), [axis]);
    let [residual, mask] = extras.strides(&x.strides);
    let make = if extras.mask.is_some() { plain_grid } else { grid };
    let (grid, [from, to, residual, mask]) = make(&x.shape, &kept, [&x.strides, &y.strides, residual, mask]);
    let x = Input::<E::Compute>::new(x, &from);
    let out = Output::new(y, &to);
    let beside = extras.inputs(&residual, &mask);
    let slots = [&mut statistics.mean, &mut statistics.var, &mut statistics.rstd].map(|slots| Slots::new(slots));
    let rule = |c: usize, m: Moments| {
        let var = if m.count == 0.0 { 0.0 } else { m.var(0.0) };
        let rstd = rstd(var, eps);
        let [means, vars, rstds] = slots;
        means.set(c, m.mean);
        vars.set(c, var);
        rstds.set(c, rstd);
        let (weight, bias) = parameters(c, m.mean, var);
        move |_| Affine::new(m.mean, weight * rstd, bias)
    };
    let mask = extras.mask.as_ref().map(|of| Input::mask(of, &mask));
    Forward { grid, x, mask, cells_grid: grid, cells_x: x, beside, out, cells: 1, samples: 1 }.run(isa, rule)?;
    Ok(statistics)
}

/// y = (x − mean)·rstd·weight + bias with given statistics.
///
/// # Errors
/// A parameter or `y` does not fit `x`.
pub fn batch_norm_inference<E: Element>(
    x: &Tensor<E>,
    axis: usize,
    mean: &[f64],
    rstd: &[f64],
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    y: &mut TensorMut<E>,
) -> Result<()> {
    batch_norm_inference_fused(x, axis, mean, rstd, weight, bias, &Extras::default(), y)
}

/// [`batch_norm_inference`] with an activation, a residual and a mask.
///
/// # Errors
/// As for [`batch_norm_inference`]; the residual or the mask does not fit `x`.
pub fn batch_norm_inference_fused<E: Element>(
    x: &Tensor<E>,
    axis: usize,
    mean: &[f64],
    rstd: &[f64],
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    extras: &Extras,
    y: &mut TensorMut<E>,
) -> Result<()> {
    let channels = channels(x, axis)?;
    for (name, values) in [("mean", Some(mean)), ("var", Some(rstd)), ("weight", weight), ("bias", bias)] {
        check_parameter(name, values, channels, axis)?;
    }
    check_like("out", x, y)?;
    extras.check(&x.shape, axis)?;
    let cells = gathered((0..channels).map(|c| cell(c, mean, rstd, weight, bias)))?;
    let isa = isa()?;
    if x.size() == 0 {
        return Ok(());
    }
    let [residual, mask] = extras.strides(&x.strides);
    let (grid, [from, to, residual, mask]) = inference_grid(x, axis, [&x.strides, &y.strides, residual, mask]);
    affine::<E::Compute>(grid, Input::new(x, &from), extras.inputs(&residual, &mask), Output::new(y, &to), cells, isa)?;
    Ok(())
}

/// The affine map of channel `c`.
fn cell<T: Real>(c: usize, mean: &[f64], rstd: &[f64], weight: Option<&[f64]>, bias: Option<&[f64]>) -> Affine<T> {
    Affine::new(mean[c], parameter(weight, c, 1.0) * rstd[c], parameter(bias, c, 0.0))
}

/// Where nothing is reduced, samples may be cells too: where channels are outermost but for them, cells are then walked
/// in the order of memory, and the channels' coefficients repeat. Cells that are short, or lie where lines cannot be taken
/// in place, make columns with their neighbours instead.
fn inference_grid<E, const P: usize>(x: &Tensor<E>, axis: usize, strides: [&[isize]; P]) -> (Grid, [Walk; P]) {
    let mut kept = keep(x.shape.len(), [axis]);
    let outermost = |other: usize| x.strides[other].unsigned_abs() > x.strides[axis].unsigned_abs();
    if (0..axis).all(outermost) {
        kept[..axis].fill(true);
        let (grid, walks) = grid(&x.shape, &kept, strides);
        let direct = !grid.lines || walks.iter().all(|walk| walk.direct().is_some());
        if !grid.columns && grid.len >= ADJOINING && direct {
            return (grid, walks);
        }
        kept[..axis].fill(false);
    }
    grid(&x.shape, &kept, strides)
}

/// The statistics that a forward pass has normalized with.
#[derive(Clone, Copy, Debug)]
pub struct Used<'a> {
    /// Means.
    pub mean: &'a [f64],
    /// 1/sqrt(var + eps).
    pub rstd: &'a [f64],
    /// Whether they were given rather than taken from x, and so do not depend on it.
    pub frozen: bool,
}

/// dx and the gradients of the parameters. `mean` and `rstd` are those that the forward pass has used; `frozen` says
/// that they were given, not taken from `x`, and so do not depend on it.
///
/// # Errors
/// `dy`, `mean`, `rstd`, `weight` or `dx` do not fit `x`.
pub fn batch_norm_backward<E: Element, G: Element>(
    dy: &Tensor<G>,
    x: &Tensor<E>,
    axis: usize,
    mean: &[f64],
    rstd: &[f64],
    weight: Option<&[f64]>,
    frozen: bool,
    dx: &mut TensorMut<E>,
) -> Result<ParameterGradients> {
    let used = Used { mean, rstd, frozen };
    batch_norm_fused_backward::<E, E>(&dy.into(), x, axis, used, weight, None, &Extras::default(), dx, None)
}

/// [`batch_norm_backward`] of [`batch_norm_fused`]; `bias` matters where there is an activation. `dresidual` takes the
/// residual's gradient.
///
/// # Errors
/// As for [`batch_norm_backward`]; the residual, the mask or `dresidual` does not fit `x`.
pub fn batch_norm_fused_backward<E: Element, R: Element>(
    dy: &super::Operand,
    x: &Tensor<E>,
    axis: usize,
    used: Used,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    extras: &Extras,
    dx: &mut TensorMut<E>,
    dresidual: Option<&mut TensorMut<R>>,
) -> Result<ParameterGradients> {
    let Used { mean, rstd, frozen } = used;
    let channels = channels(x, axis)?;
    for (name, values) in [("mean", Some(mean)), ("rstd", Some(rstd)), ("weight", weight), ("bias", bias)] {
        check_parameter(name, values, channels, axis)?;
    }
    check_shape("dy", &x.shape, &dy.shape)?;
    check_like("out", x, dx)?;
    extras.check(&x.shape, axis)?;
    if let Some(dresidual) = &dresidual {
        check_like("dresidual", x, dresidual)?;
    }
    let isa = isa()?;
    let mut gradients = ParameterGradients { weight: zeros(channels)?, bias: zeros(channels)? };
    if x.size() == 0 {
        return Ok(gradients);
    }
    let kept = keep(x.shape.len(), [axis]);
    let [residual, mask] = extras.strides(&x.strides);
    let second = dresidual.as_ref().map_or(&x.strides, |of| &of.strides);
    let make = if extras.mask.is_some() { plain_grid } else { grid };
    let (grid, [from, along, to, residual, mask, beside]) =
        make(&x.shape, &kept, [&x.strides, &dy.strides, &dx.strides, residual, mask, second]);
    let count = extras.count(&x.shape, axis).max(1) as f64;
    let (dweight, dbias) = (Slots::new(&mut gradients.weight), Slots::new(&mut gradients.bias));
    let rule = |c: usize, sums: &[GradSums]| {
        // About the exact mean.
        let sums = sums[0].about::<E::Compute>(mean[c]);
        dweight.set(c, sums.dot * rstd[c]);
        dbias.set(c, sums.dy);
        let a = parameter(weight, c, 1.0) * rstd[c];
        move |_| gradient::<E::Compute>(mean[c], rstd[c], a, sums, count)
    };
    Backward {
        grid,
        x: Input::new(x, &from),
        dy: dy.input(&along),
        beside: extras.inputs(&residual, &mask),
        known: &|first, cells| {
            for (c, of) in (first..).zip(cells) {
                *of = cell(c, mean, rstd, weight, bias);
            }
        },
        out: Output::new(dx, &to),
        second: dresidual.map(|of| Output::new(of, &beside)),
        cells: 1,
        samples: 1,
        frozen,
    }
    .run(isa, rule)?;
    Ok(gradients)
}

/// dx and the gradients of the parameters of [`batch_renorm`], which has returned `r` and `d`: no gradient flows through
/// them.
///
/// # Errors
/// As for [`batch_norm_backward`].
pub fn batch_renorm_backward<E: Element>(
    dy: &super::Operand,
    x: &Tensor<E>,
    axis: usize,
    used: Used,
    weight: Option<&[f64]>,
    [r, d]: [&[f64]; 2],
    dx: &mut TensorMut<E>,
) -> Result<ParameterGradients> {
    let channels = channels(x, axis)?;
    for (name, values) in [("weight", weight), ("r", Some(r)), ("d", Some(d))] {
        check_parameter(name, values, channels, axis)?;
    }
    let scaled = gathered((0..channels).map(|c| parameter(weight, c, 1.0) * r[c]))?;
    let extras = Extras::default();
    let mut gradients = batch_norm_fused_backward::<E, E>(dy, x, axis, used, Some(&scaled), None, &extras, dx, None)?;
    for c in 0..channels {
        gradients.weight[c] = r[c] * gradients.weight[c] + d[c] * gradients.bias[c];
    }
    Ok(gradients)
}

/// dx = a·(dy − mean(dy) − x̂·mean(dy·x̂)), with a = weight·rstd.
fn gradient<T: Real>(mean: f64, rstd: f64, a: f64, sums: GradSums, count: f64) -> GradAffine<T> {
    GradAffine::new(mean, rstd, a, -a * rstd * sums.dot / count, -a * sums.dy / count)
}

/// Σdy·(x − mean) and Σdy of each channel: what shards of a batch exchange. (The first of each pair is `weight`.)
///
/// # Errors
/// `dy` or `mean` does not fit `x`.
pub fn batch_norm_gradient_sums<E: Element, G: Element>(
    dy: &Tensor<G>,
    x: &Tensor<E>,
    axis: usize,
    mean: &[f64],
) -> Result<ParameterGradients> {
    let channels = channels(x, axis)?;
    check_parameter("mean", Some(mean), channels, axis)?;
    check_shape("dy", &x.shape, &dy.shape)?;
    let isa = isa()?;
    let mut sums_of = ParameterGradients { weight: zeros(channels)?, bias: zeros(channels)? };
    if x.size() == 0 {
        return Ok(sums_of);
    }
    let (grid, [from, along]) = grid(&x.shape, &keep(x.shape.len(), [axis]), [&x.strides, &dy.strides]);
    let (dots, dys) = (Slots::new(&mut sums_of.weight), Slots::new(&mut sums_of.bias));
    let rule = |c: usize, of: &[GradSums], _: &mut [Scale<E::Compute>]| {
        let sums = of[0].about::<E::Compute>(mean[c]);
        dots.set(c, sums.dot);
        dys.set(c, sums.dy);
    };
    let known = |first: usize, cells: &mut [Affine<E::Compute>]| known_means(&mean[first..], cells);
    let inputs = [Input::new(x, &from), Input::new(dy, &along)];
    let activation = Activation::Identity;
    let reduce = Reduction { grid, inputs, known: &known, activation, mask: None };
    let pass = Pass { reduce, parts: 1, apply: None, cells: 0, samples: 1, rule: &rule };
    let read = x.size() * (size_of::<E>() + size_of::<G>());
    Passes::backward_frozen(&pass, isa, &plan(&Work::new(grid, read, 0)))?;
    Ok(sums_of)
}

/// dx by sums over all shards of a batch, which has `count` elements in a channel.
///
/// # Errors
/// An argument does not fit `x`.
pub fn batch_norm_gradient_apply<E: Element, G: Element>(
    dy: &Tensor<G>,
    x: &Tensor<E>,
    axis: usize,
    used: Used,
    weight: Option<&[f64]>,
    sums: &ParameterGradients,
    count: f64,
    dx: &mut TensorMut<E>,
) -> Result<()> {
    let channels = channels(x, axis)?;
    let Used { mean, rstd, .. } = used;
    let given = [("dot", Some(&sums.weight[..])), ("total", Some(&sums.bias[..])), ("weight", weight)];
    for (name, values) in [("mean", Some(mean)), ("rstd", Some(rstd))].into_iter().chain(given) {
        check_parameter(name, values, channels, axis)?;
    }
    check_shape("dy", &x.shape, &dy.shape)?;
    check_like("out", x, dx)?;
    let isa = isa()?;
    if x.size() == 0 {
        return Ok(());
    }
    let cells: Vec<GradAffine<E::Compute>> = gathered((0..channels).map(|c| {
        let of = GradSums { dy: sums.bias[c], dot: sums.weight[c] };
        gradient(mean[c], rstd[c], parameter(weight, c, 1.0) * rstd[c], of, count)
    }))?;
    let strides = [&x.strides[..], &dy.strides, &dx.strides];
    let (grid, [from, along, to]) = grid(&x.shape, &keep(x.shape.len(), [axis]), strides);
    let inputs = [Input::new(x, &from), Input::new(dy, &along)];
    let apply = crate::pass::Application { grid, inputs, out: Output::new(dx, &to), second: None, mask: None };
    let (read, written) = (x.size() * (size_of::<E>() + size_of::<G>()), x.size() * size_of::<E>());
    let plan = plan_application(&Work::new(grid, read, written));
    Passes::backward_affine(&apply, isa, &plan, &cells)?;
    Ok(())
}

/// running = (1 − momentum)·running + momentum·batch, the variance with `count − ddof`. An empty batch changes nothing.
pub fn update_running(statistics: &Statistics, momentum: f64, ddof: f64, mean: &mut [f64], var: &mut [f64]) {
    let count = statistics.count as f64;
    if count <= ddof {
        return;
    }
    let blend = |running: &mut [f64], batch: &[f64], factor: f64| {
        for (running, batch) in running.iter_mut().zip(batch) {
            *running = (1.0 - momentum) * *running + momentum * (batch * factor);
        }
    };
    blend(mean, &statistics.mean, 1.0);
    blend(var, &statistics.var, count / (count - ddof));
}
