//! The corrections of batch renormalization, and what they may be off by.

use normkit::Bounds;
use normkit::reference::Statistics;

use super::{STORED, agree, of_statistics, roundings};
use crate::common::Float;
use crate::common::judge::Check;

/// r, d of a renormalization and rho = σ/σ_running: a multiple of d's error.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the formula's names")]
pub struct Corrections {
    pub r: Vec<f64>,
    pub d: Vec<f64>,
    pub rho: Vec<f64>,
    /// What r may be off by: what σ is, over σ_running, and a few roundings in float64.
    pub within: Vec<f64>,
    /// Magnitudes of both means over σ_running.
    mean: Vec<f64>,
}

impl Corrections {
    /// By the oracle's statistics and the running mean and variance.
    pub fn new<E: Float>(of: &Statistics, [mean, var]: &[Vec<f64>; 2], eps: f64, bounds: Bounds) -> Self {
        let n = of.mean.len();
        let inverse: Vec<f64> = (0..n).map(|c| normkit::rstd(var[c], eps)).collect();
        let rho: Vec<f64> = (0..n).map(|c| (of.var[c] + eps).sqrt() * inverse[c]).collect();
        let clip = |x: f64, low: f64, high: f64| if x.is_nan() { x } else { x.max(low).min(high) };
        let of_sigma = |c: usize| {
            let (of_var, sigma) = (of_statistics::<E>(of.mean[c], of.var[c])[1], (of.var[c] + eps).sqrt());
            // Both bounds of √(var + eps + of_var) − σ.
            (of_var / sigma).min(of_var.sqrt())
        };
        let within = (0..n).map(|c| of_sigma(c) * inverse[c] + STORED * f64::EPSILON * rho[c]).collect();
        let r = rho.iter().map(|&rho| clip(rho, 1.0 / bounds.r, bounds.r)).collect();
        let d = (0..n).map(|c| clip((of.mean[c] - mean[c]) * inverse[c], -bounds.d, bounds.d)).collect();
        let mean =
            (0..n).map(|c| (of_statistics::<f64>(of.mean[c], of.var[c])[0] + mean[c].abs()) * inverse[c]).collect();
        Corrections { r, d, rho, within, mean }
    }

    /// The relative error of r.
    pub fn relative(&self, c: usize) -> f64 {
        if self.r[c] > 0.0 { self.within[c] / self.r[c] } else { 0.0 }
    }

    /// Whether these are found.
    pub fn agree<E: Float>(&self, [r, d]: &[Vec<f64>; 2]) -> Check {
        let n = roundings::<E>().0 * E::Own::ULP;
        for c in 0..self.r.len() {
            agree::<f64>("r", c, r[c], self.r[c], self.within[c])?;
            let within = n * (self.rho[c] + self.d[c].abs()) + STORED * f64::EPSILON * self.mean[c];
            agree::<f64>("d", c, d[c], self.d[c], within)?;
        }
        Ok(())
    }
}
