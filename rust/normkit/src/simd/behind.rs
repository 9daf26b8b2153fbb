//! Work that goes on behind a reduction, a little at each of its steps, so that memory is read and written at once.
#![allow(clippy::needless_range_loop, reason = "registers of several operands are indexed together")]

use super::lines::map_run;
use super::loops::load;
use super::{Lines, LinesMut, Real, Simd, Stored, inlined, mapped};

/// Where what is reduced comes from, as far as is known when code is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Some cache, or memory.
    Anywhere,
    /// A cache.
    Cache,
    /// Memory, as outputs go there past the caches.
    Memory,
}

/// What is done while something else is reduced.
pub trait Behind {
    /// Where that comes from.
    const ORIGIN: Origin = Origin::Anywhere;
    /// How many of `most` steps of `step` elements can be done now, at least one, and what does the step that begins at
    /// an offset: to be called for each of them.
    fn segment(&mut self, step: usize, most: usize) -> (usize, impl Fn(usize));
    /// Does so many elements, or a few more.
    fn follow(&mut self, elements: usize);
}

/// [`inlined`] for the work of a step.
#[inline(always)]
fn inlined_step(f: impl Fn(usize)) -> impl Fn(usize) {
    f
}

/// [`inlined`] for what gives one rectangle after the other. (One call in a loop, made however seldom, is enough that its sums live in
/// memory rather than in registers: reductions with something behind them took 1.1 to 1.4 times as long, by build.)
#[inline(always)]
pub(crate) fn inlined_next<R>(f: impl FnMut() -> R) -> impl FnMut() -> R {
    f
}

/// Nothing.
impl Behind for () {
    #[inline(always)]
    fn segment(&mut self, _step: usize, most: usize) -> (usize, impl Fn(usize)) {
        (most, |_| ())
    }
    #[inline(always)]
    fn follow(&mut self, _elements: usize) {}
}

/// What is made of an element of each of `K` lines, with parameters that a line has in common.
pub(crate) trait Each<T: Real, const K: usize> {
    /// These parameters.
    type Of: Copy;
    /// They, in registers.
    type Along<S: Simd<T>>: Copy;
    /// Stands for them where none are needed.
    const NONE: Self::Of;
    /// Puts them there.
    fn along<S: Simd<T>>(s: S, of: Self::Of) -> Self::Along<S>;
    /// Those of one line in the first `n` lanes, those of another in the rest.
    fn between<S: Simd<T>>(s: S, n: usize, one: Self::Along<S>, other: Self::Along<S>) -> Self::Along<S>;
    /// The output.
    fn output<S: Simd<T>>(s: S, operands: [S::V; K], along: Self::Along<S>) -> S::V;
}

/// Makes the outputs of some elements.
/// # Safety
/// As of [`map_run`]; to `STREAM`, they are whole registers, on a multiple of their size.
#[inline(always)]
unsafe fn make<T: Real, E: Stored<T>, S: Simd<T>, X: Each<T, K>, const K: usize, const STREAM: bool>(
    s: S,
    from: [*const E; K],
    to: *mut E,
    len: usize,
    along: X::Along<S>,
) {
    let f = inlined(
        #[inline(always)]
        |operands, along| X::output(s, operands, along),
    );
    if !STREAM {
        // SAFETY: the caller vouches for the memory.
        return unsafe { map_run(s, from, to, len, false, along, &f) };
    }
    let (mut i, zeros) = (0, [s.splat(T::ZERO); K]);
    while i < len {
        debug_assert!(i + S::N <= len && to.wrapping_add(i).addr().is_multiple_of(S::N * size_of::<E>()));
        // SAFETY: as the caller vouches.
        unsafe { E::stream(s, to.add(i), f(load(s, &from, i, S::N, &zeros), along)) };
        i += S::N;
    }
}

/// Runs that wait for their outputs, and parameters of each line.
pub(crate) struct Waiting<'t, E, P, const K: usize> {
    pub(crate) lines: [Lines<'t, E>; K],
    pub(crate) out: LinesMut<'t, E>,
    pub(crate) of: &'t [P],
}

/// The outputs of one rectangle after the other, which `next` gives; stored past the caches to `STREAM`. (A flag of each call, asked
/// in the loops, costs up to a third of the time.)
pub(crate) struct Follower<'t, T: Real, E, S, X: Each<T, K>, N, const K: usize, const STREAM: bool> {
    s: S,
    next: N,
    now: Option<Waiting<'t, E, X::Of, K>>,
    row: usize,
    line: usize,
    /// Where the run begins.
    from: [*const E; K],
    to: *mut E,
    /// What is done of the run, and what is left.
    offset: usize,
    left: usize,
}

impl<'t, T: Real, E: Stored<T>, S: Simd<T>, X: Each<T, K>, N, const K: usize, const STREAM: bool>
    Follower<'t, T, E, S, X, N, K, STREAM>
where
    N: FnMut() -> Option<Waiting<'t, E, X::Of, K>>,
{
    /// One that has not begun.
    #[inline(always)]
    pub(crate) fn new(s: S, next: N) -> Self {
        let mut follower = Follower {
            s,
            next,
            now: None,
            row: 0,
            line: 0,
            from: [std::ptr::null(); K],
            to: std::ptr::null_mut(),
            offset: 0,
            left: 0,
        };
        follower.rectangle();
        follower
    }

    /// To the next rectangle, if there is one.
    #[inline(always)]
    fn rectangle(&mut self) {
        self.now = (self.next)();
        self.row = 0;
        if let Some(Waiting { lines, out, of }) = &self.now {
            assert!(lines.iter().all(|of| of.is_like(out.shape())));
            assert!(of.len() == out.shape().lines() && out.shape().rows() > 0 && !of.is_empty());
            // Whole registers are streamed: one that has the end of a line in it takes parameters of two.
            let (len, adjoin) = (out.shape().len(), |of: &Lines<E>| of.step() == out.shape().len() as isize);
            let whole = len.is_multiple_of(S::N) || len >= S::N && lines.iter().all(adjoin);
            assert!(!STREAM || out.shape().on_lines() && whole);
            self.begin();
        }
    }

    /// To the first run of a row.
    #[inline(always)]
    fn begin(&mut self) {
        let Some(Waiting { lines, out, .. }) = &self.now else { return };
        (self.from, self.to) = (mapped(*lines, |of| of.at(self.row, 0)), out.at(self.row, 0));
        (self.line, self.offset, self.left) = (0, 0, out.shape().len());
    }

    /// To the next run, if there is one.
    #[inline(always)]
    fn turn(&mut self) {
        let Some(Waiting { lines, out, of }) = &self.now else { return };
        self.line += 1;
        if self.line < of.len() {
            for k in 0..K {
                self.from[k] = self.from[k].wrapping_offset(lines[k].step());
            }
            self.to = self.to.wrapping_offset(out.shape().step());
            (self.offset, self.left) = (0, out.shape().len());
            return;
        }
        self.row += 1;
        if self.row < out.shape().rows() { self.begin() } else { self.rectangle() }
    }

    /// So many elements of the run; after the last of them to the next run.
    #[inline(always)]
    fn some(&mut self, n: usize) {
        debug_assert!(n <= self.left);
        let Some(Waiting { of, .. }) = &self.now else { return };
        let (at, along) = (self.offset, X::along(self.s, of[self.line]));
        let whole = if STREAM { n / S::N * S::N } else { n };
        let from = mapped(self.from, |p| p.wrapping_add(at));
        // SAFETY: so many are left of the run; lines and output are alike. What is streamed is whole lines of the caches, of
        // which whole registers are taken at a time.
        unsafe { make::<T, E, S, X, K, STREAM>(self.s, from, self.to.wrapping_add(at), whole, along) };
        (self.offset, self.left) = (at + whole, self.left - whole);
        let over = if STREAM && n > whole { S::N - self.left } else { 0 };
        if over > 0 {
            debug_assert!(self.left < S::N && self.line + 1 < of.len());
            let along = X::between(self.s, self.left, along, X::along(self.s, of[self.line + 1]));
            let from = mapped(self.from, |p| p.wrapping_add(self.offset));
            // SAFETY: the next line follows in all of them, and is a register at least: asserted where the rectangle was begun.
            unsafe { make::<T, E, S, X, K, STREAM>(self.s, from, self.to.wrapping_add(self.offset), S::N, along) };
            self.left = 0;
        }
        if self.left == 0 {
            self.turn();
            (self.offset, self.left) = (self.offset + over, self.left - over);
        }
    }

    /// Does all that is left.
    #[inline(always)]
    pub(crate) fn finish(mut self) {
        while self.now.is_some() {
            self.some(self.left);
        }
        if STREAM {
            self.s.fence();
        }
    }
}

impl<'t, T: Real, E: Stored<T>, S: Simd<T>, X: Each<T, K>, N, const K: usize, const STREAM: bool> Behind
    for Follower<'t, T, E, S, X, N, K, STREAM>
where
    N: FnMut() -> Option<Waiting<'t, E, X::Of, K>>,
{
    const ORIGIN: Origin = if STREAM { Origin::Memory } else { Origin::Anywhere };

    #[inline(always)]
    fn segment(&mut self, step: usize, most: usize) -> (usize, impl Fn(usize)) {
        debug_assert!(step.is_multiple_of(S::N));
        if self.left < step {
            self.some(self.left);
        }
        let steps = if self.now.is_some() { (self.left / step).min(most) } else { 0 };
        let along = X::along(self.s, self.now.as_ref().map_or(X::NONE, |now| now.of[self.line]));
        let (s, at) = (self.s, self.offset);
        let (from, to) = (mapped(self.from, |p| p.wrapping_add(at)), self.to.wrapping_add(at));
        self.offset += steps * step;
        self.left -= steps * step;
        let apply = inlined_step(
            #[inline(always)]
            move |at| {
                if steps > 0 {
                    debug_assert!(at + step <= steps * step);
                    for u in 0..step / S::N {
                        let i = at + u * S::N;
                        let from = mapped(from, |p| p.wrapping_add(i));
                        // SAFETY: within the segment, of which as much was left; as above.
                        unsafe { make::<T, E, S, X, K, STREAM>(s, from, to.wrapping_add(i), S::N, along) };
                    }
                }
            },
        );
        (if steps > 0 { steps } else { most }, apply)
    }

    #[inline(always)]
    fn follow(&mut self, elements: usize) {
        let mut left = elements;
        while left > 0 && self.now.is_some() {
            // Whole vectors, but at the end of a run.
            let n = left.next_multiple_of(S::N).min(self.left);
            left = left.saturating_sub(n);
            self.some(n);
        }
    }
}

/// The outputs of lines of one row: one of them for each line that is reduced, or for each few that registers hold, and the others
/// in the end. (One for each of those, too, takes 1.01 to 1.02 times as long: they are still in the first-level cache.) What a
/// [`Follower`] keeps track of would cost more than short lines do.
pub(crate) struct Lockstep<'t, T: Real, E, S, X: Each<T, K>, const K: usize> {
    s: S,
    waiting: Option<Waiting<'t, E, X::Of, K>>,
    line: usize,
}

impl<'t, T: Real, E: Stored<T>, S: Simd<T>, X: Each<T, K>, const K: usize> Lockstep<'t, T, E, S, X, K> {
    /// One that has not begun.
    #[inline(always)]
    pub(crate) fn new(s: S, waiting: Option<Waiting<'t, E, X::Of, K>>) -> Self {
        if let Some(Waiting { lines, out, of }) = &waiting {
            assert!(lines.iter().all(|of| of.is_like(out.shape())));
            assert!(of.len() == out.shape().lines() && out.shape().rows() == 1);
        }
        Lockstep { s, waiting, line: 0 }
    }

    /// The next line; whether there was one.
    #[inline(always)]
    fn next(&mut self) -> bool {
        let (line, Some(Waiting { lines, out, of })) = (self.line, &self.waiting) else { return false };
        if line >= of.len() {
            return false;
        }
        let mut from = [std::ptr::null(); K];
        for k in 0..K {
            from[k] = lines[k].at(0, line);
        }
        let along = X::along(self.s, of[line]);
        // SAFETY: lines and output are alike: each run has so many elements.
        unsafe { make::<T, E, S, X, K, false>(self.s, from, out.at(0, line), out.shape().len(), along) };
        self.line += 1;
        true
    }

    /// Does all that is left.
    #[inline(always)]
    pub(crate) fn finish(mut self) {
        while self.next() {}
    }
}

impl<T: Real, E: Stored<T>, S: Simd<T>, X: Each<T, K>, const K: usize> Behind for Lockstep<'_, T, E, S, X, K> {
    /// It is for calls that store nothing past the caches.
    const ORIGIN: Origin = Origin::Cache;

    #[inline(always)]
    fn segment(&mut self, _step: usize, most: usize) -> (usize, impl Fn(usize)) {
        (most, |_| ())
    }

    #[inline(always)]
    fn follow(&mut self, _elements: usize) {
        self.next();
    }
}
