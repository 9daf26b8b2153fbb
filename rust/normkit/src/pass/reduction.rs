//! The first half: operands to statistics.

use std::ops::Range;

use super::application::Pending;
use super::stages::{Stages, pack, pack_rows, tiles};
use super::statistic::{Known, Statistic};
use super::{Needs, Piece, Room, columns_of, pieces};
use crate::kernels::Pattern;
use crate::kernels::activation::Activation;
use crate::kernels::apply::{Affine, Applied, Coefficients};
use crate::kernels::reduce::Scratch;
use crate::layout::Grid;
use crate::memory::Memory;
use crate::plan::{Cut, stretch_statistics, tile_statistics};
use crate::simd::{Behind, Follower, Kernel, Real, Simd, Stored, mapped};
use crate::view::Input;

/// Operands to reduce.
pub struct Reduction<'a, T, const K: usize> {
    pub grid: Grid,
    pub inputs: [Input<'a, T>; K],
    /// What is known of statistic number t of the grid.
    pub known: Known<'a, T>,
    pub activation: Activation,
    /// Elements that count, where not all do.
    pub mask: Option<Input<'a, T>>,
}

/// Some statistics, in some chunks.
pub(super) struct Share<'w, 'a, T: Real, A: Statistic<T, K>, const K: usize> {
    pub(super) reduction: &'w Reduction<'a, T, K>,
    pub(super) cut: &'w Cut,
    pub(super) statistics: Range<usize>,
    pub(super) chunks: Range<usize>,
    /// Where the results go.
    pub(super) totals: &'w mut [A::Total],
    /// Room for those of a chunk.
    pub(super) part: &'w mut Vec<A::Total>,
}

impl<T: Real, A: Statistic<T, K>, const K: usize> Share<'_, '_, T, A, K> {
    /// Reduces them.
    pub(super) fn reduce<E: Memory<T>>(self, room: Room<T, E>) {
        T::dispatch(room.isa, Alone { share: self, room });
    }

    /// Reduces them; what is pending is applied meanwhile. For rows, and columns that are taken line by line.
    pub(super) fn reduce_before<E: Memory<T>, C: Coefficients<T, L, J>, const L: usize, const J: usize>(
        self,
        pending: Option<Pending<T, C, L>>,
        stream: bool,
        room: Room<T, E>,
    ) {
        if stream {
            T::dispatch(room.isa, Before::<T, E, A, C, K, L, J, true> { share: self, pending, room });
        } else {
            T::dispatch(room.isa, Before::<T, E, A, C, K, L, J, false> { share: self, pending, room });
        }
    }

    #[inline(always)]
    fn all<E: Memory<T>, S: Simd<T>, const ALONE: bool>(
        self,
        s: S,
        scratch: &mut Scratch<T>,
        stages: &mut Stages<T, E>,
        behind: &mut impl Behind,
    ) {
        let Share { reduction, cut, statistics, chunks, totals, part } = self;
        let grid = &reduction.grid;
        totals.fill(A::Total::default());
        for piece in pieces(grid, reduction.together::<E>(), statistics.clone()) {
            let at = piece.0 * grid.width + piece.1.start - statistics.start;
            let totals = &mut totals[at..at + piece.1.len()];
            for chunk in chunks.clone() {
                part.clear();
                part.resize(totals.len(), A::Total::default());
                let room = (&mut *scratch, &mut *stages);
                reduction.chunk::<E, S, A, ALONE>(s, cut, piece.clone(), chunk, room, part, behind);
                for (total, &part) in totals.iter_mut().zip(part.iter()) {
                    *total = A::merge(*total, part);
                }
            }
        }
    }
}

impl<T: Real, const K: usize> Reduction<'_, T, K> {
    /// How many statistics are taken at a time: as many lines among columns as make a long stretch, unless they are copied.
    pub(super) fn together<E: Stored<T>>(&self) -> usize {
        let direct = self.mask.is_none() && self.inputs.iter().all(Input::is_direct::<E>);
        if direct { stretch_statistics(&self.grid) } else { tile_statistics(&self.grid) }
    }

    /// What a thread needs for it.
    pub(super) fn needs<E: Stored<T>>(&self) -> Needs {
        let mut needs =
            Needs::of::<T, E>(&self.grid, Cut::new(&self.grid).blocks, &self.inputs, self.mask.is_some(), [None, None]);
        needs.packed[..K].fill(needs.mask);
        needs
    }

    /// A piece of the statistics in one chunk, into `into`.
    #[inline(always)]
    fn chunk<E: Memory<T>, S: Simd<T>, A: Statistic<T, K>, const ALONE: bool>(
        &self,
        s: S,
        cut: &Cut,
        (k, w): Piece,
        chunk: usize,
        (scratch, stages): (&mut Scratch<T>, &mut Stages<T, E>),
        into: &mut [A::Total],
        behind: &mut impl Behind,
    ) {
        let Reduction { grid, inputs, known, activation, mask } = self;
        let Stages { inputs: stages, mask: stage, packed } = stages;
        let mut cells = std::mem::take(&mut scratch.known);
        cells.resize(w.len(), Affine::EMPTY);
        known(k * grid.width + w.start, &mut cells);
        let (rows, columns) = cut.chunk(grid, chunk);
        debug_assert!(ALONE || mask.is_none() && (grid.in_lines() || !grid.columns));
        if let Some(mask) = mask.as_ref().filter(|_| ALONE && grid.lines) {
            let tiles = tiles::<_, E, _, K>(s, inputs, 0, &w, &columns, stages);
            let mask = mask.tile(s, 0, &w, &columns, stage);
            for (row, (into, &cell)) in into.iter_mut().zip(&cells).enumerate() {
                let line = pack(tiles.map(|tile| tile.line(row)), mask.line(row), packed);
                if line[0].len() > 0 {
                    A::rows(s, line, cell, *activation, into, &mut ());
                }
            }
        } else if grid.in_lines() {
            let columns = columns_of(grid, &w);
            for rows in cut.blocks.rows(if grid.lines { 0..1 } else { rows }) {
                let tiles = tiles::<_, E, _, K>(s, inputs, k, if grid.lines { &w } else { &rows }, &columns, stages);
                let lines = mapped(tiles, |tile| if grid.lines { tile.rows_as_lines() } else { tile.cut(grid.fold) });
                A::lines(s, lines, &cells, *activation, into, behind);
            }
        } else if ALONE && grid.columns {
            let columns = columns_of(grid, &w);
            let pattern = Pattern { repeat: grid.repeat, width: w.len(), fold: grid.fold };
            A::prepare(pattern, &cells, scratch);
            for rows in cut.blocks.rows(rows) {
                let mut tiles = tiles::<_, E, _, K>(s, inputs, k, &rows, &columns, stages);
                if let Some(mask) = mask {
                    debug_assert!(grid.repeat == 1 && grid.fold == 1);
                    tiles = pack_rows(tiles, mask.tile(s, k, &rows, &columns, stage), packed);
                }
                if tiles[0].rows() > 0 {
                    A::columns(s, tiles, pattern, *activation, scratch, into);
                }
            }
        } else {
            for rows in cut.blocks.rows(rows) {
                for columns in cut.blocks.columns(&columns) {
                    let mut tiles = tiles::<_, E, _, K>(s, inputs, k, &rows, &columns, stages);
                    if let Some(mask) = mask.as_ref().filter(|_| ALONE) {
                        tiles = pack(tiles, mask.tile(s, k, &rows, &columns, stage), packed);
                    }
                    if tiles[0].len() > 0 {
                        A::rows(s, tiles, cells[0], *activation, &mut into[0], behind);
                    }
                }
            }
        }
        scratch.known = cells;
    }
}

/// The code of [`Share::reduce`].
struct Alone<'w, 'a, T: Real, E, A: Statistic<T, K>, const K: usize> {
    share: Share<'w, 'a, T, A, K>,
    room: Room<'w, T, E>,
}

impl<T: Real, E: Memory<T>, A: Statistic<T, K>, const K: usize> Kernel<T> for Alone<'_, '_, T, E, A, K> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Alone { share, room: Room { scratch, stages, .. } } = self;
        share.all::<E, S, true>(s, scratch, stages, &mut ());
    }
}

/// The code of [`Share::reduce_before`]; what is pending is stored past the caches to `STREAM`.
struct Before<
    'w,
    'a,
    T: Real,
    E,
    A: Statistic<T, K>,
    C,
    const K: usize,
    const L: usize,
    const J: usize,
    const STREAM: bool,
> {
    share: Share<'w, 'a, T, A, K>,
    pending: Option<Pending<'w, 'a, T, C, L>>,
    room: Room<'w, T, E>,
}

impl<T, E, A, C, const K: usize, const L: usize, const J: usize, const STREAM: bool> Kernel<T>
    for Before<'_, '_, T, E, A, C, K, L, J, STREAM>
where
    T: Real,
    E: Memory<T>,
    A: Statistic<T, K>,
    C: Coefficients<T, L, J>,
{
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Before { share, pending, room: Room { scratch, stages, .. } } = self;
        let mut waiting = pending.map(Pending::waiting::<E>);
        let mut follower = Follower::<_, E, _, Applied<C, J>, _, L, STREAM>::new(
            s,
            #[inline(always)]
            || waiting.as_mut()?(),
        );
        share.all::<E, S, false>(s, scratch, stages, &mut follower);
        follower.finish();
    }
}
