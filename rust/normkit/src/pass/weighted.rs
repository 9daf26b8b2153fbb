//! The forward pass where each statistic is a single short run, with weights and biases that vary inside it and are the same
//! for each sample: layer norm's rows, or group norm's groups where channels are too short to be taken one by one. Weights
//! are not an operand like x, so that x may be of halves, which are not copied.

use std::marker::PhantomData;
use std::ops::Range;

use super::Rule;
use super::passes::Passes;
use crate::error::{Result, room};
use crate::kernels::apply::{Affine, apply_weights};
use crate::kernels::lines::moments_lines;
use crate::kernels::moments::MomentSums;
use crate::layout::Grid;
use crate::memory::Memory;
use crate::parallel::run;
use crate::plan::{Plan, lines_of_task, lines_together};
use crate::simd::{Aligned, Isa, Kernel, Real, Simd, Stored, streams_alone};
use crate::view::{Input, Output};

/// Such a pass.
pub struct WeightedLines<'a, T> {
    /// Each run is a statistic.
    pub grid: Grid,
    pub x: Input<'a, T>,
    pub out: Output<'a, T>,
    /// Runs of a sample.
    pub runs: usize,
    /// One of each for each element of a sample.
    pub weight: &'a [T],
    pub bias: &'a [T],
    /// The affine map of each run, by its moments.
    pub rule: &'a dyn Rule<MomentSums, Affine<T>>,
}

/// What a thread keeps.
struct State<T> {
    /// Copies of x and y, where these cannot be used in place.
    copies: [Aligned<T>; 2],
    sums: Vec<MomentSums>,
    cells: Vec<Affine<T>>,
}

impl<T: Passes> WeightedLines<'_, T> {
    /// Whether all memory holds these elements, and is used in place.
    pub(super) fn is_of<E: Stored<T>>(&self) -> bool {
        self.x.is_direct::<E>() && self.out.is_direct::<E>()
    }

    /// Carries it out.
    pub(super) fn run<E: Memory<T>>(&self, isa: Isa, plan: &Plan) -> Result<()> {
        let direct = self.is_of::<E>();
        let (together, rows) = (lines_together(&self.grid, !direct), self.grid.rows);
        let copied = if direct { 0 } else { together * self.grid.len };
        let stream = plan.stream && direct && streams_alone::<E>(self.grid.len);
        let each = lines_of_task(&self.grid, together, plan.threads);
        let state = || {
            Ok(State {
                copies: [Aligned::new(copied)?, Aligned::new(copied)?],
                sums: room(together)?,
                cells: room(together)?,
            })
        };
        let task = |task: usize, state: &mut State<T>| {
            for start in (task * each..rows.min((task + 1) * each)).step_by(together) {
                let lines = start..rows.min(start + together).min((task + 1) * each);
                T::dispatch(isa, Take::<T, E> { pass: self, lines, stream, state, of: PhantomData });
            }
        };
        run(plan.threads, rows.div_ceil(each), state, task, |_| ())
    }
}

/// Some lines.
struct Take<'w, 'a, T, E> {
    pass: &'w WeightedLines<'a, T>,
    lines: Range<usize>,
    stream: bool,
    state: &'w mut State<T>,
    of: PhantomData<E>,
}

impl<T: Real, E: Memory<T>> Kernel<T> for Take<'_, '_, T, E> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Take { pass: WeightedLines { grid, x, out, runs, weight, bias, rule }, lines, stream, state, .. } = self;
        let State { copies: [copy, copy_out], sums, cells } = state;
        let x = E::tile(x, s, 0, &lines, &(0..grid.len), copy);
        sums.clear();
        sums.resize(lines.len(), MomentSums::default());
        moments_lines(s, x.rows_as_lines(), sums, &mut ());
        cells.resize(lines.len(), Affine::EMPTY);
        rule.all(lines.start, 1, sums, 1, cells);
        // SAFETY: each line is one task's.
        unsafe {
            E::fill(
                out,
                s,
                0,
                &lines,
                &(0..grid.len),
                copy_out,
                #[inline(always)]
                |out| {
                    apply_weights(
                        s,
                        x,
                        out,
                        #[inline(always)]
                        |r| {
                            let first = if *runs == 1 { 0 } else { (lines.start + r) % runs * grid.len };
                            (cells[r], [&weight[first..][..grid.len], &bias[first..][..grid.len]])
                        },
                        stream,
                    );
                },
            );
        }
    }
}
