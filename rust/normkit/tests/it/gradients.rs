//! The oracle's gradients against finite differences of the oracle, and the kernels' (float64) against those of the
//! kernels themselves.

use crate::common::{Array, Layout, Norm, config, normal, parameters};
use normkit::reference;
use proptest::prelude::*;

/// The derivative of `f` in each coordinate: central differences of fourth order, off by about h⁴ and 1e-16/h.
fn differences(at: &[f64], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    const H: f64 = 1e-3;
    let mut point = at.to_vec();
    let mut value = |i: usize, h: f64| {
        point[i] = at[i] + h;
        let value = f(&point);
        point[i] = at[i];
        value
    };
    (0..at.len())
        .map(|i| (8.0 * (value(i, H) - value(i, -H)) - (value(i, 2.0 * H) - value(i, -2.0 * H))) / (12.0 * H))
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn agree(what: &str, found: &[f64], expected: &[f64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        // h⁴ = 1e-12 times the fifth derivative, up to 1e4 where the variance is as small as `problem` lets it be.
        let good = (found - expected).abs() <= 1e-7 * (1.0 + expected.abs());
        prop_assert!(good, "{what}[{i}] = {found}, differences give {expected}");
    }
    Ok(())
}

/// Shape, axis, groups.
fn problem() -> impl Strategy<Value = (Vec<usize>, usize, usize)> {
    let sizes = (1usize..4, 1usize..4, 1usize..4, prop::collection::vec(1usize..5, 0..3), any::<bool>());
    sizes.prop_filter_map("too few values for a variance", |(n, groups, width, spatial, last)| {
        let c = groups * width;
        let size: usize = spatial.iter().product();
        let shape = if last { [&[n], &spatial[..], &[c]].concat() } else { [&[n, c], &spatial[..]].concat() };
        let axis = if last { shape.len() - 1 } else { 1 };
        (n * size >= 2 && width * size >= 2).then_some((shape, axis, groups))
    })
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn batch_and_group_norm((shape, axis, groups) in problem(), batch: bool, seed: u64) {
        let norm = if batch { Norm::Batch } else { Norm::Group(groups) };
        let size: usize = shape.iter().product();
        let x: Vec<f64> = (0..size).map(|i| 1.0 + normal(seed, i)).collect();
        let dy: Vec<f64> = (0..size).map(|i| normal(!seed, i)).collect();
        let (weight, bias) = (parameters(seed ^ 1, shape[axis]), parameters(seed ^ 2, shape[axis]));
        // Two equal values have no derivative worth the name without some eps.
        let eps = 0.3;
        let loss = |x: &[f64], weight: &[f64], bias: &[f64]| {
            dot(&dy, &norm.oracle(x, &shape, axis, Some(weight), Some(bias), eps).0)
        };
        let (_, of) = norm.oracle(&x, &shape, axis, None, None, eps);
        let found = norm.oracle_backward(&dy, &x, &shape, axis, &of, Some(&weight));
        agree("dx", &found.dx, &differences(&x, |x| loss(x, &weight, &bias)))?;
        agree("dweight", &found.weight, &differences(&weight, |weight| loss(&x, weight, &bias)))?;
        agree("dbias", &found.bias, &differences(&bias, |bias| loss(&x, &weight, bias)))?;

        let layout = Layout::dense(shape.len());
        let array = |values: &[f64]| Array::<f64>::new(&shape, &layout, |i| values[i]);
        let forward = |x: &[f64], weight: &[f64], bias: &[f64]| {
            let mut y = Array::<f64>::output(&shape, &layout);
            let x = array(x);
            let of = norm.forward(&x.tensor(), axis, Some(weight), Some(bias), eps, &mut y.tensor_mut());
            (y.logical(), of.expect("valid"))
        };
        let (_, of) = forward(&x, &weight, &bias);
        let mut dx = Array::<f64>::output(&shape, &layout);
        let (dys, xs) = (array(&dy), array(&x));
        let (dys, xs) = (dys.tensor(), xs.tensor());
        let found = norm.backward(&dys, &xs, axis, &of.mean, &of.rstd, Some(&weight), &mut dx.tensor_mut())?;
        agree("dx", &dx.logical(), &differences(&x, |x| dot(&dy, &forward(x, &weight, &bias).0)))?;
        agree("dweight", &found.weight, &differences(&weight, |weight| dot(&dy, &forward(&x, weight, &bias).0)))?;
        agree("dbias", &found.bias, &differences(&bias, |bias| dot(&dy, &forward(&x, &weight, bias).0)))?;
    }

    #[test]
    fn frozen_batch_norm((shape, axis, _) in problem(), seed: u64) {
        let (size, c) = (shape.iter().product(), shape[axis]);
        let x: Vec<f64> = (0..size).map(|i| normal(seed, i)).collect();
        let dy: Vec<f64> = (0..size).map(|i| normal(!seed, i)).collect();
        let (weight, bias) = (parameters(seed ^ 1, c), parameters(seed ^ 2, c));
        let (mean, rstd) = (parameters(seed ^ 3, c), parameters(seed ^ 4, c).iter().map(|x| x.abs()).collect::<Vec<_>>());
        let loss = |x: &[f64], weight: &[f64], bias: &[f64]| {
            dot(&dy, &reference::batch_norm_inference(x, &shape, axis, &mean, &rstd, Some(weight), Some(bias)))
        };
        let found = reference::batch_norm_backward(&dy, &x, &shape, axis, &mean, &rstd, Some(&weight), true);
        agree("dx", &found.dx, &differences(&x, |x| loss(x, &weight, &bias)))?;
        agree("dweight", &found.weight, &differences(&weight, |weight| loss(&x, weight, &bias)))?;
        agree("dbias", &found.bias, &differences(&bias, |bias| loss(&x, &weight, bias)))?;

        let layout = Layout::dense(shape.len());
        let (xs, dys) = (Array::<f64>::new(&shape, &layout, |i| x[i]), Array::<f64>::new(&shape, &layout, |i| dy[i]));
        let mut dx = Array::<f64>::output(&shape, &layout);
        let out = &mut dx.tensor_mut();
        let found =
            normkit::batch_norm_backward(&dys.tensor(), &xs.tensor(), axis, &mean, &rstd, Some(&weight), true, out)?;
        agree("dx", &dx.logical(), &differences(&x, |x| loss(x, &weight, &bias)))?;
        agree("dweight", &found.weight, &differences(&weight, |weight| loss(&x, weight, &bias)))?;
        agree("dbias", &found.bias, &differences(&bias, |bias| loss(&x, &weight, bias)))?;
    }
}
