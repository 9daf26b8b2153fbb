//! The first half: operands to statistics.

use std::ops::Range;

use super::stages::{Stages, pack, pack_rows, tiles};
use super::statistic::{Known, Statistic};
use super::{Piece, Room, columns_of, pieces};
use crate::kernels::Pattern;
use crate::kernels::activation::Activation;
use crate::kernels::reduce::Scratch;
use crate::layout::Grid;
use crate::plan::Cut;
use crate::simd::{Kernel, Real, Simd};
use crate::view::{Input, Output};

/// Operands to reduce.
pub struct Reduction<'a, T, const K: usize> {
    pub grid: Grid,
    pub inputs: [Input<'a, T>; K],
    /// What is known of statistic number t of the grid.
    pub known: Known<'a, T>,
    pub activation: Activation,
    /// Elements that count, where not all do.
    pub mask: Option<Input<'a, T>>,
    /// What will be written where these operands have been read, if it is known: its lines come to the cache meanwhile.
    pub ahead: Option<Output<'a, T>>,
}

impl<T: Real, const K: usize> Reduction<'_, T, K> {
    /// A range of statistics from start to end, into `totals`.
    pub(super) fn whole<A: Statistic<T, K>>(
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
    pub(super) fn chunk<A: Statistic<T, K>>(
        &self,
        cut: &Cut,
        piece: Piece,
        chunk: usize,
        fetch: bool,
        room: &mut Room<T>,
        into: &mut [A],
    ) {
        let Room { isa, scratch, stages, .. } = room;
        let ahead = self.ahead.as_ref().filter(|_| fetch);
        T::dispatch(*isa, ReduceChunk { reduction: self, cut, piece, chunk, ahead, scratch, stages, into });
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
    stages: &'w mut Stages<T>,
    into: &'w mut [A],
}

impl<T: Real, A: Statistic<T, K>, const K: usize> Kernel<T> for ReduceChunk<'_, '_, T, A, K> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let ReduceChunk { reduction, cut, piece: (k, w), chunk, ahead, scratch, stages, into } = self;
        let Reduction { grid, inputs, known, activation, mask, .. } = reduction;
        into.fill(A::default());
        let Stages { inputs: stages, mask: stage, packed } = stages;
        if grid.lines {
            let tiles = tiles(inputs, 0, &w, &(0..grid.len), stages);
            let mask = mask.as_ref().map(|mask| mask.tile(0, &w, &(0..grid.len), stage));
            for (row, into) in into.iter_mut().enumerate() {
                let mut line = tiles.map(|tile| tile.line(row));
                if let Some(mask) = mask {
                    line = pack(line, mask.line(row), packed);
                }
                if line[0].len() > 0 {
                    into.rows(s, line, known(w.start + row), *activation);
                }
            }
            return;
        }
        let cell = |w: usize| known(k * grid.width + w);
        let (rows, columns) = cut.chunk(grid, chunk);
        if grid.columns {
            let columns = columns_of(grid, &w);
            let pattern = Pattern { repeat: grid.repeat, width: w.len(), fold: grid.fold };
            A::prepare(pattern, |i| cell(w.start + i), scratch);
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
            let cell = cell(w.start);
            for rows in cut.rows(rows) {
                for columns in cut.columns(&columns) {
                    if let Some(out) = ahead {
                        out.fetch(s, k, &rows, &columns);
                    }
                    let mut tiles = tiles(inputs, k, &rows, &columns, stages);
                    if let Some(mask) = mask {
                        tiles = pack(tiles, mask.tile(k, &rows, &columns, stage), packed);
                    }
                    if tiles[0].len() > 0 {
                        into[0].rows(s, tiles, cell, *activation);
                    }
                }
            }
        }
    }
}
