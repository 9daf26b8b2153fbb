//! The fused schedule where each statistic is one or more short runs: a few of them at a time, which are applied while
//! the next are reduced. What surrounds the loops over elements would cost more than these, so there is little of it.

use std::ops::Range;

use super::statistic::Statistic;
use super::{Pass, State};
use crate::kernels::apply::{Affine, Coefficients, splat};
use crate::simd::{Follower, Isa, Kernel, Real, Simd, Tile, Waiting};
use crate::view::Input;

/// Bytes that are reduced at a time, if they are a statistic at least: so few that they are still in the first-level
/// cache when they are applied, so many that what surrounds them is little.
const STEP: usize = 8 << 10;

/// What [`Pass::by_lines`] has found.
const DIRECT: &str = "lines are taken where all memory is used in place";

impl<T, A, C, const K: usize, const L: usize, const J: usize> Pass<'_, T, A, C, K, L, J>
where
    T: Real,
    A: Statistic<T, K>,
    C: Coefficients<T, L, J>,
{
    /// Whether both halves are short runs that are used in place.
    pub(super) fn by_lines(&self) -> bool {
        let Pass { reduce, apply: Some(apply), .. } = self else { return false };
        let direct = reduce.inputs.iter().all(Input::is_direct) && reduce.mask.is_none() && apply.can_wait();
        reduce.grid.lines && apply.grid.lines && direct
    }

    /// Statistics that are taken at a time.
    pub(super) fn step(&self) -> usize {
        (STEP / (self.parts * self.reduce.grid.len * size_of::<T>() * K)).max(1)
    }

    /// Takes statistics. The last of them are pending then.
    pub(super) fn take_lines(&self, isa: Isa, range: Range<usize>, state: &mut State<T, A::Total, C>) {
        T::dispatch(isa, TakeLines { pass: self, range, state });
    }

    /// Applies what is pending.
    pub(super) fn finish_lines(&self, isa: Isa, state: &mut State<T, A::Total, C>) {
        self.take_lines(isa, 0..0, state);
    }

    /// The cells of these statistics, which wait for their coefficients to be applied.
    #[inline(always)]
    fn waiting<'w>(&'w self, t: Range<usize>, of: &'w [C]) -> Option<Waiting<'w, T, C, L>> {
        let apply = self.apply.as_ref()?;
        let (lines, run) = (t.start * self.cells..t.end * self.cells, 0..apply.grid.len);
        let tiles = apply.inputs.each_ref().map(|input| input.direct(0, &lines, &run).expect(DIRECT));
        // SAFETY: tasks have different samples or different statistics, hence different cells.
        let out = unsafe { apply.out.tile(0, &lines, &run) }.expect(DIRECT);
        Some(Waiting { lines: tiles.map(Tile::rows_as_lines), out: out.rows_as_lines(), of })
    }
}

/// The code of [`Pass::take_lines`].
struct TakeLines<'w, 'a, T: Real, A: Statistic<T, K>, C, const K: usize, const L: usize, const J: usize> {
    pass: &'w Pass<'a, T, A, C, K, L, J>,
    range: Range<usize>,
    state: &'w mut State<T, A::Total, C>,
}

impl<T, A, C, const K: usize, const L: usize, const J: usize> Kernel<T> for TakeLines<'_, '_, T, A, C, K, L, J>
where
    T: Real,
    A: Statistic<T, K>,
    C: Coefficients<T, L, J>,
{
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let TakeLines { pass, range, state } = self;
        let State { scratch, totals, coefficients, pending, waiting, .. } = state;
        let Pass { reduce, parts, cells, .. } = pass;
        let each = pass.step();
        let mut steps = range.clone().step_by(each);
        loop {
            let step = steps.next().map(|t| t..(t + each).min(range.end));
            let mut before = pending.take().and_then(|range| pass.waiting(range, waiting));
            let mut follower = Follower::new(
                s,
                C::NONE,
                || before.take(),
                #[inline(always)]
                |cell| splat(s, cell),
                #[inline(always)]
                |operands, coefficients| C::NONE.of(s, operands, coefficients),
            );
            if let Some(step) = &step {
                let lines = step.start * parts..step.end * parts;
                totals.clear();
                totals.resize(lines.len(), A::Total::default());
                scratch.known.resize(lines.len(), Affine::EMPTY);
                (reduce.known)(lines.start, &mut scratch.known);
                let tiles =
                    reduce.inputs.each_ref().map(|input| input.direct(0, &lines, &(0..reduce.grid.len)).expect(DIRECT));
                let lines = tiles.map(Tile::rows_as_lines);
                A::lines(s, lines, &scratch.known, reduce.activation, totals, &mut follower);
            }
            follower.finish();
            // At the end what was taken last stays pending; without anything to take, nothing does.
            let Some(step) = step else { return };
            coefficients.resize(step.len() * cells, C::NONE);
            for (i, t) in step.clone().enumerate() {
                (pass.rule)(t, &totals[i * parts..(i + 1) * parts], &mut coefficients[i * cells..(i + 1) * cells]);
            }
            std::mem::swap(coefficients, waiting);
            let last = step.end == range.end;
            *pending = Some(step);
            if last {
                return;
            }
        }
    }
}
