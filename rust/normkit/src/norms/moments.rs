//! Count, mean and centred second moment over any axes.

use super::mechanics::unknown;
use super::{isa, plan};
use crate::element::Element;
use crate::error::{Error, Result, shape_text, zeros};
use crate::kernels::activation::Activation;
use crate::kernels::apply::Affine;
use crate::kernels::moments::MomentSums;
use crate::layout::grid;
use crate::parallel::Slots;
use crate::pass::{Pass, Passes, Reduction};
use crate::plan::Work;
use crate::tensor::Tensor;
use crate::view::Input;

/// The moments of an array over some axes: one entry for each position of the other axes, in row-major order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MomentsOf {
    /// Elements of each.
    pub count: usize,
    /// Means; 0 where there are no elements.
    pub mean: Vec<f64>,
    /// Sums of squared deviations.
    pub m2: Vec<f64>,
}

/// The moments of `x` over `axes`.
///
/// # Errors
/// An axis is not one of x's, or is named twice.
pub fn moments<E: Element>(x: &Tensor<E>, axes: &[usize]) -> Result<MomentsOf> {
    let mut kept = vec![true; x.shape.len()];
    for &axis in axes {
        let expected = || format!("name different axes of x, which has shape {}", shape_text(&x.shape));
        match kept.get_mut(axis) {
            Some(kept) if *kept => *kept = false,
            _ => return Err(Error::new("axis", expected(), axis)),
        }
    }
    let isa = isa()?;
    let statistics: usize = x.shape.iter().zip(&kept).filter(|&(_, kept)| *kept).map(|(n, _)| n).product();
    let count = x.shape.iter().zip(&kept).filter(|&(_, kept)| !*kept).map(|(n, _)| n).product();
    let mut of = MomentsOf { count, mean: zeros(statistics)?, m2: zeros(statistics)? };
    if x.size() == 0 {
        return Ok(of);
    }
    let (grid, [from]) = grid(&x.shape, &kept, [&x.strides]);
    let (mean, m2) = (Slots::new(&mut of.mean), Slots::new(&mut of.m2));
    let rule = |t: usize, m: &[MomentSums], _: &mut [Affine<E::Compute>]| {
        let m = m[0].moments();
        mean.set(t, m.mean);
        m2.set(t, m.m2);
    };
    let inputs = [Input::<E::Compute>::new(x, &from)];
    let activation = Activation::Identity;
    let reduce = Reduction { grid, inputs, known: &unknown, activation, mask: None };
    let pass =
        Pass::<_, _, Affine<E::Compute>, 1, 1, 3> { reduce, parts: 1, apply: None, cells: 0, samples: 1, rule: &rule };
    let read = x.size() * size_of::<E>();
    Passes::forward(&pass, isa, &plan(&Work::new(grid, read, 0)))?;
    Ok(of)
}
