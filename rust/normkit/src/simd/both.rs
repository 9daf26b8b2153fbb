//! Two outputs of each element at once, through the caches.

use super::loops::load;
use super::{Lines, LinesMut, Real, Simd, Stored, inlined, mapped};

/// `outs = f(lines, parameters)`, run by run; `along` gives the parameters of a line. An input may be either output's memory. (A
/// loop of its own: with two outputs in the others, what has two takes several times as long to compile.)
#[inline(always)]
pub(crate) fn map_both<T: Real, E: Stored<T>, S: Simd<T>, const K: usize, const J: usize>(
    s: S,
    lines: [Lines<E>; K],
    outs: [&LinesMut<E>; 2],
    along: impl Fn(usize) -> [S::V; J],
    f: impl Fn([S::V; K], [S::V; J]) -> [S::V; 2],
) {
    let shape = outs[0].shape();
    assert!(lines.iter().all(|of| of.is_like(shape)) && shape.is_like(outs[1].shape()));
    let (len, zeros) = (shape.len(), [s.splat(T::ZERO); K]);
    for r in 0..shape.rows() {
        for l in 0..shape.lines() {
            let (from, to, of) = (mapped(lines, |of| of.at(r, l)), mapped(outs, |out| out.at(r, l)), along(l));
            let values = inlined(
                #[inline(always)]
                |i: usize, n: usize| {
                    debug_assert!(i + n <= len && n <= S::N);
                    // SAFETY: a run has `len` elements, and i + n <= len below.
                    f(unsafe { load(s, &from, i, n, &zeros) }, of)
                },
            );
            let mut i = 0;
            while i + S::N <= len {
                let [one, other] = values(i, S::N);
                // SAFETY: all indices stay below len, the length of every run.
                unsafe {
                    s.will_write(to[0].add(i));
                    s.will_write(to[1].add(i));
                    E::store(s, to[0].add(i), one);
                    E::store(s, to[1].add(i), other);
                }
                i += S::N;
            }
            if i < len {
                let [one, other] = values(i, len - i);
                // SAFETY: as above.
                unsafe {
                    E::store_n(s, to[0].add(i), len - i, one);
                    E::store_n(s, to[1].add(i), len - i, other);
                }
            }
        }
    }
}
