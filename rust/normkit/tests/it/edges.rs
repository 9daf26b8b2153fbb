//! The edges: NaN and infinity, constants, subnormals, nothing at all, a single value, wrong arguments, aliased memory.

use crate::common::{
    Array, CASES, Case, Float, Layout, Norm, Values, config, configure, layout, normal, parameters, position, samples,
    widest,
};
use normkit::{
    Activation, BatchNormOf, ConvOf, Error, Extras, Operand, Result, Statistics, Tensor, TensorMut, Used, fold_conv_bn,
};
use proptest::prelude::*;

/// Both norms of a case.
fn norms(case: &Case) -> [Norm; 2] {
    [Norm::Batch, Norm::Group(case.groups)]
}

/// Cases of the table that are quick.
fn cases() -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(|case| case.size() < 20_000)
}

fn run<E: Float>(norm: Norm, case: &Case, x: &Array<E>, dy: &Array<E>) -> (Array<E>, Array<E>, Statistics, Vec<f64>) {
    let layout = Layout::dense(case.shape.len());
    let (weight, bias) = (parameters(1, case.channels()), parameters(2, case.channels()));
    let (mut y, mut dx) = (Array::output(case.shape, &layout), Array::output(case.shape, &layout));
    let of = norm.forward(&x.tensor(), case.axis, Some(&weight), Some(&bias), 1e-5, &mut y.tensor_mut());
    let of = of.expect("valid");
    let (dys, xs) = (dy.tensor(), x.tensor());
    let g = norm.backward(&dys, &xs, case.axis, &of.mean, &of.rstd, Some(&weight), &mut dx.tensor_mut());
    let g = g.expect("valid");
    (y, dx, of, [g.weight, g.bias].concat())
}

fn check_containment<E: Float>(bad: f64, in_x: bool) {
    for case in cases() {
        let layout = Layout::dense(case.shape.len());
        let at = case.size() * 2 / 3;
        for norm in norms(case) {
            let array = |seed, bad: Option<f64>| {
                Array::<E>::new(case.shape, &layout, |i| bad.filter(|_| i == at).unwrap_or_else(|| normal(seed, i)))
            };
            let (x, dy) = (array(1, None), array(2, None));
            let (bad_x, bad_dy) = (array(1, Some(bad).filter(|_| in_x)), array(2, Some(bad).filter(|_| !in_x)));
            let (y, dx, of, g) = run(norm, case, &x, &dy);
            let (bad_y, bad_dx, bad_of, bad_g) = run(norm, case, &bad_x, &bad_dy);
            let hit = norm.statistic(at, case.shape, case.axis);
            for i in 0..case.size() {
                let (y, dx) = ((y.data[i].bits(), bad_y.data[i]), (dx.data[i].bits(), bad_dx.data[i]));
                if norm.statistic(i, case.shape, case.axis) != hit {
                    assert!(y.0 == y.1.bits() && dx.0 == dx.1.bits(), "{norm:?} {case:?}: {bad} at {at} reaches {i}");
                } else {
                    assert_eq!(y.1.to_f64().is_nan(), in_x, "{norm:?} {case:?}: {bad} at {at} misses y at {i}");
                    let lost = if in_x || bad.is_nan() { dx.1.to_f64().is_nan() } else { !dx.1.to_f64().is_finite() };
                    assert!(lost, "{norm:?} {case:?}: {bad} at {at} misses dx at {i}");
                }
            }
            for t in (0..of.mean.len()).filter(|&t| t != hit || !in_x) {
                assert_eq!((of.mean[t], of.var[t], of.rstd[t]), (bad_of.mean[t], bad_of.var[t], bad_of.rstd[t]));
            }
            assert!(!in_x || bad_of.var[hit].is_nan() && !bad_of.mean[hit].is_finite());
            // Parameters' gradients: those of the channels that share the statistics.
            let channels = case.channels();
            for c in 0..channels {
                let shares = match norm {
                    Norm::Batch => c == hit,
                    Norm::Group(groups) => c / (channels / groups) == hit % groups,
                };
                let hurt = if in_x { shares } else { c == position(at, case.shape, case.axis) };
                assert_eq!(bad_g[c].is_finite(), !hurt, "{norm:?} {case:?}: dweight[{c}] = {}", bad_g[c]);
                assert!(hurt || bad_g[c].to_bits() == g[c].to_bits());
                let hurt = hurt && !in_x;
                assert_eq!(bad_g[channels + c].is_finite(), !hurt, "{norm:?} {case:?}: dbias[{c}]");
            }
        }
    }
}

#[test]
fn nan_stays_where_it_belongs() {
    check_containment::<f32>(f64::NAN, true);
    check_containment::<f32>(f64::NAN, false);
    check_containment::<f64>(f64::NAN, true);
}

#[test]
fn infinity_stays_where_it_belongs() {
    check_containment::<f32>(f64::INFINITY, true);
    check_containment::<f32>(f64::NEG_INFINITY, false);
    check_containment::<f64>(f64::NEG_INFINITY, true);
}

#[test]
fn constants_give_exactly_the_bias() {
    // Values whose sums and means round.
    for value in [0.1, -3.3e7, 1e-40, 1e30, 0.0] {
        for eps in [1e-5, 0.0] {
            for case in CASES {
                let layout = Layout::dense(case.shape.len());
                let x = Array::<f32>::new(case.shape, &layout, |_| value);
                let dy = Array::<f32>::new(case.shape, &layout, |i| normal(2, i));
                let (weight, bias) = (parameters(1, case.channels()), parameters(2, case.channels()));
                for norm in norms(case) {
                    let mut y = Array::<f32>::output(case.shape, &layout);
                    let of = norm.forward(&x.tensor(), case.axis, Some(&weight), Some(&bias), eps, &mut y.tensor_mut());
                    let of = of.expect("valid");
                    assert!(
                        of.var.iter().all(|&var| var == 0.0) && of.mean.iter().all(|&m| m == f64::from(value as f32))
                    );
                    for (i, &y) in y.data.iter().enumerate() {
                        let bias = bias[position(i, case.shape, case.axis)] as f32;
                        assert!(y == bias, "{norm:?} {case:?} of {value}: {y} at {i}, bias {bias}");
                    }
                    let mut dx = Array::<f32>::output(case.shape, &layout);
                    let (xs, dys) = (x.tensor(), dy.tensor());
                    let out = &mut dx.tensor_mut();
                    let g = norm.backward(&dys, &xs, case.axis, &of.mean, &of.rstd, Some(&weight), out);
                    assert!(g.expect("valid").weight.iter().all(|&g| g == 0.0));
                    assert!(dx.data.iter().all(|dx| dx.is_finite() && (eps > 0.0 || *dx == 0.0)));
                }
            }
        }
    }
}

/// 1/σ is then infinite in float32 (though not in float64).
#[test]
fn subnormals_survive() {
    let tiny = f32::from_bits(1);
    let (n, c, s) = (6, 5, 300);
    for shape in [[n, c, s], [n * s, c, 1]] {
        let x: Vec<f32> = (0..n * c * s).map(|i| tiny * (i % 7) as f32).collect();
        let input = Tensor::dense(&x, &shape).expect("fits");
        let mut y = vec![9.0f32; x.len()];
        let (zeros, ones) = (vec![0.0; c], vec![1.0; c]);
        let mut out = TensorMut::dense(&mut y, &shape).expect("fits");
        normkit::batch_norm_inference(&input, 1, &zeros, &ones, None, None, &mut out).expect("valid");
        assert_eq!(x, y, "flushed");
        let of = normkit::moments(&input, &[0, 2]).expect("valid");
        let expected =
            normkit::reference::moments(&x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), &shape, &[0, 2]);
        for c in 0..c {
            assert!((of.mean[c] / expected.mean[c] - 1.0).abs() < 1e-12);
            assert!((of.m2[c] / of.count as f64 / expected.var[c] - 1.0).abs() < 1e-12);
        }
        let mut dx = vec![9.0f32; x.len()];
        let mut out = TensorMut::dense(&mut dx, &shape).expect("fits");
        let dy = Tensor::dense(&x, &shape).expect("fits");
        let g = normkit::batch_norm_backward(&dy, &input, 1, &zeros, &ones, None, true, &mut out).expect("valid");
        assert_eq!(x, dx, "flushed");
        assert!(g.bias.iter().all(|&g| g > 0.0) && g.weight.iter().all(|&g| g > 0.0));
    }
}

/// Statistics whose squares (or products with dy) leave the range of float32.
#[test]
fn scale_does_not_matter() {
    let shape = [4, 3, 257];
    let base: Vec<f32> = (0..4 * 3 * 257).map(|i| normal(1, i) as f32).collect();
    let dy: Vec<f32> = (0..base.len()).map(|i| normal(2, i) as f32).collect();
    let outputs = |power: i32| {
        let factor = 2f32.powi(power);
        let x: Vec<f32> = base.iter().map(|x| x * factor).collect();
        let (mut y, mut dx) = (vec![0.0f32; x.len()], vec![0.0f32; x.len()]);
        let x = Tensor::dense(&x, &shape).expect("fits");
        let of = normkit::batch_norm(&x, 1, None, None, 0.0, &mut TensorMut::dense(&mut y, &shape).expect("fits"));
        let of = of.expect("valid");
        let dy = Tensor::dense(&dy, &shape).expect("fits");
        let mut out = TensorMut::dense(&mut dx, &shape).expect("fits");
        let g = normkit::batch_norm_backward(&dy, &x, 1, &of.mean, &of.rstd, None, false, &mut out).expect("valid");
        dx.iter_mut().for_each(|dx| *dx *= factor);
        (y, dx, g)
    };
    let (y, dx, g) = outputs(0);
    // Powers of two are exact, so only the way through float64 may differ.
    for power in [-60, -40, 40, 60, 80, 100] {
        let (found_y, found_dx, found_g) = outputs(power);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 3e-6 * b.abs().max(1.0));
        assert!(close(&found_y, &y), "y of 2^{power}");
        assert!(close(&found_dx, &dx), "dx of 2^{power}");
        for c in 0..3 {
            assert!((found_g.weight[c] - g.weight[c]).abs() < 1e-4 && found_g.bias == g.bias, "2^{power}");
        }
    }
}

#[test]
fn nothing_at_all() {
    for shape in [&[0, 3, 4][..], &[2, 3, 0], &[2, 0, 4], &[0, 0], &[0, 3]] {
        let (mut y, x) = ([-1.0f32; 2], [1.0f32; 2]);
        let c = shape[1];
        let input = Tensor::dense(&x, shape).expect("fits");
        let mut out = TensorMut::dense(&mut y, shape).expect("fits");
        let of = normkit::batch_norm(&input, 1, None, None, 1e-5, &mut out).expect("valid");
        assert_eq!((of.count, of.mean.len(), of.var.len(), of.rstd.len()), (0, c, c, c));
        let g =
            normkit::batch_norm_backward(&input, &input, 1, &of.mean, &of.rstd, None, false, &mut out).expect("valid");
        assert_eq!((&g.weight, &g.bias), (&vec![0.0; c], &vec![0.0; c]));
        normkit::batch_norm_inference(&input, 1, &of.mean, &of.rstd, None, None, &mut out).expect("valid");
        let of = normkit::group_norm(&input, 1, 1, None, None, 1e-5, &mut out).expect("valid");
        assert_eq!(of.mean.len(), shape[0]);
        let g = normkit::group_norm_backward(&input, &input, 1, 1, &of.mean, &of.rstd, None, &mut out).expect("valid");
        assert_eq!((&g.weight, &g.bias), (&vec![0.0; c], &vec![0.0; c]));
        let of = normkit::moments(&input, &[0]).expect("valid");
        assert_eq!(of.mean.len(), shape[1..].iter().product::<usize>());
        assert!(of.mean.iter().chain(&of.m2).all(|&x| x == 0.0));
        assert_eq!(y, [-1.0; 2]);
        let mut running = (vec![1.0; c], vec![2.0; c]);
        let empty = Statistics { count: 0, ..Statistics::default() };
        normkit::update_running(&empty, 0.1, 0.0, &mut running.0, &mut running.1);
        assert_eq!(running, (vec![1.0; c], vec![2.0; c]));
    }
}

#[test]
fn one_value_per_channel() {
    let (x, mut y) = ([1.0f32, 2.0], [-1.0f32; 2]);
    for shape in [&[1, 2][..], &[1, 2, 1, 1]] {
        let input = Tensor::dense(&x, shape).expect("fits");
        let mut out = TensorMut::dense(&mut y, shape).expect("fits");
        let error = normkit::batch_norm(&input, 1, None, None, 1e-5, &mut out).expect_err("no statistics");
        assert_eq!(error.argument, "x");
        // A group of one value is its own mean.
        let of = normkit::group_norm(&input, 1, 2, None, Some(&[3.0, 4.0]), 1e-5, &mut out).expect("valid");
        assert_eq!((of.mean, of.var), (vec![1.0, 2.0], vec![0.0; 2]));
        assert_eq!(y, [3.0, 4.0]);
        y.fill(-1.0);
    }
}

/// Every way to be refused: the argument it names, and an output that is as it was.
#[test]
fn refused_before_anything_is_written() {
    let shape = [2, 4, 3];
    let x = vec![1.5f32; 24];
    let input = &Tensor::dense(&x, &shape).expect("fits");
    let other = &Tensor::dense(&x, &[2, 4, 2]).expect("fits");
    let flat = &Tensor::dense(&x, &[24]).expect("fits");
    let (three, four, eight) = (&[1.0; 3][..], &[1.0; 4][..], &[1.0; 8][..]);
    type Refused<'a> = (&'static str, &'a dyn Fn(&mut TensorMut<f32>) -> Result<()>);
    let bn = |axis, weight, bias, eps, y: &mut TensorMut<f32>| {
        normkit::batch_norm(input, axis, weight, bias, eps, y).map(drop)
    };
    let gn = |axis, groups, weight, bias, eps, y: &mut TensorMut<f32>| {
        normkit::group_norm(input, axis, groups, weight, bias, eps, y).map(drop)
    };
    let refused: &[Refused] = &[
        ("axis", &|y| bn(3, None, None, 1e-5, y)),
        ("axis", &|y| bn(usize::MAX, None, None, 1e-5, y)),
        ("weight", &|y| bn(1, Some(three), None, 1e-5, y)),
        ("bias", &|y| bn(1, None, Some(eight), 1e-5, y)),
        ("eps", &|y| bn(1, None, None, -1e-9, y)),
        ("eps", &|y| bn(1, None, None, f64::NAN, y)),
        ("eps", &|y| bn(1, None, None, f64::INFINITY, y)),
        ("out", &|y| normkit::batch_norm(other, 1, None, None, 1e-5, y).map(drop)),
        ("out", &|y| normkit::batch_norm(flat, 0, None, None, 1e-5, y).map(drop)),
        ("axis", &|y| normkit::batch_norm_inference(input, 3, four, four, None, None, y)),
        ("mean", &|y| normkit::batch_norm_inference(input, 1, three, four, None, None, y)),
        ("var", &|y| normkit::batch_norm_inference(input, 1, four, three, None, None, y)),
        ("weight", &|y| normkit::batch_norm_inference(input, 1, four, four, Some(eight), None, y)),
        ("bias", &|y| normkit::batch_norm_inference(input, 1, four, four, None, Some(three), y)),
        ("out", &|y| normkit::batch_norm_inference(other, 1, four, four, None, None, y)),
        ("axis", &|dx| normkit::batch_norm_backward(input, input, 9, four, four, None, false, dx).map(drop)),
        ("dy", &|dx| normkit::batch_norm_backward(other, input, 1, four, four, None, false, dx).map(drop)),
        ("mean", &|dx| normkit::batch_norm_backward(input, input, 1, three, four, None, true, dx).map(drop)),
        ("rstd", &|dx| normkit::batch_norm_backward(input, input, 1, four, eight, None, false, dx).map(drop)),
        ("weight", &|dx| normkit::batch_norm_backward(input, input, 1, four, four, Some(three), true, dx).map(drop)),
        ("out", &|dx| normkit::batch_norm_backward(other, other, 1, four, four, None, false, dx).map(drop)),
        ("axis", &|y| gn(3, 2, None, None, 1e-5, y)),
        ("x", &|y| normkit::group_norm(flat, 0, 2, None, None, 1e-5, y).map(drop)),
        ("num_groups", &|y| gn(1, 0, None, None, 1e-5, y)),
        ("num_groups", &|y| gn(1, 3, None, None, 1e-5, y)),
        ("num_groups", &|y| gn(1, 8, None, None, 1e-5, y)),
        ("weight", &|y| gn(1, 2, Some(three), None, 1e-5, y)),
        ("bias", &|y| gn(1, 2, None, Some(eight), 1e-5, y)),
        ("eps", &|y| gn(1, 2, None, None, -1.0, y)),
        ("out", &|y| normkit::group_norm(other, 1, 2, None, None, 1e-5, y).map(drop)),
        ("mean", &|dx| normkit::group_norm_backward(input, input, 1, 2, three, four, None, dx).map(drop)),
        ("rstd", &|dx| normkit::group_norm_backward(input, input, 1, 2, four, eight, None, dx).map(drop)),
        ("weight", &|dx| normkit::group_norm_backward(input, input, 1, 2, four, four, Some(three), dx).map(drop)),
        ("dy", &|dx| normkit::group_norm_backward(other, input, 1, 2, four, four, None, dx).map(drop)),
        ("out", &|dx| normkit::group_norm_backward(other, other, 1, 2, four, four, None, dx).map(drop)),
        ("num_groups", &|dx| normkit::group_norm_backward(input, input, 1, 3, four, four, None, dx).map(drop)),
        ("axis", &|_| normkit::moments(input, &[0, 3]).map(drop)),
        ("axis", &|_| normkit::moments(input, &[1, 1]).map(drop)),
    ];
    for (i, (argument, call)) in refused.iter().enumerate() {
        let mut y = vec![-777.0f32; 24];
        let result = call(&mut TensorMut::dense(&mut y, &shape).expect("fits"));
        let error = result.err().unwrap_or_else(|| panic!("call {i} must be refused for its {argument}"));
        assert_eq!(error.argument, *argument, "call {i}: {error}");
        assert!(y.iter().all(|&y| y == -777.0), "call {i} has written");
        let Error { argument, expected, found } = &error;
        assert_eq!(error.to_string(), format!("`{argument}` must {expected}, found {found}"));
        assert!(!expected.is_empty() && !found.is_empty());
    }
}

#[test]
fn folding_refused_before_anything_is_written() {
    let w = vec![1.0f32; 36];
    let good = BatchNormOf { mean: &[0.0; 6], var: &[1.0; 6], weight: None, bias: None, eps: 1e-5 };
    let plain = ConvOf { groups: 1, transposed: false };
    type Refused<'a> = (&'static str, &'a [usize], Option<&'a [f64]>, ConvOf, BatchNormOf<'a>);
    let refused: &[Refused] = &[
        ("conv_weight", &[36], None, plain, good),
        ("conv_weight", &[6, 5], None, plain, good),
        ("groups", &[6, 6], None, ConvOf { groups: 0, ..plain }, good),
        ("groups", &[6, 6], None, ConvOf { groups: 4, ..plain }, good),
        ("conv_bias", &[6, 6], Some(&[0.0; 3]), plain, good),
        ("running_mean", &[6, 6], None, plain, BatchNormOf { mean: &[0.0; 5], ..good }),
        ("running_var", &[6, 6], None, plain, BatchNormOf { var: &[1.0; 7], ..good }),
        ("running_mean", &[6, 6], None, ConvOf { groups: 2, transposed: true }, good),
        ("weight", &[6, 6], None, plain, BatchNormOf { weight: Some(&[1.0]), ..good }),
        ("bias", &[6, 6], None, plain, BatchNormOf { bias: Some(&[]), ..good }),
        ("running_var", &[6, 6], None, plain, BatchNormOf { var: &[1.0, 1.0, -0.1, 1.0, 1.0, 1.0], ..good }),
        ("eps", &[6, 6], None, plain, BatchNormOf { eps: -1.0, ..good }),
        ("eps", &[6, 6], None, plain, BatchNormOf { eps: f64::NAN, ..good }),
    ];
    for (i, &(argument, shape, bias, conv, norm)) in refused.iter().enumerate() {
        let mut out = vec![-777.0f32; 36];
        let error = fold_conv_bn(&w, shape, bias, conv, norm, &mut out).expect_err("must be refused");
        assert_eq!(error.argument, argument, "call {i}: {error}");
        assert!(out.iter().all(|&w| w == -777.0), "call {i} has written");
    }
    let mut short = vec![-777.0f32; 35];
    fold_conv_bn(&w, &[6, 6], None, plain, good, &mut short).expect_err("too short");
    fold_conv_bn(&w[1..], &[6, 6], None, plain, good, &mut [0.0; 36]).expect_err("too short");
}

#[test]
fn arrays_that_reach_beyond_their_memory() {
    let mut data = [0.0f32; 12];
    for (shape, strides) in
        [(&[3, 4][..], &[5, 1][..]), (&[3, 5], &[4, 1]), (&[3, 4], &[-4, 1]), (&[3, 4], &[4, 1, 1]), (&[13], &[1])]
    {
        Tensor::strided(&data, shape, strides).map(drop).expect_err("beyond");
        TensorMut::strided(&mut data, shape, strides).map(drop).expect_err("beyond");
    }
    Tensor::strided(&data, &[3, 4], &[0, 1]).map(drop).expect("inputs may be broadcast");
    TensorMut::strided(&mut data, &[3, 4], &[0, 1]).map(drop).expect_err("outputs may not");
    TensorMut::strided(&mut data, &[3, 4], &[2, 1]).map(drop).expect_err("nor overlap");
    TensorMut::strided(&mut data, &[4, 3], &[1, 4]).map(drop).expect("any order");
    Tensor::strided(&data, &[0, 100], &[1000, 1000]).map(drop).expect("nothing is reached");
}

fn check_in_place<E: Float>(shape: &[usize], axis: usize, groups: usize, layout: &Layout, seed: u64) {
    let x = Array::<E>::new(shape, layout, |i| Values::Normal.at::<E>(seed, i));
    let dy = Array::<E>::new(shape, layout, |i| normal(!seed, i));
    let (mean, rstd) = (parameters(1, shape[axis]), parameters(2, shape[axis]));
    let weight = parameters(3, shape[axis]);
    let mut apart = Array::<E>::output(shape, layout);
    let out = &mut apart.tensor_mut();
    normkit::batch_norm_inference(&x.tensor(), axis, &mean, &rstd, Some(&weight), None, out).expect("valid");
    let mut together = x.clone();
    let (input, mut out) = together.in_place();
    normkit::batch_norm_inference(&input, axis, &mean, &rstd, Some(&weight), None, &mut out).expect("valid");
    assert!(apart.bits() == together.bits(), "inference of {shape:?}, {layout:?}");

    let samples = shape[samples(axis)];
    let (means, rstds) = (parameters(4, samples * groups), parameters(5, samples * groups));
    for kind in 0..3 {
        let backward = |dy: &Tensor<E>, out: &mut TensorMut<E>| match kind {
            2 => normkit::group_norm_backward(dy, &x.tensor(), axis, groups, &means, &rstds, Some(&weight), out),
            _ => normkit::batch_norm_backward(dy, &x.tensor(), axis, &mean, &rstd, Some(&weight), kind == 1, out),
        };
        let mut apart = dy.clone();
        let expected = backward(&dy.tensor(), &mut apart.tensor_mut()).expect("valid");
        let mut together = dy.clone();
        let (input, mut out) = together.in_place();
        let found = backward(&input, &mut out).expect("valid");
        assert!(apart.bits() == together.bits(), "backward {kind} of {shape:?}, {layout:?}");
        assert_eq!(expected, found);
    }
}

/// dx over dy where dz has a place of its own, stored past the caches or not: dz is dy or nothing, by the sign of what went
/// into the ReLU, and dx the same as in a place of its own.
fn check_two_outputs<E: Float>(shape: &[usize], axis: usize, layout: &Layout, seed: u64) {
    let array = |seed| Array::<E>::new(shape, layout, |i| normal(seed, i));
    let (x, dy, residual) = (array(seed), array(!seed), array(seed ^ 1));
    let of = [1, 2, 3, 4].map(|seed| parameters(seed, shape[axis]));
    let [mean, rstd, weight, bias] = of.each_ref().map(Vec::as_slice);
    let tensor = residual.tensor();
    let extras = Extras { activation: Activation::Relu, residual: Some((&tensor).into()), mask: None };
    let backward = |dy: &Tensor<E>, dx: &mut TensorMut<E>| {
        let mut dz = Array::<E>::output(shape, layout);
        let (used, second) = (Used { mean, rstd, frozen: false }, Some(&mut dz.tensor_mut()));
        let dy = Operand::from(dy);
        normkit::batch_norm_fused_backward(&dy, &x.tensor(), axis, used, Some(weight), Some(bias), &extras, dx, second)
            .expect("valid");
        dz
    };
    let mut y = Array::<E>::output(shape, layout);
    normkit::batch_norm_inference(&x.tensor(), axis, mean, rstd, Some(weight), Some(bias), &mut y.tensor_mut())
        .expect("valid");
    for threads in 1..=2 {
        let _lock = configure(threads, widest());
        let mut apart = Array::<E>::output(shape, layout);
        let dz = backward(&dy.tensor(), &mut apart.tensor_mut());
        for (((dz, dy), y), residual) in
            dz.logical().into_iter().zip(dy.logical()).zip(y.logical()).zip(residual.logical())
        {
            // (Sums of either sign that are no rounding errors.)
            let z = y + residual;
            assert!(
                z.abs() < 1e-4 || dz == if z > 0.0 { dy } else { 0.0 },
                "dz of {shape:?}, {layout:?}: {dz}, z {z}, dy {dy}"
            );
        }
        let mut together = dy.clone();
        let (input, mut out) = together.in_place();
        let same = backward(&input, &mut out);
        assert!(apart.bits() == together.bits(), "dx of {shape:?}, {layout:?}, {threads} threads");
        assert!(dz.bits() == same.bits(), "dz of {shape:?}, {layout:?}, {threads} threads");
    }
}

#[test]
fn in_place() {
    for case in CASES {
        for layout in [Layout::dense(case.shape.len()), Layout { lead: 3, ..Layout::dense(case.shape.len()) }] {
            check_in_place::<f32>(case.shape, case.axis, case.groups, &layout, 1);
            check_two_outputs::<f32>(case.shape, case.axis, &layout, 1);
        }
    }
    for case in cases() {
        check_in_place::<f64>(case.shape, case.axis, case.groups, &Layout::dense(case.shape.len()), 1);
        check_two_outputs::<f64>(case.shape, case.axis, &Layout::dense(case.shape.len()), 1);
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn in_place_in_any_layout(
        ((shape, axis), layout) in crate::common::shape().prop_flat_map(|s| { let rank = s.0.len(); (Just(s), layout(rank)) }),
        seed: u64,
    ) {
        check_in_place::<f32>(&shape, axis, shape[axis], &layout, seed);
        check_two_outputs::<f32>(&shape, axis, &layout, seed);
    }
}

proptest! {
    #![proptest_config(config(400))]

    /// Any arguments: an error or a result, never a panic.
    #[test]
    fn no_panic(
        shape in prop::collection::vec(prop_oneof![8 => 0usize..6, 1 => 0usize..40], 0..5),
        other in prop::collection::vec(0usize..4, 0..3),
        same in prop::bool::weighted(0.8),
        axis in 0usize..6,
        axes in prop::collection::vec(0usize..6, 0..4),
        groups in 0usize..6,
        lengths in prop::collection::vec(prop_oneof![6 => Just(None), 1 => (0usize..7).prop_map(Some)], 4),
        eps in prop_oneof![4 => Just(1e-5), 1 => any::<f64>()],
        flags: [bool; 4],
        bits in any::<[u32; 64]>(),
    ) {
        let size: usize = shape.iter().product();
        // Any bits at all: NaN, infinities, subnormals.
        let x: Vec<f32> = (0..size).map(|i| f32::from_bits(bits[i % 64].rotate_left(i as u32 / 64))).collect();
        let of_out = if same { &shape } else { &other };
        let mut y = vec![0.0f32; of_out.iter().product()];
        let input = Tensor::dense(&x, &shape)?;
        let mut out = TensorMut::dense(&mut y, of_out)?;
        let channels = shape.get(axis).copied().unwrap_or(3);
        let samples = shape.get(crate::common::samples(axis)).copied().unwrap_or(1);
        let vector = |i: usize, n: usize| vec![1.25; lengths[i].unwrap_or(n)];
        let (weight, bias) = (vector(0, channels), vector(1, channels));
        let (weight, bias) = (flags[0].then_some(&weight[..]), flags[1].then_some(&bias[..]));
        let (mean, rstd) = (vector(2, channels), vector(3, channels));
        let (means, rstds) = (vector(2, samples * groups), vector(3, samples * groups));
        let _ = normkit::batch_norm(&input, axis, weight, bias, eps, &mut out);
        let _ = normkit::batch_norm_inference(&input, axis, &mean, &rstd, weight, bias, &mut out);
        let _ = normkit::batch_norm_backward(&input, &input, axis, &mean, &rstd, weight, flags[2], &mut out);
        let _ = normkit::group_norm(&input, axis, groups, weight, bias, eps, &mut out);
        let _ = normkit::group_norm_backward(&input, &input, axis, groups, &means, &rstds, weight, &mut out);
        let _ = normkit::moments(&input, &axes);
        let conv = ConvOf { groups, transposed: flags[3] };
        let norm = BatchNormOf { mean: &mean, var: &rstd, weight, bias, eps };
        let _ = fold_conv_bn(&x, &shape, bias, conv, norm, &mut y);
    }
}
