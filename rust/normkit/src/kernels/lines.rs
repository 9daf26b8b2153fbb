//! Statistics of short runs, several lines at a time: what surrounds the sums of one line would cost more than the sums.

use super::apply::{Affine, affine};
use super::flow::Flow;
use super::gradients::{GradSums, GradientAgain};
use super::moments::{MomentSums, MomentsAgain, PLACES, SAMPLE, close};
use super::reduce::{lesser, size, trusted};
use crate::simd::{
    AT_ONCE, Behind, Kernel, Lines, LinesMut, Real, Simd, Stored, line_sums, mapped, sample_sums, short_line_sums,
};

/// So many lines at a time.
#[inline(always)]
fn parts(lines: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..lines.div_ceil(AT_ONCE)).map(move |i| i * AT_ONCE..lines.min((i + 1) * AT_ONCE))
}

/// Merges the moments of each line into those of its statistic.
#[inline(always)]
pub(crate) fn moments_lines<T: Real, E: Stored<T>, S: Simd<T>>(
    s: S,
    x: Lines<E>,
    into: &mut [MomentSums],
    behind: &mut impl Behind,
) {
    let count = (x.rows() * x.len()) as f64;
    for part in parts(x.lines()) {
        let (x, into) = (x.part(part.clone()), &mut into[part]);
        let mut at = [T::ZERO; AT_ONCE];
        if into[0].count > 0.0 {
            for (at, into) in at.iter_mut().zip(into.iter()) {
                *at = T::from_f64(into.at);
            }
        } else {
            guesses(s, x, &mut at);
        }
        let [sums, squares] = short_line_sums(
            s,
            [x],
            [],
            behind,
            #[inline(always)]
            |l| ([at[l]], s.splat(at[l])),
            #[inline(always)]
            |[x], at| {
                let d = s.difference(x, at);
                [d, s.mul(d, d)]
            },
            |_, _| [],
        );
        let good = |l: usize| close(count, sums[l], squares[l]) && trusted::<T>(squares[l]);
        let mut wrong = false;
        // (One merge for all lines would take the sums through memory: those of 8 to 64 elements took 1.1 times as long.)
        for (l, into) in into.iter_mut().enumerate() {
            if good(l) {
                *into = into.merge(MomentSums { count, at: at[l].to_f64(), sum: sums[l], squares: squares[l] });
            } else {
                wrong = true;
            }
        }
        if wrong {
            let again = s.call(MomentsOfLines { x, at, sums: [sums, squares] });
            for (l, into) in into.iter_mut().enumerate().filter(|&(l, _)| !good(l)) {
                *into = into.merge(again[l]);
            }
        }
    }
}

/// The moments of some lines of which not all are good; only of those.
struct MomentsOfLines<'t, T, E> {
    x: Lines<'t, E>,
    at: [T; AT_ONCE],
    sums: [[f64; AT_ONCE]; 2],
}

impl<T: Real, E: Stored<T>> Kernel<T> for MomentsOfLines<'_, T, E> {
    type Output = [MomentSums; AT_ONCE];
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> [MomentSums; AT_ONCE] {
        let MomentsOfLines { x, at, sums: [sums, squares] } = self;
        // Σ|x − at|, which is zero only where all of it is.
        let mut sizes = [[f64::NAN; AT_ONCE]; 1];
        if mostly_zero(&squares[..x.lines()]) {
            sizes = line_sums(
                s,
                [x],
                [],
                &mut (),
                #[inline(always)]
                |l| ([at[l]], s.splat(at[l])),
                #[inline(always)]
                |[x], at| [size(s, s.sub(x, at))],
                |_, _| [],
            );
        }
        let count = (x.rows() * x.len()) as f64;
        let mut again = [MomentSums::default(); AT_ONCE];
        for l in 0..x.lines() {
            let (at, sum, squares) = (at[l], sums[l], squares[l]);
            again[l] = if squares == 0.0 && sizes[0][l] == 0.0 {
                MomentSums { count, at: at.to_f64(), sum, squares }
            } else if close(count, sum, squares) && trusted::<T>(squares) {
                continue;
            } else {
                s.call(MomentsAgain { x: x.line(l), at, sums: [sum, squares] })
            };
        }
        again
    }
}

/// [`guess`](super::moments::guess) of each line.
#[inline(always)]
fn guesses<T: Real, E: Stored<T>, S: Simd<T>>(s: S, x: Lines<E>, means: &mut [T; AT_ONCE]) {
    let x = x.places(PLACES, SAMPLE / PLACES);
    for (l, mean) in means[..x.lines()].iter_mut().enumerate() {
        *mean = x.first(l).value();
    }
    let (sums, each) = (sample_sums(s, x, means), 1.0 / (x.rows() * x.len()) as f64);
    for (mean, sum) in means[..x.lines()].iter_mut().zip(sums) {
        *mean = T::from_f64(mean.to_f64() + sum * each);
    }
}

/// Gives `add` Σdz and Σdz·(x − mean) of each line. Adds the `B` terms of `more` to `beside`, element by element.
#[inline(always)]
#[allow(clippy::redundant_closure, reason = "a reference to a function is called without the instruction set")]
pub(crate) fn gradient_lines<T: Real, E: Stored<T>, S: Simd<T>, F: Flow<T, K>, const K: usize, const B: usize>(
    s: S,
    lines: [Lines<E>; K],
    mut beside: [LinesMut<T>; B],
    more: impl Fn([S::V; K], Affine<S::V>) -> [S::V; B],
    cells: &[Affine<T>],
    flow: F,
    behind: &mut impl Behind,
    mut add: impl FnMut(usize, GradSums),
) {
    for part in parts(lines[0].lines()) {
        let lines = mapped(lines, |of| of.part(part.clone()));
        let cells = &cells[part.clone()];
        let [sums, dots] = short_line_sums(
            s,
            lines,
            beside.each_mut().map(|of| of.part(part.clone())),
            behind,
            #[inline(always)]
            |l| along(s, cells[l]),
            #[inline(always)]
            |operands, along| {
                let dz = flow.vector(s, operands, along);
                [dz, s.mul(dz, flow.deviation(s, operands, along))]
            },
            #[inline(always)]
            |operands, along| more(operands, along),
        );
        let of = |l: usize| GradSums { dy: sums[l], dot: dots[l] };
        let good = |l: usize| of(l).dy.is_finite() & trusted::<T>(of(l).dot);
        let mut wrong = false;
        for l in 0..cells.len() {
            wrong |= !good(l);
        }
        if !wrong {
            for l in 0..cells.len() {
                add(part.start + l, of(l));
            }
            continue;
        }
        let again = s.call(LinesAgain { lines, cells, flow, sums: [sums, dots] });
        for (l, &of) in again[..cells.len()].iter().enumerate() {
            add(part.start + l, of);
        }
    }
}

/// Adds the lesser of |(x − mean)·scale + shift| and |dy| to `into`, element by element; operands are x and dy.
#[inline(always)]
pub(crate) fn lesser_lines<T: Real, E: Stored<T>, S: Simd<T>>(
    s: S,
    lines: [Lines<E>; 2],
    mut into: LinesMut<T>,
    cells: &[Affine<T>],
) {
    for part in parts(lines[0].lines()) {
        let cells = &cells[part.clone()];
        let [] = line_sums(
            s,
            mapped(lines, |of| of.part(part.clone())),
            [into.part(part)],
            &mut (),
            #[inline(always)]
            |l| along(s, cells[l]),
            |_, _| [],
            #[inline(always)]
            |[x, dy], Affine { mean, scale, shift }| [lesser(s, affine(s, x, [mean, scale, shift]), dy)],
        );
    }
}

/// Whether so many lines' sums are zero, as of padding, that it is worth asking of all at once where that is no underflow.
#[inline(always)]
fn mostly_zero(sums: &[f64]) -> bool {
    2 * sums.iter().filter(|&&sum| sum == 0.0).count() > sums.len().max(2)
}

/// The sums of some lines of which not all are good.
struct LinesAgain<'t, T, E, F, const K: usize> {
    lines: [Lines<'t, E>; K],
    cells: &'t [Affine<T>],
    flow: F,
    sums: [[f64; AT_ONCE]; 2],
}

impl<T: Real, E: Stored<T>, F: Flow<T, K>, const K: usize> Kernel<T> for LinesAgain<'_, T, E, F, K> {
    type Output = [GradSums; AT_ONCE];
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> [GradSums; AT_ONCE] {
        let LinesAgain { lines, cells, flow, sums: [sums, dots] } = self;
        // The lesser of |a factor of dz| and |x − mean|: its sum is zero only where all products are.
        let mut sizes = [[f64::NAN; AT_ONCE]; 1];
        if mostly_zero(&dots[..cells.len()]) {
            sizes = line_sums(
                s,
                lines,
                [],
                &mut (),
                #[inline(always)]
                |l| along(s, cells[l]),
                #[inline(always)]
                |operands, along| [lesser(s, flow.factor(s, operands, along), flow.deviation(s, operands, along))],
                |_, _| [],
            );
        }
        let mut again = [GradSums::default(); AT_ONCE];
        for (l, &cell) in cells.iter().enumerate() {
            let sums = GradSums { dy: sums[l], dot: dots[l] };
            let good = trusted::<T>(sums.dot) || sums.dot == 0.0 && sizes[0][l] == 0.0;
            again[l] = if good && sums.dy.is_finite() {
                sums
            } else {
                s.call(GradientAgain { tiles: mapped(lines, |of| of.line(l)), cell, flow, sums })
            };
        }
        again
    }
}

/// What the sums of a line's gradient need of its cell, and what its tail is filled with.
#[inline(always)]
fn along<T: Real, S: Simd<T>, const K: usize>(s: S, cell: Affine<T>) -> ([T; K], Affine<S::V>) {
    let Affine { mean, scale, shift } = cell;
    let mut fill = [T::ZERO; K];
    fill[0] = mean;
    (fill, Affine { mean: s.splat(mean), scale: s.splat(scale), shift: s.splat(shift) })
}
