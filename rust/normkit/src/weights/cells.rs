//! Weights on the one mechanism, in float64 whatever they hold: converted block by block in cache, rounded once.

use crate::element::Element;
use crate::error::{Result, gathered, zeros};
use crate::kernels::activation::Activation;
use crate::kernels::apply::{Affine, GradAffine};
use crate::kernels::gradients::GradSums;
use crate::kernels::moments::MomentSums;
use crate::layout::{Grid, grid};
use crate::moments::Moments;
use crate::norms::{isa, plan, plan_application};
use crate::parallel::Slots;
use crate::pass::{Application, Known, Pass, Passes, Reduction};
use crate::plan::Work;
use crate::simd::Real;
use crate::tensor::{Tensor, TensorMut};
use crate::view::{Input, Output};

/// Cells for each position of the axes that are kept.
fn count(shape: &[usize], kept: &[bool]) -> usize {
    shape.iter().zip(kept).filter(|&(_, kept)| *kept).map(|(n, _)| n).product()
}

/// What is reduced: nothing but elements, about these means.
fn reduction<'a, const K: usize>(
    grid: Grid,
    inputs: [Input<'a, f64>; K],
    known: Known<'a, f64>,
) -> Reduction<'a, f64, K> {
    Reduction { grid, inputs, known, activation: Activation::Identity, mask: None }
}

/// A mean of zero.
fn zero(_first: usize, cells: &mut [Affine<f64>]) {
    cells.fill(Affine::EMPTY);
}

/// The moments of each cell.
fn moments<E: Element>(x: &Tensor<E>, kept: &[bool]) -> Result<Vec<Moments>> {
    let isa = isa()?;
    let cells = count(&x.shape, kept);
    let (mut mean, mut m2) = (zeros(cells)?, zeros(cells)?);
    let count = x.size().checked_div(cells).unwrap_or(0) as f64;
    if x.size() > 0 {
        let (grid, [from]) = grid(&x.shape, kept, [&x.strides]);
        let (mean, m2) = (Slots::new(&mut mean), Slots::new(&mut m2));
        let rule = |t: usize, m: &[MomentSums], _: &mut [Affine<f64>]| {
            let m = m[0].moments();
            mean.set(t, m.mean);
            m2.set(t, m.m2);
        };
        let reduce = reduction(grid, [Input::new(x, &from)], &zero);
        let pass = Pass { reduce, parts: 1, apply: None, cells: 0, samples: 1, rule: &rule };
        let read = x.size() * size_of::<E>();
        Passes::forward(&pass, isa, &plan(&Work::new(grid, read, 0)))?;
    }
    gathered(mean.into_iter().zip(m2).map(|(mean, m2)| Moments { count, mean, m2 }))
}

/// Moments of a cell in a unit in which its squares stay within float64.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    moments: Moments,
    unit: f64,
}

impl Spread {
    /// Σx², in the unit's square.
    fn squares(&self) -> f64 {
        let Moments { count, mean, m2 } = self.moments;
        m2 + count * mean * mean
    }

    pub(super) fn mean(&self) -> f64 {
        self.moments.mean * self.unit
    }

    /// sqrt(Σx²)
    pub(super) fn norm(&self) -> f64 {
        self.squares().sqrt() * self.unit
    }

    /// sqrt(Σ(x − mean)²)
    pub(super) fn deviation(&self) -> f64 {
        self.moments.m2.sqrt() * self.unit
    }
}

/// Mean, norm and deviation of each cell, also where squares leave float64: such cells are taken again in another unit.
pub(super) fn spreads<E: Element>(x: &Tensor<E>, kept: &[bool]) -> Result<Vec<Spread>> {
    /// Whose square brings any number that is lost back into range.
    const UNIT: f64 = f64::from_bits((1023 + 600) << 52);
    let mut spreads = gathered(moments(x, kept)?.into_iter().map(|moments| Spread { moments, unit: 1.0 }))?;
    if size_of::<E>() < size_of::<f64>() {
        return Ok(spreads); // squares of narrower types stay within
    }
    let large = |squares: f64| !squares.is_finite();
    let small = |squares: f64| squares < f64::TINY;
    let units: [(&dyn Fn(f64) -> bool, f64); 2] = [(&large, UNIT), (&small, 1.0 / UNIT)];
    for (lost, unit) in units {
        let affected = |spread: &Spread| spread.unit == 1.0 && lost(spread.squares());
        if spreads.iter().any(affected) {
            let mut scaled = zeros::<f64>(x.size())?;
            let cell = Affine::new(0.0, 1.0 / unit, 0.0);
            affine(x, &vec![false; x.shape.len()], &[cell], &mut TensorMut::dense(&mut scaled, &x.shape)?)?;
            let again = moments(&Tensor::dense(&scaled, &x.shape)?, kept)?;
            for (spread, moments) in spreads.iter_mut().zip(again).filter(|(spread, _)| affected(spread)) {
                *spread = Spread { moments, unit };
            }
        }
    }
    Ok(spreads)
}

/// Σ x·y of each cell.
pub(super) fn dots<E: Element, F: Element>(x: &Tensor<E>, y: &Tensor<F>, kept: &[bool]) -> Result<Vec<f64>> {
    let isa = isa()?;
    let mut dots = zeros(count(&x.shape, kept))?;
    if x.size() > 0 {
        let (grid, [from, along]) = grid(&x.shape, kept, [&x.strides, &y.strides]);
        let slots = Slots::new(&mut dots);
        let rule = |t: usize, of: &[GradSums], _: &mut [GradAffine<f64>]| slots.set(t, of[0].dot);
        let reduce = reduction(grid, [Input::new(x, &from), Input::new(y, &along)], &zero);
        let pass = Pass { reduce, parts: 1, apply: None, cells: 0, samples: 1, rule: &rule };
        let read = x.size() * (size_of::<E>() + size_of::<F>());
        Passes::backward(&pass, isa, &plan(&Work::new(grid, read, 0)))?;
    }
    Ok(dots)
}

/// out = (x − mean)·scale + shift, by cell.
pub(super) fn affine<E: Element, F: Element>(
    x: &Tensor<E>,
    kept: &[bool],
    cells: &[Affine<f64>],
    out: &mut TensorMut<F>,
) -> Result<()> {
    let isa = isa()?;
    if x.size() > 0 {
        let (grid, [from, to]) = grid(&x.shape, kept, [&x.strides, &out.strides]);
        let (read, written) = (x.size() * size_of::<E>(), x.size() * size_of::<F>());
        let (inputs, out) = ([Input::new(x, &from)], Output::new(out, &to));
        let apply = Application { grid, inputs, out, second: None, mask: None };
        Passes::affine(&apply, isa, &plan_application(&Work::new(grid, read, written)), cells)?;
    }
    Ok(())
}

/// An operand of a backward pass with the axes whose positions are its cells.
pub(super) struct Cells<'t, 'a, E> {
    pub(super) of: &'t Tensor<'a, E>,
    pub(super) kept: &'t [bool],
}

/// Takes Σdy and Σdy·(x − mean) of the cells of `x`, and then dx = a·dy + b·ẑ + c, ẑ = (z − mean)·rstd, by the
/// coefficients that `rule` makes of them for the cells of `z`.
pub(super) fn backward<E: Element, F: Element, G: Element, H: Element>(
    dy: &Tensor<G>,
    x: Cells<E>,
    means: Option<&[f64]>,
    z: Cells<F>,
    rule: impl Fn(usize, GradSums, &mut [GradAffine<f64>]) + Sync,
    dx: &mut TensorMut<H>,
) -> Result<()> {
    let isa = isa()?;
    if dy.size() == 0 {
        return Ok(());
    }
    let (reduced, [from, along]) = grid(&dy.shape, x.kept, [&x.of.strides, &dy.strides]);
    let known = |first: usize, cells: &mut [Affine<f64>]| {
        for (t, cell) in (first..).zip(cells) {
            *cell = means.map_or(Affine::EMPTY, |means| Affine::new(means[t], 0.0, 0.0));
        }
    };
    let reduce = reduction(reduced, [Input::new(x.of, &from), Input::new(dy, &along)], &known);
    let (applied, [from, along, to]) = grid(&dy.shape, z.kept, [&z.of.strides, &dy.strides, &dx.strides]);
    let (inputs, out) = ([Input::new(z.of, &from), Input::new(dy, &along)], Output::new(dx, &to));
    let apply = Some(Application { grid: applied, inputs, out, second: None, mask: None });
    let cells = applied.statistics() / reduced.statistics();
    let rule = |t: usize, of: &[GradSums], cells: &mut [GradAffine<f64>]| rule(t, of[0], cells);
    let pass = Pass { reduce, parts: 1, apply, cells, samples: 1, rule: &rule };
    let (read, written) = (dy.size() * (size_of::<E>() + size_of::<G>()), dy.size() * size_of::<H>());
    Passes::backward(&pass, isa, &plan(&Work::new(reduced, read, written)))?;
    Ok(())
}
