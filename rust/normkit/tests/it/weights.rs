//! Weight norm, spectral norm and scaled weight standardization: against the oracle over shapes, layouts, types and
//! values; the oracle's gradients against finite differences; the same bits; the edges.

use crate::common::judge::{Check, close_or_equal as close};
use crate::common::weights::{Layouts, check_spectral_norm, check_standardization, check_weight_norm};
use crate::common::{Array, Float, Layout, config, configure, input_layout, layout, normal, parameters};
use normkit::{Element, Isa, SingularTriple, Standardized, reference};
use proptest::prelude::*;

/// A weight's shape and an axis of it.
fn weight_shape() -> impl Strategy<Value = (Vec<usize>, usize)> {
    let outputs = prop::sample::select(vec![1usize, 2, 3, 8, 17, 64]);
    let inputs = prop::sample::select(vec![1usize, 2, 5, 16, 33]);
    let kernels: &[&[usize]] = &[&[], &[1], &[3], &[3, 3], &[5, 1], &[2, 3, 2], &[300], &[64, 70]];
    (outputs, inputs, prop::sample::select(kernels.to_vec()), any::<prop::sample::Index>()).prop_map(
        |(mut outputs, mut inputs, kernel, dim)| {
            while outputs * inputs * kernel.iter().product::<usize>() > 20_000 {
                if outputs > inputs { outputs = outputs.div_ceil(4) } else { inputs = inputs.div_ceil(4) }
            }
            let shape = [&[outputs, inputs], kernel].concat();
            let dim = dim.index(shape.len());
            (shape, dim)
        },
    )
}

/// Small enough for differences of each element.
fn small_shape() -> impl Strategy<Value = (Vec<usize>, usize)> {
    (prop::collection::vec(1usize..5, 2..4), any::<prop::sample::Index>()).prop_map(|(shape, dim)| {
        let dim = dim.index(shape.len());
        (shape, dim)
    })
}

/// How large weights are, and what is added to all of them.
fn magnitude() -> impl Strategy<Value = (f64, f64)> {
    let scale = prop_oneof![6 => Just(1.0), 1 => Just(1e30), 1 => Just(1e-30), 1 => Just(1e-41)];
    (scale, prop_oneof![3 => Just(0.0), 1 => Just(3.0), 1 => Just(-1e3)])
}

fn problem() -> impl Strategy<Value = (Vec<usize>, usize, Layouts)> {
    weight_shape().prop_flat_map(|(shape, dim)| {
        let rank = shape.len();
        (Just(shape), Just(dim), (input_layout(rank), input_layout(rank), layout(rank)))
    })
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn weight_norm((shape, dim, layouts) in problem(), whole in prop::bool::weighted(0.2), magnitude in magnitude(), seed: u64) {
        let dim = (!whole).then_some(dim);
        check_weight_norm::<f32, f32>(&shape, dim, &layouts, magnitude, seed)?;
        check_weight_norm::<f64, f64>(&shape, dim, &layouts, magnitude, seed)?;
        check_weight_norm::<f32, f64>(&shape, dim, &layouts, magnitude, seed)?;
    }

    #[test]
    fn spectral_norm((shape, dim, layouts) in problem(), iterations in 0usize..4, magnitude in magnitude(), seed: u64) {
        check_spectral_norm::<f32, f32>(&shape, dim, &layouts, magnitude, iterations, seed)?;
        check_spectral_norm::<f64, f64>(&shape, dim, &layouts, magnitude, iterations, seed)?;
        check_spectral_norm::<f64, f32>(&shape, dim, &layouts, magnitude, iterations, seed)?;
    }

    #[test]
    fn scaled_weight_standardization((shape, _, layouts) in problem(), magnitude in magnitude(), gain: bool, seed: u64) {
        check_standardization::<f32, f32>(&shape, &layouts, magnitude, gain, seed)?;
        check_standardization::<f64, f64>(&shape, &layouts, magnitude, gain, seed)?;
        check_standardization::<f32, f64>(&shape, &layouts, magnitude, gain, seed)?;
    }

    /// The oracle's gradients are those of the oracle, by central differences: h² = 1e-10 times a third derivative of at
    /// most 1e3 here, and 1e-16/h. Only u and v are constants by definition, so sigma is held by none of their steps.
    #[test]
    fn gradients((shape, dim) in small_shape(), seed: u64) {
        let size: usize = shape.iter().product();
        let v: Vec<f64> = (0..size).map(|i| normal(seed, i)).collect();
        let dw: Vec<f64> = (0..size).map(|i| normal(!seed, i)).collect();
        let loss = |w: &[f64]| w.iter().zip(&dw).map(|(w, dw)| w * dw).sum::<f64>();
        let agree = |what: &'static str, found: &[f64], at: &[f64], f: &dyn Fn(&[f64]) -> f64| -> Check {
            const H: f64 = 1e-5;
            for (i, &found) in found.iter().enumerate() {
                let moved = |h: f64| f(&(0..at.len()).map(|j| if i == j { at[j] + h } else { at[j] }).collect::<Vec<_>>());
                let expected = (moved(H) - moved(-H)) / (2.0 * H);
                close(what, i, found, expected, 1e-6 * (1.0 + expected.abs()))?;
            }
            Ok(())
        };
        let g = parameters(seed, shape[dim]);
        let (_, norms) = reference::weight_norm(&v, &shape, Some(dim), &g);
        // Where v is small its gradient turns quickly.
        if norms.iter().all(|&norm| norm > 0.3) {
            let (dv, dg) = reference::weight_norm_backward(&dw, &v, &shape, Some(dim), &g, &norms);
            agree("dv", &dv, &v, &|v| loss(&reference::weight_norm(v, &shape, Some(dim), &g).0))?;
            agree("dg", &dg, &g, &|g| loss(&reference::weight_norm(&v, &shape, Some(dim), g).0))?;
        }

        let gain = parameters(seed ^ 1, shape[0]);
        // Above eps, and below it.
        for eps in [1e-4, 1e3 + size as f64 * 20.0] {
            let (_, mean, scale) = reference::scaled_weight_standardization(&v, &shape, Some(&gain), eps);
            if scale.iter().any(|&scale| scale > 3.0) {
                continue;
            }
            let of = (&mean[..], &scale[..]);
            let (dweight, dgain) =
                reference::scaled_weight_standardization_backward(&dw, &v, &shape, Some(&gain), eps, of);
            let f = |v: &[f64], gain: &[f64]| loss(&reference::scaled_weight_standardization(v, &shape, Some(gain), eps).0);
            agree("dweight", &dweight, &v, &|v| f(v, &gain))?;
            agree("dgain", &dgain, &gain, &|gain| f(&v, gain))?;
        }

        let (a, b) = (parameters(seed ^ 2, shape[dim]), parameters(seed ^ 3, size / shape[dim]));
        let (.., sigma) = reference::spectral_norm(&v, &shape, dim, &a, &b, 0, 0.0);
        if sigma.abs() > 0.3 {
            let dweight = reference::spectral_norm_backward(&dw, &v, &shape, dim, (&a, &b, sigma));
            agree("dweight", &dweight, &v, &|v| loss(&reference::spectral_norm(v, &shape, dim, &a, &b, 0, 0.0).0))?;
        }
    }
}

/// Power iteration finds the largest singular value of a diagonal matrix.
#[test]
fn sigma_of_a_diagonal_matrix() {
    let shape = [3, 4];
    let diagonal = |i: usize| if i / 4 == i % 4 { [2.0, -5.0, 3.0][i / 4] } else { 0.0 };
    let weight = Array::<f64>::new(&shape, &Layout::dense(2), diagonal);
    for dim in 0..2 {
        let (u, v) = (vec![1.0; shape[dim]], vec![1.0; shape[1 - dim]]);
        let mut w = Array::<f64>::output(&shape, &Layout::dense(2));
        let of = normkit::spectral_norm(&weight.tensor(), dim, &u, &v, 60, 1e-12, &mut w.tensor_mut()).expect("valid");
        assert!((of.sigma - 5.0).abs() < 1e-14 && (of.u[1].abs() - 1.0).abs() < 1e-14);
        assert!((w.logical()[5] + 1.0).abs() < 1e-14);
    }
}

fn row<E: Float>(values: &[f64]) -> Array<E> {
    Array::new(&[1, values.len()], &Layout::dense(2), |i| values[i])
}

/// Norms whose squares leave the type that they are taken of.
#[test]
fn squares_out_of_range() {
    fn check<E: Float>(unit: f64) {
        let v = row::<E>(&[1.0, -2.0, 3.0, -4.0].map(|x| x * unit));
        let exact: Vec<f64> = v.logical();
        let norm = (exact.iter().map(|x| x / unit * (x / unit)).sum::<f64>()).sqrt();
        let mut w = Array::<E>::output(&v.shape, &Layout::dense(2));
        let norms = normkit::weight_norm(&v.tensor(), Some(0), &[2.0], &mut w.tensor_mut()).expect("valid");
        let wide = 4.0 * f64::EPSILON;
        assert!((norms[0] / unit - norm).abs() <= wide * norm, "{unit:e}: {norms:?}");
        for (w, x) in w.logical().into_iter().zip(&exact) {
            assert!((w - 2.0 * x / unit / norm).abs() <= E::ULP * w.abs() + wide, "{unit:e}: {w}");
        }
        let mut dv = Array::<E>::output(&v.shape, &Layout::dense(2));
        let dw = row::<E>(&[1.0, 0.0, 0.0, 0.0]);
        let dg =
            normkit::weight_norm_backward(&dw.tensor(), &v.tensor(), Some(0), &[2.0], &norms, &mut dv.tensor_mut());
        let hat = exact[0] / unit / norm;
        assert!((dg.expect("valid")[0] - hat).abs() <= wide);
        let expected = 2.0 / norm * (1.0 - hat * hat) / unit;
        let expected = E::from_f64(expected).to_f64(); // beyond the type: infinite, or zero
        assert!(dv.logical()[0] == expected || (dv.logical()[0] / expected - 1.0).abs() <= E::ULP + wide);

        let mut w = Array::<E>::output(&v.shape, &Layout::dense(2));
        let of = normkit::scaled_weight_standardization(&v.tensor(), None, 0.0, &mut w.tensor_mut()).expect("valid");
        let mean = exact.iter().map(|x| x / unit).sum::<f64>() / 4.0;
        let deviation = exact.iter().map(|x| (x / unit - mean).powi(2)).sum::<f64>().sqrt();
        assert!((of.mean[0] / unit - mean).abs() <= wide && (of.rstd[0] * unit * deviation - 1.0).abs() <= wide);
        for (w, x) in w.logical().into_iter().zip(&exact) {
            assert!((w - (x / unit - mean) / deviation).abs() <= E::ULP * w.abs() + wide, "{unit:e}: {w}");
        }

        let mut w = Array::<E>::output(&v.shape, &Layout::dense(2));
        let of = normkit::spectral_norm(&v.tensor(), 0, &[1.0], &[0.5; 4], 1, 0.0, &mut w.tensor_mut()).expect("valid");
        assert!((of.sigma / unit - norm).abs() <= wide * norm, "{unit:e}: {of:?}");
    }
    [1e30, 1e-30, 1.0].into_iter().for_each(check::<f32>);
    [1e200, 1e307, 1e-200, 1e-300, 1.0].into_iter().for_each(check::<f64>);
}

/// Zeros stay zeros, constants become zeros, and their gradients are finite.
#[test]
fn zeros_and_constants() {
    fn check<E: Float>() {
        let shape = [2, 3];
        let dw = Array::<E>::new(&shape, &Layout::dense(2), |i| [1.0, -2.0, 4.0][i % 3]);
        let zeros = Array::<E>::new(&shape, &Layout::dense(2), |_| 0.0);
        let run = |f: &mut dyn FnMut(&mut Array<E>)| {
            let mut out = Array::<E>::output(&shape, &Layout::dense(2));
            f(&mut out);
            out.logical()
        };
        let w = run(&mut |w| {
            let norms = normkit::weight_norm(&zeros.tensor(), Some(0), &[1.0, 2.0], &mut w.tensor_mut());
            assert_eq!(norms, Ok(vec![0.0; 2]));
        });
        let dv = run(&mut |dv| {
            let (dw, v) = (dw.tensor(), zeros.tensor());
            let dg = normkit::weight_norm_backward(&dw, &v, Some(0), &[1.0, 2.0], &[0.0; 2], &mut dv.tensor_mut());
            assert_eq!(dg, Ok(vec![0.0; 2]));
        });
        assert!(w.iter().chain(&dv).all(|&x| x == 0.0));

        let (u, v) = ([0.6, 0.8], [0.0, 1.0, 0.0]);
        for iterations in [0, 1, 3] {
            let of = SingularTriple { u: u.to_vec(), v: v.to_vec(), sigma: 0.0 };
            let w = run(&mut |w| {
                let found = normkit::spectral_norm(&zeros.tensor(), 0, &u, &v, iterations, 1e-12, &mut w.tensor_mut());
                assert_eq!(found.as_ref(), Ok(&of));
            });
            let dweight = run(&mut |dweight| {
                normkit::spectral_norm_backward(&dw.tensor(), &zeros.tensor(), 0, &of, &mut dweight.tensor_mut())
                    .expect("valid");
            });
            assert!(w.iter().chain(&dweight).all(|&x| x == 0.0));
        }

        let constant = Array::<E>::new(&shape, &Layout::dense(2), |i| [0.1, -3.3e7][i / 3]);
        for (eps, scale) in [(1e-4, 100.0), (0.0, 0.0)] {
            let mut of = Standardized::default();
            let w = run(&mut |w| {
                of = normkit::scaled_weight_standardization(&constant.tensor(), None, eps, &mut w.tensor_mut())
                    .expect("valid");
            });
            assert!(w.iter().all(|&x| x == 0.0), "{w:?}");
            assert_eq!(of.rstd, [scale; 2]);
            let dweight = run(&mut |dweight| {
                let (dw, weight, to) = (dw.tensor(), constant.tensor(), &mut dweight.tensor_mut());
                let dgain = normkit::scaled_weight_standardization_backward(&dw, &weight, None, eps, &of, to);
                assert_eq!(dgain, Ok(vec![0.0; 2]));
            });
            // dw less its mean, 1.
            assert_eq!(dweight, [0.0, -3.0, 3.0, 0.0, -3.0, 3.0].map(|x| x * scale));
        }
    }
    check::<f32>();
    check::<f64>();
}

/// Where a product is zero the old direction is kept; sigma is not 0 for a weight that is not, and w is no lie.
#[test]
fn directions() {
    type Triple = (Vec<f64>, [f64; 2], [f64; 3], f64);
    let run = |weight: [f64; 6], u: [f64; 2], v: [f64; 3], iterations, eps| -> Result<Triple, normkit::Error> {
        let weight = Array::<f64>::new(&[2, 3], &Layout::dense(2), |i| weight[i]);
        let mut w = Array::<f64>::output(&[2, 3], &Layout::dense(2));
        let found = normkit::spectral_norm(&weight.tensor(), 0, &u, &v, iterations, eps, &mut w.tensor_mut());
        assert!(found.is_ok() || w.is_untouched());
        let SingularTriple { u, v, sigma } = found?;
        let of = SingularTriple { u: u.clone(), v: v.clone(), sigma };
        let dw = Array::<f64>::new(&[2, 3], &Layout::dense(2), |i| 1.0 + i as f64);
        let mut dweight = Array::<f64>::output(&[2, 3], &Layout::dense(2));
        normkit::spectral_norm_backward(&dw.tensor(), &weight.tensor(), 0, &of, &mut dweight.tensor_mut())?;
        let dweight = dweight.logical();
        assert!(dweight.iter().all(|x| if sigma.is_finite() { x.is_finite() } else { x.is_nan() }), "{dweight:?}");
        Ok((w.logical(), u.try_into().expect("two"), v.try_into().expect("three"), sigma))
    };
    let argument = |found: Result<Triple, normkit::Error>| found.expect_err("refused").argument;
    let weight = [0.0, 0.0, 0.0, 0.0, 2.0, 0.0];
    let normalized = weight.map(|x| x / 2.0).to_vec();
    for eps in [1e-12, 0.0] {
        // W v is zero, and u is kept; Wᵀ u is not, and v is renewed.
        let found = run(weight, [0.0, 1.0], [1.0, 0.0, 0.0], 1, eps);
        assert_eq!(found, Ok((normalized.clone(), [0.0, 1.0], [0.0, 1.0, 0.0], 2.0)));
        // Wᵀ u is zero before u is renewed.
        let found = run(weight, [1.0, 0.0], [0.6, 0.8, 0.0], 1, eps);
        assert_eq!(found, Ok((normalized.clone(), [0.0, 1.0], [0.0, 1.0, 0.0], 2.0)));
    }
    // Both are zero, at every step; and u is orthogonal to W v without a step.
    for iterations in [0, 1, 7] {
        assert_eq!(argument(run(weight, [1.0, 0.0], [1.0, 0.0, 0.0], iterations, 1e-12)), "u");
    }
    assert_eq!(argument(run(weight, [1.0, 0.0], [0.0, 1.0, 0.0], 0, 1e-12)), "u");
    assert_eq!(run([0.0; 6], [1.0, 0.0], [0.0, 1.0, 0.0], 3, 1e-12).map(|found| found.0), Ok(vec![0.0; 6]));
    // Vectors are divided by an eps that is more than they can bear: sigma is below float64, or they would be.
    assert_eq!(argument(run(weight, [0.6, 0.8], [0.6, 0.8, 0.0], 1, 1e160)), "eps");
    let (_, u, v, _) = run(weight, [0.6, 0.8], [0.6, 0.8, 0.0], 2, 1e200).expect("valid");
    assert!(u[1] > 0.0 && v == [0.6, 0.8, 0.0], "{u:?} {v:?}");
    // Beyond float64: divided by infinity all would be zeros.
    let (w, _, _, sigma) = run([1e300; 6], [1e5; 2], [1e5; 3], 0, 1e-12).expect("valid");
    assert!(sigma.is_infinite() && w.iter().all(|w| w.is_nan()), "{w:?}");
    // NaN and infinity are seen, unless they are in a u that is renewed.
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (u, v, iterations) in
            [([0.0, bad], [0.0, 1.0, 0.0], 0), ([0.0, 1.0], [0.0, bad, 0.0], 0), ([0.0, 1.0], [0.0, bad, 0.0], 2)]
        {
            let (w, ..) = run(weight.map(|x| x + 1.0), u, v, iterations, 1e-12).expect("valid");
            assert!(w.iter().all(|w| w.is_nan()), "{bad}: {w:?}");
        }
        let found = run(weight, [0.0, bad], [0.0, 1.0, 0.0], 1, 1e-12);
        assert_eq!(found, Ok((normalized.clone(), [0.0, 1.0], [0.0, 1.0, 0.0], 2.0)));
    }
}

#[test]
fn nothing_at_all() {
    for shape in [[0, 3], [2, 0]] {
        let (mut out, g) = ([0.0f32; 0], vec![1.0; shape[0]]);
        let empty = normkit::Tensor::<f32>::dense(&[], &shape).expect("fits");
        let mut out = normkit::TensorMut::dense(&mut out, &shape).expect("fits");
        let norms = normkit::weight_norm(&empty, Some(0), &g, &mut out);
        assert_eq!(norms, Ok(vec![0.0; shape[0]]));
        let dg = normkit::weight_norm_backward(&empty, &empty, Some(0), &g, &vec![0.0; shape[0]], &mut out);
        assert_eq!(dg, Ok(vec![0.0; shape[0]]));
        let of = normkit::spectral_norm(&empty, 0, &g, &vec![1.0; shape[1]], 2, 0.0, &mut out).expect("valid");
        assert_eq!(of, SingularTriple { u: g.clone(), v: vec![1.0; shape[1]], sigma: 0.0 });
        assert_eq!(normkit::spectral_norm_backward(&empty, &empty, 0, &of, &mut out), Ok(()));
        let of = normkit::scaled_weight_standardization(&empty, Some(&g), 1e-4, &mut out).expect("valid");
        assert_eq!(of.mean, vec![0.0; shape[0]]);
        let dgain = normkit::scaled_weight_standardization_backward(&empty, &empty, Some(&g), 1e-4, &of, &mut out);
        assert_eq!(dgain, Ok(vec![0.0; shape[0]]));
    }
}

/// NaN and infinity stay in their row.
#[test]
fn contained() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let v = Array::<f64>::new(&[3, 5], &Layout::dense(2), |i| if i == 7 { bad } else { normal(1, i) });
        let mut w = Array::<f64>::output(&[3, 5], &Layout::dense(2));
        let norms = normkit::weight_norm(&v.tensor(), Some(0), &[1.0; 3], &mut w.tensor_mut()).expect("valid");
        assert!(!norms[1].is_finite() && norms[0].is_finite() && norms[2].is_finite());
        let w = w.logical();
        assert!(w[7].is_nan() && w[..5].iter().chain(&w[10..]).all(|x| x.is_finite()), "{w:?}");
        let mut w = Array::<f64>::output(&[3, 5], &Layout::dense(2));
        normkit::scaled_weight_standardization(&v.tensor(), None, 1e-4, &mut w.tensor_mut()).expect("valid");
        let w = w.logical();
        assert!(w[5..10].iter().all(|x| x.is_nan()) && w[..5].iter().chain(&w[10..]).all(|x| x.is_finite()), "{w:?}");
    }
}

#[test]
fn wrong_arguments_write_nothing() {
    let layout = Layout::dense(2);
    let (v, other) = (Array::<f32>::new(&[2, 3], &layout, |i| i as f64), Array::<f32>::new(&[3, 2], &layout, |_| 1.0));
    let mut out = Array::<f32>::output(&[2, 3], &layout);
    let mut narrow = Array::<f32>::output(&[2, 2], &layout);
    let of = Standardized { mean: vec![0.0; 2], rstd: vec![1.0; 2] };
    let triple = |u: usize, v: usize| SingularTriple { u: vec![1.0; u], v: vec![1.0; v], sigma: 1.0 };
    let one = Array::<f32>::new(&[6], &Layout::dense(1), |_| 1.0);
    let mut to_one = Array::<f32>::output(&[6], &Layout::dense(1));
    let (two, three) = ([1.0; 2], [1.0; 3]);
    {
        let (v, other, one) = (&v.tensor(), &other.tensor(), &one.tensor());
        let mut found = Vec::new();
        let mut argument = |error: normkit::Error| found.push(error.argument);
        {
            let out = &mut out.tensor_mut();
            argument(normkit::weight_norm(v, Some(2), &two, out).expect_err("dim"));
            argument(normkit::weight_norm(v, Some(0), &three, out).expect_err("g"));
            argument(normkit::weight_norm(v, None, &two, out).expect_err("g"));
            argument(normkit::weight_norm(v, Some(0), &two, &mut narrow.tensor_mut()).expect_err("out"));
            argument(normkit::weight_norm_backward(other, v, Some(0), &two, &two, out).expect_err("dw"));
            argument(normkit::weight_norm_backward(v, v, Some(0), &two, &three, out).expect_err("norms"));
            argument(normkit::spectral_norm(v, 2, &two, &three, 1, 0.0, out).expect_err("dim"));
            argument(normkit::spectral_norm(v, 0, &three, &three, 1, 0.0, out).expect_err("u"));
            argument(normkit::spectral_norm(v, 0, &two, &two, 1, 0.0, out).expect_err("v"));
            argument(normkit::spectral_norm(v, 0, &two, &three, 1, f64::NAN, out).expect_err("eps"));
            argument(normkit::spectral_norm(v, 0, &[0.0; 2], &three, 1, 0.0, out).expect_err("u"));
            argument(normkit::spectral_norm(v, 0, &two, &[0.0; 3], 0, 0.0, out).expect_err("v"));
            argument(normkit::spectral_norm(v, 0, &[1.0, 0.0], &[1.0, 0.0, 0.0], 0, 0.0, out).expect_err("u"));
            argument(normkit::spectral_norm_backward(other, v, 0, &triple(2, 3), out).expect_err("dw"));
            argument(normkit::spectral_norm_backward(v, v, 0, &triple(3, 3), out).expect_err("u"));
            argument(normkit::scaled_weight_standardization(v, Some(&three), 0.0, out).expect_err("gain"));
            argument(normkit::scaled_weight_standardization(v, None, -1.0, out).expect_err("eps"));
            let backward = normkit::scaled_weight_standardization_backward;
            argument(backward(other, v, None, 0.0, &of, out).expect_err("dw"));
            argument(backward(v, v, None, 0.0, &Standardized::default(), out).expect_err("mean"));
        }
        argument(normkit::scaled_weight_standardization(one, None, 0.0, &mut to_one.tensor_mut()).expect_err("weight"));
        let expected = "dim g g out dw norms dim u v eps u v u dw u gain eps dw mean weight";
        assert_eq!(found.join(" "), expected);
    }
    assert!(out.is_untouched() && narrow.is_untouched() && to_one.is_untouched());
}

/// dv may be written over dw.
#[test]
fn in_place() {
    let shape = [7, 5, 3];
    let layout = Layout::dense(3);
    let v = Array::<f32>::new(&shape, &layout, |i| normal(1, i));
    let g = parameters(1, 5);
    let fresh = || Array::<f32>::new(&shape, &layout, |i| normal(2, i));
    let (u, r) = (parameters(2, 5), parameters(3, 21));
    let triple = SingularTriple { u, v: r, sigma: 1.5 };
    let of = Standardized { mean: parameters(4, 7), rstd: vec![0.7; 7] };
    type Backward<'a> = &'a dyn Fn(&normkit::Tensor<f32>, &mut normkit::TensorMut<f32>) -> Vec<f64>;
    let weight_norm: Backward = &|dw, out| {
        normkit::weight_norm_backward(dw, &v.tensor(), Some(1), &g, &g.iter().map(|g| g.abs()).collect::<Vec<_>>(), out)
            .expect("valid")
    };
    let spectral_norm: Backward = &|dw, out| {
        normkit::spectral_norm_backward(dw, &v.tensor(), 1, &triple, out).expect("valid");
        vec![]
    };
    let standardization: Backward = &|dw, out| {
        normkit::scaled_weight_standardization_backward(dw, &v.tensor(), None, 1e-4, &of, out).expect("valid")
    };
    for backward in [weight_norm, spectral_norm, standardization] {
        let mut apart = Array::<f32>::output(&shape, &layout);
        let expected = backward(&fresh().tensor(), &mut apart.tensor_mut());
        let mut same = fresh();
        let (from, mut to) = same.in_place();
        let found = backward(&from, &mut to);
        assert_eq!((same.bits(), found), (apart.bits(), expected));
    }
}

/// Every result on one weight, as bits.
fn all_bits<E: Float>(shape: &[usize], dim: usize, layout: &Layout) -> Vec<u64> {
    let weight = Array::<E>::new(shape, layout, |i| 0.5 + normal(1, i));
    let dw = Array::<E>::new(shape, layout, |i| normal(2, i));
    let (w, d) = (weight.tensor(), dw.tensor());
    let mut all = Vec::new();
    let mut keep = |f: &mut dyn FnMut(&mut Array<E>) -> Vec<f64>| {
        let mut out = Array::<E>::output(shape, layout);
        let numbers = f(&mut out);
        all.extend(out.bits());
        all.extend(numbers.iter().map(|x| x.to_bits()));
    };
    let (rows, size) = (shape[dim], shape.iter().product::<usize>());
    let g = parameters(3, rows);
    let mut norms = Vec::new();
    keep(&mut |out| {
        norms = normkit::weight_norm(&w, Some(dim), &g, &mut out.tensor_mut()).expect("valid");
        norms.clone()
    });
    keep(&mut |out| {
        normkit::weight_norm_backward(&d, &w, Some(dim), &g, &norms, &mut out.tensor_mut()).expect("valid")
    });
    keep(&mut |out| normkit::weight_norm(&w, None, &[2.0], &mut out.tensor_mut()).expect("valid"));
    let mut triple = SingularTriple::default();
    keep(&mut |out| {
        let v = parameters(4, size / rows);
        triple = normkit::spectral_norm(&w, dim, &g, &v, 2, 1e-12, &mut out.tensor_mut()).expect("valid");
        [&triple.u[..], &triple.v, &[triple.sigma]].concat()
    });
    keep(&mut |out| {
        normkit::spectral_norm_backward(&d, &w, dim, &triple, &mut out.tensor_mut()).expect("valid");
        vec![]
    });
    let gain = parameters(5, shape[0]);
    let mut of = Standardized::default();
    keep(&mut |out| {
        of = normkit::scaled_weight_standardization(&w, Some(&gain), 1e-4, &mut out.tensor_mut()).expect("valid");
        [&of.mean[..], &of.rstd].concat()
    });
    keep(&mut |out| {
        let to = &mut out.tensor_mut();
        normkit::scaled_weight_standardization_backward(&d, &w, Some(&gain), 1e-4, &of, to).expect("valid")
    });
    all
}

/// For every number of threads and every instruction set; large enough for several tasks and chunks.
#[test]
fn same_bits() {
    fn check<E: Float>(shape: &[usize], dim: usize, layout: &Layout) {
        let mut first = None;
        for isa in Isa::available() {
            for threads in [1, 2, 3, 7] {
                let _lock = configure(threads, isa);
                let found = all_bits::<E>(shape, dim, layout);
                let first = first.get_or_insert_with(|| found.clone());
                assert!(*first == found, "{shape:?} on {dim}: {threads} threads on {}", isa.name());
            }
        }
    }
    let dense = |rank| Layout::dense(rank);
    check::<f32>(&[64, 400, 3, 3], 0, &dense(4));
    check::<f32>(&[400, 64, 3, 3], 1, &dense(4));
    check::<f64>(&[300, 700], 1, &dense(2));
    check::<f64>(&[2, 150_000], 0, &dense(2));
    check::<f32>(&[150_000, 2], 0, &Layout { step: vec![1, 2], lead: 3, ..dense(2) });
    check::<f32>(&[17, 5, 3], 2, &dense(3));
}

/// float64 becomes a half in one rounding: also next to a tie, where the way through float32, or over the upper bits
/// alone, would be a second one.
#[test]
fn halves_are_rounded_once() {
    fn check<E: Element>(digits: i32) {
        let unit = 2f64.powi(-digits); // between adjacent numbers from 1 to 2
        for k in 0..4 {
            let below = 1.0 + f64::from(k) * unit;
            for (offset, up) in [(-1e-14, false), (-1e-8, false), (1e-14, true), (1e-8, true), (0.0, k % 2 == 1)] {
                for sign in [1.0, -1.0] {
                    let found = E::from_f64(sign * (below + unit / 2.0 + offset)).to_f64();
                    assert_eq!(found, sign * if up { below + unit } else { below }, "{k} {offset:e}");
                }
            }
        }
        for x in [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(E::from_f64(x).to_f64().to_bits(), x.to_bits());
        }
        assert!(E::from_f64(f64::NAN).to_f64().is_nan());
        assert_eq!(E::from_f64(1e300).to_f64(), f64::INFINITY);
        assert_eq!(E::from_f64(-1e-300).to_f64().to_bits(), (-0.0f64).to_bits());
    }
    check::<half::f16>(10);
    check::<half::bf16>(7);
}
