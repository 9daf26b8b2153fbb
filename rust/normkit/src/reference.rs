//! The oracle: slow, obvious float64 formulas to check against. It shares no code with the kernels.
//!
//! Arrays are slices in C order (last axis fastest) with their shape; every element is in float64. Sums are compensated,
//! so that results are good to a few units in the last place and can also judge float64 kernels.
//!
//! ```
//! use normkit::reference;
//! let (y, of) = reference::batch_norm(&[1.0, 4.0, 1.0], &[3, 1], 1, None, None, 0.0);
//! assert_eq!((of.mean[0], of.var[0]), (2.0, 2.0));
//! let expected = [-0.5f64.sqrt(), 2.0f64.sqrt(), -0.5f64.sqrt()];
//! assert!(y.iter().zip(expected).all(|(y, expected)| (y - expected).abs() <= 2.0 * f64::EPSILON));
//! ```

mod general;

pub use general::General;

/// Statistics of each channel, group, …: numbered as the kernels number them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Statistics {
    /// Elements of each.
    pub count: usize,
    /// Means.
    pub mean: Vec<f64>,
    /// Biased variances.
    pub var: Vec<f64>,
    /// 1/sqrt(var + eps), or 0 where that is infinite.
    pub rstd: Vec<f64>,
}

/// What a backward pass gives.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Gradients {
    /// With respect to x.
    pub dx: Vec<f64>,
    /// With respect to the weight: Σ dy·x̂ for each channel.
    pub weight: Vec<f64>,
    /// With respect to the bias: Σ dy for each channel.
    pub bias: Vec<f64>,
}

/// A sum with compensation (Neumaier 1974): as if in twice the precision.
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0f64, 0.0);
    for x in values {
        let next = sum + x;
        lost += if sum.abs() >= x.abs() { (sum - next) + x } else { (x - next) + sum };
        sum = next;
    }
    sum + lost
}

/// The position of element `i` on `axis`.
fn position(i: usize, shape: &[usize], axis: usize) -> usize {
    i / shape[axis + 1..].iter().product::<usize>() % shape[axis]
}

/// The elements of each of `n` statistics, `of(i)` being that of element `i`.
fn members(size: usize, n: usize, of: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); n];
    (0..size).for_each(|i| members[of(i)].push(i));
    members
}

/// 1/sqrt(var + eps), or 0 where that is infinite.
fn rstd(var: f64, eps: f64) -> f64 {
    if var + eps == 0.0 { 0.0 } else { 1.0 / (var + eps).sqrt() }
}

/// Mean and variance of each set of elements; deviations are from one of them, so that a constant has variance 0.
fn statistics(x: &[f64], members: &[Vec<usize>], eps: f64) -> Statistics {
    let mut of = Statistics { count: members.first().map_or(0, Vec::len), ..Statistics::default() };
    for set in members {
        let n = set.len().max(1) as f64;
        let first = set.first().map_or(0.0, |&i| x[i]);
        let mean = first + sum(set.iter().map(|&i| x[i] - first)) / n;
        let rest = sum(set.iter().map(|&i| x[i] - mean));
        let squares = sum(set.iter().map(|&i| (x[i] - mean) * (x[i] - mean)));
        let var = (squares - rest * rest / n) / n;
        of.mean.push(mean);
        of.var.push(var);
        of.rstd.push(rstd(var, eps));
    }
    of
}

/// y = (x − mean)·rstd·weight + bias, where element `i` has statistic `of(i)` and channel `channel(i)`.
fn normalize(
    x: &[f64],
    of: impl Fn(usize) -> usize,
    channel: impl Fn(usize) -> usize,
    mean: &[f64],
    rstd: &[f64],
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
) -> Vec<f64> {
    let one = |i: usize| {
        let (t, c) = (of(i), channel(i));
        (x[i] - mean[t]) * rstd[t] * weight.map_or(1.0, |weight| weight[c]) + bias.map_or(0.0, |bias| bias[c])
    };
    (0..x.len()).map(one).collect()
}

/// With g = weight·dy: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)), means over the elements that share statistics.
fn backward(
    dy: &[f64],
    x: &[f64],
    (statistics, of): (usize, impl Fn(usize) -> usize),
    (channels, channel): (usize, impl Fn(usize) -> usize),
    mean: &[f64],
    rstd: &[f64],
    weight: Option<&[f64]>,
    frozen: bool,
) -> Gradients {
    let hat = |i: usize| (x[i] - mean[of(i)]) * rstd[of(i)];
    let g = |i: usize| weight.map_or(1.0, |weight| weight[channel(i)]) * dy[i];
    let mut dx: Vec<f64> = (0..x.len()).map(|i| rstd[of(i)] * g(i)).collect();
    if !frozen {
        for set in members(x.len(), statistics, &of) {
            let n = set.len() as f64;
            let mean_g = sum(set.iter().map(|&i| g(i))) / n;
            let mean_dot = sum(set.iter().map(|&i| g(i) * hat(i))) / n;
            set.iter().for_each(|&i| dx[i] = rstd[of(i)] * (g(i) - mean_g - hat(i) * mean_dot));
        }
    }
    let channels = members(x.len(), channels, channel);
    let weight = channels.iter().map(|set| sum(set.iter().map(|&i| dy[i] * hat(i)))).collect();
    let bias = channels.iter().map(|set| sum(set.iter().map(|&i| dy[i]))).collect();
    Gradients { dx, weight, bias }
}

/// Batch normalization in training: y and the statistics of each channel.
pub fn batch_norm(
    x: &[f64],
    shape: &[usize],
    axis: usize,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
) -> (Vec<f64>, Statistics) {
    let channel = |i: usize| position(i, shape, axis);
    let of = statistics(x, &members(x.len(), shape[axis], channel), eps);
    (normalize(x, channel, channel, &of.mean, &of.rstd, weight, bias), of)
}

/// Batch normalization with given statistics.
pub fn batch_norm_inference(
    x: &[f64],
    shape: &[usize],
    axis: usize,
    mean: &[f64],
    rstd: &[f64],
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
) -> Vec<f64> {
    let channel = |i: usize| position(i, shape, axis);
    normalize(x, channel, channel, mean, rstd, weight, bias)
}

/// Gradients of batch normalization; `frozen`: the statistics were given and do not depend on x.
pub fn batch_norm_backward(
    dy: &[f64],
    x: &[f64],
    shape: &[usize],
    axis: usize,
    mean: &[f64],
    rstd: &[f64],
    weight: Option<&[f64]>,
    frozen: bool,
) -> Gradients {
    let channel = |i: usize| position(i, shape, axis);
    backward(dy, x, (shape[axis], channel), (shape[axis], channel), mean, rstd, weight, frozen)
}

/// The axis of samples: the first that is not the channels'.
fn samples(axis: usize) -> usize {
    if axis == 0 { 1 } else { 0 }
}

/// The group of element `i` among those of all samples.
fn group(i: usize, shape: &[usize], axis: usize, groups: usize) -> usize {
    position(i, shape, samples(axis)) * groups + position(i, shape, axis) / (shape[axis] / groups)
}

/// Group normalization: y and the statistics of each sample's groups, (samples, groups) in C order.
pub fn group_norm(
    x: &[f64],
    shape: &[usize],
    axis: usize,
    groups: usize,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
) -> (Vec<f64>, Statistics) {
    let of_group = |i: usize| group(i, shape, axis, groups);
    let of = statistics(x, &members(x.len(), shape[samples(axis)] * groups, of_group), eps);
    (normalize(x, of_group, |i| position(i, shape, axis), &of.mean, &of.rstd, weight, bias), of)
}

/// Gradients of group normalization.
pub fn group_norm_backward(
    dy: &[f64],
    x: &[f64],
    shape: &[usize],
    axis: usize,
    groups: usize,
    mean: &[f64],
    rstd: &[f64],
    weight: Option<&[f64]>,
) -> Gradients {
    let of = (shape[samples(axis)] * groups, |i: usize| group(i, shape, axis, groups));
    backward(dy, x, of, (shape[axis], |i: usize| position(i, shape, axis)), mean, rstd, weight, false)
}

/// Statistics over some axes, one for each position of the others in C order.
pub fn moments(x: &[f64], shape: &[usize], axes: &[usize]) -> Statistics {
    let kept: Vec<usize> = (0..shape.len()).filter(|axis| !axes.contains(axis)).collect();
    let of = |i: usize| kept.iter().fold(0, |t, &axis| t * shape[axis] + position(i, shape, axis));
    statistics(x, &members(x.len(), kept.iter().map(|&axis| shape[axis]).product(), of), 0.0)
}

/// A convolution's weight and bias with the batch normalization after it folded in: w' = w·s, b' = (b − mean)·s + bias,
/// s = weight·rstd of the output channel. Weights are (out, in/groups, …), transposed ones (in, out/groups, …).
pub fn fold_conv_bn(
    conv_weight: &[f64],
    shape: &[usize],
    conv_bias: Option<&[f64]>,
    groups: usize,
    transposed: bool,
    mean: &[f64],
    var: &[f64],
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
) -> (Vec<f64>, Vec<f64>) {
    let channels = if transposed { shape[1] * groups } else { shape[0] };
    let scale = |c: usize| weight.map_or(1.0, |weight| weight[c]) * rstd(var[c], eps);
    let channel = |i: usize| {
        if transposed {
            let group = position(i, shape, 0) / (shape[0] / groups);
            group * shape[1] + position(i, shape, 1)
        } else {
            position(i, shape, 0)
        }
    };
    let w = (0..conv_weight.len()).map(|i| conv_weight[i] * scale(channel(i))).collect();
    let b = |c: usize| (conv_bias.map_or(0.0, |b| b[c]) - mean[c]) * scale(c) + bias.map_or(0.0, |bias| bias[c]);
    (w, (0..channels).map(b).collect())
}

/// sqrt(Σx²), in a unit in which squares stay in range.
fn norm(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let unit = values.clone().fold(0.0, |unit: f64, x| unit.max(x.abs()));
    if unit == 0.0 || !unit.is_finite() { unit } else { sum(values.map(|x| (x / unit) * (x / unit))).sqrt() * unit }
}

/// a/b, or 0 where 1/b is infinite.
fn over(a: f64, b: f64) -> f64 {
    if (1.0 / b).is_infinite() { 0.0 } else { a / b }
}

/// The elements of each position of `dim`, or all of them.
fn slices(shape: &[usize], dim: Option<usize>) -> (usize, impl Fn(usize) -> usize) {
    (dim.map_or(1, |dim| shape[dim]), move |i| dim.map_or(0, |dim| position(i, shape, dim)))
}

/// Weight normalization, w = g·v/‖v‖: w and the norms.
pub fn weight_norm(v: &[f64], shape: &[usize], dim: Option<usize>, g: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (n, of) = slices(shape, dim);
    let norms: Vec<f64> = members(v.len(), n, &of).iter().map(|set| norm(set.iter().map(|&i| v[i]))).collect();
    ((0..v.len()).map(|i| v[i] * over(g[of(i)], norms[of(i)])).collect(), norms)
}

/// Gradients (dv, dg) of weight normalization.
pub fn weight_norm_backward(
    dw: &[f64],
    v: &[f64],
    shape: &[usize],
    dim: Option<usize>,
    g: &[f64],
    norms: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let (n, of) = slices(shape, dim);
    let dot = |set: &Vec<usize>| sum(set.iter().map(|&i| dw[i] * over(v[i], norms[of(i)])));
    let dg: Vec<f64> = members(v.len(), n, &of).iter().map(dot).collect();
    let dv = |i: usize| over(g[of(i)], norms[of(i)]) * (dw[i] - dg[of(i)] * over(v[i], norms[of(i)]));
    ((0..v.len()).map(dv).collect(), dg)
}

/// The column of element `i` where the positions of `dim` are the rows.
fn column(i: usize, shape: &[usize], dim: usize) -> usize {
    let inner: usize = shape[dim + 1..].iter().product();
    i / (inner * shape[dim]) * inner + i % inner
}

/// Spectral normalization after some steps of the power iteration: (w, u, v, σ).
pub fn spectral_norm(
    weight: &[f64],
    shape: &[usize],
    dim: usize,
    u: &[f64],
    v: &[f64],
    iterations: usize,
    eps: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>, f64) {
    let (mut u, mut v) = (u.to_vec(), v.to_vec());
    let row = |i: usize| position(i, shape, dim);
    let column = |i: usize| column(i, shape, dim);
    let rows = members(weight.len(), u.len(), row);
    let columns = members(weight.len(), v.len(), column);
    let direction = |new: Vec<f64>, old: &[f64]| {
        let norm = norm(new.iter().copied());
        let new: Vec<f64> = new.iter().map(|x| x / norm.max(eps)).collect();
        if norm == 0.0 || new.iter().all(|&x| x == 0.0) { old.to_vec() } else { new }
    };
    let times =
        |v: &[f64]| -> Vec<f64> { rows.iter().map(|set| sum(set.iter().map(|&i| weight[i] * v[column(i)]))).collect() };
    for _ in 0..iterations {
        u = direction(times(&v), &u);
        v = direction(columns.iter().map(|set| sum(set.iter().map(|&i| weight[i] * u[row(i)]))).collect(), &v);
    }
    let sigma = sum(times(&v).iter().zip(&u).map(|(a, b)| a * b));
    let by = if sigma.is_infinite() { f64::NAN } else { sigma };
    (weight.iter().map(|&w| over(w, by)).collect(), u, v, sigma)
}

/// The gradient of spectral normalization.
pub fn spectral_norm_backward(
    dw: &[f64],
    weight: &[f64],
    shape: &[usize],
    dim: usize,
    (u, v, sigma): (&[f64], &[f64], f64),
) -> Vec<f64> {
    let dot = sum(dw.iter().zip(weight).map(|(dw, &w)| dw * over(w, sigma)));
    (0..dw.len()).map(|i| over(dw[i] - dot * u[position(i, shape, dim)] * v[column(i, shape, dim)], sigma)).collect()
}

/// Scaled weight standardization, w = (weight − mean)·gain/sqrt(max(var·fan_in, eps)): (w, means, 1/sqrt(…)).
pub fn scaled_weight_standardization(
    weight: &[f64],
    shape: &[usize],
    gain: Option<&[f64]>,
    eps: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let row = |i: usize| position(i, shape, 0);
    let of = statistics(weight, &members(weight.len(), shape[0], row), 0.0);
    let scale: Vec<f64> = of.var.iter().map(|var| rstd((var * of.count as f64).max(eps), 0.0)).collect();
    (normalize(weight, row, row, &of.mean, &scale, gain, None), of.mean, scale)
}

/// Gradients (dweight, dgain) of scaled weight standardization, from means and 1/sqrt(max(var·fan_in, eps)).
pub fn scaled_weight_standardization_backward(
    dw: &[f64],
    weight: &[f64],
    shape: &[usize],
    gain: Option<&[f64]>,
    eps: f64,
    (mean, scale): (&[f64], &[f64]),
) -> (Vec<f64>, Vec<f64>) {
    let row = |i: usize| position(i, shape, 0);
    let hat = |i: usize| (weight[i] - mean[row(i)]) * scale[row(i)];
    let (mut dweight, mut dgain) = (vec![0.0; dw.len()], vec![0.0; shape[0]]);
    for (o, set) in members(dw.len(), shape[0], row).iter().enumerate() {
        dgain[o] = sum(set.iter().map(|&i| dw[i] * hat(i)));
        let average = sum(set.iter().map(|&i| dw[i])) / set.len() as f64;
        let spread = if scale[o] < rstd(eps, 0.0) || (eps == 0.0 && scale[o] > 0.0) { dgain[o] } else { 0.0 };
        for &i in set {
            dweight[i] = gain.map_or(1.0, |gain| gain[o]) * scale[o] * (dw[i] - average - hat(i) * spread);
        }
    }
    (dweight, dgain)
}
