//! What a thread works with. All of it is there before anything is written: a call that lacks memory is refused whole.

use std::ops::Range;

use super::stages::{MOST, Stages};
use crate::error::{Result, room};
use crate::kernels::reduce::Scratch;
use crate::layout::Grid;
use crate::plan::{Steps, columns_at_once, stretch_statistics};
use crate::simd::{Aligned, Isa, Real, Stored};
use crate::view::{Input, Output};

/// What a thread keeps from task to task.
pub(super) struct State<T, E, A, C> {
    pub(super) scratch: Scratch<T>,
    pub(super) stages: Stages<T, E>,
    pub(super) outputs: [Aligned<T>; 2],
    pub(super) chunk: Vec<A>,
    pub(super) totals: Vec<A>,
    pub(super) coefficients: Vec<C>,
    /// Cells that have their coefficients and wait to be applied, and these.
    pub(super) pending: Option<Range<usize>>,
    pub(super) waiting: Vec<C>,
}

impl<T: Real, E, A, C> State<T, E, A, C> {
    /// With room for these, so that no task asks for memory.
    pub(super) fn new(needs: &Needs) -> Result<Self> {
        let Needs { cells, columns, inputs, mask, packed, outputs, totals, coefficients, waiting } = *needs;
        let mut state = State {
            scratch: Scratch::new(),
            stages: Stages::new(),
            outputs: [const { Aligned::EMPTY }; 2],
            chunk: room(cells)?,
            totals: room(totals)?,
            coefficients: room(coefficients)?,
            pending: None,
            waiting: room(waiting)?,
        };
        // Small calls need little of this, and notice what they pay for the rest.
        state.scratch.known = room(cells)?;
        state.scratch.columns = room(Scratch::<T>::of(columns))?;
        if mask > 0 {
            state.stages.mask = Aligned::new(mask)?;
        }
        let blocks = state.stages.inputs.iter_mut().zip(inputs).chain(state.outputs.iter_mut().zip(outputs));
        for (of, n) in blocks.filter(|&(_, n)| n > 0) {
            *of = Aligned::new(n)?;
        }
        for (of, n) in state.stages.packed.iter_mut().zip(packed).filter(|&(_, n)| n > 0) {
            *of = room(n)?;
        }
        Ok(state)
    }
}

/// The most elements that each part of a [`State`] will hold.
#[derive(Clone, Copy, Default)]
pub(super) struct Needs {
    /// Statistics that are taken at a time.
    pub(super) cells: usize,
    pub(super) columns: usize,
    pub(super) inputs: [usize; MOST],
    pub(super) mask: usize,
    pub(super) packed: [usize; MOST],
    pub(super) outputs: [usize; 2],
    pub(super) totals: usize,
    pub(super) coefficients: usize,
    pub(super) waiting: usize,
}

impl Needs {
    /// Of these operands: blocks of those that are not used in place.
    pub(super) fn of<T: Real, E: Stored<T>>(
        grid: &Grid,
        steps: Steps,
        inputs: &[Input<T>],
        masked: bool,
        outputs: [Option<&Output<T>>; 2],
    ) -> Needs {
        let block = steps.most(grid);
        let mut needs = Needs { cells: stretch_statistics(grid).min(grid.statistics()), ..Needs::default() };
        if grid.columns && !grid.in_lines() {
            needs.columns = columns_at_once(grid);
        }
        if masked {
            needs.mask = block;
        }
        for (need, _) in needs.inputs.iter_mut().zip(inputs).filter(|(_, of)| !of.is_direct::<E>()) {
            *need = block;
        }
        for (need, _) in
            needs.outputs.iter_mut().zip(outputs).filter(|(_, of)| of.is_some_and(|of| !of.is_direct::<E>()))
        {
            *need = block;
        }
        needs
    }

    /// Enough for either.
    pub(super) fn or(self, other: Needs) -> Needs {
        fn most<const N: usize>(one: [usize; N], other: [usize; N]) -> [usize; N] {
            std::array::from_fn(|i| one[i].max(other[i]))
        }
        Needs {
            cells: self.cells.max(other.cells),
            columns: self.columns.max(other.columns),
            inputs: most(self.inputs, other.inputs),
            mask: self.mask.max(other.mask),
            packed: most(self.packed, other.packed),
            outputs: most(self.outputs, other.outputs),
            totals: self.totals.max(other.totals),
            coefficients: self.coefficients.max(other.coefficients),
            waiting: self.waiting.max(other.waiting),
        }
    }
}

/// What a task needs beyond its operands: the instruction set and room to work in.
pub(super) struct Room<'w, T, E> {
    pub(super) isa: Isa,
    pub(super) scratch: &'w mut Scratch<T>,
    pub(super) stages: &'w mut Stages<T, E>,
    pub(super) outputs: &'w mut [Aligned<T>; 2],
}
