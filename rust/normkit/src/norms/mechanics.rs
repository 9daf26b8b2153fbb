//! From a norm's rule to the passes that carry it out: with or without an activation, a residual, a mask.

use super::parts::Parts;
use super::{ParameterGradients, plan, plan_application, plan_lines};
use crate::Element;
use crate::element::Source;
use crate::error::{Error, Result, gathered, shape_text};
use crate::kernels::activation::Activation;
use crate::kernels::apply::{Affine, Coefficients, Fused, GradAffine, GradFused, GradInner, Rectified, Scale};
use crate::kernels::gradients::GradSums;
use crate::kernels::moments::MomentSums;
use crate::layout::{Axes, Grid, Walk};
use crate::moments::Moments;
use crate::parallel::Disjoint;
use crate::pass::{Application, Known, Pass, Passes, Reduction, Runs};
use crate::plan::{Plan, Work, runs_parts};
use crate::simd::{Isa, Real};
use crate::tensor::Tensor;
use crate::view::{Input, Output};

/// An array to read whose type is known at run time.
#[derive(Clone)]
pub struct Operand<'a> {
    source: Source<'a>,
    pub(super) shape: Axes<usize>,
    pub(super) strides: Axes<isize>,
}

impl<'a, E: Element> From<&Tensor<'a, E>> for Operand<'a> {
    fn from(tensor: &Tensor<'a, E>) -> Self {
        Operand { source: E::source(tensor.base), shape: tensor.shape.clone(), strides: tensor.strides.clone() }
    }
}

impl<'a> Operand<'a> {
    pub(super) fn input<T: Passes>(&self, walk: &'a Walk) -> Input<'a, T> {
        Input::of(self.source, walk)
    }
}

/// What a norm may do beyond its affine map: y = activation(affine + residual), and 0 where the mask is false.
#[derive(Clone, Default)]
pub struct Extras<'a> {
    /// Applied last.
    pub activation: Activation,
    /// An array of x's shape.
    pub residual: Option<Operand<'a>>,
    /// True where an element counts; of x's shape, the same for all channels (stride 0).
    pub mask: Option<Tensor<'a, bool>>,
}

impl<'a> Extras<'a> {
    /// Whether the shapes fit x, and the mask does not vary with the channel.
    pub(super) fn check(&self, shape: &[usize], axis: usize) -> Result<()> {
        let fits = |name, found: &[usize]| {
            let expected = format!("have the shape of x, {}", shape_text(shape));
            if shape == found {
                Ok(())
            } else {
                Err(Error::new(name, expected, format!("shape {}", shape_text(found))))
            }
        };
        if let Some(residual) = &self.residual {
            fits("residual", &residual.shape)?;
        }
        if let Some(mask) = &self.mask {
            fits("mask", &mask.shape)?;
            if mask.strides[axis] != 0 && shape[axis] > 1 {
                return Err(Error::new("mask", "be the same for all channels (stride 0)", mask.strides[axis]));
            }
        }
        Ok(())
    }

    /// The strides of the residual and of the mask; x's, which say nothing new, where there is none.
    pub(super) fn strides<'s>(&'s self, x: &'s [isize]) -> [&'s [isize]; 2] {
        [
            self.residual.as_ref().map_or(x, |residual| &residual.strides[..]),
            self.mask.as_ref().map_or(x, |mask| &mask.strides[..]),
        ]
    }

    /// The elements of a channel that count.
    pub fn count(&self, shape: &[usize], axis: usize) -> usize {
        let Some(mask) = &self.mask else {
            return shape.iter().enumerate().filter(|&(i, _)| i != axis).map(|(_, n)| n).product();
        };
        let other: Vec<(usize, isize)> =
            (0..shape.len()).filter(|&i| i != axis).map(|i| (shape[i], mask.strides[i])).collect();
        let all = other.iter().map(|(n, _)| n).product();
        // SAFETY: positions of the mask below its sizes, which `at` asserts.
        (0..all).filter(|&i| unsafe { mask.base.at(crate::layout::offset(&other, i), 1).read() }).count()
    }

    /// As operands of a grid.
    pub(super) fn inputs<T: Passes>(&self, residual: &'a Walk, mask: &'a Walk) -> Beside<'a, T> {
        Beside {
            activation: self.activation,
            residual: self.residual.as_ref().map(|of| of.input(residual)),
            mask: self.mask.as_ref().map(|of| Input::mask(of, mask)),
        }
    }
}

/// [`Extras`] as operands.
#[derive(Clone)]
pub(super) struct Beside<'a, T> {
    activation: Activation,
    residual: Option<Input<'a, T>>,
    mask: Option<Input<'a, T>>,
}

/// Nothing is known of the statistics of a forward pass.
pub(super) fn unknown<T>(_first: usize, _cells: &mut [Affine<T>]) {}

/// Nothing is known but means.
pub(super) fn known_means<T: Real>(means: &[f64], cells: &mut [Affine<T>]) {
    for (cell, &mean) in cells.iter_mut().zip(means) {
        *cell = Affine { mean: T::from_f64(mean), ..Affine::EMPTY };
    }
}

/// A forward pass: moments of `x` on one grid, y on another.
pub(super) struct Forward<'a, T> {
    pub(super) grid: Grid,
    pub(super) x: Input<'a, T>,
    /// Masks the reduction, on its own grid.
    pub(super) mask: Option<Input<'a, T>>,
    pub(super) cells_grid: Grid,
    pub(super) cells_x: Input<'a, T>,
    pub(super) beside: Beside<'a, T>,
    pub(super) out: Output<'a, T>,
    pub(super) cells: usize,
    pub(super) samples: usize,
}

impl<T: Passes> Forward<'_, T> {
    /// `rule` gives the affine map of each cell of statistic t, by the cell's number.
    pub(super) fn run<F: Fn(usize) -> Affine<T>>(
        self,
        isa: Isa,
        rule: impl Fn(usize, Moments) -> F + Sync,
    ) -> Result<()> {
        let Beside { activation, residual, .. } = self.beside;
        let x = self.cells_x;
        match (activation, residual) {
            (Activation::Identity, None) => self.pass(isa, rule, [x], |cell| cell, T::forward),
            (Activation::Relu, None) => self.pass(isa, rule, [x], Rectified, T::forward_relu),
            (Activation::Relu, Some(of)) => self.pass(isa, rule, [x, of], Rectified, T::forward_residual_relu),
            (_, None) => self.pass(isa, rule, [x], |cell| Fused { cell, activation }, T::forward_fused),
            (_, Some(of)) => self.pass(isa, rule, [x, of], |cell| Fused { cell, activation }, T::forward_residual),
        }
    }

    /// The same, with what `make` makes of the maps applied to `inputs`.
    fn pass<C: Coefficients<T, L, 3>, F: Fn(usize) -> Affine<T>, const L: usize>(
        self,
        isa: Isa,
        rule: impl Fn(usize, Moments) -> F + Sync,
        inputs: [Input<T>; L],
        make: impl Fn(Affine<T>) -> C + Sync,
        run: impl FnOnce(&Pass<T, MomentSums, C, 1, L, 3>, Isa, &Plan) -> Result<()>,
    ) -> Result<()> {
        let Forward { grid, x, mask, cells_grid, cells_x: _, beside, out, cells, samples } = self;
        let elements = grid.statistics() * grid.count();
        let residual = elements * inputs[1..].iter().map(Input::element_size).sum::<usize>();
        let (read, written) = (elements * x.element_size() + residual, elements * out.element_size());
        let plan = plan(&Work { samples, residual, ..Work::new(grid, read, written) });
        let reduce = Reduction { grid, inputs: [x], known: &unknown, activation: Activation::Identity, mask };
        let rule = |t: usize, m: &[MomentSums], cells: &mut [C]| {
            let of = rule(t, m[0].moments());
            match cells {
                [cell] => *cell = make(of(0)),
                cells => cells.iter_mut().enumerate().for_each(|(i, cell)| *cell = make(of(i))),
            }
        };
        let apply = Some(Application { grid: cells_grid, inputs, out, second: None, mask: beside.mask });
        run(&Pass { reduce, parts: 1, apply, cells, samples, rule: &rule }, isa, &plan)
    }
}

/// y by given affine maps, which repeat where there are fewer than cells.
pub(super) fn affine<T: Passes>(
    grid: Grid,
    x: Input<T>,
    beside: Beside<T>,
    out: Output<T>,
    cells: Vec<Affine<T>>,
    isa: Isa,
) -> Result<()> {
    let Beside { activation, residual, mask } = beside;
    let elements = grid.statistics() * grid.count();
    let beside = elements * residual.as_ref().map_or(0, Input::element_size);
    let (read, written) = (elements * x.element_size() + beside, elements * out.element_size());
    let plan = plan_application(&Work { residual: beside, ..Work::new(grid, read, written) });
    if activation == Activation::Identity && residual.is_none() {
        return T::affine(&Application { grid, inputs: [x], out, second: None, mask }, isa, &plan, &cells);
    }
    let cells = gathered(cells.into_iter().map(|cell| Fused { cell, activation }))?;
    match residual {
        None => T::affine_fused(&Application { grid, inputs: [x], out, second: None, mask }, isa, &plan, &cells),
        Some(residual) => {
            let apply = Application { grid, inputs: [x, residual], out, second: None, mask };
            T::affine_residual(&apply, isa, &plan, &cells)
        }
    }
}

/// A backward pass: two sums of each cell, dx of each cell, on one grid.
pub(super) struct Backward<'a, T> {
    pub(super) grid: Grid,
    pub(super) x: Input<'a, T>,
    pub(super) dy: Input<'a, T>,
    pub(super) beside: Beside<'a, T>,
    /// The forward pass's affine map of each cell.
    pub(super) known: Known<'a, T>,
    pub(super) out: Output<'a, T>,
    /// Where the residual's gradient goes.
    pub(super) second: Option<Output<'a, T>>,
    /// Cells of a statistic.
    pub(super) cells: usize,
    pub(super) samples: usize,
    /// Whether statistics do not depend on x.
    pub(super) frozen: bool,
}

impl<T: Passes> Backward<'_, T> {
    /// `rule` gives the coefficients of each cell of statistic t, by the cells' sums and the cell's number.
    pub(super) fn run<F: Fn(usize) -> GradAffine<T>>(
        self,
        isa: Isa,
        rule: impl Fn(usize, &[GradSums]) -> F + Sync,
    ) -> Result<()> {
        let Backward { grid, x, dy, beside, known, out, second, cells, samples, frozen } = self;
        let Beside { activation, residual, mask } = beside;
        // Without an activation no gradient asks for the residual itself.
        let residual = residual.filter(|_| activation != Activation::Identity);
        let elements = grid.statistics() * grid.count();
        let beside = elements * residual.as_ref().map_or(0, Input::element_size);
        let read = elements * (x.element_size() + dy.element_size()) + beside;
        let written = elements * (out.element_size() + second.as_ref().map_or(0, Output::element_size));
        let plan = plan(&Work { parts: cells, samples, residual: beside, ..Work::new(grid, read, written) });
        if activation == Activation::Identity && second.is_none() {
            let reduce = Reduction { grid, inputs: [x, dy], known, activation, mask };
            if frozen {
                let rule = |t: usize, sums: &[GradSums], cells: &mut [Scale<T>]| cells[0] = Scale(rule(t, sums)(0).a);
                let apply = Some(Application { grid, inputs: [dy], out, second, mask });
                let pass = Pass { reduce, parts: cells, apply, cells, samples, rule: &rule };
                return T::backward_frozen(&pass, isa, &plan);
            }
            let rule = |t: usize, sums: &[GradSums], cells: &mut [GradAffine<T>]| {
                let of = rule(t, sums);
                match cells {
                    [cell] => *cell = of(0),
                    cells => cells.iter_mut().enumerate().for_each(|(i, cell)| *cell = of(i)),
                }
            };
            let apply = Some(Application { grid, inputs: [x, dy], out, second, mask });
            return T::backward(&Pass { reduce, parts: cells, apply, cells, samples, rule: &rule }, isa, &plan);
        }
        let fused = |t: usize, sums: &[GradSums], out: &mut [GradFused<T>]| {
            let of = rule(t, sums);
            for (i, out) in out.iter_mut().enumerate() {
                let mut map = [Affine::EMPTY];
                known(t * cells + i, &mut map);
                let [Affine { mean: _, scale, shift }] = map;
                *out = GradFused { grad: of(i), scale, shift, activation, frozen };
            }
        };
        match residual {
            None => {
                let reduce = Reduction { grid, inputs: [x, dy], known, activation, mask };
                let apply = Some(Application { grid, inputs: [x, dy], out, second, mask });
                T::backward_fused(&Pass { reduce, parts: cells, apply, cells, samples, rule: &fused }, isa, &plan)
            }
            Some(residual) => {
                let reduce = Reduction { grid, inputs: [x, dy, residual], known, activation, mask };
                let apply = Some(Application { grid, inputs: [x, dy, residual], out, second, mask });
                T::backward_residual(&Pass { reduce, parts: cells, apply, cells, samples, rule: &fused }, isa, &plan)
            }
        }
    }
}

/// A backward pass over runs with parameters inside.
pub(super) struct BackwardRuns<'a> {
    /// Runs of a sample.
    pub(super) runs: usize,
    /// Adjacent elements with the same parameters.
    pub(super) fold: usize,
    pub(super) weight: Option<&'a [f64]>,
}

impl BackwardRuns<'_> {
    /// dx of x and dy, and the parameters' gradients; `rule` gives the coefficients of run t.
    pub(super) fn run<T: Passes>(
        self,
        grid: Grid,
        inputs: [Input<T>; 2],
        out: Output<T>,
        [mean, rstd]: [&[f64]; 2],
        isa: Isa,
        rule: impl Fn(usize, GradSums) -> GradAffine<T> + Sync,
    ) -> Result<ParameterGradients> {
        let elements = grid.statistics() * grid.count();
        let read = elements * (inputs[0].element_size() + inputs[1].element_size());
        let plan = plan_lines(&Work::new(grid, read, elements * inputs[0].element_size()));
        let BackwardRuns { runs, fold, weight } = self;
        let all = runs * grid.len / fold;
        let mut parts = Parts::new(runs_parts(&grid, runs), all)?;
        // x̂ = (x − mean)·rstd + low, where low is what rounding the mean loses.
        let known = |first: usize, cells: &mut [Affine<T>]| {
            for (t, cell) in (first..).zip(cells) {
                *cell = Affine::new(mean[t], rstd[t], 0.0);
            }
        };
        let rule = |t: usize, sums: &[GradSums], cells: &mut [GradInner<T>]| cells[0] = GradInner(rule(t, sums[0]));
        let gradients = parts.memory().map(Disjoint::new);
        let pass = Runs { grid, runs, fold, inputs, weight, out, known: &known, rule: &rule, gradients };
        T::runs(&pass, isa, &plan)?;
        Ok(parts.sum())
    }
}
