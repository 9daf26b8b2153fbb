//! Batch normalization (Ioffe & Szegedy 2015): statistics of a channel over all samples and positions.

use super::{
    ParameterGradients, Statistics, channels, check_eps, check_like, check_parameter, check_shape, isa, parameter,
    plan, rstd,
};
use crate::element::Element;
use crate::error::{Error, Result, zeros};
use crate::kernels::apply::{Affine, GradAffine, Scale};
use crate::kernels::reduce::{GradSums, MomentSums};
use crate::layout::{Grid, LONG, Walk, grid, keep};
use crate::parallel::Slots;
use crate::pass::{Application, Pass, Passes, Reduction};
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
    let channels = channels(x, axis)?;
    check_eps(eps)?;
    check_parameter("weight", weight, channels, axis)?;
    check_parameter("bias", bias, channels, axis)?;
    check_like("out", x, y)?;
    let isa = isa()?;
    let count = x.size().checked_div(channels).unwrap_or(0);
    let mut statistics = Statistics::new(count, channels)?;
    if x.size() == 0 {
        statistics.rstd.fill(rstd(0.0, eps));
        return Ok(statistics);
    }
    if count == 1 {
        return Err(Error::new("x", "have more than one value per channel in training", "1"));
    }
    let (grid, [from, to]) = grid(&x.shape, &keep(x.shape.len(), [axis]), [&x.strides, &y.strides]);
    let x = Input::new(x, &from);
    let bytes = grid.statistics() * count * size_of::<E>();
    let out = Output::new(y, &to);
    let slots = [&mut statistics.mean, &mut statistics.var, &mut statistics.rstd].map(|slots| Slots::new(slots));
    let rule = |c: usize, m: &[MomentSums], cells: &mut [Affine<E::Compute>]| {
        let m = m[0].moments();
        let var = m.var(0.0);
        let rstd = rstd(var, eps);
        let [means, vars, rstds] = slots;
        means.set(c, m.mean);
        vars.set(c, var);
        rstds.set(c, rstd);
        cells[0] = Affine::new(m.mean, parameter(weight, c, 1.0) * rstd, parameter(bias, c, 0.0));
    };
    let pass = Pass {
        reduce: Reduction { grid, inputs: [x.clone()], means: &[], shared: 1, ahead: Some(out.clone()) },
        parts: 1,
        apply: Some(Application { grid, inputs: [x], out }),
        cells: 1,
        samples: 1,
        rule: &rule,
    };
    Passes::forward(&pass, isa, &plan(&Work { grid, parts: 1, samples: 1, read: bytes, written: bytes }));
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
    let channels = channels(x, axis)?;
    for (name, values) in [("mean", Some(mean)), ("var", Some(rstd)), ("weight", weight), ("bias", bias)] {
        check_parameter(name, values, channels, axis)?;
    }
    check_like("out", x, y)?;
    let cells: Vec<_> = (0..channels)
        .map(|c| Affine::<E::Compute>::new(mean[c], parameter(weight, c, 1.0) * rstd[c], parameter(bias, c, 0.0)))
        .collect();
    let isa = isa()?;
    if x.size() == 0 {
        return Ok(());
    }
    let (grid, [from, to]) = inference_grid(x, axis, y);
    let bytes = x.size() * size_of::<E>();
    let apply = Application { grid, inputs: [Input::new(x, &from)], out: Output::new(y, &to) };
    let plan = plan(&Work { grid, parts: 1, samples: 1, read: bytes, written: bytes });
    Passes::affine(&apply, isa, &plan, &cells);
    Ok(())
}

/// Where nothing is reduced, samples may be cells too: where channels are outermost but for them, cells are then walked
/// in the order of memory, and the channels' coefficients repeat. Short cells make columns with their neighbours instead.
fn inference_grid<E>(x: &Tensor<E>, axis: usize, y: &TensorMut<E>) -> (Grid, [Walk; 2]) {
    let strides = [&x.strides[..], &y.strides];
    let mut kept = keep(x.shape.len(), [axis]);
    let outermost = |other: usize| x.strides[other].unsigned_abs() > x.strides[axis].unsigned_abs();
    if (0..axis).all(outermost) {
        kept[..axis].fill(true);
        let (grid, walks) = grid(&x.shape, &kept, strides);
        if !grid.columns && grid.len >= LONG {
            return (grid, walks);
        }
        kept[..axis].fill(false);
    }
    grid(&x.shape, &kept, strides)
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
    let channels = channels(x, axis)?;
    for (name, values) in [("mean", Some(mean)), ("rstd", Some(rstd)), ("weight", weight)] {
        check_parameter(name, values, channels, axis)?;
    }
    check_shape("dy", &x.shape, &dy.shape)?;
    check_like("out", x, dx)?;
    let isa = isa()?;
    let mut gradients = ParameterGradients { weight: zeros(channels)?, bias: zeros(channels)? };
    if x.size() == 0 {
        return Ok(gradients);
    }
    let kept = keep(x.shape.len(), [axis]);
    let (grid, [from, along, to]) = grid(&x.shape, &kept, [&x.strides, &dy.strides, &dx.strides]);
    let count = grid.count() as f64;
    let inputs = [Input::new(x, &from), Input::new(dy, &along)];
    let reduce = Reduction { grid, inputs: inputs.clone(), means: mean, shared: 1, ahead: None };
    let (dweight, dbias) = (Slots::new(&mut gradients.weight), Slots::new(&mut gradients.bias));
    // The sums of a channel, about its exact mean; its parameters' gradients go where they belong.
    let sums = |c: usize, sums: GradSums| {
        let sums = sums.about::<E::Compute>(mean[c]);
        dweight.set(c, sums.dot * rstd[c]);
        dbias.set(c, sums.dy);
        (sums, parameter(weight, c, 1.0) * rstd[c])
    };
    let work = Work {
        grid,
        parts: 1,
        samples: 1,
        read: x.size() * (size_of::<E>() + size_of::<G>()),
        written: x.size() * size_of::<E>(),
    };
    let out = Output::new(dx, &to);
    if frozen {
        let [_, dy] = inputs;
        let rule = |c: usize, cell: &[GradSums], out: &mut [Scale<E::Compute>]| {
            out[0] = Scale(Real::from_f64(sums(c, cell[0]).1));
        };
        let apply = Some(Application { grid, inputs: [dy], out });
        let pass = Pass { reduce, parts: 1, apply, cells: 1, samples: 1, rule: &rule };
        Passes::frozen(&pass, isa, &plan(&work));
    } else {
        let rule = |c: usize, cell: &[GradSums], out: &mut [GradAffine<E::Compute>]| {
            let (sums, a) = sums(c, cell[0]);
            let b = -a * rstd[c] * sums.dot / count;
            out[0] = GradAffine::new(mean[c], rstd[c], a, b, -a * sums.dy / count);
        };
        let apply = Some(Application { grid, inputs, out });
        let pass = Pass { reduce, parts: 1, apply, cells: 1, samples: 1, rule: &rule };
        Passes::backward(&pass, isa, &plan(&work));
    }
    Ok(gradients)
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
