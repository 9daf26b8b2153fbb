//! Loops over short runs, several lines at a time.
#![allow(clippy::needless_range_loop, reason = "registers of several accumulators are indexed together")]

use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use super::loops::{add_wide, block_sums, half_fold, load, store, store_head, stream_lines, to_boundary, unrolls};
use super::{
    Behind, FETCHES_AHEAD, Fold, LINE, Lines, LinesMut, Origin, Real, Simd, Stored, Tile, Wide, inlined, mapped,
};

/// Lines whose sums are taken together.
pub(crate) const AT_ONCE: usize = 16;

/// The sums of the `M` terms that `f` makes of each line's elements, over all rows, for up to [`AT_ONCE`] lines: in
/// [`Real::LANES`] virtual lanes with two levels, the second in float64, folded by the fixed tree. `along` gives what `f`
/// needs of a line, and what tails are filled with, of which `f` must make zeros. The `B` terms that `g` makes are added
/// to `beside`, element by element. `behind` follows.
#[inline(always)]
pub(crate) fn line_sums<
    T: Real,
    E: Stored<T>,
    S: Simd<T>,
    P: Copy,
    Q: Behind,
    const K: usize,
    const M: usize,
    const B: usize,
>(
    s: S,
    lines: [Lines<E>; K],
    beside: [LinesMut<T>; B],
    behind: &mut Q,
    along: impl Fn(usize) -> ([T; K], P),
    f: impl Fn([S::V; K], P) -> [S::V; M],
    g: impl Fn([S::V; K], P) -> [S::V; B],
) -> [[f64; AT_ONCE]; M] {
    assert!(lines.iter().all(|of| of.is_like(lines[0])) && beside.iter().all(|of| lines[0].is_like(of.shape())));
    let (rows, count, len) = (lines[0].rows(), lines[0].lines(), lines[0].len());
    assert!(rows > 0 && len > 0 && count <= AT_ONCE);
    let registers = T::LANES / S::N;
    let along_memory = Q::ORIGIN != Origin::Cache && rows == 1 && lines[0].step() == len as isize;
    let asks = K == 1 || !(along_memory && FETCHES_AHEAD.load(Ordering::Relaxed));
    let zero = s.splat_lanes(T::ZERO);
    let mut outer = [const { MaybeUninit::<[Wide<T, S>; M]>::uninit() }; AT_ONCE];
    for r in 0..rows {
        let mut from = mapped(lines, |of| of.at(r, 0));
        let mut to = beside.each_ref().map(|of| of.at(r, 0));
        for l in 0..count {
            let (fill, of) = along(l);
            let mut fills = [s.splat(T::ZERO); K];
            for k in 0..K {
                fills[k] = s.splat(fill[k]);
            }
            let mut i = 0;
            while i < len {
                let (begin, first) = (i, r == 0 && i == 0);
                let mut inner = [zero; M];
                let end = len.min(i + T::FLUSH * T::LANES);
                if unrolls(K, Q::ORIGIN) && B == 0 && end - i == T::FLUSH * T::LANES {
                    inner = block_sums(
                        s,
                        #[inline(always)]
                        |at| {
                            debug_assert!(i + at + S::N <= len);
                            for from in from {
                                s.will_read(from.wrapping_add(i + at));
                            }
                            // SAFETY: so many whole steps are left in the run.
                            f(unsafe { load(s, &from, i + at, S::N, &fills) }, of)
                        },
                        |_| (),
                    );
                    i = end;
                }
                while i + T::LANES <= end {
                    for u in 0..registers {
                        debug_assert!(i + (u + 1) * S::N <= len);
                        let at = i + u * S::N;
                        if asks {
                            for from in from {
                                s.will_read(from.wrapping_add(at));
                            }
                        }
                        // SAFETY: a whole step of LANES elements is left in the run.
                        let operands = unsafe { load(s, &from, at, S::N, &fills) };
                        let (terms, more) = (f(operands, of), g(operands, of));
                        for b in 0..B {
                            // SAFETY: as above.
                            unsafe { s.store(to[b].add(at), s.add(s.load(to[b].add(at)), more[b])) };
                        }
                        for m in 0..M {
                            inner[m][u] = s.add(inner[m][u], terms[m]);
                        }
                    }
                    i += T::LANES;
                }
                if i < end {
                    for u in 0..registers {
                        let at = i + u * S::N;
                        if at < end {
                            let n = (end - at).min(S::N);
                            debug_assert!(at + n <= len);
                            // SAFETY: no more than what is left of the run is read.
                            let operands = unsafe { load(s, &from, at, n, &fills) };
                            let (terms, more) = (f(operands, of), g(operands, of));
                            for b in 0..B {
                                // SAFETY: as above, and written.
                                unsafe {
                                    let sum = s.add(s.load_or(to[b].add(at), n, s.splat(T::ZERO)), more[b]);
                                    s.store_n(to[b].add(at), n, sum);
                                }
                            }
                            for m in 0..M {
                                inner[m][u] = s.add(inner[m][u], terms[m]);
                            }
                        }
                    }
                    i = end;
                }
                if first {
                    let mut wide = [s.double().splat_lanes(0.0); M];
                    for m in 0..M {
                        wide[m] = s.widen(inner[m]);
                    }
                    outer[l].write(wide);
                } else {
                    // SAFETY: written when the line was begun.
                    add_wide(s, unsafe { outer[l].assume_init_mut() }, inner);
                }
                behind.follow(i - begin);
            }
            for k in 0..K {
                from[k] = from[k].wrapping_offset(lines[k].step());
            }
            for b in 0..B {
                to[b] = to[b].wrapping_offset(beside[b].shape().step());
            }
        }
    }
    let mut sums = [[0.0; AT_ONCE]; M];
    for m in 0..M {
        let mut vectors = [s.double().splat(0.0); AT_ONCE];
        for l in 0..count {
            // SAFETY: runs are not empty, nor rows none: each line has been begun.
            vectors[l] = half_fold(s, unsafe { outer[l].assume_init_ref() }[m]);
        }
        s.double().folds(&vectors, count, &mut sums[m]);
    }
    sums
}

/// [`line_sums`] for where most lines may be short: a few registers may hold one, which takes code of its own. `behind` follows
/// all of those at once.
#[inline(always)]
pub(crate) fn short_line_sums<
    T: Real,
    E: Stored<T>,
    S: Simd<T>,
    P: Copy,
    const K: usize,
    const M: usize,
    const B: usize,
>(
    s: S,
    lines: [Lines<E>; K],
    beside: [LinesMut<T>; B],
    behind: &mut impl Behind,
    along: impl Fn(usize) -> ([T; K], P),
    f: impl Fn([S::V; K], P) -> [S::V; M],
    g: impl Fn([S::V; K], P) -> [S::V; B],
) -> [[f64; AT_ONCE]; M] {
    if let Some(sums) = in_registers(s, lines, &beside, &along, &f, &g) {
        behind.follow(lines[0].lines() * lines[0].len());
        return sums;
    }
    line_sums(s, lines, beside, behind, along, f, g)
}

/// [`line_sums`] if a few registers hold a line. (Of AVX-512 two are all lanes.) The functions are taken by reference, as in all
/// loops within loops: calls by way of `impl Fn for &F` are without the instruction set, and each intrinsic becomes a call.
#[inline(always)]
fn in_registers<T: Real, E: Stored<T>, S: Simd<T>, P: Copy, const K: usize, const M: usize, const B: usize>(
    s: S,
    lines: [Lines<E>; K],
    beside: &[LinesMut<T>; B],
    along: &impl Fn(usize) -> ([T; K], P),
    f: &impl Fn([S::V; K], P) -> [S::V; M],
    g: &impl Fn([S::V; K], P) -> [S::V; B],
) -> Option<[[f64; AT_ONCE]; M]> {
    let registers = T::LANES / S::N;
    match if lines[0].rows() == 1 { lines[0].len().div_ceil(S::N) } else { usize::MAX } {
        1 => Some(few_sums(s, [(); 1], lines, beside, along, f, g)),
        2 => Some(few_sums(s, [(); 2], lines, beside, along, f, g)),
        3 if registers >= 4 => Some(few_sums(s, [(); 3], lines, beside, along, f, g)),
        4 if registers >= 4 => Some(few_sums(s, [(); 4], lines, beside, along, f, g)),
        _ => None,
    }
}

/// [`line_sums`] of lines that `R` registers hold, the last of them perhaps in part, with the same bits: the compiler unrolls
/// a line, whose sums stay in registers. No memory is asked for ahead. (Measured on Zen 3: layer norm's backward pass of 4 to 32
/// elements takes 0.7 to 0.8 of the time, its forward pass 0.7 to 0.9.)
#[inline(always)]
fn few_sums<
    T: Real,
    E: Stored<T>,
    S: Simd<T>,
    P: Copy,
    const K: usize,
    const M: usize,
    const B: usize,
    const R: usize,
>(
    s: S,
    _registers: [(); R],
    lines: [Lines<E>; K],
    beside: &[LinesMut<T>; B],
    along: &impl Fn(usize) -> ([T; K], P),
    f: &impl Fn([S::V; K], P) -> [S::V; M],
    g: &impl Fn([S::V; K], P) -> [S::V; B],
) -> [[f64; AT_ONCE]; M] {
    assert!(lines.iter().all(|of| of.is_like(lines[0])) && beside.iter().all(|of| lines[0].is_like(of.shape())));
    let (count, len) = (lines[0].lines(), lines[0].len());
    assert!(lines[0].rows() == 1 && count <= AT_ONCE && len.div_ceil(S::N) == R);
    let (zeros, none) = ([s.splat_lanes(T::ZERO); M], s.splat(T::ZERO));
    let mut vectors = [[s.double().splat(0.0); AT_ONCE]; M];
    for l in 0..count {
        let (fill, of) = along(l);
        let mut fills = [none; K];
        for k in 0..K {
            fills[k] = s.splat(fill[k]);
        }
        let (from, to) = (mapped(lines, |of| of.at(0, l)), beside.each_ref().map(|of| of.at(0, l)));
        let mut lanes = zeros;
        for u in 0..R {
            let at = u * S::N;
            let n = if u + 1 < R { S::N } else { len - at };
            debug_assert!(n <= S::N && at + n <= len);
            // SAFETY: a line has `len` elements.
            let operands = unsafe { load(s, &from, at, n, &fills) };
            let (terms, more) = (f(operands, of), g(operands, of));
            for b in 0..B {
                // SAFETY: as above, and written.
                unsafe {
                    let [before] = load(s, &[to[b].cast_const()], at, n, &[none]);
                    store(s, to[b].add(at), n, s.add(before, more[b]));
                }
            }
            for m in 0..M {
                lanes[m][u] = s.add(lanes[m][u], terms[m]);
            }
        }
        for m in 0..M {
            vectors[m][l] = half_fold(s, s.widen(lanes[m]));
        }
    }
    let mut sums = [[0.0; AT_ONCE]; M];
    for m in 0..M {
        s.double().folds(&vectors[m], count, &mut sums[m]);
    }
    sums
}

/// Σ(x − first) over a few rows of few elements: in one level of float lanes, folded by the fixed tree.
#[inline(always)]
pub(crate) fn sample_sum<T: Real, E: Stored<T>, S: Simd<T>>(s: S, x: Tile<E>, first: T) -> f64 {
    s.double().fold(sample_lanes(s, x, first))
}

/// [`sample_sum`] of each line.
#[inline(always)]
pub(crate) fn sample_sums<T: Real, E: Stored<T>, S: Simd<T>>(
    s: S,
    x: Lines<E>,
    first: &[T; AT_ONCE],
) -> [f64; AT_ONCE] {
    let f = inlined(
        #[inline(always)]
        |[x]: [S::V; 1], first| [s.sub(x, s.splat(first))],
    );
    let found = in_registers(s, [x], &[], &|l| ([first[l]], first[l]), &f, &|_, _| []);
    if let Some([sums]) = found {
        return sums;
    }
    let mut vectors = [s.double().splat(0.0); AT_ONCE];
    for l in 0..x.lines() {
        vectors[l] = sample_lanes(s, x.line(l), first[l]);
    }
    let mut sums = [0.0; AT_ONCE];
    s.double().folds(&vectors, x.lines(), &mut sums);
    sums
}

#[inline(always)]
fn sample_lanes<T: Real, E: Stored<T>, S: Simd<T>>(s: S, x: Tile<E>, first: T) -> <S::Double as Simd<f64>>::V {
    let (registers, len) = (T::LANES / S::N, x.len());
    let first = s.splat(first);
    let mut sums = s.splat_lanes(T::ZERO);
    for r in 0..x.rows() {
        let row = [x.row(r)];
        let mut i = 0;
        while i < len {
            for u in 0..registers {
                let at = i + u * S::N;
                if at < len {
                    let n = (len - at).min(S::N);
                    debug_assert!(at + n <= len);
                    // SAFETY: no more than what is left of the run is read.
                    let [x] = unsafe { load(s, &row, at, n, &[first]) };
                    sums[u] = s.add(sums[u], s.sub(x, first));
                }
            }
            i += T::LANES;
        }
    }
    half_fold(s, s.widen(sums))
}

/// Whether a line by itself is worth storing past the caches. (Measured: what is left over at both ends of a short one costs
/// more than the rest gains.)
#[inline(always)]
pub(crate) fn streams_alone<E>(len: usize) -> bool {
    const LONG: usize = 512;
    len >= LONG || (len * size_of::<E>()).is_multiple_of(LINE)
}

/// `out = f(lines, parameters)`, run by run; `along` gives the parameters of a line. `stream` stores past the caches what
/// is whole lines of these. An input may be the output's memory.
#[inline(always)]
pub(crate) fn map_lines<T: Real, E: Stored<T>, S: Simd<T>, const K: usize, const J: usize>(
    s: S,
    lines: [Lines<E>; K],
    out: &LinesMut<E>,
    stream: bool,
    along: impl Fn(usize) -> [S::V; J],
    f: impl Fn([S::V; K], [S::V; J]) -> S::V,
) {
    assert!(lines.iter().all(|of| of.is_like(out.shape())));
    let (count, len) = (out.shape().lines(), out.shape().len());
    let adjoin = |step: isize| step == len as isize;
    let adjoining = adjoin(out.shape().step()) && lines.iter().all(|of| adjoin(of.step()));
    let stream = stream && (count > 1 && adjoining || streams_alone::<E>(len));
    if (adjoining || count == 1) && len >= S::N {
        for r in 0..out.shape().rows() {
            // SAFETY: so many lines of `len` elements follow each other.
            unsafe {
                map_adjoining(s, mapped(lines, |of| of.at(r, 0)), out.at(r, 0), [count, len], stream, &along, &f)
            };
        }
    } else {
        for r in 0..out.shape().rows() {
            for l in 0..count {
                // SAFETY: a run has `len` elements.
                unsafe { map_run(s, mapped(lines, |of| of.at(r, l)), out.at(r, l), len, stream, along(l), &f) };
            }
        }
    }
    if stream {
        s.fence();
    }
}

/// So many lines of so many elements, each of which begins where the one before it ends: one long run in which parameters
/// change. But for both ends of it, registers are whole and, where memory begins at a multiple of its elements' size, stored
/// to multiples of theirs; one that has the end of a line in it takes parameters of two. (No memory is asked for ahead: an
/// EPYC does that by itself along so long a run, and takes 0.8 to 0.9 of the time.)
/// # Safety
/// All elements are readable from each of `from` on, and writable from `to` on; a line is a register at least.
#[inline(always)]
unsafe fn map_adjoining<T: Real, E: Stored<T>, S: Simd<T>, const K: usize, const J: usize>(
    s: S,
    from: [*const E; K],
    to: *mut E,
    [count, len]: [usize; 2],
    stream: bool,
    along: &impl Fn(usize) -> [S::V; J],
    f: &impl Fn([S::V; K], [S::V; J]) -> S::V,
) {
    debug_assert!(len >= S::N);
    let (zeros, all) = ([s.splat(T::ZERO); K], count * len);
    let width = if stream { LINE } else { S::N * size_of::<E>() };
    let head = to_boundary(to, width).min(len);
    // Where the last whole line of the caches ends.
    let line = LINE / size_of::<E>();
    let aligned = to.wrapping_add(head).addr().is_multiple_of(LINE);
    let past = if stream && aligned { head + (all - head) / line * line } else { 0 };
    let mut of = along(0);
    let mut i = 0;
    for l in 0..count {
        let end = (l + 1) * len;
        let next = if l + 1 < count { along(l + 1) } else { of };
        while i < end {
            if i >= head {
                // (Measured on Zen 3, in a cache: batch norm of 14×14 to 28×28 takes 0.90 to 0.93 of the time, inference of 7×7
                // 0.92. Functions of two inputs gained nothing.)
                while K == 1 && past == 0 && i + 4 * S::N <= end {
                    for u in 0..4 {
                        let i = i + u * S::N;
                        debug_assert!(i + S::N <= end && end <= all);
                        // SAFETY: below the end of this line.
                        unsafe { E::store(s, to.add(i), f(load(s, &from, i, S::N, &zeros), of)) };
                    }
                    i += 4 * S::N;
                }
                while i + S::N <= end {
                    // SAFETY: below the end of this line; below `past`, to a multiple of its size.
                    unsafe {
                        let v = f(load(s, &from, i, S::N, &zeros), of);
                        if i < past { E::stream(s, to.add(i), v) } else { E::store(s, to.add(i), v) }
                    }
                    i += S::N;
                }
            }
            if i < end {
                let n = (if i < head { head } else { all } - i).min(S::N);
                let mut now = of;
                if i + n > end {
                    for j in 0..J {
                        now[j] = s.first(end - i, of[j], next[j]);
                    }
                }
                debug_assert!(i + n <= all && i + n <= end + len);
                // SAFETY: no more than what is left of all lines; as above.
                unsafe {
                    let v = f(load(s, &from, i, n, &zeros), now);
                    if n < S::N {
                        E::store_n(s, to.add(i), n, v);
                    } else if i >= head && i < past {
                        E::stream(s, to.add(i), v);
                    } else {
                        E::store(s, to.add(i), v);
                    }
                }
                i += n;
            }
        }
        of = next;
    }
}

/// One run.
/// # Safety
/// So many elements are readable from each of `from` on, and writable from `to` on.
#[inline(always)]
pub(super) unsafe fn map_run<T: Real, E: Stored<T>, S: Simd<T>, P: Copy, const K: usize>(
    s: S,
    from: [*const E; K],
    to: *mut E,
    len: usize,
    stream: bool,
    of: P,
    f: &impl Fn([S::V; K], P) -> S::V,
) {
    let zeros = [s.splat(T::ZERO); K];
    let value = inlined(
        #[inline(always)]
        |i: usize, n: usize| {
            debug_assert!(i + n <= len && n <= S::N);
            // SAFETY: called with i + n <= len below.
            f(unsafe { load(s, &from, i, n, &zeros) }, of)
        },
    );
    let mut i = 0;
    // SAFETY: all indices stay below len.
    unsafe {
        if stream {
            i = store_head(s, to, len, LINE, &value);
            i = stream_lines(s, to, i, len, &value);
        }
        while i + S::N <= len {
            s.will_write(to.add(i));
            E::store(s, to.add(i), value(i, S::N));
            i += S::N;
        }
        if i < len {
            debug_assert!(len - i < S::N);
            E::store_n(s, to.add(i), len - i, value(i, len - i));
        }
    }
}
