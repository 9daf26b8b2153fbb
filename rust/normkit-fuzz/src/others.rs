//! Moments, folding and the parametric normalizers: on shapes drawn here, by the checks of the core's tests.

use arbitrary::{Result, Unstructured};
use normkit::{Element, reference};
use proptest::prop_assert_eq;

use crate::Checked;
use crate::common::fold::check_fold;
use crate::common::judge::Check;
use crate::common::weights::{Layouts, check_spectral_norm, check_standardization, check_weight_norm};
use crate::common::{Array, Float, Layout, Values};
use crate::draw::{self, outlier, rarely};
use crate::tolerance::{agree, of_statistics};

/// Which function.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "their names say it all")]
pub enum Which {
    Moments { reduced: Vec<bool>, layout: Layout, values: Values, outliers: Vec<(usize, f64)> },
    Fold { groups: usize, inputs: usize, outputs: usize, kernel: Vec<usize>, transposed: bool, given: [bool; 3] },
    WeightNorm { dim: Option<usize>, layouts: Layouts, magnitude: (f64, f64) },
    SpectralNorm { dim: usize, layouts: Layouts, magnitude: (f64, f64), iterations: usize },
    Standardization { layouts: Layouts, magnitude: (f64, f64), gained: bool },
}

/// A function, the shape of its array and the seed of all numbers.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which function.
    pub which: Which,
    /// Of its array; not for folding, which has its own.
    pub shape: Vec<usize>,
    /// Of all numbers.
    pub seed: u64,
}

/// How large weights are, and what is added to all of them.
fn magnitude(u: &mut Unstructured) -> Result<(f64, f64)> {
    Ok((*u.choose(&[1.0, 1.0, 1.0, 1.0, 1e30, 1e-30, 1e-41])?, *u.choose(&[0.0, 0.0, 3.0, -1e3])?))
}

fn layouts(u: &mut Unstructured, rank: usize) -> Result<Layouts> {
    Ok((draw::input_layout(u, rank)?, draw::input_layout(u, rank)?, draw::layout(u, rank)?))
}

impl Call {
    /// Any.
    pub fn draw(u: &mut Unstructured) -> Result<Call> {
        let which = u.int_in_range(0..=4u8)?;
        let rank = u.int_in_range(if which == 0 { 0..=5 } else { 2..=4 })?;
        let budget = draw::budget(u)?;
        // The oracle of spectral norm is quadratic; and empty weights are tested by name.
        let shape = draw::shape(u, rank, budget.min(if which == 0 { budget } else { 4000 }))?;
        let shape: Vec<usize> = if which == 0 { shape } else { shape.into_iter().map(|n| n.max(1)).collect() };
        let dim = if rank == 0 { 0 } else { u.choose_index(rank)? };
        let which = match which {
            0 => Which::Moments {
                reduced: (0..rank).map(|_| u.ratio(1, 2)).collect::<Result<_>>()?,
                layout: draw::input_layout(u, rank)?,
                values: draw::values(u)?,
                outliers: draw::outliers(u)?,
            },
            1 => Which::Fold {
                groups: u.int_in_range(1..=4)?,
                inputs: u.int_in_range(1..=6)?,
                outputs: u.int_in_range(1..=6)?,
                kernel: (0..u.int_in_range(0..=3u8)?).map(|_| u.int_in_range(1..=4)).collect::<Result<_>>()?,
                transposed: u.arbitrary()?,
                given: u.arbitrary()?,
            },
            2 => Which::WeightNorm {
                dim: if rarely(u, 5)? { None } else { Some(dim) },
                layouts: layouts(u, rank)?,
                magnitude: magnitude(u)?,
            },
            3 => Which::SpectralNorm {
                dim,
                layouts: layouts(u, rank)?,
                magnitude: magnitude(u)?,
                iterations: u.int_in_range(0..=3)?,
            },
            _ => {
                Which::Standardization { layouts: layouts(u, rank)?, magnitude: magnitude(u)?, gained: u.arbitrary()? }
            }
        };
        Ok(Call { which, shape, seed: u.arbitrary()? })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self.which {
            Which::Moments { .. } => "moments",
            Which::Fold { .. } => "fold_conv_bn",
            Which::WeightNorm { .. } => "weight_norm",
            Which::SpectralNorm { .. } => "spectral_norm",
            Which::Standardization { .. } => "scaled_weight_standardization",
        }
    }

    /// How its array lies in memory.
    pub fn layout(&self) -> &'static str {
        match &self.which {
            Which::Moments { layout, .. } => draw::kind(layout),
            Which::Fold { .. } => "dense",
            Which::WeightNorm { layouts, .. }
            | Which::SpectralNorm { layouts, .. }
            | Which::Standardization { layouts, .. } => draw::kind(&layouts.0),
        }
    }

    fn check_moments<E: Float>(
        &self,
        reduced: &[bool],
        layout: &Layout,
        values: Values,
        outliers: &[(usize, f64)],
    ) -> Check {
        let (shape, size) = (&self.shape, self.shape.iter().product());
        let axes: Vec<usize> = (0..shape.len()).filter(|&axis| reduced[axis]).collect();
        let at = |i| outlier(outliers, i, size).unwrap_or_else(|| values.at::<E>(self.seed, i));
        let x = Array::<E>::new(shape, layout, at);
        let found = normkit::moments(&x.tensor(), &axes)?;
        let expected = reference::moments(&x.logical(), shape, &axes);
        if size == 0 {
            return Ok(());
        }
        prop_assert_eq!((found.count, found.mean.len()), (expected.count, expected.mean.len()));
        for t in 0..found.mean.len() {
            let [of_mean, of_var] = of_statistics::<E>(expected.mean[t], expected.var[t]);
            agree::<f64>("mean", t, found.mean[t], expected.mean[t], of_mean)?;
            agree::<f64>("var", t, found.m2[t] / found.count as f64, expected.var[t], of_var)?;
        }
        Ok(())
    }
}

/// Weights of float16 have no room for other magnitudes.
fn within<E: Float>((scale, mean): (f64, f64)) -> (f64, f64) {
    if E::HUGE < 1e30 { (1.0, mean.min(3.0)) } else { (scale, mean) }
}

impl Checked for Call {
    fn check<E: Float, G: Float>(&self) -> Check
    where
        E::Compute: Element,
    {
        let Call { shape, seed, .. } = self;
        match &self.which {
            Which::Moments { reduced, layout, values, outliers } => {
                self.check_moments::<E>(reduced, layout, *values, outliers)
            }
            Which::Fold { groups, inputs, outputs, kernel, transposed, given } => {
                check_fold::<E>((*groups, *inputs, *outputs, kernel.clone(), *transposed), *given, *seed)
            }
            Which::WeightNorm { dim, layouts, magnitude } => {
                check_weight_norm::<E, G>(shape, *dim, layouts, within::<E>(*magnitude), *seed)
            }
            Which::SpectralNorm { dim, layouts, magnitude, iterations } => {
                check_spectral_norm::<E, G>(shape, *dim, layouts, within::<E>(*magnitude), *iterations, *seed)
            }
            Which::Standardization { layouts, magnitude, gained } => {
                check_standardization::<E, G>(shape, layouts, within::<E>(*magnitude), *gained, *seed)
            }
        }
    }
}
