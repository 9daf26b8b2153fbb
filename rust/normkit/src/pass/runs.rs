//! The backward pass where each statistic is a single run, with weights that vary inside it and are the same for each
//! sample: layer norm's elements, or the channels of group norm's groups where they are too short to be taken one by one. Or
//! where runs are pieces of layer norm's rows, whose sums are known: then those of the pieces do not matter.
//!
//! The gradients of the parameters are added up, position by position, beside the statistics' sums, so that operands
//! are read once. A task takes some runs of each of its samples: where it is a single one, those of several samples at a
//! time.

use std::ops::Range;

use super::passes::Passes;
use super::{Known, Rule};
use crate::error::{Result, room};
use crate::kernels::apply::{Affine, Coefficients, GradInner, affine, apply_lines};
use crate::kernels::flow::Weighted;
use crate::kernels::gradients::GradSums;
use crate::kernels::lines::{gradient_lines, lesser_lines};
use crate::kernels::reduce::{Zeros, all_trusted, trusted};
use crate::kernels::{Pattern, TOGETHER};
use crate::layout::Grid;
use crate::parallel::{Disjoint, run};
use crate::plan::{COPIED, Plan, runs_block, runs_parts, runs_together};
use crate::simd::{Aligned, Isa, Kernel, LinesMut, Real, Simd, Tile, TileMut, inlined};
use crate::view::{Input, Output};

/// Elements that are reduced at a time, if they are a run at least: few enough to be in the first-level cache when dx is
/// made of them.
const STEP: usize = 6400;

/// Such a pass.
pub struct Runs<'a, T> {
    /// Each run is a statistic, or a piece of one.
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
    /// The coefficients of each run, by its sums, where those are its statistic's.
    pub rule: &'a dyn Rule<GradSums, GradInner<T>>,
    /// What the gradients of weight and bias are added to, part by part.
    pub(crate) gradients: [Disjoint<'a, f64>; 2],
}

/// What a thread keeps.
struct State<T> {
    /// Copies of x, dy and dx, where these cannot be used in place.
    copies: [Aligned<T>; 3],
    /// Weights by element.
    weights: Aligned<T>,
    sums: [Aligned<T>; 2],
    /// What says where these are zero.
    sizes: Aligned<T>,
    known: Vec<Affine<T>>,
    totals: Vec<GradSums>,
    cells: Vec<GradInner<T>>,
}

impl<T: Real> Runs<'_, T> {
    /// Whether all memory holds `T`, and is used in place.
    fn is_direct(&self) -> bool {
        self.inputs.iter().all(Input::is_direct::<T>) && self.out.is_direct::<T>()
    }

    /// How many lines are taken at a time: where they are copied, none that lie between.
    fn lines(&self) -> usize {
        if self.is_direct() {
            (STEP / self.grid.len).max(1)
        } else if self.runs > 1 {
            1
        } else {
            (COPIED / self.grid.len).max(1)
        }
    }

    fn samples(&self) -> usize {
        self.grid.rows / self.runs
    }

    /// x̂ of each of these lines, so far apart; of those that follow each other at once.
    #[inline(always)]
    fn ask(&self, lines: Range<usize>, every: usize, known: &mut Vec<Affine<T>>) {
        let n = lines.len().div_ceil(every);
        known.resize(n, Affine::EMPTY);
        let (step, each) = if every == 1 { (n, n) } else { (every, 1) };
        for (t, of) in lines.step_by(step).zip(known.chunks_mut(each)) {
            (self.known)(t, of);
        }
    }
}

impl<T: Passes> Runs<'_, T> {
    /// Carries it out.
    pub(super) fn run(&self, isa: Isa, plan: &Plan) -> Result<()> {
        let each = runs_together(&self.grid, self.runs);
        let across = self.runs.div_ceil(each);
        let parts = runs_parts(&self.grid, self.runs);
        let part = self.samples().div_ceil(parts);
        let (elements, lines) = (each * self.grid.len, self.lines());
        let direct = self.is_direct();
        let stream = plan.stream && direct;
        let copied = if direct { 0 } else { lines * self.grid.len };
        let state = || {
            Ok(State {
                copies: [Aligned::new(copied)?, Aligned::new(copied)?, Aligned::new(copied)?],
                weights: Aligned::new(elements)?,
                sums: [Aligned::new(elements)?, Aligned::new(elements)?],
                sizes: Aligned::new(elements)?,
                known: room(lines)?,
                totals: room(lines)?,
                cells: room(lines)?,
            })
        };
        let task = |task: usize, state: &mut State<T>| {
            let (number, first) = (task / across, task % across * each);
            let runs = first..(first + each).min(self.runs);
            let samples = number * part..((number + 1) * part).min(self.samples());
            debug_assert!(!samples.is_empty());
            T::dispatch(isa, Take { pass: self, part: number, samples, runs, stream, state });
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

impl<T: Real> Take<'_, '_, T> {
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

    /// How far apart lines are that are taken together.
    fn every(&self) -> usize {
        if self.single() { self.pass.runs } else { 1 }
    }

    /// Lines of these samples that are taken together, and the first one's run of the task: they follow each other, runs of a
    /// sample, or samples of a single run each.
    fn steps(&self, samples: Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> + use<T> {
        let (single, runs, count, most) = (self.single(), self.pass.runs, self.runs.len(), self.pass.lines());
        let (first, start) = (self.number(0, 0), samples.start);
        let (heads, across) = if single { (start..start + 1, samples.len()) } else { (samples, count) };
        heads.flat_map(move |sample| {
            let number = sample * runs + first;
            (0..across).step_by(most).map(move |at| {
                let end = across.min(at + most);
                if single {
                    (number + at * runs..number + (end - 1) * runs + 1, 0)
                } else {
                    (number + at..number + end, at)
                }
            })
        })
    }

    /// The sums of the lines, of which the first is run `run` of the task, or each is its only run; then dx, if it is
    /// wanted.
    #[inline(always)]
    fn step<S: Simd<T>>(&mut self, s: S, lines: Range<usize>, run: usize, wanted: bool) {
        let (len, single, every) = (self.len(), self.single(), self.every());
        let n = lines.len().div_ceil(every);
        let State { copies: [x, dy, dx], weights, sums, known, totals, cells, .. } = &mut *self.state;
        let [of_x, of_dy] = &self.pass.inputs;
        let x = of_x.tile(s, 0, &lines, &(0..len), x).every(every).rows_as_lines();
        let dy = of_dy.tile(s, 0, &lines, &(0..len), dy).every(every).rows_as_lines();
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
        // Runs that follow each other are asked for at once.
        let (step, each) = if every == 1 { (n, n) } else { (every, 1) };
        self.pass.ask(lines.clone(), every, known);
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
        cells.resize(n, <GradInner<T> as Coefficients<T, 3, 5>>::NONE);
        for ((t, sums), of) in lines.clone().step_by(step).zip(totals.chunks(each)).zip(cells.chunks_mut(each)) {
            self.pass.rule.all(t, 1, sums, 1, of);
        }
        // SAFETY: tasks have different samples or different runs.
        unsafe {
            self.pass.out.write(
                s,
                0,
                &lines,
                &(0..len),
                dx,
                #[inline(always)]
                |out| apply_lines(s, [x, dy, weight], &out.every(every).rows_as_lines(), cells, false, self.stream),
            );
        }
    }

    /// Adds the sums of these samples to the task's.
    #[inline(always)]
    fn flush<S: Simd<T>>(&mut self, s: S, pattern: Pattern, samples: Range<usize>, parameters: &mut [&mut [f64]; 2]) {
        let mut zeros = Zeros::new(false);
        if pattern.fold == 1 {
            let [dots, dys] = self.state.sums.each_ref().map(Aligned::values);
            let good = all_trusted(s, [dots, dys]);
            if !good {
                s.call(LesserOfRuns { take: self, samples: samples.clone() });
                zeros = Zeros::new(true);
            }
            let State { sums: [dots, dys], sizes, .. } = &*self.state;
            let [dots, dys] = [dots, dys].map(Aligned::values);
            if good || all_trusted(s, [dots, dys, sizes.values()]) {
                for (into, of) in parameters.iter_mut().zip([dots, dys]) {
                    for (into, of) in into.iter_mut().zip(of) {
                        *into += of.to_f64();
                    }
                }
                return;
            }
        }
        let [of_dots, of_dys] = std::mem::replace(&mut self.state.sums, [const { Aligned::EMPTY }; 2]);
        for part in pattern.parts() {
            let mut dots = pattern.sums(of_dots.values(), part.start);
            let mut dys = pattern.sums(of_dys.values(), part.start);
            let good = |dot: f64, dy: f64| dy.is_finite() & trusted::<T>(dot);
            let mut wrong = false;
            for i in 0..TOGETHER {
                wrong |= !good(dots[i], dys[i]) & (i < part.len());
            }
            if wrong {
                for (i, w) in part.clone().enumerate() {
                    let mut zero = || {
                        zeros.at(pattern, w, |ask| {
                            if ask {
                                s.call(LesserOfRuns { take: &mut *self, samples: samples.clone() });
                            }
                            self.state.sizes.values()
                        })
                    };
                    let fine = dys[i].is_finite() && (trusted::<T>(dots[i]) || (dots[i] == 0.0 && zero()));
                    if !fine {
                        [dots[i], dys[i]] = self.again(w, samples.clone());
                    }
                }
            }
            for (into, of) in parameters.iter_mut().zip([dots, dys]) {
                let into = &mut into[part.clone()];
                if let Some(into) = into.first_chunk_mut::<TOGETHER>() {
                    for i in 0..TOGETHER {
                        into[i] += of[i];
                    }
                } else {
                    for (into, of) in into.iter_mut().zip(of) {
                        *into += of;
                    }
                }
            }
        }
        self.state.sums = [of_dots, of_dys];
    }

    /// The sums of parameter `w` of the task in float64 throughout: some have left the range of `T`, or are zero.
    #[cold]
    #[inline(never)]
    fn again(&self, w: usize, samples: Range<usize>) -> [f64; 2] {
        let (fold, len) = (self.pass.fold, self.len());
        let (run, start) = (w * fold / len, w * fold % len);
        let [mut dots, mut dys] = [0.0; 2];
        let [x, dy] = &self.pass.inputs;
        for sample in samples {
            let t = self.number(sample, run);
            let mut known = [Affine::EMPTY];
            (self.pass.known)(t, &mut known);
            let [Affine { mean, scale, shift }] =
                known.map(|of| Affine { mean: of.mean.to_f64(), scale: of.scale.to_f64(), shift: of.shift.to_f64() });
            for i in start..start + fold {
                // As the kernels see them.
                let [x, dy] = [x, dy].map(|of| T::from_f64(of.value(0, t, i)).to_f64());
                dots += dy * ((x - mean) * scale + shift);
                dys += dy;
            }
        }
        [dots, dys]
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
        if let Some(given) = self.pass.weight {
            let given = &given[first..][..pattern.width];
            pattern.expand(weights, |w| T::from_f64(given[w]));
        } else {
            weights.fill(T::from_f64(1.0));
        }
        for of in &mut self.state.sums {
            of.get(count * len).fill(T::ZERO);
        }
        let at = self.part * (self.pass.runs * len / fold) + first;
        let mut parameters = self.pass.gradients.each_ref().map(
            #[inline(always)]
            // SAFETY: tasks have different parts or different runs.
            |of| unsafe { of.part(at..at + pattern.width) },
        );
        let block = runs_block(&self.pass.grid, self.pass.runs);
        for start in self.samples.clone().step_by(block) {
            let samples = start..(start + block).min(self.samples.end);
            // Where dx is an operand's memory, gradients are taken first: some terms may have to be taken again.
            let in_place = self.pass.inputs.iter().any(|of| of.begins_with(&self.pass.out));
            let phases = if in_place { &[false, true][..] } else { &[true] };
            for (phase, &wanted) in phases.iter().enumerate() {
                for (lines, run) in self.steps(samples.clone()) {
                    self.step(s, lines, run, wanted);
                }
                if phase == 0 {
                    self.flush(s, pattern, samples.clone(), &mut parameters);
                }
                for of in &mut self.state.sums {
                    of.values_mut().fill(T::ZERO);
                }
            }
        }
    }
}

/// The sum of the lesser of |dy| and |x̂| of each parameter, where not all sums are good: they are zero of masked tokens and of
/// dead features. (To ask that of each parameter by itself would take twenty times as long as the pass.)
struct LesserOfRuns<'t, 'w, 'a, T> {
    take: &'t mut Take<'w, 'a, T>,
    samples: Range<usize>,
}

impl<T: Real> LesserOfRuns<'_, '_, '_, T> {
    /// The elements of a run from the first to the last whose sum is not good, in steps: a feature or two may be all that is
    /// dead.
    #[inline(always)]
    fn columns<S: Simd<T>>(&self, s: S) -> Range<usize> {
        const STEP: usize = 64;
        let len = self.take.len();
        // (Where several elements have one parameter, sums are not here while they are looked at.)
        if self.take.runs.len() > 1 || self.take.pass.fold > 1 {
            return 0..len;
        }
        let [dots, dys] = self.take.state.sums.each_ref().map(Aligned::values);
        let (mut first, mut last) = (len, 0);
        for start in (0..len).step_by(STEP) {
            let end = len.min(start + STEP);
            if !all_trusted(s, [&dots[start..end], &dys[start..end]]) {
                (first, last) = (first.min(start), end);
            }
        }
        debug_assert!(first < last, "not all are good");
        first..last
    }
}

impl<T: Real> Kernel<T> for LesserOfRuns<'_, '_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let columns = self.columns(s);
        let LesserOfRuns { take, samples } = self;
        let (len, count) = (take.len(), take.runs.len());
        take.state.sizes.get(count * len).fill(T::ZERO);
        for (lines, run) in take.steps(samples) {
            let (every, single) = (take.every(), take.single());
            let n = lines.len().div_ceil(every);
            let State { copies: [copy_x, copy_dy, _], sizes, known, .. } = &mut *take.state;
            let [x, dy] = &take.pass.inputs;
            let x = x.tile(s, 0, &lines, &columns, copy_x).every(every).rows_as_lines();
            let dy = dy.tile(s, 0, &lines, &columns, copy_dy).every(every).rows_as_lines();
            let of = if single {
                TileMut::new(&mut sizes.values_mut()[columns.clone()], 1, columns.len()).repeated(n)
            } else {
                TileMut::new(&mut sizes.values_mut()[run * len..], n, len).rows_as_lines()
            };
            take.pass.ask(lines, every, known);
            lesser_lines(s, [x, dy], of, known);
        }
    }
}
