//! The first half: operands to statistics.

use std::ops::Range;

use super::application::Pending;
use super::stages::{Stages, pack, pack_rows, tiles};
use super::statistic::{Known, Statistic};
use super::{Piece, Room, columns_of, pieces};
use crate::kernels::Pattern;
use crate::kernels::activation::Activation;
use crate::kernels::apply::{Affine, Coefficients};
use crate::kernels::reduce::Scratch;
use crate::layout::Grid;
use crate::plan::{Cut, tile_statistics};
use crate::simd::{Behind, Follower, Kernel, Real, Simd};
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
pub(super) struct Share<'w, 'a, T, A, const K: usize> {
    pub(super) reduction: &'w Reduction<'a, T, K>,
    pub(super) cut: &'w Cut,
    pub(super) statistics: Range<usize>,
    pub(super) chunks: Range<usize>,
    /// Where the results go.
    pub(super) totals: &'w mut [A],
    /// Room for those of a chunk.
    pub(super) part: &'w mut Vec<A>,
}

impl<T: Real, A: Statistic<T, K>, const K: usize> Share<'_, '_, T, A, K> {
    /// Reduces them; what is pending is applied meanwhile.
    pub(super) fn reduce<C: Coefficients<T, L, J>, const L: usize, const J: usize>(
        self,
        pending: Option<Pending<T, C, L>>,
        room: Room<T>,
    ) {
        T::dispatch(room.isa, ReduceShare { share: self, pending, room });
    }

    #[inline(always)]
    fn all<S: Simd<T>>(self, s: S, scratch: &mut Scratch<T>, stages: &mut Stages<T>, behind: &mut impl Behind) {
        let Share { reduction, cut, statistics, chunks, totals, part } = self;
        let grid = &reduction.grid;
        totals.fill(A::default());
        for piece in pieces(grid, tile_statistics(grid), statistics.clone()) {
            let at = piece.0 * grid.width + piece.1.start - statistics.start;
            let totals = &mut totals[at..at + piece.1.len()];
            for chunk in chunks.clone() {
                part.clear();
                part.resize(totals.len(), A::default());
                reduction.chunk(s, cut, piece.clone(), chunk, (&mut *scratch, &mut *stages), part, behind);
                for (total, &part) in totals.iter_mut().zip(part.iter()) {
                    *total = total.merge(part);
                }
            }
        }
    }
}

impl<T: Real, const K: usize> Reduction<'_, T, K> {
    /// A piece of the statistics in one chunk, into `into`.
    #[inline(always)]
    fn chunk<S: Simd<T>, A: Statistic<T, K>>(
        &self,
        s: S,
        cut: &Cut,
        (k, w): Piece,
        chunk: usize,
        (scratch, stages): (&mut Scratch<T>, &mut Stages<T>),
        into: &mut [A],
        behind: &mut impl Behind,
    ) {
        let Reduction { grid, inputs, known, activation, mask } = self;
        let Stages { inputs: stages, mask: stage, packed } = stages;
        let mut cells = std::mem::take(&mut scratch.known);
        cells.resize(w.len(), Affine::EMPTY);
        known(k * grid.width + w.start, &mut cells);
        let (rows, columns) = cut.chunk(grid, chunk);
        if grid.lines {
            let tiles = tiles(inputs, 0, &w, &(0..grid.len), stages);
            let mask = mask.as_ref().map(|mask| mask.tile(0, &w, &(0..grid.len), stage));
            for (row, (into, &cell)) in into.iter_mut().zip(&cells).enumerate() {
                let mut line = tiles.map(|tile| tile.line(row));
                if let Some(mask) = mask {
                    line = pack(line, mask.line(row), packed);
                }
                if line[0].len() > 0 {
                    into.rows::<S, true>(s, line, cell, *activation, behind);
                    behind.follow(line[0].len());
                }
            }
        } else if grid.columns {
            let columns = columns_of(grid, &w);
            let pattern = Pattern { repeat: grid.repeat, width: w.len(), fold: grid.fold };
            A::prepare(pattern, &cells, scratch);
            for rows in cut.rows(rows) {
                let mut tiles = tiles(inputs, k, &rows, &columns, stages);
                if let Some(mask) = mask {
                    debug_assert!(grid.repeat == 1 && grid.fold == 1);
                    tiles = pack_rows(tiles, mask.tile(k, &rows, &columns, stage), packed);
                }
                if tiles[0].rows() > 0 {
                    A::columns(s, tiles, pattern, *activation, scratch, into);
                }
            }
        } else {
            for rows in cut.rows(rows) {
                for columns in cut.columns(&columns) {
                    let mut tiles = tiles(inputs, k, &rows, &columns, stages);
                    if let Some(mask) = mask {
                        tiles = pack(tiles, mask.tile(k, &rows, &columns, stage), packed);
                    }
                    if tiles[0].len() > 0 {
                        into[0].rows::<S, false>(s, tiles, cells[0], *activation, behind);
                    }
                }
            }
        }
        scratch.known = cells;
    }
}

/// The code of [`Share::reduce`].
struct ReduceShare<'w, 'a, T, A, C, const K: usize, const L: usize, const J: usize> {
    share: Share<'w, 'a, T, A, K>,
    pending: Option<Pending<'w, 'a, T, C, L>>,
    room: Room<'w, T>,
}

impl<T, A, C, const K: usize, const L: usize, const J: usize> Kernel<T> for ReduceShare<'_, '_, T, A, C, K, L, J>
where
    T: Real,
    A: Statistic<T, K>,
    C: Coefficients<T, L, J>,
{
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let ReduceShare { share, pending, room: Room { scratch, stages, behind, .. } } = self;
        if C::HEAVY {
            debug_assert!(pending.is_none());
            share.all(s, scratch, stages, &mut ());
            return;
        }
        let mut waiting = pending.map(Pending::waiting::<J>);
        let mut follower = Follower::new(
            s,
            behind,
            |parameters| waiting.as_mut()?(parameters),
            #[inline(always)]
            |operands, coefficients| C::NONE.of(s, operands, coefficients),
        );
        share.all(s, scratch, stages, &mut follower);
        follower.finish();
    }
}
