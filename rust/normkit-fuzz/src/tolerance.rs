//! How far a result may be from the oracle. Nothing here is measured: every constant is derived, and the derivations are
//! those of `tests/tolerance.py`, where they are written out. In short, with eps the unit in the last place of 1 of the
//! type that is computed in, h = x̂, g = weight, k = |mean|·rstd:
//!
//! - statistics: the contract's 4 eps for float32; 64 eps for float64 (16 + 16 + 4 additions, roundings of deviation and
//!   square); both grow with k beyond 1e6;
//! - y: the contract's 1e-6·max(1, |g·h| + |bias| + |residual|) for float32, 64 eps·max(1, …, g·k) for float64;
//! - sums of a backward pass: 24 eps (float32) or 128 eps (float64) times Σ|dz|·max(1, |h|); dx: these and 8 eps more on
//!   each of its three terms;
//! - an activation passes z's error on (its slope is at most 1.1), and its slope moves by |silu''| ≤ 1/2 times that; at
//!   a kink the slope may be that of either side where y does not show which;
//! - storing in a narrower type is half a spacing of it.
//!
//! And what underflow costs: a few of the smallest subnormal numbers, times what coefficients are multiplied by. Where
//! the terms of a sum overflow the type itself, nothing is expected of it.

mod corrections;

pub use corrections::Corrections;

use normkit::Activation;
use normkit::reference::{General, Gradients, Statistics};
use proptest::prop_assert;

use crate::common::Float;
use crate::common::judge::{Check, close, note, spacing};

/// Errors of the operations of dx, in eps.
const APPLY: f64 = 8.0;
/// Roundings of what given statistics go through.
const STORED: f64 = 4.0;

/// (Errors of statistics, of a sum) in eps.
pub fn roundings<E: Float>() -> (f64, f64) {
    if E::Own::ULP == f64::EPSILON { (64.0, 128.0) } else { (4.0, 24.0) }
}

/// A few of the smallest numbers of the type that is computed in.
fn tiny<E: Float>() -> f64 {
    4.0 * E::Own::SMALLEST * E::Own::ULP
}

/// `found` is `expected` within a tolerance, NaN or infinite where that is, and infinite where it leaves the type.
pub fn agree<E: Float>(what: &'static str, i: usize, found: f64, expected: f64, tolerance: f64) -> Check {
    let note = || note(what, found, 0.0, 1.0);
    if !expected.is_finite() {
        note();
        prop_assert!(!found.is_finite(), "{what}[{i}] = {found:e}, expected {expected:e}");
        return Ok(());
    }
    let overflows = || E::from_f64(expected.abs() + tolerance).to_f64().is_infinite();
    if !tolerance.is_finite() || (found.is_infinite() && overflows()) {
        note();
        return Ok(());
    }
    close(what, i, found, expected, tolerance)
}

/// With half a spacing, if it is stored in a narrower type than it was computed in.
pub fn stored<E: Float>(expected: f64, within: f64) -> f64 {
    if E::ULP > E::Own::ULP { within + spacing::<E>(expected.abs() + within) / 2.0 } else { within }
}

/// What a mean and a variance may be off by.
pub fn of_statistics<E: Float>(mean: f64, var: f64) -> [f64; 2] {
    let (n, sigma) = (roundings::<E>().0, var.sqrt());
    let beyond = if sigma > 0.0 { (mean.abs() / sigma / 1e6).max(1.0) } else { 1.0 };
    // The mean is held in float64.
    let held = 4.0 * f64::EPSILON * mean.abs();
    let of_mean = n * E::Own::ULP * mean.abs().max(sigma) + tiny::<f64>();
    [of_mean, n * E::Own::ULP * var * beyond + held * sigma + f64::MIN_POSITIVE]
}

/// All statistics are close.
pub fn same_statistics<E: Float>(found: &normkit::Statistics, expected: &Statistics, uncentred: bool) -> Check {
    let lengths = [&found.mean, &found.var, &found.rstd].map(Vec::len);
    prop_assert!(found.count == expected.count && lengths == [expected.mean.len(); 3], "{found:?}");
    for t in 0..expected.mean.len() {
        let (mean, var, rstd) = (expected.mean[t], expected.var[t], expected.rstd[t]);
        let [of_mean, of_var] = of_statistics::<E>(mean, var);
        // A mean square has the mean's square in it, with twice its relative error.
        let of_var = of_var * if uncentred { 2.0 } else { 1.0 };
        agree::<f64>("mean", t, found.mean[t], mean, of_mean)?;
        agree::<f64>("var", t, found.var[t], var, of_var)?;
        // Of var + eps, which a root halves; and a few roundings in float64.
        let of_rstd = rstd * (of_var * rstd * rstd + STORED * f64::EPSILON);
        agree::<f64>("rstd", t, found.rstd[t], rstd, of_rstd)?;
    }
    Ok(())
}

/// What the outputs of one call may be off by.
pub struct Tolerance<'a> {
    norm: &'a General<'a>,
    of: &'a Statistics,
    frozen: bool,
    /// eps, and how many of them a sum is off by.
    eps: f64,
    sum: Vec<f64>,
    /// The relative error of r.
    of_r: Vec<f64>,
    tiny: f64,
    largest: f64,
    /// What the error of x̂ is proportional to, and r.
    hat: Vec<f64>,
    r: Vec<f64>,
    z: Vec<f64>,
    narrow: fn(f64, f64) -> f64,
}

/// What gradients may be off by.
pub struct Within {
    /// Of dx.
    pub dx: Vec<f64>,
    /// Of dweight.
    pub weight: Vec<f64>,
    /// Of dbias.
    pub bias: Vec<f64>,
    /// Of dz.
    pub error: Vec<f64>,
    eps: f64,
    tiny: f64,
}

impl Within {
    /// Of a residual's gradient, which is dz rounded to the residual's type.
    pub fn dresidual<G: Float>(&self, i: usize, dz: f64) -> f64 {
        if self.error[i] == 0.0 && dz == 0.0 {
            return 0.0;
        }
        self.error[i] + self.eps * dz.abs() + self.tiny + spacing::<G>(dz.abs() + self.error[i]) / 2.0
    }
}

impl<'a> Tolerance<'a> {
    /// For these statistics of this x.
    pub fn new<E: Float>(
        norm: &'a General<'a>,
        of: &'a Statistics,
        x: &[f64],
        frozen: bool,
        corrections: Option<&Corrections>,
    ) -> Self {
        let sum = roundings::<E>().1;
        let (eps, wide) = (E::Own::ULP, E::Own::ULP == f64::EPSILON);
        // Where float64 x is constant its block is summed again, one by one.
        let again = |&var: &f64| if wide && var == 0.0 { of.count.min(4096) as f64 / 2.0 } else { 0.0 };
        let sum = of.var.iter().map(|var| sum + again(var)).collect();
        let (mut hat, mut z, mut r) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..x.len() {
            let (t, c) = (norm.statistic[i], norm.parameter[i]);
            let (size, k) = (norm.hat(x, of, i).abs(), (of.mean[t] * of.rstd[t]).abs());
            let [r_of, d, rho, of_r] =
                corrections.map_or([1.0, 0.0, 0.0, 0.0], |of| [of.r[c], of.d[c].abs(), of.rho[c], of.within[c]]);
            let (gamma, beyond) = (norm.weight(i).abs(), (k / 1e6).max(1.0));
            let bias = norm.bias.map_or(0.0, |bias| bias[c]).abs();
            let residual = norm.residual.map_or(0.0, |residual| residual[i]).abs();
            let scaled = gamma * size * r_of;
            let of_r = of_r * gamma * size;
            let largest = (scaled + gamma * (d + rho) + bias + residual).max(1.0);
            z.push(
                of_r + if wide { 64.0 * eps * largest.max(gamma * r_of.max(rho) * k) } else { 1e-6 * largest * beyond },
            );
            hat.push(if wide { size.max(1.0).max(k) } else { size.max(1.0) * beyond });
            r.push(r_of);
        }
        let largest = (2.0 - eps) / E::Own::SMALLEST * 2.0; // of the type: 2^(bias + 1)·(1 − eps/2), about
        Tolerance {
            norm,
            of,
            frozen,
            eps,
            sum,
            of_r: (0..of.mean.len()).map(|c| corrections.map_or(0.0, |of| of.relative(c))).collect(),
            tiny: tiny::<E>(),
            largest,
            hat,
            r,
            z,
            narrow: stored::<E>,
        }
    }

    /// Of y.
    pub fn y(&self, i: usize, y: f64) -> f64 {
        if !self.norm.counts(i) {
            return 0.0;
        }
        let within = match self.norm.activation {
            // What exp cuts off is below the smallest number there is.
            Activation::Silu => 1.1 * self.z[i] + 4.0 * self.eps * y.abs(),
            _ => self.z[i],
        };
        (self.narrow)(y, within)
    }

    /// The mean over the elements that share a statistic, with its ddof.
    fn average(&self, ddof: f64, of: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.of.mean.len()];
        (0..self.hat.len()).filter(|&i| self.norm.counts(i)).for_each(|i| sums[self.norm.statistic[i]] += of(i));
        sums.iter().map(|sum| sum / (self.of.count as f64 - ddof)).collect()
    }

    /// What dz is off by: the error of the slope, which is a step at a kink.
    fn error(&self, i: usize, dy: f64, z: f64, y: f64) -> f64 {
        let dy = dy.abs();
        let doubtful = |step: f64| {
            // The kernels take the slope where forward has taken its activation: y shows the side.
            let shown = y != 0.0 && (y > 0.0) == (z > 0.0);
            if z.abs() <= self.z[i] && z != 0.0 && !shown { step * dy } else { 0.0 }
        };
        match self.norm.activation {
            _ if !self.norm.counts(i) => 0.0,
            Activation::Identity => 0.0,
            Activation::Relu => doubtful(1.0),
            Activation::LeakyRelu => doubtful(0.9) + 2.0 * self.eps * dy,
            Activation::Silu => dy * (self.z[i] / 2.0 + 8.0 * self.eps),
        }
    }

    /// Of gradients; `found` is the y that was found.
    pub fn backward<E: Float>(
        &self,
        dy: &[f64],
        z: &[f64],
        found: &[f64],
        expected: &Gradients,
        corrections: Option<&Corrections>,
    ) -> Within {
        let Tolerance { norm, of, frozen, eps, tiny, ref sum, ref of_r, ref hat, .. } = *self;
        let n = dy.len();
        let slope = if norm.activation == Activation::Silu { 1.1 } else { 1.0 };
        let dz: Vec<f64> = (0..n).map(|i| if norm.counts(i) { slope * dy[i].abs() } else { 0.0 }).collect();
        let error: Vec<f64> = (0..n).map(|i| self.error(i, dy[i], z[i], found[i])).collect();
        let gamma = |i: usize| norm.weight(i).abs() * self.r[i];
        let through = |g: &dyn Fn(usize) -> f64| {
            let (one, dot) = (self.average(0.0, g), self.average(norm.ddof, |i| g(i) * hat[i]));
            (0..n).map(|i| one[norm.statistic[i]] + hat[i] * dot[norm.statistic[i]]).collect::<Vec<_>>()
        };
        let of_error = through(&|i| gamma(i) * error[i]);
        let of_all = through(&|i| gamma(i) * dz[i]);
        let dx = |i: usize| {
            let t = norm.statistic[i];
            let (rstd, own, all) = (of.rstd[t], gamma(i) * error[i], gamma(i) * dz[i]);
            let within = if !norm.counts(i) {
                return 0.0;
            } else if frozen {
                rstd * (own + STORED * eps * all)
            } else {
                let relative = (sum[t] + APPLY) * eps + of_r[t];
                rstd * (own + of_error[i] + relative * (all + of_all[i]))
            };
            let size = rstd * (all + if frozen { 0.0 } else { of_all[i] });
            // A coefficient times dz or x̂ is where small ones underflow.
            let within = within + tiny * (1.0 + hat[i] + dz[i]);
            if size >= self.largest { f64::INFINITY } else { (self.narrow)(expected.dx[i], within) }
        };
        let dx = (0..n).map(dx).collect();
        let mut within = Within { dx, weight: Vec::new(), bias: Vec::new(), error, eps, tiny };
        let (mut weight, mut bias) = (vec![0.0; norm.parameters], vec![0.0; norm.parameters]);
        for i in (0..n).filter(|&i| norm.counts(i)) {
            let (t, c) = (norm.statistic[i], norm.parameter[i]);
            let [r, d, rho] = corrections.map_or([1.0, 0.0, 0.0], |of| [of.r[c], of.d[c].abs(), of.rho[c]]);
            let one = sum[t] * eps * dz[i] + within.error[i];
            let dot =
                sum[t] * eps * dz[i] * hat[i] + if within.error[i] == 0.0 { 0.0 } else { within.error[i] * hat[i] };
            weight[c] += r * dot + d * one + of_r[t] * r * dz[i] * hat[i] + sum[t] * eps * rho * dz[i];
            bias[c] += one;
        }
        let add = |of: Vec<f64>| of.into_iter().map(|of| of + if of > 0.0 { tiny } else { 0.0 }).collect();
        (within.weight, within.bias) = (add(weight), add(bias));
        within
    }

    /// Of z, before it is stored.
    pub fn own(&self, i: usize) -> f64 {
        self.z[i]
    }

    /// What the error of x̂ is proportional to.
    pub fn hat(&self, i: usize) -> f64 {
        self.hat[i]
    }

    /// The magnitudes of dx's terms, in units of rstd: a relative error of the weight is one of each of them.
    pub fn sizes(&self, dz: &[f64]) -> Vec<f64> {
        let g = |i: usize| self.norm.weight(i).abs() * dz[i].abs();
        let (one, dot) = (self.average(0.0, g), self.average(self.norm.ddof, |i| g(i) * self.hat[i]));
        let of = |t: usize, i: usize| g(i) + one[t] + self.hat[i] * dot[t];
        (0..dz.len()).map(|i| of(self.norm.statistic[i], i)).collect()
    }
}
