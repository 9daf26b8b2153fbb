//! Group normalization (Wu & He 2018): statistics of a group of channels within a sample.

use super::{
    ParameterGradients, Statistics, channels, check_eps, check_like, check_parameter, check_shape, isa, parameter,
    plan, rstd,
};
use crate::element::Element;
use crate::error::{Error, Result, shape_text, zeros};
use crate::kernels::apply::{Affine, GradAffine};
use crate::kernels::reduce::{GradSums, MomentSums};
use crate::layout::{grid, keep};
use crate::parallel::Slots;
use crate::pass::{Application, Pass, Passes, Reduction};
use crate::plan::{Work, sample_parts};
use crate::tensor::{Tensor, TensorMut};
use crate::view::{Input, Output};

/// How many channels a group has.
fn check_groups<E>(x: &Tensor<E>, axis: usize, groups: usize) -> Result<usize> {
    let channels = channels(x, axis)?;
    if x.shape.len() < 2 {
        let expected = "have at least two axes, samples and channels";
        return Err(Error::new("x", expected, format!("shape {}", shape_text(&x.shape))));
    }
    if groups == 0 || groups > channels.max(1) || channels % groups != 0 {
        let expected = format!("divide the {channels} channels of x on axis {axis}");
        return Err(Error::new("num_groups", expected, groups));
    }
    Ok(channels / groups)
}

/// The axes with those of samples first: they are the first that is not the channels'.
fn samples_first<N: Copy>(values: &[N], axis: usize) -> Vec<N> {
    let mut values = values.to_vec();
    if axis == 0 {
        values.swap(0, 1);
    }
    values
}

/// The channel axis as two: groups, and channels of a group.
fn split<N: Copy>(values: &[N], axis: usize, group: N, channel: N) -> Vec<N> {
    [&values[..axis], &[group, channel], &values[axis + 1..]].concat()
}

fn split_strides(strides: &[isize], axis: usize, width: usize) -> Vec<isize> {
    split(strides, axis, strides[axis] * width as isize, strides[axis])
}

/// y = (x − mean)·rstd·weight + bias with the statistics of each sample's groups, which are returned.
///
/// # Errors
/// A parameter or `y` does not fit `x`, groups do not divide its channels, or eps is negative or not finite.
pub fn group_norm<E: Element>(
    x: &Tensor<E>,
    axis: usize,
    groups: usize,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
    y: &mut TensorMut<E>,
) -> Result<Statistics> {
    let width = check_groups(x, axis, groups)?;
    let channels = groups * width;
    check_eps(eps)?;
    check_parameter("weight", weight, channels, axis)?;
    check_parameter("bias", bias, channels, axis)?;
    check_like("out", x, y)?;
    let isa = isa()?;
    let [x_strides, y_strides] = [&x.strides, &y.strides].map(|strides| samples_first(strides, axis));
    let (whole, axis) = (samples_first(&x.shape, axis), axis.max(1));
    let samples = whole[0];
    let count = x.size().checked_div(samples * groups).unwrap_or(0);
    let mut statistics = Statistics::new(count, samples * groups)?;
    if x.size() == 0 {
        statistics.rstd.fill(rstd(0.0, eps));
        return Ok(statistics);
    }
    let shape = split(&whole, axis, groups, width);
    let (groups_grid, [from]) = grid(&shape, &keep(shape.len(), [0, axis]), [&split_strides(&x_strides, axis, width)]);
    let (cells_grid, [along, to]) = grid(&whole, &keep(whole.len(), [0, axis]), [&x_strides, &y_strides]);
    let slots = [&mut statistics.mean, &mut statistics.var, &mut statistics.rstd].map(|slots| Slots::new(slots));
    let rule = |t: usize, m: &[MomentSums], cells: &mut [Affine<E::Compute>]| {
        let m = m[0].moments();
        let var = m.var(0.0);
        let rstd = rstd(var, eps);
        let [means, vars, rstds] = slots;
        means.set(t, m.mean);
        vars.set(t, var);
        rstds.set(t, rstd);
        let first = t % groups * width;
        for (i, cell) in cells.iter_mut().enumerate() {
            let c = first + i;
            *cell = Affine::new(m.mean, parameter(weight, c, 1.0) * rstd, parameter(bias, c, 0.0));
        }
    };
    let pass = Pass {
        reduce: Reduction {
            grid: groups_grid,
            inputs: [Input::new(x, &from)],
            means: &[],
            shared: 1,
            ahead: (x_strides == y_strides).then(|| Output::new(y, &from)),
        },
        parts: 1,
        apply: Some(Application { grid: cells_grid, inputs: [Input::new(x, &along)], out: Output::new(y, &to) }),
        cells: width,
        samples,
        rule: &rule,
    };
    let bytes = x.size() * size_of::<E>();
    Passes::forward(&pass, isa, &plan(&Work { grid: groups_grid, parts: 1, samples, read: bytes, written: bytes }));
    Ok(statistics)
}

/// dx and the gradients of the parameters. `mean` and `rstd` are those of the forward pass, (samples, groups).
///
/// # Errors
/// `dy`, `mean`, `rstd`, `weight` or `dx` do not fit `x`.
pub fn group_norm_backward<E: Element, G: Element>(
    dy: &Tensor<G>,
    x: &Tensor<E>,
    axis: usize,
    groups: usize,
    mean: &[f64],
    rstd: &[f64],
    weight: Option<&[f64]>,
    dx: &mut TensorMut<E>,
) -> Result<ParameterGradients> {
    let width = check_groups(x, axis, groups)?;
    let channels = groups * width;
    let whole = samples_first(&x.shape, axis);
    let samples = whole[0];
    for (name, values) in [("mean", mean), ("rstd", rstd)] {
        if values.len() != samples * groups {
            let expected = format!("have {} elements (groups of all samples)", samples * groups);
            return Err(Error::new(name, expected, format!("{} elements", values.len())));
        }
    }
    check_parameter("weight", weight, channels, axis)?;
    check_shape("dy", &x.shape, &dy.shape)?;
    check_like("out", x, dx)?;
    let isa = isa()?;
    let parts = sample_parts(samples);
    let mut dweight = zeros::<f64>(parts.max(1) * channels)?;
    let mut dbias = dweight.clone();
    if x.size() > 0 {
        let strides = [&x.strides, &dy.strides, &dx.strides].map(|strides| samples_first(strides, axis));
        let kept = keep(whole.len(), [0, axis.max(1)]);
        let (grid, [from, along, to]) = grid(&whole, &kept, strides.each_ref().map(|strides| &strides[..]));
        let count = (grid.count() * width) as f64;
        let inputs = [Input::new(x, &from), Input::new(dy, &along)];
        let (dweight, dbias) = (Slots::new(&mut dweight), Slots::new(&mut dbias));
        let part = samples.div_ceil(parts);
        let rule = |t: usize, sums: &[GradSums], cells: &mut [GradAffine<E::Compute>]| {
            let (sample, first) = (t / groups, t % groups * width);
            let slot = sample / part * channels + first;
            let (mut dot, mut dy) = (0.0, 0.0);
            for (i, sums) in sums.iter().enumerate() {
                let sums = sums.about::<E::Compute>(mean[t]);
                dweight.add(slot + i, sums.dot * rstd[t]);
                dbias.add(slot + i, sums.dy);
                let weight = parameter(weight, first + i, 1.0);
                dot += weight * sums.dot;
                dy += weight * sums.dy;
            }
            let b = -rstd[t] * rstd[t] * dot / count;
            let c = -rstd[t] * dy / count;
            for (i, cell) in cells.iter_mut().enumerate() {
                *cell = GradAffine::new(mean[t], rstd[t], parameter(weight, first + i, 1.0) * rstd[t], b, c);
            }
        };
        let pass = Pass {
            reduce: Reduction { grid, inputs: inputs.clone(), means: mean, shared: width, ahead: None },
            parts: width,
            apply: Some(Application { grid, inputs, out: Output::new(dx, &to) }),
            cells: width,
            samples,
            rule: &rule,
        };
        let read = x.size() * (size_of::<E>() + size_of::<G>());
        Passes::backward(
            &pass,
            isa,
            &plan(&Work { grid, parts: width, samples, read, written: x.size() * size_of::<E>() }),
        );
    }
    let sum = |parts: &[f64]| {
        let (first, rest) = parts.split_at(channels);
        rest.chunks_exact(channels.max(1)).fold(first.to_vec(), |mut sum, part| {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            sum
        })
    };
    Ok(ParameterGradients { weight: sum(&dweight), bias: sum(&dbias) })
}
