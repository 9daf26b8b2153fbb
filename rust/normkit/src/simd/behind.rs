//! Work that goes on behind a reduction, a little at each of its steps, so that memory is read and written at once.
#![allow(clippy::needless_range_loop, reason = "registers of several operands are indexed together")]

use super::{Real, Simd, Tile, TileMut};

/// What is done while something else is reduced.
pub trait Behind {
    /// How many of `most` steps of `step` elements can be done now, at least one, and what does the step that begins at
    /// an offset: to be called for each of them.
    fn segment(&mut self, step: usize, most: usize) -> (usize, impl Fn(usize));
    /// Does whole rows, or what is left of them, until so many elements are done.
    fn follow(&mut self, elements: usize);
}

/// A closure can only be told to inline where it is an argument.
#[inline(always)]
fn inlined(f: impl Fn(usize)) -> impl Fn(usize) {
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

/// A rectangle that waits for its outputs.
pub(crate) struct Waiting<'t, T, const K: usize> {
    pub(crate) tiles: [Tile<'t, T>; K],
    pub(crate) out: TileMut<'t, T>,
}

/// `out = f(tiles, parameters)` for one waiting rectangle after the other.
pub(crate) struct Follower<'t, T, S, F, N, const K: usize, const J: usize> {
    s: S,
    f: F,
    /// Gives the next rectangle, and writes the parameters of each of its rows, or those of all rows.
    next: N,
    parameters: &'t mut Vec<T>,
    now: Option<Waiting<'t, T, K>>,
    row: usize,
    run: Run<T, K, J>,
    /// What is left of the row.
    left: usize,
    done: bool,
}

/// What is next of a row.
#[derive(Clone, Copy)]
struct Run<T, const K: usize, const J: usize> {
    from: [*const T; K],
    to: *mut T,
    parameters: [T; J],
}

impl<T: Real, const K: usize, const J: usize> Run<T, K, J> {
    /// `n` elements from the `i`th on.
    /// # Safety
    /// There are as many, and `n <= S::N`.
    #[inline(always)]
    unsafe fn apply<S: Simd<T>>(&self, s: S, i: usize, n: usize, f: &impl Fn([S::V; K], [S::V; J]) -> S::V) {
        debug_assert!(n <= S::N);
        let zero = s.splat(T::ZERO);
        let (mut operands, mut parameters) = ([zero; K], [zero; J]);
        for j in 0..J {
            parameters[j] = s.splat(self.parameters[j]);
        }
        // SAFETY: as the caller vouches.
        unsafe {
            for k in 0..K {
                let p = self.from[k].add(i);
                operands[k] = if n == S::N { s.load(p) } else { s.load_or(p, n, zero) };
            }
            let value = f(operands, parameters);
            let p = self.to.add(i);
            if n == S::N { s.store(p, value) } else { s.store_n(p, n, value) }
        }
    }

    /// So many elements on.
    #[inline(always)]
    fn skip(&mut self, n: usize) {
        self.from = self.from.map(|p| p.wrapping_add(n));
        self.to = self.to.wrapping_add(n);
    }
}

impl<'t, T, S, F, N, const K: usize, const J: usize> Follower<'t, T, S, F, N, K, J>
where
    T: Real,
    S: Simd<T>,
    F: Fn([S::V; K], [S::V; J]) -> S::V,
    N: FnMut(&mut Vec<T>) -> Option<Waiting<'t, T, K>>,
{
    /// One that has not begun.
    #[inline(always)]
    pub(crate) fn new(s: S, parameters: &'t mut Vec<T>, next: N, f: F) -> Self {
        let run = Run { from: [std::ptr::null(); K], to: std::ptr::null_mut(), parameters: [T::ZERO; J] };
        let mut follower = Follower { s, f, next, parameters, now: None, row: 0, run, left: 0, done: false };
        follower.turn();
        follower
    }

    /// What is left of a row.
    #[inline(always)]
    fn rest(&mut self) {
        let mut i = 0;
        while i < self.left {
            let n = (self.left - i).min(S::N);
            // SAFETY: so many are left.
            unsafe { self.run.apply(self.s, i, n, &self.f) };
            i += n;
        }
        self.left = 0;
    }

    /// To the next row, or the next rectangle, if there is one.
    #[inline(always)]
    fn turn(&mut self) {
        self.row += 1;
        if self.now.as_ref().is_none_or(|now| self.row >= now.out.rows()) {
            self.now = (self.next)(self.parameters);
            self.row = 0;
            if let Some(Waiting { tiles, out }) = &self.now {
                assert!(tiles.iter().all(|tile| tile.rows() == out.rows() && tile.len() == out.len()));
                assert!(self.parameters.len() == J || self.parameters.len() == out.rows() * J);
            }
        }
        let Some(Waiting { tiles, out }) = &self.now else {
            self.done = true;
            return;
        };
        let first = if self.parameters.len() == J { 0 } else { self.row * J };
        let mut parameters = [T::ZERO; J];
        parameters.copy_from_slice(&self.parameters[first..first + J]);
        self.run = Run { from: tiles.map(|tile| tile.row(self.row)), to: out.row(self.row), parameters };
        self.left = out.len();
    }

    /// Does all that is left.
    #[inline(always)]
    pub(crate) fn finish(mut self) {
        self.follow(usize::MAX);
    }
}

impl<'t, T, S, F, N, const K: usize, const J: usize> Behind for Follower<'t, T, S, F, N, K, J>
where
    T: Real,
    S: Simd<T>,
    F: Fn([S::V; K], [S::V; J]) -> S::V,
    N: FnMut(&mut Vec<T>) -> Option<Waiting<'t, T, K>>,
{
    #[inline(always)]
    fn segment(&mut self, step: usize, most: usize) -> (usize, impl Fn(usize)) {
        debug_assert!(step.is_multiple_of(S::N));
        if self.left < step && !self.done {
            self.rest();
            self.turn();
        }
        let (s, run, f) = (self.s, self.run, &self.f);
        let steps = (self.left / step).min(most);
        self.run.skip(steps * step);
        self.left -= steps * step;
        let apply = inlined(
            #[inline(always)]
            move |offset| {
                if steps > 0 {
                    debug_assert!(offset + step <= steps * step);
                    for u in 0..step / S::N {
                        // SAFETY: within the segment, of which as much was left.
                        unsafe { run.apply(s, offset + u * S::N, S::N, f) };
                    }
                }
            },
        );
        (if steps > 0 { steps } else { most }, apply)
    }

    #[inline(always)]
    fn follow(&mut self, elements: usize) {
        let mut done = 0;
        while done < elements && !self.done {
            done += self.left;
            self.rest();
            self.turn();
        }
    }
}
