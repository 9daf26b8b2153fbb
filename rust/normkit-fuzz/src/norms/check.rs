//! A call's outputs against the oracle.

use normkit::Element;
use normkit::reference::General;
use proptest::{prop_assert, prop_assert_eq};

use super::calls::Found;
use super::{Call, Kind, Spoil};
use crate::Checked;
use crate::common::judge::Check;
use crate::common::{Array, Float, normal};
use crate::draw::outlier;
use crate::tolerance::{Corrections, Tolerance, agree, same_statistics};

impl Checked for Call {
    fn check<E: Float, G: Float>(&self) -> Check
    where
        E::Compute: Element,
    {
        let Call { shape, layouts, seed, kind, .. } = self;
        let size = self.size();
        let x_at = |i| outlier(&self.outliers[0], i, size).unwrap_or_else(|| self.values.at::<E>(*seed, i));
        let x = Array::<E>::new(shape, &layouts[0], x_at);
        let scale = if G::HUGE < 1e30 { self.scale.sqrt().sqrt() } else { self.scale };
        let dy_at = |i| outlier(&self.outliers[1], i, size).unwrap_or_else(|| scale * (0.1 + normal(!seed, i)));
        let dy = Array::<G>::new(shape, &layouts[1], dy_at);
        let residual = Array::<G>::new(shape, &layouts[2], |i| normal(seed ^ 5, i));
        let ([statistic, parameter], [statistics, parameters]) = self.indices();
        let (weight, bias) = (self.parameters(1, parameters), self.parameters(2, parameters));
        // The core rounds parameters of a layer norm to its own type first; they are that type's numbers.
        let narrow = |values: Vec<f64>| -> Vec<f64> {
            values.into_iter().map(|x| <E::Own as Element>::from_f64(x).to_f64()).collect()
        };
        let [weight, bias] = [weight, bias].map(narrow);
        let mask = self.mask_of();
        let inner: usize = shape[self.axis + 1..].iter().product();
        let whole = |mask: &Vec<bool>| -> Vec<bool> {
            (0..size).map(|i| mask[i / (inner * shape[self.axis]) * inner + i % inner]).collect()
        };
        let (mask_logical, residual_logical) = (mask.as_ref().map(whole), self.residual.then(|| residual.logical()));
        let (x_, dy_) = (x.logical(), dy.logical());
        let norm = General {
            statistic: &statistic,
            statistics,
            parameter: &parameter,
            parameters,
            weight: self.affine.0.then_some(&weight[..]),
            bias: (self.affine.1 && *kind != Kind::Layer(false)).then_some(&bias[..]),
            eps: self.eps,
            ddof: if let Kind::Group(_, _, ddof) = kind { *ddof } else { 0.0 },
            uncentred: *kind == Kind::Layer(false),
            activation: self.activation,
            residual: residual_logical.as_deref(),
            mask: mask_logical.as_deref(),
        };
        let mut of = norm.statistics(&x_);
        if of.count == 0 {
            // Nothing counts: the core says 0 rather than NaN.
            of.var.fill(0.0);
            of.rstd.fill(normkit::rstd(0.0, self.eps));
        }
        let given = self.given(&of);
        let running = [self.parameters(6, statistics), self.parameters(7, statistics).iter().map(|x| x * x).collect()];

        let mut found = Found::new(self);
        let result = found.make(self, &norm, [&x], [&dy, &residual], mask.as_deref(), &given, &running);
        let too_few = kind.trains() && of.count == 1 && size > 0;
        if let Some(spoil) = self.spoil.filter(|spoil| !(too_few && spoil.is_backward())) {
            let culprit = result.err().map(|error| error.argument);
            prop_assert_eq!(culprit, Some(self.culprit(spoil)), "spoilt: {:?}", spoil);
            prop_assert!(found.is_untouched(spoil), "refused, but something was written");
            return Ok(());
        }
        if too_few {
            prop_assert_eq!(result.map_err(|error| error.argument), Err("x"));
            prop_assert!(found.is_untouched(Spoil::Eps));
            return Ok(());
        }
        result?;
        found.assert_gaps_untouched();

        let frozen = *kind == Kind::Frozen;
        let used = if frozen { given } else { of };
        if !frozen && size > 0 {
            same_statistics::<E>(&found.statistics, &used, norm.uncentred)?;
        }
        let corrections = match kind {
            Kind::Renorm(bounds) => Some(Corrections::new::<E>(&used, &running, self.eps, *bounds)),
            _ => None,
        };
        let tolerance = Tolerance::new::<E>(&norm, &used, &x_, frozen, corrections.as_ref());
        // Renormalization is an affine map of the normalized: weight·r, bias + weight·d.
        let at = |values: Option<&[f64]>, c: usize, none: f64| values.map_or(none, |values| values[c]);
        let renormed = corrections.as_ref().map(|of| {
            let weight = (0..parameters).map(|c| at(norm.weight, c, 1.0) * of.r[c]).collect::<Vec<_>>();
            let bias = (0..parameters).map(|c| at(norm.bias, c, 0.0) + at(norm.weight, c, 1.0) * of.d[c]);
            (weight, bias.collect::<Vec<_>>())
        });
        let norm = match &renormed {
            Some((weight, bias)) => General { weight: Some(weight), bias: Some(bias), ..norm },
            None => norm,
        };
        let (z, y) = norm.forward(&x_, &used);
        let found_y = found.y.logical();
        for i in 0..size {
            agree::<E>("y", i, found_y[i], y[i], tolerance.y(i, y[i]))?;
        }
        let dz = norm.pull(&dy_, &z);
        let mut expected = norm.backward(&dz, &x_, &used, frozen);
        if let Some(of) = &corrections {
            for c in 0..parameters {
                expected.weight[c] = of.r[c] * expected.weight[c] + of.d[c] * expected.bias[c];
            }
        }
        let within = tolerance.backward::<E>(&dy_, &z, &found_y, &expected, corrections.as_ref());
        for (i, dx) in found.dx.logical().into_iter().enumerate() {
            agree::<E>("dx", i, dx, expected.dx[i], within.dx[i])?;
        }
        if let Some(dresidual) = &found.dresidual {
            for (i, dresidual) in dresidual.logical().into_iter().enumerate() {
                agree::<G>("dresidual", i, dresidual, dz[i], within.dresidual::<G>(i, dz[i]))?;
            }
        }
        for c in 0..parameters {
            agree::<f64>("dweight", c, found.gradients.weight[c], expected.weight[c], within.weight[c])?;
            if *kind != Kind::Layer(false) {
                agree::<f64>("dbias", c, found.gradients.bias[c], expected.bias[c], within.bias[c])?;
            }
        }
        if let (Some(of), true) = (&corrections, size > 0) {
            of.agree::<E>(&found.corrections)?;
        }
        Ok(())
    }
}
