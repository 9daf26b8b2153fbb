//! Parametric normalizers against the oracle, on one input.

use normkit::reference;
use proptest::{prop_assert, prop_assert_eq};

use super::judge::{Check, close_or_equal as close, rounded_once};
use super::{Array, Float, Layout, normal, parameters, position, uniform};

/// Errors of float64 sums of a block of lanes, of the roundings before and after, and of the compensated oracle: a
/// term goes through at most 16 + 16 + 4 additions in a block of 4096, 64 chunks and a few roundings.
pub const WIDE: f64 = 128.0 * f64::EPSILON;

/// A weight, its gradient, and the layout of an output.
pub type Layouts = (Layout, Layout, Layout);

/// Some rows of zeros, or all.
pub fn weight<E: Float>(
    shape: &[usize],
    layout: &Layout,
    dim: usize,
    (scale, mean): (f64, f64),
    seed: u64,
) -> Array<E> {
    let zero = |i: usize| uniform(!seed, position(i, shape, dim)) < 0.1;
    Array::new(shape, layout, |i| if zero(i) { 0.0 } else { scale * (mean + normal(seed, i)) })
}

pub fn gradient<G: Float>(shape: &[usize], layout: &Layout, seed: u64) -> Array<G> {
    Array::new(shape, layout, |i| 0.3 + normal(seed ^ 77, i))
}

pub fn check_weight_norm<E: Float, G: Float>(
    shape: &[usize],
    dim: Option<usize>,
    layouts: &Layouts,
    magnitude: (f64, f64),
    seed: u64,
) -> Check {
    let v = weight::<E>(shape, &layouts.0, dim.unwrap_or(0), magnitude, seed);
    let dw = gradient::<G>(shape, &layouts.1, seed);
    let g = parameters(seed, dim.map_or(1, |dim| shape[dim]));
    let (v_, dw_) = (v.logical(), dw.logical());
    let (expected, norms) = reference::weight_norm(&v_, shape, dim, &g);
    let mut w = Array::<E>::output(shape, &layouts.2);
    let found = normkit::weight_norm(&v.tensor(), dim, &g, &mut w.tensor_mut())?;
    w.assert_gaps_untouched();
    for (i, w) in w.elements().into_iter().enumerate() {
        rounded_once("w", i, w, expected[i], WIDE * expected[i].abs())?;
    }
    for (t, (&found, &norm)) in found.iter().zip(&norms).enumerate() {
        close("norm", t, found, norm, WIDE * norm)?;
    }

    let (dv_, dg_) = reference::weight_norm_backward(&dw_, &v_, shape, dim, &g, &norms);
    let mut dv = Array::<E>::output(shape, &layouts.2);
    let dg = normkit::weight_norm_backward(&dw.tensor(), &v.tensor(), dim, &g, &found, &mut dv.tensor_mut())?;
    dv.assert_gaps_untouched();
    // What dg is a sum of: its error is relative to the sum of magnitudes.
    let of = |i: usize| dim.map_or(0, |dim| position(i, shape, dim));
    let mut terms = vec![0.0; g.len()];
    (0..v_.len()).filter(|&i| norms[of(i)] > 0.0).for_each(|i| terms[of(i)] += (dw_[i] * v_[i] / norms[of(i)]).abs());
    for t in 0..g.len() {
        close("dg", t, dg[t], dg_[t], WIDE * terms[t])?;
    }
    for (i, dv) in dv.elements().into_iter().enumerate() {
        let t = of(i);
        let each = if norms[t] > 0.0 { (g[t] / norms[t]).abs() } else { 0.0 };
        let direction = if norms[t] > 0.0 { (v_[i] / norms[t]).abs() } else { 0.0 };
        rounded_once("dv", i, dv, dv_[i], WIDE * each * (dw_[i].abs() + terms[t] * direction))?;
    }
    Ok(())
}

pub fn check_spectral_norm<E: Float, G: Float>(
    shape: &[usize],
    dim: usize,
    layouts: &Layouts,
    magnitude: (f64, f64),
    iterations: usize,
    seed: u64,
) -> Check {
    let weight = weight::<E>(shape, &layouts.0, dim, magnitude, seed);
    let dw = gradient::<G>(shape, &layouts.1, seed);
    let (rows, size) = (shape[dim], shape.iter().product::<usize>());
    let unit = |seed: u64, n: usize| {
        let x = parameters(seed, n);
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        x.iter().map(|x| x / norm).collect::<Vec<_>>()
    };
    let (u, v) = (unit(seed ^ 1, rows), unit(seed ^ 2, size / rows));
    let (w_, dw_) = (weight.logical(), dw.logical());
    let eps = if magnitude.0 < 1.0 { 0.0 } else { 1e-12 };
    let (expected, eu, ev, sigma) = reference::spectral_norm(&w_, shape, dim, &u, &v, iterations, eps);
    let mut w = Array::<E>::output(shape, &layouts.2);
    let (no_u, no_v) = (vec![0.0; u.len()], vec![-0.0; v.len()]);
    for (u, v, expected) in [(&no_u, &v, "u"), (&u, &no_v, "v"), (&no_u, &no_v, "u")] {
        let refused = normkit::spectral_norm(&weight.tensor(), dim, u, v, iterations, eps, &mut w.tensor_mut());
        prop_assert_eq!(refused.map_err(|error| error.argument), Err(expected));
    }
    prop_assert!(w.is_untouched());
    let found = normkit::spectral_norm(&weight.tensor(), dim, &u, &v, iterations, eps, &mut w.tensor_mut())?;
    w.assert_gaps_untouched();
    // A component of W v is a sum that may cancel: its error is relative to the Frobenius norm, as is that of sigma.
    // Each of the 2·iterations + 1 products adds its own, and those before it, divided by the norms of the products,
    // which may be smaller than the Frobenius norm.
    let frobenius = w_.iter().fold(0.0f64, |norm, w| norm.hypot(*w));
    let mut smallest = f64::INFINITY;
    for k in 0..iterations {
        let (_, u, v, s) = reference::spectral_norm(&w_, shape, dim, &u, &v, k, eps);
        let (_, after, ..) = reference::spectral_norm(&w_, shape, dim, &u, &v, 1, eps);
        let along: f64 = after.iter().zip(&u).map(|(a, b)| a * b).sum();
        smallest = smallest.min(if along == 0.0 { f64::INFINITY } else { (s / along).abs() });
    }
    let gap = (frobenius / smallest.min(sigma.abs())).powi(2 * iterations as i32 + 1);
    if sigma != 0.0 && gap < 1e6 {
        let wide = WIDE * (2 * iterations + 1) as f64 * gap.max(1.0);
        close("sigma", 0, found.sigma, sigma, wide * frobenius)?;
        for (what, found, expected) in [("u", &found.u, &eu), ("v", &found.v, &ev)] {
            for i in 0..found.len() {
                close(what, i, found[i], expected[i], wide)?;
            }
        }
        for (i, w) in w.elements().into_iter().enumerate() {
            rounded_once("w", i, w, expected[i], wide * gap * expected[i].abs())?;
        }
    }
    // w and the gradient of what was found, so that errors of the iteration have no part.
    for (i, w) in w.elements().into_iter().enumerate() {
        let expected = if found.sigma == 0.0 { 0.0 } else { w_[i] / found.sigma };
        rounded_once("w", i, w, expected, WIDE * expected.abs())?;
    }
    let of = (&found.u[..], &found.v[..], found.sigma);
    let expected = reference::spectral_norm_backward(&dw_, &w_, shape, dim, of);
    let mut dweight = Array::<E>::output(shape, &layouts.2);
    normkit::spectral_norm_backward(&dw.tensor(), &weight.tensor(), dim, &found, &mut dweight.tensor_mut())?;
    dweight.assert_gaps_untouched();
    let inner: usize = shape[dim + 1..].iter().product();
    let terms: f64 = dw_.iter().zip(&w_).map(|(dw, w)| (dw * w).abs()).sum();
    for (i, dweight) in dweight.elements().into_iter().enumerate() {
        let column = i / (inner * rows) * inner + i % inner;
        let outer = (found.u[position(i, shape, dim)] * found.v[column]).abs();
        let size = if found.sigma == 0.0 {
            0.0
        } else {
            (dw_[i].abs() + terms / found.sigma.abs() * outer) / found.sigma.abs()
        };
        rounded_once("dweight", i, dweight, expected[i], WIDE * size)?;
    }
    Ok(())
}

pub fn check_standardization<E: Float, G: Float>(
    shape: &[usize],
    layouts: &Layouts,
    magnitude: (f64, f64),
    gained: bool,
    seed: u64,
) -> Check {
    let weight = weight::<E>(shape, &layouts.0, 0, magnitude, seed);
    let dw = gradient::<G>(shape, &layouts.1, seed);
    let gain = gained.then(|| parameters(seed, shape[0]));
    let gain = gain.as_deref();
    let (w_, dw_) = (weight.logical(), dw.logical());
    for eps in [1e-4, 0.0] {
        let (expected, mean, scale) = reference::scaled_weight_standardization(&w_, shape, gain, eps);
        let mut w = Array::<E>::output(shape, &layouts.2);
        let found = normkit::scaled_weight_standardization(&weight.tensor(), gain, eps, &mut w.tensor_mut())?;
        w.assert_gaps_untouched();
        // The mean is held in float64: what that loses of it counts in the deviations.
        let held: Vec<f64> = (0..shape[0]).map(|c| WIDE * mean[c].abs() * scale[c]).collect();
        // Where that is not small there are no deviations worth the name, but a constant's must be exactly 0.
        let defined = |c: usize| held[c] < 1e-3;
        let of = |i: usize| position(i, shape, 0);
        let gain_of = |i: usize| gain.map_or(1.0, |gain| gain[of(i)]).abs();
        for c in (0..shape[0]).filter(|&c| defined(c)) {
            close("mean", c, found.mean[c], mean[c], WIDE * mean[c].abs() + WIDE / scale[c])?;
            close("rstd", c, found.rstd[c], scale[c], (WIDE + held[c]) * scale[c])?;
        }
        for (i, w) in w.elements().into_iter().enumerate().filter(|&(i, _)| defined(of(i))) {
            let wide = (WIDE + held[of(i)]) * (gain_of(i) + expected[i].abs());
            rounded_once("w", i, w, expected[i], wide)?;
        }
        // The kernels get their own statistics, and so does the oracle.
        let statistics = (&found.mean[..], &found.rstd[..]);
        let (dweight_, dgain_) =
            reference::scaled_weight_standardization_backward(&dw_, &w_, shape, gain, eps, statistics);
        let mut dweight = Array::<E>::output(shape, &layouts.2);
        let (from, to) = (weight.tensor(), &mut dweight.tensor_mut());
        let dgain = normkit::scaled_weight_standardization_backward(&dw.tensor(), &from, gain, eps, &found, to)?;
        dweight.assert_gaps_untouched();
        let hat = |i: usize| ((w_[i] - found.mean[of(i)]) * found.rstd[of(i)]).abs();
        let (mut terms, mut sums) = (vec![0.0; shape[0]], vec![0.0; shape[0]]);
        for i in 0..w_.len() {
            terms[of(i)] += dw_[i].abs() * hat(i);
            sums[of(i)] += dw_[i].abs() * shape[0] as f64 / w_.len() as f64;
        }
        for c in 0..shape[0] {
            close("dgain", c, dgain[c], dgain_[c], WIDE * terms[c])?;
        }
        for (i, dweight) in dweight.elements().into_iter().enumerate() {
            let size = gain_of(i) * found.rstd[of(i)] * (dw_[i].abs() + sums[of(i)] + hat(i) * terms[of(i)]);
            rounded_once("dweight", i, dweight, dweight_[i], WIDE * size)?;
        }
    }
    Ok(())
}
