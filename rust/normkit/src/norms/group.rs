//! Group normalization (Wu & He 2018), instance normalization (Ulyanov, Vedaldi & Lempitsky 2016: groups of one channel)
//! and adaptive instance normalization (Huang & Belongie 2017): statistics of a group of channels within a sample.

use super::mechanics::{Backward, BackwardRuns, Extras, Forward, Operand, affine, known_means};
use super::parts::Parts;
use super::{
    ParameterGradients, Statistics, channels, check_eps, check_like, check_parameter, check_shape, isa, parameter,
    plan_lines, rstd,
};
use crate::element::Element;
use crate::error::{Error, Result, gathered, shape_text};
use crate::kernels::Pattern;
use crate::kernels::activation::Activation;
use crate::kernels::apply::{Affine, GradAffine};
use crate::kernels::gradients::GradSums;
use crate::kernels::moments::MomentSums;
use crate::layout::{Axes, Grid, Walk, grid, keep};
use crate::moments::{Moments, Sum};
use crate::parallel::Slots;
use crate::pass::{Passes, Rule, WeightedLines};
use crate::plan::{Work, sample_parts};
use crate::simd::{Isa, Real};
use crate::tensor::{Tensor, TensorMut, dense_strides};
use crate::view::{Input, Output};

/// Channels of a group that are added up in one chain: of many thousands the roundings would show in float64.
const TOGETHER: usize = 64;

/// How statistics are taken, and what parameters belong to.
#[derive(Clone, Copy, Debug)]
pub struct Grouping {
    /// Groups of channels.
    pub groups: usize,
    /// The variance is that of `count − ddof`.
    pub ddof: f64,
    /// Whether there is a parameter for each channel of each sample, not just for each channel.
    pub per_sample: bool,
}

impl Grouping {
    /// Group normalization.
    pub fn new(groups: usize) -> Self {
        Grouping { groups, ddof: 0.0, per_sample: false }
    }

    /// How many parameters there are.
    fn parameters(&self, samples: usize, channels: usize) -> usize {
        if self.per_sample { samples * channels } else { channels }
    }
}

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
fn samples_first<N: Copy>(values: &[N], axis: usize) -> Axes<N> {
    let mut values = Axes::from_slice(values);
    if axis == 0 {
        values.swap(0, 1);
    }
    values
}

/// The channel axis as two: groups, and channels of a group.
fn split<N: Copy>(values: &[N], axis: usize, group: N, channel: N) -> Axes<N> {
    let mut values = Axes::from_slice(values);
    values[axis] = group;
    values.insert(axis + 1, channel);
    values
}

fn split_strides(strides: &[isize], axis: usize, width: usize) -> Axes<isize> {
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
    group_norm_fused(x, axis, Grouping::new(groups), weight, bias, eps, &Extras::default(), y)
}

/// [`group_norm`] with an activation and a residual.
///
/// # Errors
/// As for [`group_norm`]; the residual does not fit `x`.
pub fn group_norm_fused<E: Element>(
    x: &Tensor<E>,
    axis: usize,
    grouping: Grouping,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
    extras: &Extras,
    y: &mut TensorMut<E>,
) -> Result<Statistics> {
    let Grouping { groups, ddof, per_sample } = grouping;
    let width = check_groups(x, axis, groups)?;
    check_eps(eps)?;
    check_like("out", x, y)?;
    check_no_mask(extras)?;
    extras.check(&x.shape, axis)?;
    let whole = samples_first(&x.shape, axis);
    let (samples, channels) = (whole[0], groups * width);
    let parameters = grouping.parameters(samples, channels);
    check_parameter("weight", weight, parameters, axis)?;
    check_parameter("bias", bias, parameters, axis)?;
    let isa = isa()?;
    let count = x.size().checked_div(samples * groups).unwrap_or(0);
    let mut statistics = Statistics::new(count, samples * groups)?;
    if x.size() == 0 {
        statistics.rstd.fill(rstd(0.0, eps));
        return Ok(statistics);
    }
    let slots = [&mut statistics.mean, &mut statistics.var, &mut statistics.rstd].map(|slots| Slots::new(slots));
    let statistic = |t: usize, m: Moments| {
        let var = m.var(ddof);
        let rstd = rstd(var, eps);
        let [means, vars, rstds] = slots;
        means.set(t, m.mean);
        vars.set(t, var);
        rstds.set(t, rstd);
        rstd
    };
    let whole_groups = whole_groups(x, axis, width, per_sample, extras);
    if let Some(fold) = whole_groups.filter(|&fold| with_table(fold, channels, samples)) {
        let groups = Short { groups, width, fold, ddof };
        let rule = |t: usize, m: &[MomentSums], cells: &mut [Affine<E::Compute>]| {
            let m = m[0].moments();
            cells[0] = Affine::new(m.mean, statistic(t, m), 0.0);
        };
        if groups.forward(x, axis, [weight, bias], y, isa, &rule)? {
            return Ok(statistics);
        }
    }
    let [residual_strides, _] = extras.strides(&x.strides);
    let strides = [&x.strides[..], &y.strides, residual_strides].map(|strides| samples_first(strides, axis));
    let [x_strides, y_strides, residual_strides] = &strides;
    let axis = axis.max(1);
    let shape = split(&whole, axis, groups, width);
    let (groups_grid, [from]) = grid(&shape, &keep(shape.len(), [0, axis]), [&split_strides(x_strides, axis, width)]);
    let (cells_grid, [along, to, residual]) =
        grid(&whole, &keep(whole.len(), [0, axis]), [x_strides, y_strides, residual_strides]);
    let rule = |t: usize, m: Moments| {
        let rstd = statistic(t, m);
        let first = if per_sample { t } else { t % groups } * width;
        move |i| {
            let c = first + i;
            Affine::<E::Compute>::new(m.mean, parameter(weight, c, 1.0) * rstd, parameter(bias, c, 0.0))
        }
    };
    Forward {
        grid: groups_grid,
        x: Input::new(x, &from),
        mask: None,
        cells_grid,
        cells_x: Input::new(x, &along),
        beside: extras.inputs(&residual, &residual),
        out: Output::new(y, &to),
        cells: width,
        samples,
    }
    .run(isa, rule)?;
    Ok(statistics)
}

/// The elements of a channel of a sample, where groups can be taken whole, with parameters that vary inside them.
fn whole_groups<E>(x: &Tensor<E>, axis: usize, width: usize, per_sample: bool, extras: &Extras) -> Option<usize> {
    let samples = usize::from(axis == 0);
    let fold = (0..x.shape.len()).filter(|&i| i != axis && i != samples).map(|i| x.shape[i]).product::<usize>();
    let plain = extras.activation == Activation::Identity && extras.residual.is_none() && !per_sample;
    (plain && x.size() > 0 && width > 1).then_some(fold)
}

/// Whether the backward pass is faster with groups taken whole, and parameters' gradients added up position by position over
/// samples first: channels are short then, and samples are not few. (Measured on Zen 3, in the time of channels one by one: of 2
/// samples channels of 16 elements take 0.9 and of 49 1.4, of 8 samples 36 elements take 0.8 to 0.9 and 64 1.1, of 32 samples
/// 49 take 0.8 and 64 0.9 to 1.1; a single sample takes up to twice as long.)
fn by_position(fold: usize, samples: usize) -> bool {
    const SHORT: usize = 64;
    const TIMES: usize = 8;
    samples > 1 && fold < SHORT.min(TIMES * samples)
}

/// Whether the forward pass is faster with a weight and a bias for each element of a sample: where the table stays near, or
/// channels are very short. (Measured on Zen 4: channels of 16 elements take 0.3 to 1.0 of what they take one by one, single
/// elements 0.1 to 0.5; of 25 and 36 in small groups they take 1.2 to 1.4.)
fn with_table(fold: usize, channels: usize, samples: usize) -> bool {
    const FEW: usize = 20;
    const TINY: usize = 8;
    const NEAR: usize = 1 << 13;
    fold < FEW && fold * channels <= NEAR || fold < TINY && samples > 1
}

fn check_no_mask(extras: &Extras) -> Result<()> {
    if extras.mask.is_none() { Ok(()) } else { Err(Error::new("mask", "be None: only batch norm takes one", "a mask")) }
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
    let grouping = Grouping::new(groups);
    let extras = Extras::default();
    group_norm_fused_backward::<E, E>(&dy.into(), x, axis, grouping, mean, rstd, weight, None, &extras, dx, None)
}

/// [`group_norm_backward`] of [`group_norm_fused`]; `bias` matters where there is an activation. `dresidual` takes the
/// residual's gradient.
///
/// # Errors
/// As for [`group_norm_backward`]; the residual or `dresidual` does not fit `x`.
pub fn group_norm_fused_backward<E: Element, R: Element>(
    dy: &Operand,
    x: &Tensor<E>,
    axis: usize,
    grouping: Grouping,
    mean: &[f64],
    rstd: &[f64],
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    extras: &Extras,
    dx: &mut TensorMut<E>,
    dresidual: Option<&mut TensorMut<R>>,
) -> Result<ParameterGradients> {
    let Grouping { groups, ddof, per_sample } = grouping;
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
    let parameters = grouping.parameters(samples, channels);
    check_parameter("weight", weight, parameters, axis)?;
    check_parameter("bias", bias, parameters, axis)?;
    check_shape("dy", &x.shape, &dy.shape)?;
    check_like("out", x, dx)?;
    check_no_mask(extras)?;
    extras.check(&x.shape, axis)?;
    if let Some(dresidual) = &dresidual {
        check_like("dresidual", x, dresidual)?;
    }
    let isa = isa()?;
    let whole_groups = whole_groups(x, axis, width, per_sample, extras).filter(|_| dresidual.is_none());
    if let Some(fold) = whole_groups.filter(|&fold| by_position(fold, samples)) {
        let groups = Short { groups, width, fold, ddof };
        if let Some(gradients) = groups.backward(dy, x, axis, [mean, rstd], weight, dx, isa) {
            return gradients;
        }
    }
    // Sums over samples are taken in parts; parameters of one sample have one.
    let parts = if per_sample { 1 } else { sample_parts(samples) };
    let mut gradients = Parts::new(parts, parameters)?;
    if x.size() > 0 {
        let [residual, _] = extras.strides(&x.strides);
        let second = dresidual.as_ref().map_or(&x.strides, |of| &of.strides);
        let strides =
            [&x.strides[..], &dy.strides, &dx.strides, residual, second].map(|strides| samples_first(strides, axis));
        let kept = keep(whole.len(), [0, axis.max(1)]);
        let (grid, [from, along, to, residual, beside]) =
            grid(&whole, &kept, strides.each_ref().map(|strides| &strides[..]));
        let count = (grid.count() * width) as f64;
        let [dweight, dbias] = gradients.memory().map(Slots::new);
        let part = samples.div_ceil(parts);
        // The first parameter of group t.
        let first = |t: usize| if per_sample { t } else { t % groups } * width;
        let rule = |t: usize, sums: &[GradSums]| {
            let (mean, rstd, first) = (mean[t], rstd[t], first(t));
            let slot = if per_sample { first } else { t / groups / part * channels + first };
            let (dweight, dbias) = (dweight.part(slot..slot + width), dbias.part(slot..slot + width));
            let weight = weight.map(|weight| &weight[first..first + width]);
            let (mut dot, mut dy) = (Sum::default(), Sum::default());
            for (part, sums) in sums.chunks(TOGETHER).enumerate() {
                let mut of = GradSums::default();
                for (i, sums) in (part * TOGETHER..).zip(sums) {
                    let sums = sums.about::<E::Compute>(mean);
                    dweight.add(i, sums.dot * rstd);
                    dbias.add(i, sums.dy);
                    let weight = parameter(weight, i, 1.0);
                    of = of.add(GradSums { dot: weight * sums.dot, dy: weight * sums.dy });
                }
                dot.add(of.dot);
                dy.add(of.dy);
            }
            let b = -rstd * rstd * dot.value() / (count - ddof);
            let c = -rstd * dy.value() / count;
            let alike = GradAffine::<E::Compute>::new(mean, rstd, 0.0, b, c);
            move |i| GradAffine { a: Real::from_f64(parameter(weight, i, 1.0) * rstd), ..alike }
        };
        Backward {
            grid,
            x: Input::new(x, &from),
            dy: dy.input(&along),
            beside: extras.inputs(&residual, &residual),
            known: &|from, cells| {
                let plain = extras.activation == Activation::Identity;
                if plain && width == 1 {
                    return known_means(&mean[from..], cells);
                }
                // The cells of one statistic after those of the other, of which the first may have begun before.
                let (mut t, mut begun, mut rest) = (from / width, from % width, cells);
                while !rest.is_empty() {
                    let n = (width - begun).min(rest.len());
                    let (cells, others) = rest.split_at_mut(n);
                    if plain {
                        cells.fill(Affine { mean: Real::from_f64(mean[t]), ..Affine::EMPTY });
                    } else {
                        for (c, cell) in (first(t) + begun..).zip(cells) {
                            *cell = Affine::new(mean[t], parameter(weight, c, 1.0) * rstd[t], parameter(bias, c, 0.0));
                        }
                    }
                    (t, begun, rest) = (t + 1, 0, others);
                }
            },
            out: Output::new(dx, &to),
            second: dresidual.map(|of| Output::new(of, &beside)),
            cells: width,
            samples,
            frozen: false,
        }
        .run(isa, rule)?;
    }
    Ok(gradients.sum())
}

/// Groups of short channels.
struct Short {
    groups: usize,
    width: usize,
    /// Elements of a channel of a sample.
    fold: usize,
    ddof: f64,
}

impl Short {
    /// Strides of parameters that lie channel by channel, one for each element of a sample.
    fn parameter_strides(&self, shape: &[usize], axis: usize) -> Axes<isize> {
        let outer = [axis, usize::from(axis == 0)];
        let inside = (0..shape.len()).map(|i| if outer.contains(&i) { 1 } else { shape[i] }).collect::<Axes<_>>();
        let mut strides = dense_strides(&inside);
        [strides[outer[0]], strides[outer[1]]] = [self.fold as isize, 0];
        strides
    }

    /// A grid of groups and the way of each operand through it, of which the last is parameters; where each group is a line
    /// whose elements are in their order.
    fn lines<const P: usize>(&self, shape: &[usize], axis: usize, strides: [&[isize]; P]) -> Option<(Grid, [Walk; P])> {
        let (whole, strides) = (samples_first(shape, axis), strides.map(|of| samples_first(of, axis)));
        let axis = axis.max(1);
        let shape = split(&whole, axis, self.groups, self.width);
        let strides = strides.map(|of| split_strides(&of, axis, self.width));
        let (grid, walks) = grid(&shape, &keep(shape.len(), [0, axis]), strides.each_ref().map(|of| &of[..]));
        (grid.lines && walks[P - 1].is_dense()).then_some((grid, walks))
    }

    /// The forward pass with parameters that vary inside the groups, where that can be. `rule` is that of a group, without them.
    fn forward<E: Element>(
        self,
        x: &Tensor<E>,
        axis: usize,
        parameters: [Option<&[f64]>; 2],
        y: &TensorMut<E>,
        isa: Isa,
        rule: &dyn Rule<MomentSums, Affine<E::Compute>>,
    ) -> Result<bool> {
        let Short { groups, width, fold, .. } = self;
        let along = self.parameter_strides(&x.shape, axis);
        let Some((grid, [from, to, _])) = self.lines(&x.shape, axis, [&x.strides, &y.strides, &along]) else {
            return Ok(false);
        };
        let pattern = Pattern { repeat: 1, width: groups * width, fold };
        let spread = |values: Option<&[f64]>, default: E::Compute| {
            let mut table = gathered(std::iter::repeat_n(default, pattern.len()))?;
            if let Some(values) = values {
                pattern.expand(&mut table, |c| Real::from_f64(values[c]));
            }
            Ok(table)
        };
        let [weight, bias] = parameters;
        let (weight, bias) = (spread(weight, Real::from_f64(1.0))?, spread(bias, Real::ZERO)?);
        let pass = WeightedLines {
            grid,
            x: Input::new(x, &from),
            out: Output::new(y, &to),
            runs: groups,
            weight: &weight,
            bias: &bias,
            rule,
        };
        let bytes = x.size() * size_of::<E>();
        Passes::weighted(&pass, isa, &plan_lines(&Work::new(grid, bytes, bytes)))?;
        Ok(true)
    }

    /// The backward pass with parameters that vary inside the groups, where that can be.
    fn backward<E: Element>(
        self,
        dy: &Operand,
        x: &Tensor<E>,
        axis: usize,
        [mean, rstd]: [&[f64]; 2],
        weight: Option<&[f64]>,
        dx: &TensorMut<E>,
        isa: Isa,
    ) -> Option<Result<ParameterGradients>> {
        let Short { groups, fold, ddof, .. } = self;
        let parameters = self.parameter_strides(&x.shape, axis);
        let strides = [&x.strides[..], &dy.strides, &dx.strides, &parameters];
        let (grid, [from, along, to, _]) = self.lines(&x.shape, axis, strides)?;
        let (inputs, out) = ([Input::<E::Compute>::new(x, &from), dy.input(&along)], Output::new(dx, &to));
        // Where operands are not used in place, channels are better off one by one.
        let direct = inputs.iter().all(Input::is_direct::<E::Compute>) && out.is_direct::<E::Compute>();
        if !direct {
            return None;
        }
        let count = grid.len as f64;
        let rule = |t: usize, sums: GradSums| {
            let (sums, rstd) = (sums.about::<E::Compute>(mean[t]), rstd[t]);
            let b = -rstd * rstd * sums.dot / (count - ddof);
            GradAffine::new(mean[t], rstd, rstd, b, -rstd * sums.dy / count)
        };
        Some(BackwardRuns { runs: groups, fold, weight }.run(grid, inputs, out, [mean, rstd], isa, rule))
    }
}

/// y = (x − mean)·scale + shift, with one of each for each channel of each sample.
///
/// # Errors
/// `mean`, `scale`, `shift` or `y` do not fit `x`.
pub fn affine_per_sample<E: Element>(
    x: &Tensor<E>,
    axis: usize,
    mean: &[f64],
    scale: &[f64],
    shift: &[f64],
    y: &mut TensorMut<E>,
) -> Result<()> {
    let channels = channels(x, axis)?;
    let width = check_groups(x, axis, channels.max(1))?;
    debug_assert!(width <= 1);
    check_like("out", x, y)?;
    let whole = samples_first(&x.shape, axis);
    for (name, values) in [("mean", mean), ("scale", scale), ("shift", shift)] {
        check_parameter(name, Some(values), whole[0] * channels, axis)?;
    }
    let isa = isa()?;
    if x.size() == 0 {
        return Ok(());
    }
    let strides = [&x.strides[..], &y.strides].map(|strides| samples_first(strides, axis));
    let kept = keep(whole.len(), [0, axis.max(1)]);
    let (grid, [from, to]) = grid(&whole, &kept, strides.each_ref().map(|strides| &strides[..]));
    let cells = gathered((0..mean.len()).map(|t| Affine::new(mean[t], scale[t], shift[t])))?;
    let beside = Extras::default().inputs(&from, &from);
    affine::<E::Compute>(grid, Input::new(x, &from), beside, Output::new(y, &to), cells, isa)?;
    Ok(())
}
