//! A norm of activations with everything that it may do: any grouping, given statistics, an activation, a residual, a
//! mask.

use super::{Gradients, Statistics, rstd, statistics, sum};
use crate::Activation;

/// y = activation((x − mean)·rstd·weight + bias + residual), and 0 where the mask is false.
///
/// ```
/// use normkit::reference::General;
/// // Layer norm of two rows; parameters belong to columns.
/// let norm = General { statistic: &[0, 0, 1, 1], statistics: 2, parameter: &[0, 1, 0, 1], parameters: 2, ..General::default() };
/// let x = [1.0, 3.0, -4.0, 4.0];
/// let of = norm.statistics(&x);
/// assert_eq!((&of.mean, &of.var), (&vec![2.0, 0.0], &vec![1.0, 16.0]));
/// assert_eq!(norm.forward(&x, &of).1, [-1.0, 1.0, -1.0, 1.0]);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct General<'a> {
    /// The statistic of each element.
    pub statistic: &'a [usize],
    /// How many there are.
    pub statistics: usize,
    /// The parameter of each element.
    pub parameter: &'a [usize],
    /// How many there are.
    pub parameters: usize,
    /// Scales, or ones.
    pub weight: Option<&'a [f64]>,
    /// Offsets, or zeros.
    pub bias: Option<&'a [f64]>,
    /// Added to the variance.
    pub eps: f64,
    /// The variance is that of `count − ddof`.
    pub ddof: f64,
    /// Without centring: the mean is 0 and the variance the mean square.
    pub uncentred: bool,
    /// Applied last.
    pub activation: Activation,
    /// Added before it.
    pub residual: Option<&'a [f64]>,
    /// True where an element counts.
    pub mask: Option<&'a [bool]>,
}

impl General<'_> {
    /// Whether element `i` counts.
    pub fn counts(&self, i: usize) -> bool {
        self.mask.is_none_or(|mask| mask[i])
    }

    /// The elements that count of each of `n` sets.
    pub fn members(&self, n: usize, of: &[usize]) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); n];
        (0..of.len()).filter(|&i| self.counts(i)).for_each(|i| members[of[i]].push(i));
        members
    }

    /// The weight of element `i`.
    pub fn weight(&self, i: usize) -> f64 {
        self.weight.map_or(1.0, |weight| weight[self.parameter[i]])
    }

    /// What is added to the scaled element `i`.
    pub fn offset(&self, i: usize) -> f64 {
        self.bias.map_or(0.0, |bias| bias[self.parameter[i]]) + self.residual.map_or(0.0, |residual| residual[i])
    }

    /// Statistics of x.
    pub fn statistics(&self, x: &[f64]) -> Statistics {
        let members = self.members(self.statistics, self.statistic);
        let mut of = statistics(x, &members, self.eps);
        let n = of.count as f64;
        for (t, set) in members.iter().enumerate() {
            if self.uncentred {
                of.mean[t] = 0.0;
                of.var[t] = sum(set.iter().map(|&i| x[i] * x[i])) / n.max(1.0);
            } else {
                of.var[t] *= n / (n - self.ddof);
            }
            of.rstd[t] = rstd(of.var[t], self.eps);
        }
        of
    }

    /// x̂ of element `i`.
    pub fn hat(&self, x: &[f64], of: &Statistics, i: usize) -> f64 {
        (x[i] - of.mean[self.statistic[i]]) * of.rstd[self.statistic[i]]
    }

    /// What the activation is applied to, and y.
    pub fn forward(&self, x: &[f64], of: &Statistics) -> (Vec<f64>, Vec<f64>) {
        let z = |i: usize| self.hat(x, of, i) * self.weight(i) + self.offset(i);
        let z: Vec<f64> = (0..x.len()).map(z).collect();
        let y = |i: usize| if self.counts(i) { value(self.activation, z[i]) } else { 0.0 };
        let y = (0..x.len()).map(y).collect();
        (z, y)
    }

    /// dy times the slope of the activation at z: the residual's gradient, and what [`General::backward`] takes.
    pub fn pull(&self, dy: &[f64], z: &[f64]) -> Vec<f64> {
        // Nothing flows through a closed ReLU, not even NaN; one at NaN is not closed.
        let open = |i: usize| self.counts(i) && !(self.activation == Activation::Relu && z[i] <= 0.0);
        let of = |i: usize| if open(i) { dy[i] * slope(self.activation, z[i]) } else { 0.0 };
        (0..dy.len()).map(of).collect()
    }

    /// dx = rstd·(g − mean(g) − x̂·mean(g·x̂)) with g = weight·dz; `frozen`: the statistics do not depend on x.
    pub fn backward(&self, dz: &[f64], x: &[f64], of: &Statistics, frozen: bool) -> Gradients {
        let g = |i: usize| self.weight(i) * dz[i];
        let hat = |i: usize| self.hat(x, of, i);
        let mut dx = vec![0.0; x.len()];
        for (t, set) in self.members(self.statistics, self.statistic).iter().enumerate() {
            let n = set.len() as f64;
            let mean_g = if self.uncentred { 0.0 } else { sum(set.iter().map(|&i| g(i))) / n };
            let mean_dot = sum(set.iter().map(|&i| g(i) * hat(i))) / (n - self.ddof);
            for &i in set {
                dx[i] = of.rstd[t] * if frozen { g(i) } else { g(i) - mean_g - hat(i) * mean_dot };
            }
        }
        let parameters = self.members(self.parameters, self.parameter);
        let weight = parameters.iter().map(|set| sum(set.iter().map(|&i| dz[i] * hat(i)))).collect();
        let bias = parameters.iter().map(|set| sum(set.iter().map(|&i| dz[i]))).collect();
        Gradients { dx, weight, bias }
    }
}

/// An activation.
fn value(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Identity => z,
        Activation::Relu if z <= 0.0 => 0.0,
        Activation::LeakyRelu if z <= 0.0 => 0.1 * z,
        Activation::Relu | Activation::LeakyRelu => z,
        Activation::Silu => z / (1.0 + (-z).exp()),
    }
}

/// Its derivative.
fn slope(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Identity => 1.0,
        Activation::Relu if z <= 0.0 => 0.0,
        Activation::Relu => 1.0,
        Activation::LeakyRelu if z > 0.0 => 1.0,
        Activation::LeakyRelu => 0.1,
        Activation::Silu => {
            let sigmoid = 1.0 / (1.0 + (-z).exp());
            sigmoid * (1.0 + z * (1.0 - sigmoid))
        }
    }
}
