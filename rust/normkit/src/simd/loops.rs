//! The three loops that every kernel is made of, safe to call on tiles of one shape.
#![allow(clippy::needless_range_loop, reason = "registers of several accumulators are indexed together")]

use std::sync::atomic::Ordering;

use super::{Behind, FETCHES_AHEAD, Fold, LINE, Origin, Real, Simd, Stored, Tile, TileMut, Wide, inlined, mapped};

/// Rows summed in registers before they are added to a column's accumulator: the two levels of [`columns`].
const GROUP: usize = 4;

/// Runs shorter than this are not worth aligning the stores for.
const PEEL: usize = 256;

#[inline(always)]
fn assert_shapes<T: Copy, const K: usize>(tiles: &[Tile<T>; K]) {
    for tile in tiles {
        assert!(tile.rows() == tiles[0].rows() && tile.len() == tiles[0].len());
    }
}

/// Vectors of each tile at column `i` of a row: `n` lanes, the others filled.
/// # Safety
/// `i + n <= len` for each of `rows`' runs, and `n <= N`.
#[inline(always)]
pub(super) unsafe fn load<T: Real, E: Stored<T>, S: Simd<T>, const K: usize>(
    s: S,
    rows: &[*const E; K],
    i: usize,
    n: usize,
    fill: &[S::V; K],
) -> [S::V; K] {
    // Not `array::from_fn`: a closure with intrinsics is not inlined into a function of the standard library.
    let mut vectors = *fill;
    for k in 0..K {
        // SAFETY: the caller vouches for the run.
        vectors[k] =
            unsafe { if n == S::N { E::load(s, rows[k].add(i)) } else { E::load_or(s, rows[k].add(i), n, fill[k]) } };
    }
    vectors
}

/// The first `n` lanes to `p`.
/// # Safety
/// `p..p + n` is writable, and `n <= N`.
#[inline(always)]
pub(super) unsafe fn store<T: Real, E: Stored<T>, S: Simd<T>>(s: S, p: *mut E, n: usize, v: S::V) {
    // SAFETY: the caller vouches for it.
    unsafe { if n == S::N { E::store(s, p, v) } else { E::store_n(s, p, n, v) } }
}

/// Sums of the `M` terms `f` over all elements of `tiles`, in [`Real::LANES`] virtual lanes with two levels, the
/// second in float64, folded by the fixed tree. Tails are filled with `fill`: `f(fill)` must be zero. `behind` follows.
#[inline(always)]
pub(crate) fn lanes<T: Real, E: Stored<T>, S: Simd<T>, Q: Behind, const K: usize, const M: usize>(
    s: S,
    tiles: [Tile<E>; K],
    fill: [T; K],
    behind: &mut Q,
    f: impl Fn([S::V; K]) -> [S::V; M],
) -> [f64; M] {
    assert_shapes(&tiles);
    let len = tiles[0].len();
    let mut fills = [s.splat(T::ZERO); K];
    for k in 0..K {
        fills[k] = s.splat(fill[k]);
    }
    let registers = T::LANES / S::N;
    let zero = s.splat_lanes(T::ZERO);
    let mut inner = [zero; M];
    let mut outer = [s.double().splat_lanes(0.0); M];
    let mut left = T::FLUSH;
    for r in 0..tiles[0].rows() {
        let rows = mapped(tiles, |tile| tile.row(r));
        let mut i = 0;
        while i < len {
            let whole = (len - i) / T::LANES;
            if whole > 0 {
                let terms = inlined(
                    #[inline(always)]
                    |at: usize, _| {
                        debug_assert!(at + S::N <= len);
                        for row in rows {
                            s.will_read(row.wrapping_add(at));
                        }
                        // SAFETY: below, steps of LANES elements are whole ones of the run.
                        f(unsafe { load(s, &rows, at, S::N, &fills) })
                    },
                );
                let unrolled = unrolls(K, Q::ORIGIN) && left == T::FLUSH && whole >= T::FLUSH;
                let (steps, follow) = behind.segment(T::LANES, if unrolled { whole } else { whole.min(left) });
                let blocks = if unrolled { steps / T::FLUSH } else { 0 };
                for block in 0..blocks {
                    let sums = block_sums(
                        s,
                        #[inline(always)]
                        |at| terms(i + at, ()),
                        #[inline(always)]
                        |at| follow(block * T::FLUSH * T::LANES + at),
                    );
                    add_wide(s, &mut outer, sums);
                    i += T::FLUSH * T::LANES;
                }
                for step in blocks * T::FLUSH..steps {
                    for u in 0..registers {
                        let terms = terms(i + u * S::N, ());
                        for m in 0..M {
                            inner[m][u] = s.add(inner[m][u], terms[m]);
                        }
                    }
                    i += T::LANES;
                    follow(step * T::LANES);
                }
                left -= steps - blocks * T::FLUSH;
            } else {
                for u in 0..registers {
                    let at = i + u * S::N;
                    if at < len {
                        // SAFETY: no more than what is left of the run is read.
                        let terms = f(unsafe { load(s, &rows, at, (len - at).min(S::N), &fills) });
                        for m in 0..M {
                            inner[m][u] = s.add(inner[m][u], terms[m]);
                        }
                    }
                }
                i = len;
                left -= 1;
            }
            if left == 0 {
                add_wide(s, &mut outer, inner);
                inner = [zero; M];
                left = T::FLUSH;
            }
        }
    }
    add_wide(s, &mut outer, inner);
    let mut sums = [0.0; M];
    for m in 0..M {
        sums[m] = s.double().fold(half_fold(s, outer[m]));
    }
    sums
}

/// Whether steps are summed by [`block_sums`]: of one operand, where additions are what is waited for. (Measured on Zen 4: 0.73
/// to 0.9 of the time for sums of moments alone, as much as before with something behind them. Where that is stored past the caches 1.04
/// to 1.07; with several operands, whose loads are waited for, as much as before.)
#[inline(always)]
pub(super) fn unrolls(operands: usize, origin: Origin) -> bool {
    operands == 1 && origin != Origin::Memory
}

/// Sums of [`Real::FLUSH`] steps, of which `terms` makes the terms of the register at an offset. The compiler unrolls the loop (float32).
/// A sum of negative zeros alone is one, too: to be added to something before anyone sees it.
#[inline(always)]
pub(super) fn block_sums<T: Real, S: Simd<T>, const M: usize>(
    s: S,
    terms: impl Fn(usize) -> [S::V; M],
    follow: impl Fn(usize),
) -> [S::Lanes; M] {
    let mut sums = [s.splat_lanes(T::ZERO); M];
    for step in 0..T::FLUSH {
        for u in 0..T::LANES / S::N {
            let terms = terms(step * T::LANES + u * S::N);
            for m in 0..M {
                sums[m][u] = if step == 0 { terms[m] } else { s.add(sums[m][u], terms[m]) };
            }
        }
        follow(step * T::LANES);
    }
    sums
}

/// Adds float lanes to float64 ones.
#[inline(always)]
pub(super) fn add_wide<T: Real, S: Simd<T>, const M: usize>(s: S, outer: &mut [Wide<T, S>; M], inner: [S::Lanes; M]) {
    for m in 0..M {
        let wide = s.widen(inner[m]);
        for u in 0..f64::LANES / S::Double::N {
            outer[m][u] = s.double().add(outer[m][u], wide[u]);
        }
    }
}

/// The lanes in one register, by the fixed tree.
#[inline(always)]
pub(super) fn half_fold<T: Real, S: Simd<T>>(s: S, mut sum: Wide<T, S>) -> <S::Double as Simd<f64>>::V {
    let mut half = f64::LANES / S::Double::N / 2;
    while half > 0 {
        for u in 0..half {
            sum[u] = s.double().add(sum[u], sum[u + half]);
        }
        half /= 2;
    }
    sum[0]
}

/// [`lanes`] for short runs: the same sums with little around them, flushed after each run.
#[inline(always)]
pub(crate) fn short_lanes<T: Real, E: Stored<T>, S: Simd<T>, const K: usize, const M: usize>(
    s: S,
    tiles: [Tile<E>; K],
    fill: [T; K],
    f: impl Fn([S::V; K]) -> [S::V; M],
) -> [f64; M] {
    assert_shapes(&tiles);
    let len = tiles[0].len();
    let mut fills = [s.splat(T::ZERO); K];
    for k in 0..K {
        fills[k] = s.splat(fill[k]);
    }
    let registers = T::LANES / S::N;
    let zero = s.splat_lanes(T::ZERO);
    let mut outer = [s.double().splat_lanes(0.0); M];
    for r in 0..tiles[0].rows() {
        let rows = mapped(tiles, |tile| tile.row(r));
        let mut i = 0;
        while i < len {
            let mut inner = [zero; M];
            let end = len.min(i + T::FLUSH * T::LANES);
            while i + T::LANES <= end {
                for u in 0..registers {
                    debug_assert!(i + (u + 1) * S::N <= len);
                    // SAFETY: a whole step of LANES elements is left in the run.
                    let terms = f(unsafe { load(s, &rows, i + u * S::N, S::N, &fills) });
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
                        // SAFETY: no more than what is left of the run is read.
                        let terms = f(unsafe { load(s, &rows, at, (end - at).min(S::N), &fills) });
                        for m in 0..M {
                            inner[m][u] = s.add(inner[m][u], terms[m]);
                        }
                    }
                }
                i = end;
            }
            add_wide(s, &mut outer, inner);
        }
    }
    let mut sums = [0.0; M];
    for m in 0..M {
        sums[m] = s.double().fold(half_fold(s, outer[m]));
    }
    sums
}

/// Adds to `sums[m][i]` the sum of the term `f` down column `i`; `along[j]` are parameters of the columns. What rounding
/// takes from the last `L` sums is kept in `lost` and given back (Kahan 1965): beside a large term, many small ones are
/// all rounded the same way.
#[inline(always)]
pub(crate) fn columns<
    T: Real,
    E: Stored<T>,
    S: Simd<T>,
    const K: usize,
    const J: usize,
    const M: usize,
    const L: usize,
>(
    s: S,
    tiles: [Tile<E>; K],
    along: [&[T]; J],
    sums: [&mut [T]; M],
    lost: [&mut [T]; L],
    f: impl Fn([S::V; K], [S::V; J]) -> [S::V; M],
) {
    const { assert!(L <= M) };
    assert_shapes(&tiles);
    let (rows, len) = (tiles[0].rows(), tiles[0].len());
    assert!(along.iter().all(|a| a.len() >= len));
    assert!(sums.iter().chain(&lost).all(|a| a.len() >= len));
    let along = mapped(along, |a| a.as_ptr());
    let sums = sums.map(|a| a.as_mut_ptr());
    let lost = lost.map(|a| a.as_mut_ptr());
    let mut r = 0;
    while r < rows {
        if rows - r >= GROUP {
            // SAFETY: all runs have `len` elements, asserted above.
            unsafe { column_group::<T, E, S, K, J, M, L, GROUP>(s, &tiles, r, len, &along, &sums, &lost, &f) };
            r += GROUP;
        } else {
            // SAFETY: as above.
            unsafe { column_group::<T, E, S, K, J, M, L, 1>(s, &tiles, r, len, &along, &sums, &lost, &f) };
            r += 1;
        }
    }
}

/// `G` rows from row `r` on.
/// # Safety
/// The tiles have `r + G` rows; every run, parameter, sum and loss has `len` elements.
#[inline(always)]
unsafe fn column_group<
    T: Real,
    E: Stored<T>,
    S: Simd<T>,
    const K: usize,
    const J: usize,
    const M: usize,
    const L: usize,
    const G: usize,
>(
    s: S,
    tiles: &[Tile<E>; K],
    r: usize,
    len: usize,
    along: &[*const T; J],
    sums: &[*mut T; M],
    lost: &[*mut T; L],
    f: &impl Fn([S::V; K], [S::V; J]) -> [S::V; M],
) {
    debug_assert!(tiles.iter().all(|tile| r + G <= tile.rows() && len <= tile.len()));
    let (zero, asks) = (s.splat(T::ZERO), !FETCHES_AHEAD.load(Ordering::Relaxed));
    let rows: [[*const E; K]; G] = std::array::from_fn(
        #[inline(always)]
        |g| {
            std::array::from_fn(
                #[inline(always)]
                |k| tiles[k].row(r + g),
            )
        },
    );
    let vector = inlined(
        #[inline(always)]
        |i: usize, n: usize| {
            debug_assert!(i + n <= len && n <= S::N);
            // SAFETY: called with i + n <= len and n <= N below.
            unsafe {
                // Many processors fetch ahead along a run, but these are `G` short ones, and so are those that follow.
                if asks {
                    for row in &rows {
                        for k in 0..K {
                            s.will_need_here(row[k].wrapping_add(i).wrapping_offset(tiles[k].down(G)));
                        }
                    }
                }
                let params = load(s, along, i, n, &[zero; J]);
                let mut total = f(load(s, &rows[0], i, n, &[zero; K]), params);
                for row in &rows[1..] {
                    let terms = f(load(s, row, i, n, &[zero; K]), params);
                    for m in 0..M {
                        total[m] = s.add(total[m], terms[m]);
                    }
                }
                let before = load(s, &mapped(*sums, <*mut T>::cast_const), i, n, &[zero; M]);
                let losses = load(s, &mapped(*lost, <*mut T>::cast_const), i, n, &[zero; L]);
                for m in 0..M {
                    let mut term = total[m];
                    if m + L >= M {
                        term = s.sub(term, losses[m + L - M]);
                    }
                    let sum = s.add(before[m], term);
                    store(s, sums[m].add(i), n, sum);
                    if m + L >= M {
                        store(s, lost[m + L - M].add(i), n, s.sub(s.sub(sum, before[m]), term));
                    }
                }
            }
        },
    );
    let mut i = 0;
    while i + S::N <= len {
        vector(i, S::N);
        i += S::N;
    }
    if i < len {
        vector(i, len - i);
    }
}

/// How many elements there are to the next multiple of `width` bytes; none if there is never one.
#[inline(always)]
pub(super) fn to_boundary<E>(to: *mut E, width: usize) -> usize {
    let past = to.addr() % width;
    if past.is_multiple_of(size_of::<E>()) { (width - past) % width / size_of::<E>() } else { 0 }
}

/// Elements of a run up to a multiple of `width` bytes; how many these are.
/// # Safety
/// `len` elements are writable from `to` on; `value(i, n)` may be called where `i + n <= len` and `n <= N`.
#[inline(always)]
pub(super) unsafe fn store_head<T: Real, E: Stored<T>, S: Simd<T>>(
    s: S,
    to: *mut E,
    len: usize,
    width: usize,
    value: &impl Fn(usize, usize) -> S::V,
) -> usize {
    let head = to_boundary(to, width).min(len);
    let mut i = 0;
    while i < head {
        let n = (head - i).min(S::N);
        debug_assert!(i + n <= len);
        // SAFETY: as the caller vouches.
        unsafe { E::store_n(s, to.add(i), n, value(i, n)) };
        i += n;
    }
    head
}

/// From element `i` of a run on, which begins a line, all whole lines past the caches; where the last of them ends.
/// # Safety
/// As of [`store_head`].
#[inline(always)]
pub(super) unsafe fn stream_lines<T: Real, E: Stored<T>, S: Simd<T>>(
    s: S,
    to: *mut E,
    mut i: usize,
    len: usize,
    value: &impl Fn(usize, usize) -> S::V,
) -> usize {
    let line = LINE / size_of::<E>();
    if !to.wrapping_add(i).addr().is_multiple_of(LINE) {
        return i;
    }
    while i + line <= len {
        let end = i + line;
        while i < end {
            debug_assert!(i + S::N <= len);
            // SAFETY: as the caller vouches; a line is a multiple of a register.
            unsafe { E::stream(s, to.add(i), value(i, S::N)) };
            i += S::N;
        }
    }
    i
}

/// `out = f(tiles, parameters)`, element by element; `of` gives the parameters of a row: `J` for each column, and its own.
/// `stream` stores past the caches. An input may be the output's memory. `HEAVY`: `f` is long, so that one copy of its code
/// is enough.
#[inline(always)]
pub(crate) fn map<'a, T: Real, E: Stored<T>, S: Simd<T>, P: Copy, const K: usize, const J: usize, const HEAVY: bool>(
    s: S,
    tiles: [Tile<E>; K],
    out: TileMut<E>,
    stream: bool,
    of: impl Fn(usize) -> ([&'a [T]; J], P),
    f: impl Fn([S::V; K], ([S::V; J], P)) -> S::V,
) {
    let len = out.len();
    assert!(tiles.iter().all(|tile| tile.rows() == out.rows() && tile.len() == len));
    let zero = s.splat(T::ZERO);
    for r in 0..out.rows() {
        let rows = mapped(tiles, |tile| tile.row(r));
        let (to, (along, of)) = (out.row(r), of(r));
        assert!(along.iter().all(|a| a.len() >= len));
        let along = mapped(along, |a| a.as_ptr());
        let value = inlined(
            #[inline(always)]
            |i: usize, n: usize| {
                debug_assert!(i + n <= len && n <= S::N);
                // SAFETY: called with i + n <= len and n <= N below.
                unsafe { f(load(s, &rows, i, n, &[zero; K]), (load(s, &along, i, n, &[zero; J]), of)) }
            },
        );
        // SAFETY: all indices stay below len, the length of every run.
        unsafe {
            let mut i = 0;
            let register = S::N * size_of::<E>();
            let width = if stream { LINE } else { register };
            if !HEAVY && (stream || len >= PEEL) {
                // A store across two lines costs as much as two; a streamed one must not.
                i = store_head(s, to, len, width, &value);
            }
            if !HEAVY && stream {
                i = stream_lines(s, to, i, len, &value);
            }
            while !HEAVY && i + 4 * S::N <= len {
                for u in 0..4 {
                    s.will_write(to.add(i + u * S::N));
                    E::store(s, to.add(i + u * S::N), value(i + u * S::N, S::N));
                }
                i += 4 * S::N;
            }
            while i < len {
                // One loop does it all where the code is long: up to a whole register, then past the caches.
                let past = to.add(i).addr() % register / size_of::<E>();
                let n = (len - i).min(if HEAVY && stream { S::N - past } else { S::N });
                if n < S::N {
                    E::store_n(s, to.add(i), n, value(i, n));
                } else if HEAVY && stream {
                    debug_assert!(to.add(i).addr().is_multiple_of(register) && i + n <= len);
                    E::stream(s, to.add(i), value(i, n));
                } else {
                    s.will_write(to.add(i));
                    E::store(s, to.add(i), value(i, n));
                }
                i += n;
            }
        }
    }
    if stream {
        s.fence();
    }
}
