//! Adaptive instance normalization: two arrays with statistics each.

use arbitrary::{Result, Unstructured};
use normkit::reference::{General, Statistics};
use normkit::{Element, Operand};
use proptest::{prop_assert, prop_assert_eq};

use crate::Checked;
use crate::common::judge::Check;
use crate::common::{Array, Float, Layout, Values, normal, position, samples};
use crate::draw;
use crate::tolerance::{Tolerance, agree, of_statistics, roundings, stored};

/// Forward, then backward.
#[derive(Clone, Debug)]
pub struct Call {
    /// Shapes of content and style, with the same samples and channels.
    pub shapes: [Vec<usize>; 2],
    /// The channels'.
    pub axis: usize,
    /// Of content, style, dy, y, dcontent, dstyle.
    pub layouts: [Layout; 6],
    /// Of content and style.
    pub values: [Values; 2],
    /// Added to variances.
    pub eps: f64,
    /// Variances are those of `count − ddof`.
    pub ddof: usize,
    /// Of all numbers.
    pub seed: u64,
}

/// Statistics that are not worth a norm: their squares have no room.
fn plain(values: Values) -> Values {
    if matches!(values, Values::Huge | Values::Subnormal) { Values::Normal } else { values }
}

impl Call {
    /// Any.
    pub fn draw(u: &mut Unstructured) -> Result<Call> {
        let budget = draw::budget(u)?;
        let rank = u.int_in_range(2..=4)?;
        let axis = u.choose_index(rank)?;
        let content = draw::shape(u, rank, budget)?;
        let mut style = draw::shape(u, rank, budget / 4)?;
        for kept in [axis, samples(axis)] {
            style[kept] = content[kept];
        }
        let count = |shape: &[usize]| shape.iter().product::<usize>().checked_div(shape[axis] * shape[samples(axis)]);
        let most = [&content, &style].map(|shape| count(shape).unwrap_or(2)).into_iter().min().unwrap_or(0);
        if style.iter().product::<usize>() > 200_000 || count(&style) == Some(0) {
            style.clone_from(&content);
        }
        Ok(Call {
            axis,
            layouts: draw::layouts(u, rank)?,
            values: [plain(draw::values(u)?), plain(draw::values(u)?)],
            eps: *u.choose(&[1e-5, 1e-3])?,
            ddof: usize::from(most > 1 && u.ratio(1, 2)?),
            seed: u.arbitrary()?,
            shapes: [content, style],
        })
    }
}

/// The indices of an instance norm: statistic and parameter are both those of a channel of a sample.
fn instances(shape: &[usize], axis: usize) -> (Vec<usize>, usize) {
    let of = |i: usize| position(i, shape, samples(axis)) * shape[axis] + position(i, shape, axis);
    ((0..shape.iter().product()).map(of).collect(), shape[samples(axis)] * shape[axis])
}

impl Checked for Call {
    fn check<E: Float, S: Float>(&self) -> Check
    where
        E::Compute: Element,
    {
        let Call { axis, ref layouts, values, eps, ddof, seed, .. } = *self;
        let [shape, style_shape] = &self.shapes;
        let content = Array::<E>::new(shape, &layouts[0], |i| values[0].at::<E>(seed, i));
        let style = Array::<S>::new(style_shape, &layouts[1], |i| values[1].at::<S>(seed ^ 1, i));
        let dy = Array::<E>::new(shape, &layouts[2], |i| 0.1 + normal(!seed, i));
        let (x, s, dy_) = (content.logical(), style.logical(), dy.logical());
        let ((of_x, n), (of_s, m)) = (instances(shape, axis), instances(style_shape, axis));
        let norm_of = |statistic, statistics| General {
            statistic,
            statistics,
            parameter: statistic,
            parameters: statistics,
            eps,
            ddof: ddof as f64,
            ..General::default()
        };
        let of_style: Statistics = norm_of(&of_s, m).statistics(&s);
        let sigma: Vec<f64> = of_style.var.iter().map(|var| (var + eps).sqrt()).collect();
        let norm = General { weight: Some(&sigma), bias: Some(&of_style.mean), ..norm_of(&of_x, n) };
        let of = norm.statistics(&x);

        let mut y = Array::<E>::output(shape, &layouts[3]);
        let (inputs, out) = ((content.tensor(), style.tensor()), &mut y.tensor_mut());
        let result = normkit::adaptive_instance_norm(&inputs.0, &inputs.1, axis, eps, ddof, out);
        if x.is_empty() || s.is_empty() {
            let refused = result.is_err();
            prop_assert!(!refused || y.is_untouched());
            return Ok(());
        }
        let found = result?;
        y.assert_gaps_untouched();
        prop_assert_eq!(found.style_count, of_style.count);
        let tolerance = Tolerance::new::<E>(&norm, &of, &x, false, None);
        // What the style's statistics are off by.
        let of_sigma: Vec<f64> = (0..m)
            .map(|t| of_statistics::<S>(of_style.mean[t], of_style.var[t])[1] / sigma[t] + E::Own::ULP * sigma[t])
            .collect();
        let of_mean =
            |t: usize| of_statistics::<S>(of_style.mean[t], of_style.var[t])[0] + E::Own::ULP * of_style.mean[t].abs();
        let (_, expected) = norm.forward(&x, &of);
        let unit = if E::Own::ULP == f64::EPSILON { 64.0 * f64::EPSILON } else { 1e-6 };
        for (i, y) in y.logical().into_iter().enumerate() {
            let (t, hat) = (of_x[i], norm.hat(&x, &of, i).abs());
            let own = tolerance.own(i).max(unit * sigma[t] * tolerance.hat(i));
            let within = own + of_sigma[t] * hat + of_mean(t);
            agree::<E>("y", i, y, expected[i], stored::<E>(expected[i], within))?;
        }

        let mut dcontent = Array::<E>::output(shape, &layouts[4]);
        let mut dstyle = Array::<S>::output(style_shape, &layouts[5]);
        normkit::adaptive_instance_norm_backward(
            &Operand::from(&dy.tensor()),
            &inputs.0,
            &inputs.1,
            axis,
            &found,
            ddof,
            &mut dcontent.tensor_mut(),
            &mut dstyle.tensor_mut(),
        )?;
        dcontent.assert_gaps_untouched();
        dstyle.assert_gaps_untouched();
        let expected = norm.backward(&dy_, &x, &of, false);
        let within = tolerance.backward::<E>(&dy_, &x, &x, &expected, None);
        let sizes = tolerance.sizes(&dy_);
        for (i, dx) in dcontent.logical().into_iter().enumerate() {
            let t = of_x[i];
            let of_weight = of_sigma[t] / sigma[t] * sizes[i] * of.rstd[t];
            agree::<E>("dcontent", i, dx, expected.dx[i], within.dx[i] + of_weight)?;
        }
        let (count, divisor) = (of_style.count as f64, (of_style.count - ddof).max(1) as f64);
        let (terms, _) = roundings::<S>();
        let eps_of = E::Own::ULP.max(S::Own::ULP);
        for (i, found) in dstyle.logical().into_iter().enumerate() {
            let t = of_s[i];
            let hat = (s[i] - of_style.mean[t]) / sigma[t];
            let (dmean, dsigma) = (expected.bias[t], expected.weight[t]);
            let (size, k) = (hat.abs().max(1.0), (of_style.mean[t] / sigma[t]).abs());
            let size = if S::Own::ULP == f64::EPSILON { size.max(k) } else { size * (k / 1e6).max(1.0) };
            let exact = dmean / count + dsigma * hat / divisor;
            let sums = within.bias[t] / count + within.weight[t] * size / divisor;
            let within = sums + (8.0 * dmean.abs() / count + (terms + 8.0) * dsigma.abs() * size / divisor) * eps_of;
            agree::<S>("dstyle", i, found, exact, stored::<S>(exact, within))?;
        }
        Ok(())
    }
}
