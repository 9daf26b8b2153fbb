//! The one mechanism: reduce cells, merge them, make coefficients, apply them.
//!
//! A norm says what is reduced ([`Statistic`]), what is applied ([`Coefficients`]) and how the one becomes the other (a
//! rule). Everything else, layouts, blocks, threads and the order of additions, is here and the same for all norms.

mod application;
mod lines;
mod passes;
mod reduction;
mod room;
mod runs;
mod stages;
mod statistic;
mod weighted;

use std::ops::Range;

pub use application::Application;
use application::Pending;
pub use passes::Passes;
pub use reduction::Reduction;
use reduction::Share;
use room::{Needs, Room, State};
pub use runs::Runs;
pub use statistic::{Known, OfAffine, OfFused, OfInner, OfParameters, Statistic, SumsOf};
pub use weighted::WeightedLines;

use crate::error::{Result, gathered, zeros};
use crate::kernels::apply::Coefficients;
use crate::layout::Grid;
use crate::memory::Memory;
use crate::parallel::{Disjoint, run};
use crate::plan::{Cut, Plan, Schedule, sample_parts, split_statistics};
use crate::simd::{Isa, Real, Stored};
use crate::view::Input;

/// A kept position, and statistics of its runs.
type Piece = (usize, Range<usize>);

/// The parts of a range of statistics that lie in one run and one tile of so many: kept position and statistics of the
/// run.
#[inline]
fn pieces(
    grid: &Grid,
    tile: usize,
    statistics: Range<usize>,
) -> impl DoubleEndedIterator<Item = Piece> + ExactSizeIterator + use<> {
    let width = if grid.lines { grid.rows } else { grid.width };
    let per_run = width.div_ceil(tile);
    let number = move |t: usize| t / width * per_run + t % width / tile;
    let numbers = if statistics.is_empty() { 0..0 } else { number(statistics.start)..number(statistics.end - 1) + 1 };
    numbers.map(move |i| {
        let (k, w) = (i / per_run, i % per_run * tile);
        let start = (k * width + w).max(statistics.start);
        let end = (k * width + (w + tile).min(width)).min(statistics.end);
        (k, start - k * width..end - k * width)
    })
}

/// Columns of the run that these statistics take.
#[inline(always)]
fn columns_of(grid: &Grid, w: &Range<usize>) -> Range<usize> {
    if grid.columns && grid.repeat == 1 { w.start * grid.fold..w.end * grid.fold } else { 0..grid.len }
}

/// A norm's own part: from what was reduced for statistic t to the coefficients of its cells.
pub trait Rule<A, C>: Sync {
    /// Those of the statistics from one on, which have so many partial results and cells each. (A call for each takes as long
    /// as the rest of the rule where they are short.)
    fn all(&self, first: usize, parts: usize, totals: &[A], cells: usize, of: &mut [C]);
}

impl<A, C, F: Fn(usize, &[A], &mut [C]) + Sync> Rule<A, C> for F {
    fn all(&self, first: usize, parts: usize, totals: &[A], cells: usize, of: &mut [C]) {
        for (i, totals) in totals.chunks_exact(parts).enumerate() {
            self(first + i, totals, &mut of[i * cells..(i + 1) * cells]);
        }
    }
}

/// A reduction of `K` operands and what follows from it: `J` coefficients for `L` operands.
pub struct Pass<'a, T: Real, A: Statistic<T, K>, C, const K: usize, const L: usize, const J: usize> {
    /// What is reduced: `parts` adjacent statistics of this grid belong to one of the norm's.
    pub reduce: Reduction<'a, T, K>,
    pub parts: usize,
    /// What is applied to: `cells` adjacent ones belong to one statistic of the norm. Nothing, where only statistics
    /// are wanted.
    pub apply: Option<Application<'a, T, L>>,
    pub cells: usize,
    /// The norm's statistics are those of so many samples, which the rule takes in order within each part of them.
    pub samples: usize,
    pub rule: &'a dyn Rule<A::Total, C>,
}

impl<T, A, C, const K: usize, const L: usize, const J: usize> Pass<'_, T, A, C, K, L, J>
where
    T: Real,
    A: Statistic<T, K>,
    C: Coefficients<T, L, J>,
{
    /// Carries it out.
    /// # Errors
    /// Memory does not suffice; nothing has been written then.
    fn run<E: Memory<T>>(&self, isa: Isa, plan: &Plan) -> Result<()> {
        match plan.schedule {
            Schedule::Fused { statistics } if self.can_take(statistics) => self.fused::<E>(isa, plan, statistics),
            _ => self.split::<E>(isa, plan),
        }
    }

    /// Whether all memory holds these elements, and is used in place.
    fn is_of<E: Stored<T>>(&self) -> bool {
        let Reduction { inputs, mask, .. } = &self.reduce;
        let applied = self.apply.as_ref().is_none_or(Application::is_direct::<E>);
        applied && mask.is_none() && inputs.iter().all(Input::is_direct::<E>)
    }

    /// Whether so many statistics of a sample fill whole runs, where a run repeats them and so cannot be divided.
    fn can_take(&self, statistics: usize) -> bool {
        let per_sample = self.statistics() / self.samples;
        let fills = |grid: &Grid, each: usize| {
            grid.repeat == 1 || [statistics, per_sample].iter().all(|n| (n * each).is_multiple_of(grid.width))
        };
        fills(&self.reduce.grid, self.parts) && self.apply.as_ref().is_none_or(|apply| fills(&apply.grid, self.cells))
    }

    fn statistics(&self) -> usize {
        self.reduce.grid.statistics() / self.parts
    }

    /// Each task takes some statistics of each sample of a part of the samples from start to end; they are applied while
    /// the next ones are reduced, so that memory is read and written at the same time.
    fn fused<E: Memory<T>>(&self, isa: Isa, plan: &Plan, statistics: usize) -> Result<()> {
        let per_sample = self.statistics() / self.samples;
        let across = per_sample.div_ceil(statistics);
        let parts = sample_parts(self.samples);
        let part = self.samples.div_ceil(parts);
        let stream = self.apply.as_ref().is_some_and(|apply| apply.streams::<E>(plan));
        if C::WAITS && !stream && self.by_lines::<E>() {
            let needs = self.needs_of_lines::<E>();
            let task = |task: usize, state: &mut State<T, E, A::Total, C>| {
                let first = task % across * statistics;
                let end = (first + statistics).min(per_sample);
                let samples = task / across * part..(task / across * part + part).min(self.samples);
                if across == 1 {
                    // Of whole samples one line follows the other.
                    return self.take_lines(isa, samples.start * per_sample..samples.end * per_sample, state);
                }
                for sample in samples {
                    self.take_lines(isa, sample * per_sample + first..sample * per_sample + end, state);
                }
            };
            return run(
                plan.threads,
                parts * across,
                || State::new(&needs),
                task,
                |state| self.finish_lines(isa, state),
            );
        }
        let reduce_cut = Cut::new(&self.reduce.grid);
        let apply_cut = self.apply.as_ref().map(|apply| Cut::new(&apply.grid));
        let Reduction { grid, mask, .. } = &self.reduce;
        // (Short runs by themselves are here where they are stored past the caches; measured: of two operands they lose.)
        let plain = mask.is_none() && (grid.in_lines() || !grid.columns) && (!grid.lines || stream && K == 1);
        let together = stream.then_some([statistics * self.cells, per_sample * self.cells]);
        let can_wait = || self.apply.as_ref().is_some_and(|apply| apply.can_wait::<E>(together));
        let waits = C::WAITS && plan.behind && plain && can_wait();
        let needs = self.needs::<E>(statistics.min(per_sample), waits);
        let task = |task: usize, state: &mut State<T, E, A::Total, C>| {
            let first = task % across * statistics;
            let end = (first + statistics).min(per_sample);
            for sample in task / across * part..(task / across * part + part).min(self.samples) {
                let range = sample * per_sample + first..sample * per_sample + end;
                let reduced = range.start * self.parts..range.end * self.parts;
                let State { scratch, stages, outputs, chunk, totals, coefficients, pending, waiting } = &mut *state;
                let room = Room { isa, scratch, stages, outputs };
                let pending_cells = pending.take();
                totals.clear();
                totals.resize(reduced.len(), A::Total::default());
                let share = Share::<T, A, K> {
                    reduction: &self.reduce,
                    cut: &reduce_cut,
                    statistics: reduced,
                    chunks: 0..reduce_cut.chunks,
                    totals,
                    part: chunk,
                };
                if C::WAITS && waits {
                    share.reduce_before(self.pending(pending_cells, waiting), stream, room);
                } else {
                    share.reduce(room);
                }
                coefficients.resize(range.len() * self.cells, C::NONE);
                self.rule.all(range.start, self.parts, totals, self.cells, coefficients);
                let cells = range.start * self.cells..range.end * self.cells;
                if waits {
                    std::mem::swap(coefficients, waiting);
                    *pending = Some(cells);
                } else if let (Some(apply), Some(cut)) = (&self.apply, &apply_cut) {
                    let room = Room { isa, scratch, stages, outputs };
                    // SAFETY: tasks have different samples or different statistics, hence different cells.
                    unsafe { apply.whole(cut, cells, stream, room, coefficients) };
                }
            }
        };
        let last = |state: &mut State<T, E, A::Total, C>| {
            let State { scratch, stages, outputs, pending, waiting, .. } = state;
            if let (Some(cells), Some(apply), Some(cut)) = (pending.take(), &self.apply, &apply_cut) {
                let room = Room { isa, scratch, stages, outputs };
                // SAFETY: as above.
                unsafe { apply.whole(cut, cells, stream, room, waiting) };
            }
        };
        run(plan.threads, parts * across, || State::new(&needs), task, last)
    }

    /// What a thread needs that takes so many statistics at a time.
    fn needs<E: Stored<T>>(&self, statistics: usize, waits: bool) -> Needs {
        let operands =
            self.reduce.needs::<E>().or(self.apply.as_ref().map_or(Needs::default(), Application::needs::<E>));
        let (totals, coefficients) = (statistics * self.parts, statistics * self.cells);
        Needs { totals, coefficients, waiting: if waits { coefficients } else { 0 }, ..operands }
    }

    /// The same where they are taken by lines, in place.
    fn needs_of_lines<E: Stored<T>>(&self) -> Needs {
        let each = self.step::<E>().min(self.statistics());
        let (totals, coefficients) = (each * self.parts, each * self.cells);
        Needs { cells: totals, totals, coefficients, waiting: coefficients, ..Needs::default() }
    }

    /// Cells as what is pending.
    fn pending<'w>(&'w self, cells: Option<Range<usize>>, coefficients: &'w [C]) -> Option<Pending<'w, 'w, T, C, L>> {
        // SAFETY: they are those of one task, and tasks have different samples or different statistics, hence different
        // cells.
        Some(unsafe { Pending::new(self.apply.as_ref()?, cells?, coefficients) })
    }

    /// All threads reduce chunks, one merges, all apply.
    fn split<E: Memory<T>>(&self, isa: Isa, plan: &Plan) -> Result<()> {
        let grid = &self.reduce.grid;
        let cut = Cut::new(grid);
        let all = grid.statistics();
        let tile = self.reduce.together::<E>().min(split_statistics(grid, cut.chunks, plan.threads));
        let work = gathered(pieces(grid, tile, 0..all))?;
        let mut partial = zeros::<A::Total>(cut.chunks * all)?;
        let mut coefficients = gathered(std::iter::repeat_n(C::NONE, self.statistics() * self.cells))?;
        let shared = Disjoint::new(&mut partial);
        let task = |task: usize, state: &mut State<T, E, A::Total, C>| {
            let (k, w) = work[task % work.len()].clone();
            let chunk = task / work.len();
            let statistics = k * grid.width + w.start..k * grid.width + w.end;
            // SAFETY: pieces are disjoint, and each is taken once for each chunk.
            let totals = unsafe { shared.part(chunk * all + statistics.start..chunk * all + statistics.end) };
            let State { scratch, stages, outputs, chunk: part, .. } = state;
            let chunks = chunk..chunk + 1;
            let share = Share::<T, A, K> { reduction: &self.reduce, cut: &cut, statistics, chunks, totals, part };
            share.reduce(Room { isa, scratch, stages, outputs });
        };
        let needs = self.reduce.needs::<E>();
        run(plan.threads, work.len() * cut.chunks, || State::new(&needs), task, |_| ())?;
        let (totals, rest) = partial.split_at_mut(all);
        for part in rest.chunks_exact(all) {
            for (total, &part) in totals.iter_mut().zip(part) {
                *total = A::merge(*total, part);
            }
        }
        self.rule.all(0, self.parts, totals, self.cells, &mut coefficients);
        if let Some(apply) = &self.apply {
            apply.run::<E, C, J>(isa, plan, &coefficients, true)?;
        }
        Ok(())
    }
}
