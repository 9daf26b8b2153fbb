//! The backward pass where each statistic is a single run, with weights that vary inside it and are the same for each
//! sample: layer norm's elements, or the channels of group norm's groups where they are too short to be taken one by one.
//!
//! The gradients of the parameters are added up, position by position, beside the statistics' sums, so that operands
//! are read once. A task takes some runs of each of its samples: where it is a single one, those of several samples at a
//! time.

use std::ops::Range;

use super::Known;
use super::passes::Passes;
use crate::error::{Result, room};
use crate::kernels::Pattern;
use crate::kernels::apply::{Affine, GradAffine, GradInner, affine, apply_lines};
use crate::kernels::flow::Weighted;
use crate::kernels::lines::gradient_lines;
use crate::kernels::reduce::{GradSums, trusted};
use crate::layout::Grid;
use crate::parallel::{Slots, run};
use crate::plan::{Plan, runs_parts, runs_together};
use crate::simd::{Aligned, Isa, Kernel, Lines, LinesMut, Real, Simd, Tile, TileMut, inlined};
use crate::view::{Input, Output};

/// Samples whose terms are added to one float lane.
const BLOCK: usize = 64;
/// Elements that are reduced at a time, if they are a run at least: few enough to be in the first-level cache when dx is
/// made of them.
const STEP: usize = 6400;

/// The coefficients of run t, by its sums.
pub(crate) type RunRule<'a, T> = &'a (dyn Fn(usize, GradSums) -> GradAffine<T> + Sync);

/// Such a pass.
pub struct Runs<'a, T> {
    /// Each run is a statistic.
    pub grid: Grid,
    /// Runs of a sample.
    pub runs: usize,
    /// Adjacent elements with the same parameters.
    pub fold: usize,
    /// x and dy.
    pub inputs: [Input<'a, T>; 2],
    pub weight: Option<&'a [f64]>,
    pub out: Output<'a, T>,
    /// x̂ of each run.
    pub known: Known<'a, T>,
    pub(crate) rule: RunRule<'a, T>,
    /// Where the gradients of weight and bias go, part by part.
    pub(crate) gradients: [Slots<'a>; 2],
}

/// What a thread keeps.
struct State<T> {
    /// Weights by element.
    weights: Aligned<T>,
    sums: [Aligned<T>; 2],
    known: Vec<Affine<T>>,
    totals: Vec<GradSums>,
    /// Gradients of parameters: of a block of samples, of all.
    block: Vec<GradSums>,
    parameters: Vec<GradSums>,
    cells: Vec<GradInner<T>>,
}

impl<'a, T: Passes> Runs<'a, T> {
    /// Whether such a pass can be made: runs are short, and used in place.
    pub fn fits(grid: &Grid, inputs: &[Input<'a, T>; 2], out: &Output<'a, T>) -> bool {
        grid.lines && inputs.iter().all(Input::is_direct::<T>) && out.is_direct::<T>()
    }

    fn samples(&self) -> usize {
        self.grid.rows / self.runs
    }

    /// Carries it out.
    pub(super) fn run(&self, isa: Isa, plan: &Plan) -> Result<()> {
        let each = runs_together(&self.grid, self.runs);
        let across = self.runs.div_ceil(each);
        let parts = runs_parts(&self.grid, self.runs);
        let part = self.samples().div_ceil(parts);
        let (elements, lines) = (each * self.grid.len, (STEP / self.grid.len).max(1));
        let parameters = elements / self.fold;
        let stream = plan.stream;
        let state = || {
            Ok(State {
                weights: Aligned::new(elements)?,
                sums: [Aligned::new(elements)?, Aligned::new(elements)?],
                known: room(lines)?,
                totals: room(lines)?,
                block: room(parameters)?,
                parameters: room(parameters)?,
                cells: room(lines)?,
            })
        };
        let task = |task: usize, state: &mut State<T>| {
            let (number, first) = (task / across, task % across * each);
            let runs = first..(first + each).min(self.runs);
            let samples = number * part..((number + 1) * part).min(self.samples());
            if !samples.is_empty() {
                T::dispatch(isa, Take { pass: self, part: number, samples, runs, stream, state });
            }
        };
        run(plan.threads, parts * across, state, task, |_| ())
    }
}

/// Some runs of some samples.
struct Take<'w, 'a, T> {
    pass: &'w Runs<'a, T>,
    part: usize,
    samples: Range<usize>,
    runs: Range<usize>,
    stream: bool,
    state: &'w mut State<T>,
}

const DIRECT: &str = "asked by `fits`";

impl<'a, T: Real> Take<'_, 'a, T> {
    fn len(&self) -> usize {
        self.pass.grid.len
    }

    /// The number of a run of the task, in a sample.
    fn number(&self, sample: usize, run: usize) -> usize {
        sample * self.pass.runs + self.runs.start + run
    }

    /// Whether a task has a single run of each sample.
    fn single(&self) -> bool {
        self.runs.len() == 1
    }

    /// Every so many lines of an operand.
    #[inline(always)]
    fn lines(&self, i: usize, lines: &Range<usize>, every: usize) -> Lines<'a, T> {
        self.pass.inputs[i].direct::<T>(0, lines, &(0..self.len())).expect(DIRECT).every(every).rows_as_lines()
    }

    /// The sums of the lines, of which the first is run `run` of the task, or each is its only run; then dx, if it is
    /// wanted.
    #[inline(always)]
    fn step<S: Simd<T>>(&mut self, s: S, lines: Range<usize>, run: usize, wanted: bool) {
        let (len, single) = (self.len(), self.single());
        let every = if single { self.pass.runs } else { 1 };
        let n = lines.len().div_ceil(every);
        let [x, dy] = [0, 1].map(
            #[inline(always)]
            |i| self.lines(i, &lines, every),
        );
        // SAFETY: tasks have different samples or different runs.
        let out = unsafe { self.pass.out.tile::<T>(0, &lines, &(0..len)) }.expect(DIRECT).every(every).rows_as_lines();
        let State { weights, sums, known, totals, cells, .. } = &mut *self.state;
        let weight = if single {
            Tile::new(weights.values(), 1, len).repeated(n)
        } else {
            Tile::new(&weights.values()[run * len..], n, len).rows_as_lines()
        };
        let beside: [LinesMut<T>; 2] = sums.each_mut().map(|of| {
            let of = of.values_mut();
            if single {
                TileMut::new(of, 1, len).repeated(n)
            } else {
                TileMut::new(&mut of[run * len..], n, len).rows_as_lines()
            }
        });
        known.resize(n, Affine::EMPTY);
        for (t, of) in lines.clone().step_by(every).zip(known.chunks_mut(if single { 1 } else { n })) {
            (self.pass.known)(t, of);
        }
        totals.clear();
        totals.resize(n, GradSums::default());
        let add = |l: usize, sums: GradSums| totals[l] = sums;
        let terms = inlined(
            #[inline(always)]
            |[x, dy, _]: [S::V; 3], Affine { mean, scale, shift }| [s.mul(dy, affine(s, x, [mean, scale, shift])), dy],
        );
        gradient_lines(s, [x, dy, weight], beside, terms, known, Weighted, &mut (), add);
        if !wanted {
            return;
        }
        cells.clear();
        cells.extend(lines.step_by(every).zip(&*totals).map(|(t, &sums)| GradInner((self.pass.rule)(t, sums))));
        apply_lines(s, [x, dy, weight], &out, cells, false, self.stream);
    }

    /// Adds the sums of these samples to the task's.
    #[inline(always)]
    fn flush(&mut self, pattern: Pattern, samples: Range<usize>) {
        let mut block = std::mem::take(&mut self.state.block);
        let [dots, dys] = &self.state.sums;
        let (dots, dys) = (dots.values(), dys.values());
        block.clear();
        for part in pattern.parts() {
            let (dots, dys) = (pattern.sums(dots, part.start), pattern.sums(dys, part.start));
            // Not `extend`: its loop would be the standard library's, compiled for any processor.
            for (dot, dy) in dots.into_iter().zip(dys).take(part.len()) {
                block.push(GradSums { dot, dy });
            }
        }
        let mut wrong = false;
        for of in &block {
            wrong |= !(of.dy.is_finite() & trusted::<T>(of.dot));
        }
        if wrong {
            for (w, of) in block.iter_mut().enumerate() {
                if !(of.dy.is_finite() && trusted::<T>(of.dot)) {
                    *of = self.again(w, samples.clone());
                }
            }
        }
        for (parameter, &of) in self.state.parameters.iter_mut().zip(&block) {
            *parameter = parameter.add(of);
        }
        self.state.block = block;
    }

    /// The sums of parameter `w` of the task in float64 throughout: some have left the range of `T`, or are zero.
    #[cold]
    #[inline(never)]
    fn again(&self, w: usize, samples: Range<usize>) -> GradSums {
        let (fold, len) = (self.pass.fold, self.len());
        let (run, start) = (w * fold / len, w * fold % len);
        let mut sums = GradSums::default();
        for sample in samples {
            let t = self.number(sample, run);
            let [x, dy] = [0, 1].map(|i| self.lines(i, &(t..t + 1), 1).line(0));
            let mut known = [Affine::EMPTY];
            (self.pass.known)(t, &mut known);
            let [Affine { mean, scale, shift }] =
                known.map(|of| Affine { mean: of.mean.to_f64(), scale: of.scale.to_f64(), shift: of.shift.to_f64() });
            for i in start..start + fold {
                let dy = dy.get(0, i).to_f64();
                let dot = dy * ((x.get(0, i).to_f64() - mean) * scale + shift);
                sums = sums.add(GradSums { dy, dot });
            }
        }
        sums
    }
}

impl<T: Real> Kernel<T> for Take<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(mut self, s: S) {
        let (count, len, fold) = (self.runs.len(), self.len(), self.pass.fold);
        let pattern = Pattern { repeat: 1, width: count * len / fold, fold };
        let first = self.runs.start * len / fold;
        let weights = self.state.weights.get(count * len);
        pattern.expand(weights, |w| T::from_f64(self.pass.weight.map_or(1.0, |given| given[first + w])));
        for of in &mut self.state.sums {
            of.get(count * len).fill(T::ZERO);
        }
        self.state.parameters.clear();
        self.state.parameters.resize(pattern.width, GradSums::default());
        let most = (STEP / len).max(1);
        for start in self.samples.clone().step_by(BLOCK) {
            let samples = start..(start + BLOCK).min(self.samples.end);
            // Lines that are taken together follow each other: runs of a sample, or samples of a single run each.
            let (single, runs) = (self.single(), self.pass.runs);
            let across = if single { samples.len() } else { count };
            // Where dx is dy's memory, gradients are taken first: some terms may have to be taken again.
            let phases = if self.pass.inputs[1].begins_with(&self.pass.out) { &[false, true][..] } else { &[true] };
            for (phase, &wanted) in phases.iter().enumerate() {
                for head in if single { start..start + 1 } else { samples.clone() } {
                    let number = self.number(head, 0);
                    for at in (0..across).step_by(most) {
                        let end = across.min(at + most);
                        let lines = if single {
                            number + at * runs..number + (end - 1) * runs + 1
                        } else {
                            number + at..number + end
                        };
                        self.step(s, lines, if single { 0 } else { at }, wanted);
                    }
                }
                if phase == 0 {
                    self.flush(pattern, samples.clone());
                }
                for of in &mut self.state.sums {
                    of.values_mut().fill(T::ZERO);
                }
            }
        }
        let at = self.part * (self.pass.runs * len / fold) + first;
        let [dweight, dbias] = self.pass.gradients.map(|of| of.part(at..at + pattern.width));
        for (w, of) in self.state.parameters.iter().enumerate() {
            dweight.set(w, of.dot);
            dbias.set(w, of.dy);
        }
    }
}
