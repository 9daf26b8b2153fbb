//! The fused schedule where each statistic is one or more short runs: a few of them at a time, which are applied while
//! the next are reduced or after that. What surrounds the loops over elements would cost more than these, so there is little of it.

use std::ops::Range;

use super::statistic::Statistic;
use super::{Pass, State};
use crate::kernels::apply::{Affine, Applied, Coefficients};
use crate::memory::Memory;
use crate::simd::{Isa, Kernel, Lines, LinesMut, Lockstep, Real, Simd, Stored, Waiting, mapped};
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
    pub(super) fn by_lines<E: Stored<T>>(&self) -> bool {
        let Pass { reduce, apply: Some(apply), .. } = self else { return false };
        let direct = reduce.inputs.iter().all(Input::is_direct::<E>) && reduce.mask.is_none();
        reduce.grid.lines && apply.grid.lines && direct && apply.can_wait::<E>(None)
    }

    /// Statistics that are taken at a time.
    pub(super) fn step<E>(&self) -> usize {
        (STEP / (self.parts * self.reduce.grid.len * size_of::<E>() * K)).max(1)
    }

    /// Takes statistics. The last of them are pending then.
    pub(super) fn take_lines<E: Memory<T>>(&self, isa: Isa, range: Range<usize>, state: &mut State<T, E, A::Total, C>) {
        T::dispatch(isa, TakeLines { pass: self, range, state });
    }

    /// Applies what is pending.
    pub(super) fn finish_lines<E: Memory<T>>(&self, isa: Isa, state: &mut State<T, E, A::Total, C>) {
        self.take_lines(isa, 0..0, state);
    }

    /// What is reduced for these statistics.
    #[inline(always)]
    fn reduced<E: Stored<T>>(&self, t: &Range<usize>) -> [Lines<'_, E>; K] {
        let (lines, run) = (t.start * self.parts..t.end * self.parts, 0..self.reduce.grid.len);
        self.reduce.inputs.each_ref().map(
            #[inline(always)]
            |input| input.direct(0, &lines, &run).expect(DIRECT).rows_as_lines(),
        )
    }

    /// What their coefficients are applied to.
    #[inline(always)]
    fn applied<E: Stored<T>>(&self, t: &Range<usize>) -> Option<([Lines<'_, E>; L], LinesMut<'_, E>)> {
        let apply = self.apply.as_ref()?;
        let (lines, run) = (t.start * self.cells..t.end * self.cells, 0..apply.grid.len);
        let inputs = apply.inputs.each_ref().map(
            #[inline(always)]
            |input| input.direct(0, &lines, &run).expect(DIRECT).rows_as_lines(),
        );
        // SAFETY: tasks have different samples or different statistics, hence different cells.
        let out = unsafe { apply.out.tile(0, &lines, &run) }.expect(DIRECT).rows_as_lines();
        Some((inputs, out))
    }
}

/// The code of [`Pass::take_lines`].
struct TakeLines<'w, 'a, T: Real, E, A: Statistic<T, K>, C, const K: usize, const L: usize, const J: usize> {
    pass: &'w Pass<'a, T, A, C, K, L, J>,
    range: Range<usize>,
    state: &'w mut State<T, E, A::Total, C>,
}

impl<T, E, A, C, const K: usize, const L: usize, const J: usize> Kernel<T> for TakeLines<'_, '_, T, E, A, C, K, L, J>
where
    T: Real,
    E: Memory<T>,
    A: Statistic<T, K>,
    C: Coefficients<T, L, J>,
{
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let TakeLines { pass, range, state } = self;
        let State { scratch, totals, coefficients, pending, waiting, .. } = state;
        let Pass { reduce, parts, cells, .. } = pass;
        let each = pass.step::<E>();
        // Where things are is found out once for all steps.
        let (all, mut applied) = (pass.reduced::<E>(&range), pass.applied::<E>(&range));
        let of_step =
            |step: &Range<usize>, parts: usize| (step.start - range.start) * parts..(step.end - range.start) * parts;
        let mut earlier = pending.take().and_then(|range| pass.applied::<E>(&range));
        let mut before: Option<Range<usize>> = None;
        let mut steps = range.clone().step_by(each).map(|t| t..(t + each).min(range.end));
        loop {
            let step = steps.next();
            let waits = match &before {
                Some(step) => applied.as_mut().map(|(inputs, out)| {
                    let lines = of_step(step, *cells);
                    (mapped(*inputs, |of| of.part(lines.clone())), out.part(lines))
                }),
                None => earlier.take(),
            };
            let waits = waits.map(|(lines, out)| Waiting { lines, out, of: waiting });
            let mut behind = Lockstep::<_, E, _, Applied<C, J>, L>::new(s, waits);
            if let Some(step) = &step {
                let lines = of_step(step, *parts);
                totals.clear();
                totals.resize(lines.len(), A::Total::default());
                scratch.known.resize(lines.len(), Affine::EMPTY);
                (reduce.known)(step.start * parts, &mut scratch.known);
                let lines = mapped(all, |of| of.part(lines.clone()));
                A::lines(s, lines, &scratch.known, reduce.activation, totals, &mut behind);
            }
            behind.finish();
            // At the end what was taken last stays pending; without anything to take, nothing does.
            let Some(step) = step else { return };
            coefficients.resize(step.len() * cells, C::NONE);
            pass.rule.all(step.start, *parts, totals, *cells, coefficients);
            std::mem::swap(coefficients, waiting);
            if step.end == range.end {
                *pending = Some(step);
                return;
            }
            before = Some(step);
        }
    }
}
