//! The one mechanism: reduce cells, merge them, make coefficients, apply them.
//!
//! A norm says what is reduced ([`Statistic`]), what is applied ([`Coefficients`]) and how the one becomes the other (a
//! rule). Everything else, layouts, blocks, threads and the order of additions, is here and the same for all norms.

use std::ops::Range;

use crate::kernels::Pattern;
use crate::kernels::apply::{
    Affine, GradAffine, Scale, backward_columns, backward_rows, forward_columns, forward_rows, scale_columns,
    scale_rows,
};
use crate::kernels::reduce::{
    GradSums, MomentSums, Scratch, gradient_columns, gradient_rows, moments_columns, moments_rows,
};
use crate::layout::Grid;
use crate::parallel::{Disjoint, run};
use crate::plan::{Cut, Plan, Schedule, sample_parts, tile_statistics};
use crate::simd::{Isa, Kernel, Real, Simd, Tile, TileMut};
use crate::view::{Input, Output};

/// What is taken from the elements of `K` operands.
pub trait Statistic<T: Real, const K: usize>: Copy + Default + Send + Sync {
    /// Of both parts together.
    fn merge(self, other: Self) -> Self;
    /// Of a block that belongs to one statistic, merged into `self`; `mean` is known if the pass has means.
    fn rows<S: Simd<T>>(&mut self, s: S, tiles: [Tile<T>; K], mean: T);
    /// Of a block in which each row belongs to a statistic.
    #[inline(always)]
    fn lines<S: Simd<T>>(s: S, tiles: [Tile<T>; K], means: impl Iterator<Item = T>, into: &mut [Self]) {
        for (row, (into, mean)) in into.iter_mut().zip(means).enumerate() {
            *into = Self::default();
            into.rows(s, tiles.map(|tile| tile.line(row)), mean);
        }
    }
    /// Called before the blocks of some columns.
    fn prepare(_pattern: Pattern, _means: impl Iterator<Item = T>, _scratch: &mut Scratch<T>) {}
    /// Of a block of columns, merged into `into`.
    fn columns<S: Simd<T>>(s: S, tiles: [Tile<T>; K], pattern: Pattern, scratch: &mut Scratch<T>, into: &mut [Self]);
}

impl<T: Real> Statistic<T, 1> for MomentSums {
    #[inline(always)]
    fn merge(self, other: Self) -> Self {
        self.merge(other)
    }
    #[inline(always)]
    fn rows<S: Simd<T>>(&mut self, s: S, [x]: [Tile<T>; 1], _mean: T) {
        moments_rows(s, x, self);
    }
    #[inline(always)]
    fn columns<S: Simd<T>>(s: S, [x]: [Tile<T>; 1], pattern: Pattern, scratch: &mut Scratch<T>, into: &mut [Self]) {
        moments_columns(s, x, pattern, scratch, into);
    }
}

impl<T: Real> Statistic<T, 2> for GradSums {
    #[inline(always)]
    fn merge(self, other: Self) -> Self {
        self.add(other)
    }
    #[inline(always)]
    fn rows<S: Simd<T>>(&mut self, s: S, [x, dy]: [Tile<T>; 2], mean: T) {
        *self = self.add(gradient_rows(s, x, dy, mean));
    }
    #[inline(always)]
    fn prepare(pattern: Pattern, means: impl Iterator<Item = T>, scratch: &mut Scratch<T>) {
        let [along, of, ..] = scratch.take(pattern.len());
        for (of, mean) in of[..pattern.width].iter_mut().zip(means) {
            *of = mean;
        }
        pattern.expand(along, |w| of[w]);
    }
    #[inline(always)]
    fn columns<S: Simd<T>>(s: S, [x, dy]: [Tile<T>; 2], pattern: Pattern, scratch: &mut Scratch<T>, into: &mut [Self]) {
        let [means, sums, dots, ..] = scratch.take(pattern.len());
        gradient_columns(s, x, dy, pattern, [means, sums, dots], into);
    }
}

/// What is done to the elements of `K` operands.
pub trait Coefficients<T: Real, const K: usize>: Copy + Send + Sync {
    /// Does nothing sensible: fills arrays before the rule does.
    const NONE: Self;
    /// To a block that belongs to one cell.
    fn rows<S: Simd<T>>(self, s: S, tiles: [Tile<T>; K], out: TileMut<T>, stream: bool);
    /// To a block in which each row belongs to a cell.
    #[inline(always)]
    fn lines<S: Simd<T>>(s: S, tiles: [Tile<T>; K], cells: &[Self], mut out: TileMut<T>) {
        for (row, cell) in cells.iter().enumerate() {
            // Rows this short share lines with each other: storing past the caches would lose.
            cell.rows(s, tiles.map(|tile| tile.line(row)), out.line(row), false);
        }
    }
    /// Writes the coefficients of some columns where `columns` will find them.
    fn expand(pattern: Pattern, cells: &[Self], scratch: &mut Scratch<T>);
    /// To a block of columns.
    fn columns<S: Simd<T>>(s: S, tiles: [Tile<T>; K], scratch: &mut Scratch<T>, out: TileMut<T>, stream: bool);
}

impl<T: Real> Coefficients<T, 1> for Affine<T> {
    const NONE: Self = Affine { mean: T::ZERO, scale: T::ZERO, shift: T::ZERO };
    #[inline(always)]
    fn rows<S: Simd<T>>(self, s: S, [x]: [Tile<T>; 1], out: TileMut<T>, stream: bool) {
        forward_rows(s, x, out, self, stream);
    }
    #[inline(always)]
    fn expand(pattern: Pattern, cells: &[Self], scratch: &mut Scratch<T>) {
        let [mean, scale, shift, ..] = scratch.take(pattern.len());
        pattern.expand(mean, |w| cells[w].mean);
        pattern.expand(scale, |w| cells[w].scale);
        pattern.expand(shift, |w| cells[w].shift);
    }
    #[inline(always)]
    fn columns<S: Simd<T>>(s: S, [x]: [Tile<T>; 1], scratch: &mut Scratch<T>, out: TileMut<T>, stream: bool) {
        let [mean, scale, shift, ..] = scratch.take(x.len());
        forward_columns(s, x, out, [mean, scale, shift], stream);
    }
}

impl<T: Real> Coefficients<T, 2> for GradAffine<T> {
    const NONE: Self = GradAffine { mean: T::ZERO, rstd: T::ZERO, a: T::ZERO, b: T::ZERO, c: T::ZERO };
    #[inline(always)]
    fn rows<S: Simd<T>>(self, s: S, [x, dy]: [Tile<T>; 2], out: TileMut<T>, stream: bool) {
        backward_rows(s, x, dy, out, self, stream);
    }
    #[inline(always)]
    fn expand(pattern: Pattern, cells: &[Self], scratch: &mut Scratch<T>) {
        let [mean, rstd, a, b, c] = scratch.take(pattern.len());
        pattern.expand(mean, |w| cells[w].mean);
        pattern.expand(rstd, |w| cells[w].rstd);
        pattern.expand(a, |w| cells[w].a);
        pattern.expand(b, |w| cells[w].b);
        pattern.expand(c, |w| cells[w].c);
    }
    #[inline(always)]
    fn columns<S: Simd<T>>(s: S, [x, dy]: [Tile<T>; 2], scratch: &mut Scratch<T>, out: TileMut<T>, stream: bool) {
        let [mean, rstd, a, b, c] = scratch.take(x.len());
        backward_columns(s, x, dy, out, [mean, rstd, a, b, c], stream);
    }
}

impl<T: Real> Coefficients<T, 1> for Scale<T> {
    const NONE: Self = Scale(T::ZERO);
    #[inline(always)]
    fn rows<S: Simd<T>>(self, s: S, [dy]: [Tile<T>; 1], out: TileMut<T>, stream: bool) {
        scale_rows(s, dy, out, self.0, stream);
    }
    #[inline(always)]
    fn expand(pattern: Pattern, cells: &[Self], scratch: &mut Scratch<T>) {
        let [a, ..] = scratch.take(pattern.len());
        pattern.expand(a, |w| cells[w].0);
    }
    #[inline(always)]
    fn columns<S: Simd<T>>(s: S, [dy]: [Tile<T>; 1], scratch: &mut Scratch<T>, out: TileMut<T>, stream: bool) {
        let [a, ..] = scratch.take(dy.len());
        scale_columns(s, dy, out, a, stream);
    }
}

/// Operands to reduce.
pub struct Reduction<'a, T, const K: usize> {
    pub grid: Grid,
    pub inputs: [Input<'a, T>; K],
    /// Known means, `shared` adjacent statistics of the grid to each; empty where none are needed.
    pub means: &'a [f64],
    pub shared: usize,
    /// What will be written where these operands have been read, if it is known: its lines come to the cache meanwhile.
    pub ahead: Option<Output<'a, T>>,
}

/// Operands to apply coefficients to.
pub struct Application<'a, T, const K: usize> {
    pub grid: Grid,
    pub inputs: [Input<'a, T>; K],
    pub out: Output<'a, T>,
}

/// The passes that norms are made of, compiled once for each type, and here rather than in each crate that calls a norm.
pub trait Passes: Real {
    /// Moments, then y.
    fn forward(pass: &Pass<Self, MomentSums, Affine<Self>, 1, 1>, isa: Isa, plan: &Plan);
    /// Sums, then dx.
    fn backward(pass: &Pass<Self, GradSums, GradAffine<Self>, 2, 2>, isa: Isa, plan: &Plan);
    /// Sums, then dx through statistics that do not depend on x.
    fn frozen(pass: &Pass<Self, GradSums, Scale<Self>, 2, 1>, isa: Isa, plan: &Plan);
    /// y from given statistics.
    fn affine(apply: &Application<Self, 1>, isa: Isa, plan: &Plan, cells: &[Affine<Self>]);
}

macro_rules! compile_passes {
    ($($T:ty),*) => {$(
        impl Passes for $T {
            fn forward(pass: &Pass<$T, MomentSums, Affine<$T>, 1, 1>, isa: Isa, plan: &Plan) {
                pass.run(isa, plan);
            }
            fn backward(pass: &Pass<$T, GradSums, GradAffine<$T>, 2, 2>, isa: Isa, plan: &Plan) {
                pass.run(isa, plan);
            }
            fn frozen(pass: &Pass<$T, GradSums, Scale<$T>, 2, 1>, isa: Isa, plan: &Plan) {
                pass.run(isa, plan);
            }
            fn affine(apply: &Application<$T, 1>, isa: Isa, plan: &Plan, cells: &[Affine<$T>]) {
                apply.run(isa, plan, cells, false);
            }
        }
    )*};
}
compile_passes!(f32, f64);

/// What a thread keeps from task to task.
struct State<T, A, C> {
    scratch: Scratch<T>,
    stages: [Vec<T>; 3],
    chunk: Vec<A>,
    totals: Vec<A>,
    coefficients: Vec<C>,
}

impl<T, A, C> State<T, A, C> {
    fn new() -> Self {
        State {
            scratch: Scratch { columns: [const { Vec::new() }; 5] },
            stages: [Vec::new(), Vec::new(), Vec::new()],
            chunk: Vec::new(),
            totals: Vec::new(),
            coefficients: Vec::new(),
        }
    }
}

/// A kept position, and statistics of its runs.
type Piece = (usize, Range<usize>);

/// The parts of a range of statistics that lie in one run and one tile: kept position and statistics of the run.
fn pieces(grid: Grid, statistics: Range<usize>) -> impl DoubleEndedIterator<Item = Piece> {
    let tile = tile_statistics(&grid);
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

/// What a task needs beyond its operands: the instruction set and room to work in.
struct Room<'w, T> {
    isa: Isa,
    scratch: &'w mut Scratch<T>,
    stages: &'w mut [Vec<T>; 3],
}

impl<T: Real, const K: usize> Reduction<'_, T, K> {
    /// A range of statistics from start to end, into `totals`.
    fn whole<A: Statistic<T, K>>(
        &self,
        cut: &Cut,
        statistics: Range<usize>,
        near: usize,
        mut room: Room<T>,
        part: &mut Vec<A>,
        totals: &mut Vec<A>,
    ) {
        totals.clear();
        totals.resize(statistics.len(), A::default());
        let mut left = statistics.len() * self.grid.count();
        for piece in pieces(self.grid, statistics.clone()) {
            let at = piece.0 * self.grid.width + piece.1.start - statistics.start;
            let totals = &mut totals[at..at + piece.1.len()];
            for chunk in 0..cut.chunks {
                part.resize(totals.len(), A::default());
                self.chunk(cut, piece.clone(), chunk, left <= near, &mut room, part);
                left -= (totals.len() * self.grid.count()).div_ceil(cut.chunks).min(left);
                for (total, &part) in totals.iter_mut().zip(part.iter()) {
                    *total = total.merge(part);
                }
            }
        }
    }

    /// A piece of the statistics in one chunk, into `into`.
    fn chunk<A: Statistic<T, K>>(
        &self,
        cut: &Cut,
        piece: Piece,
        chunk: usize,
        fetch: bool,
        room: &mut Room<T>,
        into: &mut [A],
    ) {
        let Room { isa, scratch, stages } = room;
        let ahead = self.ahead.as_ref().filter(|_| fetch);
        T::dispatch(*isa, ReduceChunk { reduction: self, cut, piece, chunk, ahead, scratch, stages, into });
    }

    /// The known means of the statistics from `first` on.
    #[inline(always)]
    fn means_from(&self, first: usize) -> impl Iterator<Item = T> {
        let (mut i, mut left) = (first / self.shared, self.shared - first % self.shared);
        std::iter::from_fn(move || {
            let mean = self.means.get(i).map_or(T::ZERO, |&mean| T::from_f64(mean));
            left -= 1;
            if left == 0 {
                (i, left) = (i + 1, self.shared);
            }
            Some(mean)
        })
    }
}

/// The code of [`Reduction::chunk`].
struct ReduceChunk<'w, 'a, T, A, const K: usize> {
    reduction: &'w Reduction<'a, T, K>,
    cut: &'w Cut,
    piece: Piece,
    chunk: usize,
    ahead: Option<&'w Output<'a, T>>,
    scratch: &'w mut Scratch<T>,
    stages: &'w mut [Vec<T>; 3],
    into: &'w mut [A],
}

impl<T: Real, A: Statistic<T, K>, const K: usize> Kernel<T> for ReduceChunk<'_, '_, T, A, K> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let ReduceChunk { reduction, cut, piece: (k, w), chunk, ahead, scratch, stages, into } = self;
        let (grid, inputs) = (&reduction.grid, &reduction.inputs);
        let mut means = reduction.means_from(k * grid.width + w.start);
        if grid.lines {
            return A::lines(s, tiles(inputs, 0, &w, &(0..grid.len), stages), means, into);
        }
        into.fill(A::default());
        let (rows, columns) = cut.chunk(grid, chunk);
        if grid.columns {
            let columns = columns_of(grid, &w);
            let pattern = Pattern { repeat: grid.repeat, width: w.len(), fold: grid.fold };
            A::prepare(pattern, means, scratch);
            for rows in cut.rows(rows) {
                A::columns(s, tiles(inputs, k, &rows, &columns, stages), pattern, scratch, into);
            }
        } else {
            let mean = means.next().unwrap_or(T::ZERO);
            for rows in cut.rows(rows) {
                for columns in cut.columns(&columns) {
                    if let Some(out) = ahead {
                        out.fetch(s, k, &rows, &columns);
                    }
                    into[0].rows(s, tiles(inputs, k, &rows, &columns, stages), mean);
                }
            }
        }
    }
}

/// The tiles of all operands.
#[inline(always)]
fn tiles<'t, T: Real, const K: usize>(
    inputs: &'t [Input<'_, T>; K],
    k: usize,
    rows: &Range<usize>,
    columns: &Range<usize>,
    stages: &'t mut [Vec<T>],
) -> [Tile<'t, T>; K] {
    let mut stages = stages.iter_mut();
    inputs
        .each_ref()
        .map(|input| input.tile(k, rows, columns, stages.next().expect("no pass has more operands than stages")))
}

impl<T: Real, const K: usize> Application<'_, T, K> {
    /// Cells from start to end, last first: what was read last is still in cache.
    /// # Safety
    /// No other thread touches these cells' elements of the output meanwhile.
    unsafe fn whole<C: Coefficients<T, K>>(
        &self,
        cut: &Cut,
        range: Range<usize>,
        stream: bool,
        mut room: Room<T>,
        coefficients: &[C],
    ) {
        for piece in pieces(self.grid, range.clone()).rev() {
            let at = piece.0 * self.grid.width + piece.1.start - range.start;
            let cells = &coefficients[at..at + piece.1.len()];
            // SAFETY: as the caller vouches.
            unsafe { self.chunks(cut, piece, 0..cut.chunks, stream, &mut room, cells) };
        }
    }

    /// A piece of the cells in some chunks, from the last to the first.
    /// # Safety
    /// No other thread touches these cells' elements of the output meanwhile.
    unsafe fn chunks<C: Coefficients<T, K>>(
        &self,
        cut: &Cut,
        piece: Piece,
        chunks: Range<usize>,
        stream: bool,
        room: &mut Room<T>,
        cells: &[C],
    ) {
        let Room { isa, scratch, stages } = room;
        T::dispatch(*isa, ApplyChunks { application: self, cut, piece, chunks, stream, scratch, stages, cells });
    }

    /// Applies the coefficients of all cells, backwards if what was read last may still be in cache. Fewer coefficients
    /// than cells repeat.
    fn run<C: Coefficients<T, K>>(&self, isa: Isa, plan: &Plan, coefficients: &[C], backwards: bool) {
        /// Elements of a task.
        const TASK: usize = 1 << 15;
        let cut = Cut::new(&self.grid);
        let work: Vec<_> = pieces(self.grid, 0..self.grid.statistics()).collect();
        let all = work.len() * cut.chunks;
        // Short chunks are taken several at a time.
        let each = (all * TASK / (self.grid.statistics() * self.grid.count()).max(1)).clamp(1, all.max(1));
        let repeats = coefficients.len() < self.grid.statistics();
        run(plan.threads, all.div_ceil(each), State::<T, (), C>::new, |task, state| {
            let State { scratch, stages, coefficients: repeated, .. } = state;
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
                let mut room = Room { isa, scratch: &mut *scratch, stages: &mut *stages };
                // SAFETY: pieces and chunks are disjoint, and each pair is one task's.
                unsafe { self.chunks(&cut, piece, chunk..chunk + 1, plan.stream, &mut room, cells) };
            }
        });
    }
}

/// The code of [`Application::chunks`], whose caller vouches for disjointness.
struct ApplyChunks<'w, 'a, T, C, const K: usize> {
    application: &'w Application<'a, T, K>,
    cut: &'w Cut,
    piece: Piece,
    chunks: Range<usize>,
    stream: bool,
    scratch: &'w mut Scratch<T>,
    stages: &'w mut [Vec<T>; 3],
    cells: &'w [C],
}

impl<T: Real, C: Coefficients<T, K>, const K: usize> Kernel<T> for ApplyChunks<'_, '_, T, C, K> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let ApplyChunks { application, cut, piece: (k, w), chunks, stream, scratch, stages, cells } = self;
        let Application { grid, inputs, out } = application;
        let stream = stream && out.is_direct();
        if grid.columns {
            C::expand(Pattern { repeat: grid.repeat, width: w.len(), fold: grid.fold }, cells, scratch);
        }
        for chunk in chunks.rev() {
            let (rows, columns) = if grid.lines { (w.clone(), 0..grid.len) } else { cut.chunk(grid, chunk) };
            let columns = if grid.columns { columns_of(grid, &w) } else { columns };
            for rows in cut.rows(rows).rev() {
                for columns in cut.columns(&columns).rev() {
                    let [stages @ .., staged] = &mut *stages;
                    let tiles = tiles(inputs, k, &rows, &columns, stages);
                    // SAFETY: as the caller of `chunks` vouches.
                    unsafe {
                        out.write(
                            k,
                            &rows,
                            &columns,
                            staged,
                            #[inline(always)]
                            |out| {
                                if grid.columns {
                                    C::columns(s, tiles, scratch, out, stream);
                                } else if grid.lines {
                                    C::lines(s, tiles, cells, out);
                                } else {
                                    cells[0].rows(s, tiles, out, stream);
                                }
                            },
                        );
                    }
                }
            }
        }
    }
}

/// A norm's own part: from what was reduced for statistic t to the coefficients of its cells.
pub type Rule<'a, A, C> = &'a (dyn Fn(usize, &[A], &mut [C]) + Sync);

/// A reduction and what follows from it.
pub struct Pass<'a, T, A, C, const K: usize, const L: usize> {
    /// What is reduced: `parts` adjacent statistics of this grid belong to one of the norm's.
    pub reduce: Reduction<'a, T, K>,
    pub parts: usize,
    /// What is applied to: `cells` adjacent ones belong to one statistic of the norm. Nothing, where only statistics
    /// are wanted.
    pub apply: Option<Application<'a, T, L>>,
    pub cells: usize,
    /// The norm's statistics are those of so many samples, which the rule takes in order within each part of them.
    pub samples: usize,
    pub rule: Rule<'a, A, C>,
}

impl<T, A, C, const K: usize, const L: usize> Pass<'_, T, A, C, K, L>
where
    T: Real,
    A: Statistic<T, K>,
    C: Coefficients<T, L>,
{
    /// Carries it out.
    fn run(&self, isa: Isa, plan: &Plan) {
        match plan.schedule {
            Schedule::Fused { statistics } if self.can_take(statistics) => self.fused(isa, plan, statistics),
            _ => self.split(isa, plan),
        }
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

    /// Each task takes some statistics of each sample of a part of the samples from start to end.
    fn fused(&self, isa: Isa, plan: &Plan, statistics: usize) {
        let per_sample = self.statistics() / self.samples;
        let across = per_sample.div_ceil(statistics);
        let parts = sample_parts(self.samples);
        let part = self.samples.div_ceil(parts);
        let reduce_cut = Cut::new(&self.reduce.grid);
        let apply_cut = self.apply.as_ref().map(|apply| Cut::new(&apply.grid));
        run(plan.threads, parts * across, State::new, |task, state: &mut State<T, A, C>| {
            let State { scratch, stages, chunk, totals, coefficients } = state;
            let first = task % across * statistics;
            let end = (first + statistics).min(per_sample);
            for sample in task / across * part..(task / across * part + part).min(self.samples) {
                let range = sample * per_sample + first..sample * per_sample + end;
                let reduced = range.start * self.parts..range.end * self.parts;
                let room = Room { isa, scratch: &mut *scratch, stages: &mut *stages };
                self.reduce.whole(&reduce_cut, reduced, plan.ahead / size_of::<T>(), room, chunk, totals);
                coefficients.resize(range.len() * self.cells, C::NONE);
                for (i, t) in range.clone().enumerate() {
                    let cells = &mut coefficients[i * self.cells..(i + 1) * self.cells];
                    (self.rule)(t, &totals[i * self.parts..(i + 1) * self.parts], cells);
                }
                if let (Some(apply), Some(cut)) = (&self.apply, &apply_cut) {
                    let cells = range.start * self.cells..range.end * self.cells;
                    let room = Room { isa, scratch: &mut *scratch, stages: &mut *stages };
                    // SAFETY: tasks have different samples or different statistics, hence different cells.
                    unsafe { apply.whole(cut, cells, plan.stream, room, coefficients) };
                }
            }
        });
    }

    /// All threads reduce chunks, one merges, all apply.
    fn split(&self, isa: Isa, plan: &Plan) {
        let grid = self.reduce.grid;
        let cut = Cut::new(&grid);
        let all = grid.statistics();
        let work: Vec<_> = pieces(grid, 0..all).collect();
        let mut partial = vec![A::default(); cut.chunks * all];
        let shared = Disjoint::new(&mut partial);
        run(plan.threads, work.len() * cut.chunks, State::new, |task, state: &mut State<T, A, C>| {
            let piece = work[task % work.len()].clone();
            let chunk = task / work.len();
            let at = chunk * all + piece.0 * grid.width + piece.1.start;
            // SAFETY: pieces are disjoint, and each is taken once for each chunk.
            let into = unsafe { shared.part(at..at + piece.1.len()) };
            let mut room = Room { isa, scratch: &mut state.scratch, stages: &mut state.stages };
            self.reduce.chunk(&cut, piece, chunk, false, &mut room, into);
        });
        let (totals, rest) = partial.split_at_mut(all);
        for part in rest.chunks_exact(all) {
            for (total, &part) in totals.iter_mut().zip(part) {
                *total = total.merge(part);
            }
        }
        let mut coefficients = vec![C::NONE; self.statistics() * self.cells];
        for t in 0..self.statistics() {
            let cells = &mut coefficients[t * self.cells..(t + 1) * self.cells];
            (self.rule)(t, &totals[t * self.parts..(t + 1) * self.parts], cells);
        }
        if let Some(apply) = &self.apply {
            apply.run(isa, plan, &coefficients, true);
        }
    }
}
