//! Blocks of operands that cannot be used in place, or not whole.

use std::ops::Range;

use crate::memory::Memory;
use crate::simd::{Aligned, Real, Simd, Tile};
use crate::view::Input;

/// The most operands that a pass has.
pub(super) const MOST: usize = 5;

/// Room for such blocks, reused from block to block.
pub(super) struct Stages<T, E> {
    pub(super) inputs: [Aligned<T>; MOST],
    pub(super) mask: Aligned<T>,
    pub(super) packed: [Vec<E>; MOST],
}

impl<T: Real, E> Stages<T, E> {
    pub(super) fn new() -> Self {
        Stages { inputs: [const { Aligned::EMPTY }; MOST], mask: Aligned::EMPTY, packed: [const { Vec::new() }; MOST] }
    }
}

/// The tiles of all operands.
#[inline(always)]
pub(super) fn tiles<'t, T: Real, E: Memory<T>, S: Simd<T>, const K: usize>(
    s: S,
    inputs: &'t [Input<'_, T>; K],
    k: usize,
    rows: &Range<usize>,
    columns: &Range<usize>,
    stages: &'t mut [Aligned<T>; MOST],
) -> [Tile<'t, E>; K] {
    let mut stages = stages.iter_mut();
    inputs
        .each_ref()
        .map(|input| E::tile(input, s, k, rows, columns, stages.next().expect("no pass has more operands than stages")))
}

/// The elements that a mask keeps, in one row.
#[inline(never)]
pub(super) fn pack<'t, T: Real, E: Copy, const K: usize>(
    tiles: [Tile<E>; K],
    mask: Tile<T>,
    packed: &'t mut [Vec<E>; MOST],
) -> [Tile<'t, E>; K] {
    let kept = mask.values().filter(|&keep| keep != T::ZERO).count();
    let mut packed = packed.iter_mut();
    tiles.map(|tile| {
        let packed = packed.next().expect("no pass has more operands than stages");
        packed.clear();
        packed.extend(tile.values().zip(mask.values()).filter(|&(_, keep)| keep != T::ZERO).map(|(x, _)| x));
        Tile::new(packed, 1, kept)
    })
}

/// The rows that a mask keeps, which has one value for each.
#[inline(never)]
pub(super) fn pack_rows<'t, T: Real, E: Copy, const K: usize>(
    tiles: [Tile<E>; K],
    mask: Tile<T>,
    packed: &'t mut [Vec<E>; MOST],
) -> [Tile<'t, E>; K] {
    let keeps = |&row: &usize| mask.get(row, 0) != T::ZERO;
    let kept = (0..mask.rows()).filter(keeps).count();
    let mut packed = packed.iter_mut();
    tiles.map(|tile| {
        let packed = packed.next().expect("no pass has more operands than stages");
        packed.clear();
        for row in (0..mask.rows()).filter(keeps) {
            packed.extend(tile.line(row).values());
        }
        Tile::new(packed, kept, tile.len())
    })
}
