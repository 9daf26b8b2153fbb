//! The second half: coefficients to outputs.

use std::ops::Range;

use super::stages::{Stages, tiles};
use super::{Needs, Piece, Room, State, columns_of, pieces};
use crate::error::{Result, gathered};
use crate::kernels::Pattern;
use crate::kernels::apply::{Coefficients, apply_both, apply_columns, apply_lines, apply_rows};
use crate::kernels::reduce::Scratch;
use crate::layout::Grid;
use crate::memory::Memory;
use crate::parallel::run;
use crate::plan::{Cut, Plan, Steps, split_statistics, tile_statistics};
use crate::simd::{
    Aligned, Isa, Kernel, LINE, Lines, LinesMut, Real, Simd, Stored, Tile, TileMut, Waiting, inlined_next, mapped,
    streams_alone,
};
use crate::view::{Input, Output};

/// Operands to apply coefficients to.
pub struct Application<'a, T, const K: usize> {
    pub grid: Grid,
    pub inputs: [Input<'a, T>; K],
    pub out: Output<'a, T>,
    /// Where the coefficients' second output goes.
    pub second: Option<Output<'a, T>>,
    /// Where outputs are not 0, if they are somewhere.
    pub mask: Option<Input<'a, T>>,
}

impl<T: Real, const K: usize> Application<'_, T, K> {
    /// Whether all memory holds these elements, and is used in place.
    pub(super) fn is_direct<E: Stored<T>>(&self) -> bool {
        let outputs = self.out.is_direct::<E>() && self.second.as_ref().is_none_or(Output::is_direct::<E>);
        outputs && self.mask.is_none() && self.inputs.iter().all(Input::is_direct::<E>)
    }

    /// Whether outputs are stored past the caches: as planned, but for lines that would leave too much over at both ends.
    pub(super) fn streams<E: Stored<T>>(&self, plan: &Plan) -> bool {
        let Grid { lines, len, .. } = self.grid;
        let adjoin =
            len >= LINE / size_of::<T>() && self.out.adjoins(len) && self.inputs.iter().all(|of| of.adjoins(len));
        plan.stream && self.is_direct::<E>() && (!lines || adjoin || streams_alone::<E>(len))
    }

    /// How what is applied is divided.
    fn steps<E: Stored<T>>(&self) -> Steps {
        if self.is_direct::<E>() { Steps::WHOLE } else { Steps::of_copies(&self.grid) }
    }

    /// How many statistics are taken at a time, where there are so many. Lines that need no copies: all, as they make one
    /// long run where they adjoin.
    fn together<E: Stored<T>>(&self, all: usize) -> usize {
        let many = self.grid.in_lines() && self.is_direct::<E>();
        if many { all.max(1) } else { tile_statistics(&self.grid) }
    }

    /// What a thread needs for it.
    pub(super) fn needs<E: Stored<T>>(&self) -> Needs {
        let outputs = [Some(&self.out), self.second.as_ref()];
        Needs::of::<T, E>(&self.grid, self.steps::<E>(), &self.inputs, self.mask.is_some(), outputs)
    }

    /// Cells from start to end, last first: what was read last is still in cache.
    /// # Safety
    /// No other thread touches these cells' elements of the output meanwhile.
    pub(super) unsafe fn whole<E: Memory<T>, C: Coefficients<T, K, J>, const J: usize>(
        &self,
        cut: &Cut,
        range: Range<usize>,
        stream: bool,
        mut room: Room<T, E>,
        coefficients: &[C],
    ) {
        for piece in pieces(&self.grid, self.together::<E>(range.len()), range.clone()).rev() {
            let at = piece.0 * self.grid.width + piece.1.start - range.start;
            let cells = &coefficients[at..at + piece.1.len()];
            // SAFETY: as the caller vouches.
            unsafe { self.chunks(cut, piece, 0..cut.chunks, stream, &mut room, cells) };
        }
    }

    /// A piece of the cells in some chunks, from the last to the first.
    /// # Safety
    /// No other thread touches these cells' elements of the output meanwhile.
    unsafe fn chunks<E: Memory<T>, C: Coefficients<T, K, J>, const J: usize>(
        &self,
        cut: &Cut,
        piece: Piece,
        chunks: Range<usize>,
        stream: bool,
        room: &mut Room<T, E>,
        cells: &[C],
    ) {
        let Room { isa, scratch, stages, outputs, .. } = room;
        T::dispatch(
            *isa,
            ApplyChunks { application: self, cut, piece, chunks, stream, scratch, stages, outputs, cells },
        );
    }

    /// Applies the coefficients of all cells, backwards if what was read last may still be in cache. Fewer coefficients
    /// than cells repeat.
    pub(super) fn run<E: Memory<T>, C: Coefficients<T, K, J>, const J: usize>(
        &self,
        isa: Isa,
        plan: &Plan,
        coefficients: &[C],
        backwards: bool,
    ) -> Result<()> {
        /// Elements of a task.
        const TASK: usize = 1 << 15;
        let cut = Cut::new(&self.grid);
        let grid = &self.grid;
        let most = if grid.lines { TASK / grid.len } else { split_statistics(grid, cut.chunks, plan.threads) };
        let tile = self.together::<E>(most);
        let work = gathered(pieces(grid, tile, 0..grid.statistics()))?;
        let all = work.len() * cut.chunks;
        let stream = self.streams::<E>(plan);
        // Short chunks are taken several at a time.
        let each = (all * TASK / (self.grid.statistics() * self.grid.count()).max(1)).clamp(1, all.max(1));
        let repeats = coefficients.len() < self.grid.statistics();
        let mut needs = self.needs::<E>();
        needs.coefficients = if repeats { tile.min(grid.statistics()) } else { 0 };
        run(
            plan.threads,
            all.div_ceil(each),
            || State::<T, E, (), C>::new(&needs),
            |task, state| {
                let State { scratch, stages, outputs, coefficients: repeated, .. } = state;
                for task in task * each..(task * each + each).min(all) {
                    let task = if backwards { all - 1 - task } else { task };
                    let piece = work[task % work.len()].clone();
                    let chunk = task / work.len();
                    let at = piece.0 * self.grid.width + piece.1.start;
                    let range = at..at + piece.1.len();
                    let cells = if repeats {
                        repeated.clear();
                        repeated.extend(range.map(|t| coefficients[t % coefficients.len()]));
                        &repeated[..]
                    } else {
                        &coefficients[range]
                    };
                    let mut room = Room { isa, scratch: &mut *scratch, stages: &mut *stages, outputs: &mut *outputs };
                    // SAFETY: pieces and chunks are disjoint, and each pair is one task's.
                    unsafe { self.chunks(&cut, piece, chunk..chunk + 1, stream, &mut room, cells) };
                }
            },
            |_| (),
        )
    }
}

/// The code of [`Application::chunks`], whose caller vouches for disjointness.
struct ApplyChunks<'w, 'a, T, E, C, const K: usize, const J: usize> {
    application: &'w Application<'a, T, K>,
    cut: &'w Cut,
    piece: Piece,
    chunks: Range<usize>,
    stream: bool,
    scratch: &'w mut Scratch<T>,
    stages: &'w mut Stages<T, E>,
    outputs: &'w mut [Aligned<T>; 2],
    cells: &'w [C],
}

impl<T: Real, E: Memory<T>, C: Coefficients<T, K, J>, const K: usize, const J: usize> Kernel<T>
    for ApplyChunks<'_, '_, T, E, C, K, J>
{
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(mut self, s: S) {
        debug_assert!(!self.stream || self.application.is_direct::<E>());
        let (cut, grid, w) = (self.cut, &self.application.grid, self.piece.1.clone());
        let steps = self.application.steps::<E>();
        // From the last chunk to the first, but each from start to end: what was read last is still in a cache, and one long run is better
        // than blocks. (Measured on Zen 4: runs of 50 KB, block by block from their ends, took up to twice as long.)
        if grid.columns && !grid.in_lines() {
            let pattern = Pattern { repeat: grid.repeat, width: w.len(), fold: grid.fold };
            expand(pattern, self.cells, self.scratch.take(pattern.len()));
        }
        for chunk in self.chunks.clone().rev() {
            let (rows, columns) = if grid.lines { (w.clone(), 0..grid.len) } else { cut.chunk(grid, chunk) };
            let columns = if grid.columns { columns_of(grid, &w) } else { columns };
            debug_assert!(!grid.columns || steps.columns(&columns).count() <= 1);
            for rows in steps.rows(rows) {
                for columns in steps.columns(&columns) {
                    // SAFETY: as the caller of `chunks` vouches.
                    unsafe { self.step(s, &rows, &columns) };
                }
            }
        }
    }
}

impl<T: Real, E: Memory<T>, C: Coefficients<T, K, J>, const K: usize, const J: usize>
    ApplyChunks<'_, '_, T, E, C, K, J>
{
    /// Some columns of some rows.
    /// # Safety
    /// No other thread touches their outputs meanwhile.
    #[inline(always)]
    unsafe fn step<S: Simd<T>>(&mut self, s: S, rows: &Range<usize>, columns: &Range<usize>) {
        let ApplyChunks { application, ref piece, stream, cells, .. } = *self;
        let k = piece.0;
        let Application { grid, inputs, out, second, mask } = application;
        let Stages { inputs: stages, mask: stage, .. } = &mut *self.stages;
        let [staged, staged_second] = &mut *self.outputs;
        let scratch = &mut *self.scratch;
        let tiles = tiles::<_, E, _, K>(s, inputs, k, rows, columns, stages);
        let mask = mask.as_ref().map(|mask| mask.tile(s, k, rows, columns, stage));
        // Both at once through the caches. Past these one after the other: a processor has few buffers for lines on their way to memory.
        // (Measured on Zen 3: in the caches both at once take 0.72 to 0.82 of the time, past these up to 2.8 times as long.)
        if C::SECOND
            && !stream
            && (grid.in_lines() || !grid.columns)
            && let Some(second) = second
        {
            // SAFETY: as the caller vouches.
            let outs = unsafe { (out.tile::<E>(k, rows, columns), second.tile::<E>(k, rows, columns)) };
            if let (Some(mut out), Some(mut second)) = outs {
                let lines = mapped(tiles, |tile| lines_of(grid, tile));
                apply_both(s, lines, [&lines_of_mut(grid, out.again()), &lines_of_mut(grid, second.again())], cells);
                if let Some(mask) = mask {
                    out.clear_unless(mask);
                    second.clear_unless(mask);
                }
                return;
            }
        }
        // The second output first: the first may be the very memory of an operand.
        for (out, second, staged) in [(second.as_ref(), true, staged_second), (Some(out), false, staged)] {
            let Some(out) = out else { continue };
            // SAFETY: as the caller vouches.
            unsafe {
                E::fill(
                    out,
                    s,
                    k,
                    rows,
                    columns,
                    staged,
                    #[inline(always)]
                    |mut out| {
                        if grid.in_lines() {
                            let lines = mapped(tiles, |tile| lines_of(grid, tile));
                            apply_lines(s, lines, &lines_of_mut(grid, out.again()), cells, second, stream);
                        } else if grid.columns {
                            debug_assert_eq!(out.len(), grid.repeat * piece.1.len() * grid.fold);
                            let along = scratch.take(out.len());
                            let mut of: [&[T]; J] = [&[]; J];
                            for (of, along) in of.iter_mut().zip(along) {
                                *of = along;
                            }
                            apply_columns(s, tiles, out.again(), of, cells[0], second, stream);
                        } else {
                            apply_rows(s, tiles, out.again(), cells[0], second, stream);
                        }
                        if let Some(mask) = mask {
                            out.clear_unless(mask);
                        }
                    },
                );
            }
        }
    }
}

/// The lines of a block; whole rows where it is not taken by lines.
#[inline(always)]
fn lines_of<'t, E: Copy>(grid: &Grid, tile: Tile<'t, E>) -> Lines<'t, E> {
    if grid.lines { tile.rows_as_lines() } else { tile.cut(if grid.columns { grid.fold } else { tile.len() }) }
}

/// The same to write.
#[inline(always)]
fn lines_of_mut<'t, E: Copy>(grid: &Grid, tile: TileMut<'t, E>) -> LinesMut<'t, E> {
    if grid.lines {
        return tile.rows_as_lines();
    }
    let len = if grid.columns { grid.fold } else { tile.len() };
    tile.cut(len)
}

/// Writes the coefficients of some columns where the kernel will find them.
#[inline(always)]
fn expand<T: Real, C: Coefficients<T, K, J>, const K: usize, const J: usize>(
    pattern: Pattern,
    cells: &[C],
    columns: [&mut [T]; 7],
) {
    for (j, column) in columns.into_iter().take(J).enumerate() {
        pattern.expand(column, |w| cells[w].coefficients()[j]);
    }
}

/// What [`Application::can_wait`] has found: to go on without it would leave outputs unwritten.
const DIRECT: &str = "cells wait only where all memory is used in place";

/// Cells of an application that other cells are reduced before.
pub(super) struct Pending<'w, 'a, T, C, const K: usize> {
    application: &'w Application<'a, T, K>,
    range: Range<usize>,
    coefficients: &'w [C],
}

impl<T: Real, const K: usize> Application<'_, T, K> {
    /// Whether cells may be pending, and gain by it: all memory is used in place, there is one output for each element,
    /// and coefficients are the same along a run (measured: columns lose). `stream`: where they are stored past the caches, how
    /// many are taken at a time, and those of a sample.
    pub(super) fn can_wait<E: Stored<T>>(&self, stream: Option<[usize; 2]>) -> bool {
        const LONG: usize = 32;
        let Grid { columns, len, .. } = self.grid;
        let long = self.grid.in_lines() || !columns && len >= LONG;
        let whole = stream.is_none_or(|cells| self.on_lines::<E>(cells));
        long && self.is_direct::<E>() && self.second.is_none() && whole
    }

    /// Whether runs are whole lines of the caches, as what is stored past these a little at a time has to be; or so many
    /// that adjoin are.
    fn on_lines<E: Stored<T>>(&self, cells: [usize; 2]) -> bool {
        let Grid { columns, lines, len, fold, .. } = self.grid;
        let (run, line) = (if columns { fold } else { len }, LINE / size_of::<E>());
        let adjoin = |n: usize| {
            if lines {
                let adjoin = self.out.adjoins(len) && self.inputs.iter().all(|of| of.adjoins(len));
                adjoin && self.out.on_lines::<E>(n, len)
            } else {
                columns && (n * fold).is_multiple_of(line) && self.out.on_lines::<E>(1, len)
            }
        };
        self.out.on_lines::<E>(1, run) || run >= line && cells.into_iter().all(adjoin)
    }
}

impl<'w, 'a, T: Real, C, const K: usize> Pending<'w, 'a, T, C, K> {
    /// # Safety
    /// No other thread touches these cells' elements of the output until they are applied.
    pub(super) unsafe fn new(
        application: &'w Application<'a, T, K>,
        range: Range<usize>,
        coefficients: &'w [C],
    ) -> Self {
        debug_assert!(application.second.is_none() && range.len() == coefficients.len());
        Pending { application, range, coefficients }
    }

    /// Gives one rectangle after the other.
    #[inline(always)]
    pub(super) fn waiting<E: Stored<T>>(self) -> impl FnMut() -> Option<Waiting<'w, E, C, K>> {
        let Pending { application: Application { grid, inputs, out, .. }, range, coefficients } = self;
        let each = if grid.lines {
            grid.rows
        } else if grid.columns {
            range.len().max(1)
        } else {
            1
        };
        let mut pieces = pieces(grid, each, range.clone());
        inlined_next(
            #[inline(always)]
            move || {
                let (k, w) = pieces.next()?;
                let at = k * grid.width + w.start - range.start;
                let of = &coefficients[at..at + w.len()];
                let run = columns_of(grid, &w);
                let rows = if grid.lines { w } else { 0..grid.rows };
                let tiles = inputs.each_ref().map(|input| input.direct(k, &rows, &run).expect(DIRECT));
                // SAFETY: as the caller of `new` vouched.
                let out = unsafe { out.tile(k, &rows, &run) }.expect(DIRECT);
                let len = if grid.columns { grid.fold } else { grid.len };
                Some(if grid.lines {
                    Waiting { lines: mapped(tiles, Tile::rows_as_lines), out: out.rows_as_lines(), of }
                } else {
                    Waiting { lines: mapped(tiles, |tile| tile.cut(len)), out: out.cut(len), of }
                })
            },
        )
    }
}
