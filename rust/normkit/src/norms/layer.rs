//! Layer normalization (Ba, Kiros & Hinton 2016) and RMS normalization (Zhang & Sennrich 2019): statistics over any
//! axes of each position of the others; weight and bias vary over the normalized axes.

use smallvec::smallvec;

use super::mechanics::{BackwardRuns, Operand, known_means, unknown};
use super::{ParameterGradients, Statistics, check_eps, check_like, check_shape, isa, plan, plan_lines, rstd};
use crate::element::Element;
use crate::error::{Error, Result, gathered, shape_text, zeros};
use crate::kernels::activation::Activation;
use crate::kernels::apply::{Affine, GradAffine, GradInner, Inner, Scale};
use crate::kernels::gradients::GradSums;
use crate::kernels::moments::MomentSums;
use crate::layout::{Axes, Grid, Walk, grid};
use crate::moments::Moments;
use crate::parallel::Slots;
use crate::pass::{Application, Pass, Passes, Reduction, WeightedLines};
use crate::plan::Work;
use crate::simd::{Isa, Real};
use crate::tensor::{Tensor, TensorMut, dense_strides};
use crate::view::{Input, Output};

/// What is normalized, and how.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The axes that a statistic runs over.
    pub axes: Vec<usize>,
    /// Whether the mean is taken off (layer norm) or not (RMS norm).
    pub centred: bool,
}

/// x's axes as both reductions see them.
struct Sides {
    /// Which axes are normalized.
    inner: Axes<bool>,
    /// Elements of a statistic.
    count: usize,
    /// Statistics.
    statistics: usize,
    /// Strides of a dense array over the normalized axes, 0 along the others.
    along_inner: Axes<isize>,
    /// Strides of a dense array over the other axes, 0 along the normalized ones.
    along_outer: Axes<isize>,
}

impl Layer {
    fn sides(&self, shape: &[usize]) -> Result<Sides> {
        let mut inner: Axes<bool> = smallvec![false; shape.len()];
        for &axis in &self.axes {
            match inner.get_mut(axis) {
                Some(inner) if !*inner => *inner = true,
                _ => {
                    let expected = format!("name different axes of x, which has shape {}", shape_text(shape));
                    return Err(Error::new("axis", expected, axis));
                }
            }
        }
        let spread = |side: bool| {
            let sizes: Axes<usize> = (0..shape.len()).filter(|&i| inner[i] == side).map(|i| shape[i]).collect();
            let mut dense = dense_strides(&sizes).into_iter();
            let strides =
                inner.iter().map(|&of| if of == side { dense.next().unwrap_or(0) } else { 0 }).collect::<Axes<_>>();
            (sizes.iter().product::<usize>(), strides)
        };
        let ((count, along_inner), (statistics, along_outer)) = (spread(true), spread(false));
        Ok(Sides { inner, count, statistics, along_inner, along_outer })
    }
}

impl Sides {
    /// Which axes a statistic keeps.
    fn kept(&self) -> Axes<bool> {
        self.inner.iter().map(|inner| !inner).collect()
    }

    fn check(&self, name: &'static str, values: Option<&[f64]>) -> Result<()> {
        match values {
            Some(values) if values.len() != self.count => {
                let expected = format!("have {} elements (the normalized axes of x)", self.count);
                Err(Error::new(name, expected, format!("{} elements", values.len())))
            }
            _ => Ok(()),
        }
    }
}

/// Numbers as an operand of a type.
fn rounded<T: Real + Element>(values: Option<&[f64]>) -> Result<Option<Vec<T>>> {
    values.map(|values| gathered(values.iter().map(|&x| Real::from_f64(x)))).transpose()
}

/// A parameter as an operand.
fn parameter<'a, T: Real + Element, E>(
    values: &'a Option<Vec<T>>,
    default: f64,
    x: &Tensor<E>,
    strides: &[isize],
    walk: &'a Walk,
) -> Result<Input<'a, T>> {
    match values {
        Some(values) => Ok(Input::new(&Tensor::strided(values, &x.shape, strides)?, walk)),
        None => Ok(Input::constant(default, walk)),
    }
}

/// y = (x − mean)·rstd·weight + bias with the statistics of each position of the axes that are not normalized, in
/// row-major order; they are returned. Without centring the mean is 0 and `var` the mean square.
///
/// # Errors
/// An axis is not one of x's or named twice, a parameter or `y` does not fit, eps is negative or not finite.
pub fn layer_norm<E: Element>(
    x: &Tensor<E>,
    layer: &Layer,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
    y: &mut TensorMut<E>,
) -> Result<Statistics>
where
    E::Compute: Element,
{
    let sides = layer.sides(&x.shape)?;
    check_eps(eps)?;
    sides.check("weight", weight)?;
    sides.check("bias", bias)?;
    check_like("out", x, y)?;
    let isa = isa()?;
    let mut statistics = Statistics::new(sides.count, sides.statistics)?;
    if x.size() == 0 {
        statistics.rstd.fill(rstd(0.0, eps));
        return Ok(statistics);
    }
    let slots = [&mut statistics.mean, &mut statistics.var, &mut statistics.rstd].map(|slots| Slots::new(slots));
    let map = |t: usize, m: Moments| {
        let var = m.var(0.0);
        let (mean, var) = if layer.centred { (m.mean, var) } else { (0.0, var + m.mean * m.mean) };
        let rstd = rstd(var, eps);
        let [means, vars, rstds] = slots;
        means.set(t, mean);
        vars.set(t, var);
        rstds.set(t, rstd);
        Affine::new(mean, rstd, 0.0)
    };
    let bytes = x.size() * size_of::<E>();
    let inner = &sides.along_inner[..];
    let weighted = weight.is_some() || bias.is_some();
    let (grid, [from, to, along]) = grid(&x.shape, &sides.kept(), [&x.strides, &y.strides, inner]);
    let of = Input::new(x, &from);
    let out = Output::new(y, &to);
    let activation = Activation::Identity;
    let work = Work::new(grid, bytes, bytes);
    let rule = |t: usize, m: &[MomentSums], cells: &mut [Affine<E::Compute>]| cells[0] = map(t, m[0].moments());
    if weighted && grid.lines && along.direct() == Some(0) {
        let of_each = |values, default: f64| match rounded(values)? {
            Some(values) => Ok(values),
            None => gathered(std::iter::repeat_n(Real::from_f64(default), sides.count)),
        };
        let (weight, bias) = (of_each(weight, 1.0)?, of_each(bias, 0.0)?);
        let pass = WeightedLines { grid, x: of, out, runs: 1, weight: &weight, bias: &bias, rule: &rule };
        Passes::weighted(&pass, isa, &plan_lines(&work))?;
        return Ok(statistics);
    }
    let plan = plan(&work);
    let reduce = Reduction { grid, inputs: [of], known: &unknown, activation, mask: None };
    if !weighted {
        let apply = Some(Application { grid, inputs: [of], out, second: None, mask: None });
        Passes::forward(&Pass { reduce, parts: 1, apply, cells: 1, samples: 1, rule: &rule }, isa, &plan)?;
        return Ok(statistics);
    }
    let (weight, bias) = (rounded::<E::Compute>(weight)?, rounded::<E::Compute>(bias)?);
    let inputs = [of, parameter(&weight, 1.0, x, inner, &along)?, parameter(&bias, 0.0, x, inner, &along)?];
    let rule = |t: usize, m: &[MomentSums], cells: &mut [Inner<E::Compute>]| cells[0] = Inner(map(t, m[0].moments()));
    let apply = Some(Application { grid, inputs, out, second: None, mask: None });
    Passes::forward_inner(&Pass { reduce, parts: 1, apply, cells: 1, samples: 1, rule: &rule }, isa, &plan)?;
    Ok(statistics)
}

/// dx and, where they are `wanted`, the gradients of weight and bias (row-major over the normalized axes). `mean` and
/// `rstd` are those of the forward pass.
///
/// # Errors
/// An argument does not fit `x`.
pub fn layer_norm_backward<E: Element>(
    dy: &Operand,
    x: &Tensor<E>,
    layer: &Layer,
    mean: &[f64],
    rstd: &[f64],
    weight: Option<&[f64]>,
    wanted: bool,
    dx: &mut TensorMut<E>,
) -> Result<ParameterGradients>
where
    E::Compute: Element,
{
    let sides = layer.sides(&x.shape)?;
    sides.check("weight", weight)?;
    for (name, values) in [("mean", mean), ("rstd", rstd)] {
        if values.len() != sides.statistics {
            let expected = format!("have {} elements (the axes of x that are not normalized)", sides.statistics);
            return Err(Error::new(name, expected, format!("{} elements", values.len())));
        }
    }
    check_shape("dy", &x.shape, &dy.shape)?;
    check_like("out", x, dx)?;
    let isa = isa()?;
    if x.size() == 0 {
        let zeros = || zeros(if wanted { sides.count } else { 0 });
        return Ok(ParameterGradients { weight: zeros()?, bias: zeros()? });
    }
    let rows = Rows { x, dy, sides, mean, rstd, weight, centred: layer.centred, isa };
    let inner = &rows.sides.along_inner[..];
    let (grid, [from, along, to, weights]) =
        grid(&x.shape, &rows.sides.kept(), [&x.strides, &dy.strides, &dx.strides, inner]);
    let (inputs, out) = ([Input::new(x, &from), dy.input(&along)], Output::new(dx, &to));
    let coefficients = |t: usize, sums: GradSums| rows.coefficients(t, sums);
    if wanted && grid.lines && weights.direct() == Some(0) {
        return BackwardRuns { runs: 1, fold: 1, weight }.run(grid, inputs, out, [mean, rstd], isa, coefficients);
    }
    let pieces = grid.cut_runs(size_of::<E::Compute>()).filter(|_| wanted && weights.is_dense());
    // Pieces of rows with something between them would have to be copied, which whole rows have not. (Measured: 1.3 to 2 times.)
    let of = |walk: &Walk, n: usize| walk.cut_runs(n).filter(|of| of.direct().is_some() || walk.direct().is_none());
    let cut = |n: usize| Some([of(&from, n)?, of(&along, n)?, of(&to, n)?]);
    if let Some((n, pieces, [from, along, to])) = pieces.and_then(|(n, pieces)| Some((n, pieces, cut(n)?))) {
        // Sums first, then dx and the parameters' gradients of one piece of all runs after the other.
        let [dys, dots] = rows.sums(grid, inputs, &weights)?;
        let of = |values: &[f64]| gathered((0..pieces.rows).map(|t| values[t / n]));
        let coefficients = |t: usize, _| coefficients(t / n, GradSums { dy: dys[t / n], dot: dots[t / n] });
        let inputs = [Input::new(x, &from), dy.input(&along)];
        let (runs, out) = (BackwardRuns { runs: n, fold: 1, weight }, Output::new(dx, &to));
        return runs.run(pieces, inputs, out, [&of(mean)?, &of(rstd)?], isa, coefficients);
    }
    // Before dx is written, which may be dy's memory.
    let gradients = if wanted { rows.parameter_gradients()? } else { ParameterGradients::default() };
    let bytes = x.size() * size_of::<E>();
    let read = bytes + x.size() * inputs[1].element_size();
    let plan = plan(&Work::new(grid, read, bytes));
    let known = |first: usize, cells: &mut [Affine<E::Compute>]| known_means(&mean[first..], cells);
    let activation = Activation::Identity;
    let Some(weight) = rounded::<E::Compute>(weight)? else {
        let reduce = Reduction { grid, inputs, known: &known, activation, mask: None };
        let rule = |t: usize, sums: &[GradSums], cells: &mut [GradAffine<E::Compute>]| {
            cells[0] = coefficients(t, sums[0]);
        };
        let apply = Some(Application { grid, inputs, out, second: None, mask: None });
        Passes::backward(&Pass { reduce, parts: 1, apply, cells: 1, samples: 1, rule: &rule }, isa, &plan)?;
        return Ok(gradients);
    };
    let [x, dy] = inputs;
    let inputs = [x, dy, Input::new(&Tensor::strided(&weight, &rows.x.shape, inner)?, &weights)];
    let reduce = Reduction { grid, inputs, known: &known, activation, mask: None };
    let rule = |t: usize, sums: &[GradSums], cells: &mut [GradInner<E::Compute>]| {
        cells[0] = GradInner(coefficients(t, sums[0]));
    };
    let apply = Some(Application { grid, inputs, out, second: None, mask: None });
    Passes::backward_inner(&Pass { reduce, parts: 1, apply, cells: 1, samples: 1, rule: &rule }, isa, &plan)?;
    Ok(gradients)
}

/// What all ways of the backward pass know.
struct Rows<'a, E> {
    x: &'a Tensor<'a, E>,
    dy: &'a Operand<'a>,
    sides: Sides,
    mean: &'a [f64],
    rstd: &'a [f64],
    weight: Option<&'a [f64]>,
    centred: bool,
    isa: Isa,
}

impl<E: Element> Rows<'_, E>
where
    E::Compute: Element,
{
    /// dx of statistic t, by its sums.
    fn coefficients(&self, t: usize, sums: GradSums) -> GradAffine<E::Compute> {
        let (mean, rstd, count) = (self.mean[t], self.rstd[t], self.sides.count as f64);
        let sums = sums.about::<E::Compute>(mean);
        let b = -rstd * rstd * sums.dot / count;
        let c = if self.centred { -rstd * sums.dy / count } else { 0.0 };
        GradAffine::new(mean, rstd, rstd, b, c)
    }

    /// Both sums of each statistic, and nothing else.
    fn sums(&self, grid: Grid, [x, dy]: [Input<E::Compute>; 2], weights: &Walk) -> Result<[Vec<f64>; 2]> {
        let each = match rounded::<E::Compute>(self.weight)? {
            Some(weight) => weight,
            None => gathered(std::iter::repeat_n(Real::from_f64(1.0), self.sides.count))?,
        };
        let weight = Tensor::strided(&each, &self.x.shape, &self.sides.along_inner)?;
        let inputs = [x, dy, Input::new(&weight, weights)];
        let mut sums = [zeros(self.sides.statistics)?, zeros(self.sides.statistics)?];
        let slots = sums.each_mut().map(|of| Slots::new(of));
        let rule = |t: usize, sums: &[GradSums], _: &mut [GradInner<E::Compute>]| {
            let [dys, dots] = slots;
            dys.set(t, sums[0].dy);
            dots.set(t, sums[0].dot);
        };
        let known = |first: usize, cells: &mut [Affine<E::Compute>]| known_means(&self.mean[first..], cells);
        let read = self.x.size() * (x.element_size() + dy.element_size());
        let reduce = Reduction { grid, inputs, known: &known, activation: Activation::Identity, mask: None };
        let pass = Pass { reduce, parts: 1, apply: None, cells: 0, samples: 1, rule: &rule };
        Passes::backward_inner(&pass, self.isa, &plan(&Work::new(grid, read, 0)))?;
        Ok(sums)
    }

    /// Σdy·x̂ and Σdy over the axes that are not normalized.
    fn parameter_gradients(&self) -> Result<ParameterGradients> {
        let Rows { x, dy, sides, mean, rstd, isa, .. } = self;
        let mut gradients = ParameterGradients { weight: zeros(sides.count)?, bias: zeros(sides.count)? };
        let outer = &sides.along_outer[..];
        let (grid, [from, along, of]) = grid(&x.shape, &sides.inner, [&x.strides, &dy.strides, outer]);
        // x̂ = (x − mean)·rstd + low, where low is what rounding the mean loses.
        let maps = || mean.iter().zip(*rstd).map(|(&mean, &rstd)| Affine::<E::Compute>::new(mean, rstd, 0.0));
        let columns = [
            gathered(maps().map(|map| map.mean))?,
            gathered(maps().map(|map| map.scale))?,
            gathered(maps().map(|map| map.shift))?,
        ];
        let [mean, rstd, low] = columns.each_ref().map(|values| Tensor::strided(values, &x.shape, outer));
        let inputs = [
            Input::new(x, &from),
            dy.input(&along),
            Input::new(&mean?, &of),
            Input::new(&rstd?, &of),
            Input::new(&low?, &of),
        ];
        let (dweight, dbias) = (Slots::new(&mut gradients.weight), Slots::new(&mut gradients.bias));
        let rule = |j: usize, sums: &[GradSums], _: &mut [Scale<E::Compute>]| {
            dweight.set(j, sums[0].dot);
            dbias.set(j, sums[0].dy);
        };
        let activation = Activation::Identity;
        let reduce = Reduction { grid, inputs, known: &unknown, activation, mask: None };
        let pass = Pass { reduce, parts: 1, apply: None, cells: 0, samples: 1, rule: &rule };
        let read = x.size() * size_of::<E>();
        Passes::parameters(&pass, *isa, &plan(&Work::new(grid, 2 * read, 0)))?;
        Ok(gradients)
    }
}
