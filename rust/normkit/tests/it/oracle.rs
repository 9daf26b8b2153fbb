//! Every function against the float64 oracle, over shapes, layouts, types and values.

use crate::common::fold::check_fold;
use crate::common::judge::{Check, close};
use crate::common::{
    Array, CASES, Float, Layout, Norm, Values, config, input_layout, layout, normal, parameters, shape, values,
};
use half::{bf16, f16};
use normkit::{Layer, Moments, Operand, Statistics, reference};
use proptest::prelude::*;

/// Half a unit in the last place of float64, what the saved mean is rounded to.
const HALF: f64 = f64::EPSILON / 2.0;

/// The contract: 4 ulp. The mean's are those of the standard deviation (of the mean itself it has any number, as it may
/// be near 0), and both suffer from the mean being held in float64.
fn statistics_are_close<E: Float>(found: &Statistics, expected: &reference::Statistics) -> Check {
    prop_assert_eq!(found.count, expected.count);
    prop_assert_eq!(found.mean.len(), expected.mean.len());
    for (i, (&mean, &var)) in expected.mean.iter().zip(&expected.var).enumerate() {
        let held = 8.0 * HALF * mean.abs();
        close("mean", i, found.mean[i], mean, 4.0 * E::ULP * var.sqrt() + held + f64::MIN_POSITIVE)?;
        close("var", i, found.var[i], var, 4.0 * E::ULP * var + held * var.sqrt() + f64::MIN_POSITIVE)?;
    }
    Ok(())
}

/// The contract: |Δy| ≤ 1e-6·max(1, |y|), and as many ulp of float64. (Where weight·x̂ and the bias cancel, y is small
/// but its error is not: the larger of the three counts.)
struct OutputBound<'a, E> {
    shape: &'a [usize],
    axis: usize,
    norm: Norm,
    mean: &'a [f64],
    rstd: &'a [f64],
    bias: Option<&'a [f64]>,
    weight: Option<&'a [f64]>,
    element: std::marker::PhantomData<E>,
}

impl<E: Float> OutputBound<'_, E> {
    fn check(&self, found: &[f64], expected: &[f64]) -> Check {
        for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let c = crate::common::position(i, self.shape, self.axis);
            let t = self.norm.statistic(i, self.shape, self.axis);
            let bias = self.bias.map_or(0.0, |bias| bias[c]).abs();
            let scale = self.weight.map_or(1.0, |weight| weight[c]).abs() * self.rstd[t];
            let unit = 1e-6 / f64::from(f32::EPSILON) * E::ULP;
            let held = 8.0 * HALF * self.mean[t].abs() * scale;
            close("y", i, found, expected, unit * (expected.abs() + 2.0 * bias).max(1.0) + held)?;
        }
        Ok(())
    }
}

/// Everything about one norm on one input.
struct Problem<'a, E, G> {
    norm: Norm,
    axis: usize,
    x: &'a Array<E>,
    dy: &'a Array<G>,
    weight: Option<&'a [f64]>,
    bias: Option<&'a [f64]>,
    eps: f64,
    out: &'a Layout,
}

impl<E: Float, G: Float> Problem<'_, E, G> {
    fn check(&self) -> Check {
        let Problem { norm, axis, weight, bias, eps, .. } = *self;
        let shape = &self.x.shape[..];
        let (x, dy) = (self.x.logical(), self.dy.logical());
        let (expected, of) = norm.oracle(&x, shape, axis, weight, bias, eps);
        let mut y = Array::<E>::output(shape, self.out);
        let result = norm.forward(&self.x.tensor(), axis, weight, bias, eps, &mut y.tensor_mut());
        if of.count == 1 && matches!(norm, Norm::Batch) {
            prop_assert_eq!(result.map_err(|error| error.argument), Err("x"));
            prop_assert!(y.is_untouched());
            return Ok(());
        }
        let found = result?;
        statistics_are_close::<E>(&found, &of)?;
        let bound = OutputBound::<E> {
            shape,
            axis,
            norm,
            mean: &of.mean,
            rstd: &of.rstd,
            bias,
            weight,
            element: std::marker::PhantomData,
        };
        bound.check(&y.logical(), &expected)?;
        y.assert_gaps_untouched();

        // The kernels get their own statistics, the oracle gets its own.
        let expected = norm.oracle_backward(&dy, &x, shape, axis, &of, weight);
        let mut dx = Array::<E>::output(shape, self.out);
        let (dy_in, x_in) = (self.dy.tensor(), self.x.tensor());
        let gradients = norm.backward(&dy_in, &x_in, axis, &found.mean, &found.rstd, weight, &mut dx.tensor_mut())?;
        self.gradients_are_close(&of, (&dx.logical(), &gradients.weight, &gradients.bias), &expected, false)?;
        dx.assert_gaps_untouched();

        if matches!(norm, Norm::Batch) {
            let mut dx = Array::<E>::output(shape, self.out);
            let out = &mut dx.tensor_mut();
            let gradients = normkit::batch_norm_backward(&dy_in, &x_in, axis, &of.mean, &of.rstd, weight, true, out)?;
            let expected = reference::batch_norm_backward(&dy, &x, shape, axis, &of.mean, &of.rstd, weight, true);
            self.gradients_are_close(&of, (&dx.logical(), &gradients.weight, &gradients.bias), &expected, true)?;

            // Statistics of something else: all means off by a standard deviation.
            let mean: Vec<f64> = of.mean.iter().zip(&of.var).map(|(mean, var)| mean + var.sqrt()).collect();
            let rstd: Vec<f64> = of.rstd.iter().map(|rstd| rstd * 0.75).collect();
            let mut y = Array::<E>::output(shape, self.out);
            normkit::batch_norm_inference(&x_in, axis, &mean, &rstd, weight, bias, &mut y.tensor_mut())?;
            let expected = reference::batch_norm_inference(&x, shape, axis, &mean, &rstd, weight, bias);
            bound.check(&y.logical(), &expected)?;
            y.assert_gaps_untouched();
        }
        Ok(())
    }

    /// Bounds proportional to the sums of absolute values of the terms. A term goes through at most 16 + 8 + 5 additions
    /// in its own type (two levels of accumulators, the tree), each off by half an ulp, before float64 takes over: 16
    /// ulp, where all roundings go one way (a broadcast dy). With g = weight·dy, and x̂ off by 4 ulp because the
    /// statistics may be:
    ///   dx      16 ulp · rstd·(|g| + (1 + |x̂|)·(mean|g| + mean|g·x̂|))
    ///   dweight 16 ulp · Σ |dy|·(1 + |x̂|)
    ///   dbias   16 ulp · Σ |dy|
    /// and what the mean loses in float64, |mean|·rstd of its ulp. Where float64 x is constant its block is summed again,
    /// one by one: up to half an ulp for each of 4096 additions.
    fn gradients_are_close(
        &self,
        of: &reference::Statistics,
        (dx, dweight, dbias): (&[f64], &[f64], &[f64]),
        expected: &reference::Gradients,
        frozen: bool,
    ) -> Check {
        let shape = &self.x.shape[..];
        let (x, dy) = (self.x.logical(), self.dy.logical());
        let statistic: Vec<usize> = (0..x.len()).map(|i| self.norm.statistic(i, shape, self.axis)).collect();
        let channel: Vec<usize> = (0..x.len()).map(|i| crate::common::position(i, shape, self.axis)).collect();
        let one_by_one = |t: usize| E::ULP == f64::EPSILON && of.var[t] == 0.0;
        let additions = |t: usize| 16.0 + if one_by_one(t) { of.count.min(4096) as f64 / 2.0 } else { 0.0 };
        let unit = |t: usize| additions(t) * (E::ULP + f64::EPSILON * of.mean[t].abs() * of.rstd[t]);
        let hat = |i: usize| ((x[i] - of.mean[statistic[i]]) * of.rstd[statistic[i]]).abs();
        let g = |i: usize| self.weight.map_or(1.0, |weight| weight[channel[i]]).abs() * dy[i].abs();
        let mut of_statistic = vec![0.0; of.mean.len()];
        let (mut of_weight, mut of_bias) = (vec![0.0; shape[self.axis]], vec![0.0; shape[self.axis]]);
        for i in 0..x.len() {
            of_statistic[statistic[i]] += g(i) * (1.0 + hat(i)) / of.count as f64;
            of_weight[channel[i]] += unit(statistic[i]) * dy[i].abs() * (1.0 + hat(i));
            of_bias[channel[i]] += additions(statistic[i]) * E::ULP * dy[i].abs();
        }
        for i in 0..x.len() {
            let t = statistic[i];
            let shared = if frozen { 0.0 } else { (1.0 + hat(i)) * of_statistic[t] };
            close("dx", i, dx[i], expected.dx[i], unit(t) * of.rstd[t] * (g(i) + shared) + E::SMALLEST * E::ULP)?;
        }
        for c in 0..shape[self.axis] {
            close("dweight", c, dweight[c], expected.weight[c], of_weight[c])?;
            close("dbias", c, dbias[c], expected.bias[c], of_bias[c])?;
        }
        Ok(())
    }
}

/// An example of a property test.
#[derive(Clone, Debug)]
struct Example {
    shape: Vec<usize>,
    axis: usize,
    groups: usize,
    layouts: [Layout; 3],
    values: Values,
    affine: (bool, bool),
    eps: f64,
    seed: u64,
}

fn example() -> impl Strategy<Value = Example> {
    let layouts = |rank| (input_layout(rank), input_layout(rank), layout(rank)).prop_map(|(x, dy, out)| [x, dy, out]);
    (shape(), values(), any::<(bool, bool)>(), prop::sample::select(vec![1e-5, 1e-5, 1e-3, 0.0]), any::<u64>())
        .prop_flat_map(move |((shape, axis), values, affine, eps, seed)| {
            let c = shape[axis];
            let groups = (1..=c).filter(|groups| c.is_multiple_of(*groups)).collect::<Vec<_>>();
            // Of subnormals 1/σ is infinite in their own type: they need an eps.
            let eps = if values == Values::Subnormal { 1e-5 } else { eps };
            (layouts(shape.len()), prop::sample::select(groups)).prop_map(move |(layouts, groups)| Example {
                shape: shape.clone(),
                axis,
                groups,
                layouts,
                values,
                affine,
                eps,
                seed,
            })
        })
}

impl Example {
    fn check<E: Float, G: Float>(&self, norm: Norm) -> Check {
        let Example { axis, seed, values, .. } = *self;
        let [layout, dy_layout, out] = &self.layouts;
        let x = Array::<E>::new(&self.shape, layout, |i| values.at::<E>(seed, i));
        let dy = Array::<G>::new(&self.shape, dy_layout, |i| normal(!seed, i) + 0.1);
        let c = self.shape[axis];
        let (weight, bias) = (parameters(seed ^ 1, c), parameters(seed ^ 2, c));
        let (weight, bias) = (self.affine.0.then_some(&weight[..]), self.affine.1.then_some(&bias[..]));
        Problem { norm, axis, x: &x, dy: &dy, weight, bias, eps: self.eps, out }.check()
    }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn batch_norm_f32(example in example()) {
        example.check::<f32, f32>(Norm::Batch)?;
    }

    #[test]
    fn group_norm_f32(example in example()) {
        example.check::<f32, f32>(Norm::Group(example.groups))?;
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn batch_norm_f64(example in example()) {
        example.check::<f64, f64>(Norm::Batch)?;
    }

    #[test]
    fn group_norm_f64(example in example()) {
        example.check::<f64, f64>(Norm::Group(example.groups))?;
    }

    #[test]
    fn gradients_of_another_type(example in example(), wider: bool, group: bool) {
        let norm = if group { Norm::Group(example.groups) } else { Norm::Batch };
        if wider { example.check::<f32, f64>(norm)? } else { example.check::<f64, f32>(norm)? }
    }
}

/// Strides of the table's shapes as they are, and channels-last.
fn check_table<E: Float>() {
    for case in CASES {
        let rank = case.shape.len();
        let last: Vec<usize> = (0..rank).filter(|&axis| axis != case.axis).chain([case.axis]).collect();
        for order in [(0..rank).collect(), last] {
            let layout = Layout { order, ..Layout::dense(rank) };
            let x = Array::<E>::new(case.shape, &layout, |i| Values::Mean(100.0).at::<E>(7, i));
            let dy = Array::<E>::new(case.shape, &layout, |i| normal(8, i));
            let (weight, bias) = (parameters(1, case.channels()), parameters(2, case.channels()));
            let (weight, bias) = (Some(&weight[..]), Some(&bias[..]));
            let problem =
                Problem { norm: Norm::Batch, axis: case.axis, x: &x, dy: &dy, weight, bias, eps: 1e-5, out: &layout };
            problem.check().unwrap_or_else(|error| panic!("{case:?} {layout:?}: {error}"));
            let problem = Problem { norm: Norm::Group(case.groups), ..problem };
            problem.check().unwrap_or_else(|error| panic!("{case:?} {layout:?}: {error}"));
        }
    }
}

#[test]
fn table_f32() {
    check_table::<f32>();
}

#[test]
fn table_f64() {
    check_table::<f64>();
}

/// Groups of short channels, where x is the same along an axis and so says nothing of the order of the others: that is y's.
#[test]
fn the_order_of_an_output_beside_a_broadcast_input() {
    let dense = Layout::dense(5);
    let broadcast = Layout { broadcast: vec![false, false, true, false, false], ..dense.clone() };
    let last = Layout { order: vec![0, 2, 3, 4, 1], ..dense.clone() };
    // (Of a single sample the backward pass takes channels one by one.)
    for samples in [1, 2] {
        let (shape, values, affine) = (vec![samples, 3, 3, 1, 2], Values::Mean(1e6), (false, true));
        let layouts = [broadcast.clone(), dense.clone(), last.clone()];
        let example = Example { shape, axis: 1, groups: 1, layouts, values, affine, eps: 1e-3, seed: 5 };
        example.check::<f32, f32>(Norm::Group(1)).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Shape, which axes are reduced, layout.
fn reduction() -> impl Strategy<Value = (Vec<usize>, Vec<bool>, Layout)> {
    let size = prop_oneof![4 => 1usize..8, 1 => prop::sample::select(vec![16usize, 17, 64, 255, 256, 257])];
    prop::collection::vec(size, 0..5)
        .prop_filter("too large", |shape| shape.iter().product::<usize>() < 50_000)
        .prop_flat_map(|shape| {
            let rank = shape.len();
            (Just(shape), prop::collection::vec(any::<bool>(), rank), input_layout(rank))
        })
}

fn check_moments<E: Float>(shape: &[usize], reduced: &[bool], layout: &Layout, values: Values, seed: u64) -> Check {
    let axes: Vec<usize> = (0..shape.len()).filter(|&axis| reduced[axis]).collect();
    let x = Array::<E>::new(shape, layout, |i| values.at::<E>(seed, i));
    let found = normkit::moments(&x.tensor(), &axes)?;
    let expected = reference::moments(&x.logical(), shape, &axes);
    let var = found.m2.iter().map(|m2| m2 / found.count as f64).collect();
    let found = Statistics { count: found.count, mean: found.mean, var, rstd: Vec::new() };
    statistics_are_close::<E>(&found, &expected)
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn moments_f32((shape, reduced, layout) in reduction(), values in values(), seed: u64) {
        check_moments::<f32>(&shape, &reduced, &layout, values, seed)?;
    }

    #[test]
    fn moments_f64((shape, reduced, layout) in reduction(), values in values(), seed: u64) {
        check_moments::<f64>(&shape, &reduced, &layout, values, seed)?;
    }

    /// Of two parts merged as of the whole, in either order, with an empty part too.
    #[test]
    fn moments_merge(n in 0usize..40, cut in 0.0..1.0f64, mean in -1e6..1e6f64, seed: u64) {
        let x: Vec<f64> = (0..n).map(|i| mean + normal(seed, i)).collect();
        let of = |x: &[f64]| {
            let m = reference::moments(x, &[x.len()], &[0]);
            Moments { count: x.len() as f64, mean: m.mean[0], m2: m.var[0] * x.len() as f64 }
        };
        let (a, b) = x.split_at((cut * n as f64) as usize);
        let whole = of(&x);
        for merged in [of(a).merge(of(b)), of(b).merge(of(a))] {
            prop_assert_eq!(merged.count, n as f64);
            close("mean", 0, merged.mean, whole.mean, 4.0 * f64::EPSILON * (1.0 + whole.mean.abs()))?;
            // Each mean is off by half an ulp of it, and the difference of means counts in m2.
            let held = f64::EPSILON * whole.mean.abs() * 4.0 * n as f64;
            close("m2", 0, merged.m2, whole.m2, 16.0 * f64::EPSILON * whole.m2 + held)?;
        }
    }
}

#[test]
fn variance_with_ddof() {
    let moments = Moments { count: 3.0, mean: 5.0, m2: 8.0 };
    assert_eq!((moments.var(0.0), moments.var(1.0)), (8.0 / 3.0, 4.0));
    assert!(moments.var(3.0).is_nan() && Moments::default().var(0.0).is_nan());
}

#[test]
fn running_statistics() {
    let of = Statistics { count: 4, mean: vec![2.0, -4.0], var: vec![3.0, 0.0], rstd: vec![] };
    for (momentum, ddof) in [(0.1, 1.0), (0.0, 0.0), (1.0, 0.0), (0.25, 1.0)] {
        let (mut mean, mut var) = ([1.0, 8.0], [1.0, 0.5]);
        normkit::update_running(&of, momentum, ddof, &mut mean, &mut var);
        for c in 0..2 {
            let unbiased = of.var[c] * 4.0 / (4.0 - ddof);
            let expected = [1.0, 8.0][c] * (1.0 - momentum) + momentum * of.mean[c];
            assert!((mean[c] - expected).abs() < 1e-15 && mean[c].is_finite());
            assert!((var[c] - ([1.0, 0.5][c] * (1.0 - momentum) + momentum * unbiased)).abs() < 1e-15);
        }
    }
    // One value has no unbiased variance, no value no mean: nothing changes.
    for count in [0, 1] {
        let (mut mean, mut var) = ([1.0, 8.0], [1.0, 0.5]);
        normkit::update_running(&Statistics { count, ..of.clone() }, 0.1, 1.0, &mut mean, &mut var);
        assert_eq!((mean, var), ([1.0, 8.0], [1.0, 0.5]));
    }
}

/// Groups, channels of a group (in, out), kernel, options.
fn convolution() -> impl Strategy<Value = (usize, usize, usize, Vec<usize>, bool)> {
    (1usize..5, 1usize..6, 1usize..6, prop::collection::vec(1usize..4, 0..4), any::<bool>())
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn fold_f32(conv in convolution(), given: [bool; 3], seed: u64) {
        check_fold::<f32>(conv, given, seed)?;
    }

    #[test]
    fn fold_f64(conv in convolution(), given: [bool; 3], seed: u64) {
        check_fold::<f64>(conv, given, seed)?;
    }
}

#[test]
fn fold_large() {
    // Several tasks.
    check_fold::<f32>((1, 128, 128, vec![3, 3], false), [true; 3], 1).expect("folds");
    check_fold::<f32>((4, 32, 64, vec![5, 5], true), [true; 3], 2).expect("folds");
    check_fold::<f32>((512, 1, 1, vec![9, 9, 9], false), [true; 3], 3).expect("folds");
}

/// Layer and RMS norm with weights, and their statistics, against their definition. Of x̂·weight each rounding loses half a
/// unit: of x − mean, of rstd, of two products and the weight, of what rounding the mean has lost, and of the sum; of the
/// bias those of it and the sum.
#[test]
fn layers() {
    fn check<E: Float>(rows: usize, len: usize, centred: bool, step: usize) {
        let (shape, layout) = ([rows, len], Layout { step: vec![1, step], ..Layout::dense(2) });
        let of = |i: usize| E::from_f64(Values::Normal.at::<E>(7, i)).to_f64();
        let (weight, bias) = (parameters(8, len), parameters(9, len));
        let layer = Layer { axes: vec![1], centred };
        let mut y = Array::<E>::output(&shape, &layout);
        let x = Array::<E>::new(&shape, &layout, of);
        let (w, b) = (Some(&weight[..]), Some(&bias[..]));
        let found = normkit::layer_norm(&x.tensor(), &layer, w, b, 1e-5, &mut y.tensor_mut()).expect("valid");
        let y = y.logical();
        for row in 0..rows {
            let x: Vec<f64> = (row * len..(row + 1) * len).map(of).collect();
            let mean = if centred { x.iter().sum::<f64>() / len as f64 } else { 0.0 };
            let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / len as f64;
            let rstd = 1.0 / (var + 1e-5).sqrt();
            assert!((found.mean[row] - mean).abs() <= E::Own::ULP * var.sqrt(), "mean of row {row} of {shape:?}");
            assert!((found.rstd[row] - rstd).abs() <= E::Own::ULP * rstd, "rstd of row {row} of {shape:?}");
            for j in 0..len {
                let scaled = (x[j] - mean) * rstd * weight[j];
                let (found, expected) = (y[row * len + j], scaled + bias[j]);
                // The mean is within a unit of the standard deviation.
                let own = E::Own::ULP * (4.0 * scaled.abs() + weight[j].abs() + bias[j].abs());
                let bound = own + E::ULP * expected.abs() + E::SMALLEST;
                assert!(
                    (found - expected).abs() <= bound,
                    "{found} {expected} at {row}, {j} of {shape:?}, step {step}"
                );
            }
        }
    }
    for (rows, len) in [(1, 7), (70, 40), (33, 1), (5, 1000), (3, 4096), (2, 5000)] {
        for (centred, step) in [(true, 1), (false, 1), (true, 2)] {
            check::<f32>(rows, len, centred, step);
            check::<f16>(rows, len, centred, step);
            check::<bf16>(rows, len, centred, step);
        }
    }
}

/// The backward pass of layer and RMS norm against its definition; also of long rows, which are taken piece by piece, where
/// they divide. Sums are of 32 terms at most in a type's own precision, each of which has lost what x̂ has in [`layers`].
#[test]
fn layers_backward() {
    fn check<E: Float>(rows: usize, len: usize, centred: bool, step: [usize; 2]) {
        let (shape, layout) = ([rows, len], Layout { step: step.to_vec(), ..Layout::dense(2) });
        let at = |seed: u64| move |i: usize| E::from_f64(normal(seed, i)).to_f64();
        let (of_x, of_dy, weight) = (at(7), at(8), parameters(9, len));
        let layer = Layer { axes: vec![1], centred };
        let (x, dy) = (Array::<E>::new(&shape, &layout, of_x), Array::<E>::new(&shape, &layout, of_dy));
        let statistics = |row: usize| {
            let all = || (row * len..(row + 1) * len).map(of_x);
            let mean = if centred { all().sum::<f64>() / len as f64 } else { 0.0 };
            let var = all().map(|x| (x - mean).powi(2)).sum::<f64>() / len as f64;
            (mean, 1.0 / (var + 1e-5).sqrt())
        };
        let (mean, rstd): (Vec<f64>, Vec<f64>) = (0..rows).map(statistics).unzip();
        let mut dx = Array::<E>::output(&shape, &layout);
        let (dys, out) = (dy.tensor(), &mut dx.tensor_mut());
        let found = normkit::layer_norm_backward(
            &Operand::from(&dys),
            &x.tensor(),
            &layer,
            &mean,
            &rstd,
            Some(&weight),
            true,
            out,
        )
        .expect("valid");
        let what = |row: usize, j: usize| format!("{row}, {j} of {shape:?}, step {step:?}");
        let (unit, dx) = (E::Own::ULP, dx.logical());
        let (mut dweight, mut dbias) = (vec![[0.0; 2]; len], vec![[0.0; 2]; len]);
        for row in 0..rows {
            let x̂ = |j: usize| (of_x(row * len + j) - mean[row]) * rstd[row];
            let g = |j: usize| of_dy(row * len + j) * weight[j];
            let n = len as f64;
            let [dot, dot_size] = [f64::from, f64::abs].map(|of| (0..len).map(|j| of(g(j) * x̂(j))).sum::<f64>() / n);
            let [sum, sum_size] = [f64::from, f64::abs].map(|of| (0..len).map(|j| of(g(j))).sum::<f64>() / n);
            for j in 0..len {
                let centre = if centred { [sum, sum_size] } else { [0.0; 2] };
                let expected = rstd[row] * (g(j) - centre[0] - x̂(j) * dot);
                let size = rstd[row] * (g(j).abs() + centre[1] + (x̂(j).abs() + 1.0) * dot_size);
                let bound = 8.0 * unit * size + E::ULP * expected.abs() + E::SMALLEST;
                let found = dx[row * len + j];
                assert!((found - expected).abs() <= bound, "dx {found} {expected} at {}", what(row, j));
                let dy = of_dy(row * len + j);
                for (into, term) in [(&mut dweight[j], dy * x̂(j)), (&mut dbias[j], dy)] {
                    *into = [into[0] + term, into[1] + term.abs() + if term == dy { 0.0 } else { dy.abs() }];
                }
            }
        }
        for j in 0..len {
            for (found, [expected, size]) in [(found.weight[j], dweight[j]), (found.bias[j], dbias[j])] {
                assert!((found - expected).abs() <= 36.0 * unit * size, "{found} {expected} at {}", what(rows, j));
            }
        }
    }
    for (rows, len) in [(70, 40), (40, 1000), (3, 4096), (3, 4099), (40, 6000), (2, 32768)] {
        for (centred, step) in [(true, [1, 1]), (false, [1, 1]), (true, [2, 1]), (true, [2, 2])] {
            check::<f32>(rows, len, centred, step);
            check::<f16>(rows, len, centred, step);
        }
    }
}
