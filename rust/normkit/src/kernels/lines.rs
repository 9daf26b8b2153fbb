//! Statistics of short runs, several lines at a time: what surrounds the sums of one line would cost more than the sums.

use super::apply::Affine;
use super::flow::Flow;
use super::gradients::{GradSums, GradientAgain};
use super::moments::{MomentSums, MomentsAgain, PLACES, SAMPLE, close};
use super::reduce::trusted;
use crate::simd::{AT_ONCE, Behind, Lines, LinesMut, Real, Simd, Stored, line_sums, mapped, sample_sums};

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
        let [sums, squares] = line_sums(
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
        for (l, into) in into.iter_mut().enumerate() {
            let (sum, squares) = (sums[l], squares[l]);
            // (One merge for both would take the sums through memory: lines of 8 to 64 elements took 1.1 times as long.)
            if close(count, sum, squares) && trusted::<T>(squares) {
                *into = into.merge(MomentSums { count, at: at[l].to_f64(), sum, squares });
            } else {
                *into = into.merge(s.call(MomentsAgain { x: x.line(l), at: at[l], sums: [sum, squares] }));
            }
        }
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
        let [sums, dots] = line_sums(
            s,
            lines,
            beside.each_mut().map(|of| of.part(part.clone())),
            behind,
            #[inline(always)]
            |l| {
                let Affine { mean, scale, shift } = cells[l];
                let mut fill = [T::ZERO; K];
                fill[0] = mean;
                (fill, Affine { mean: s.splat(mean), scale: s.splat(scale), shift: s.splat(shift) })
            },
            #[inline(always)]
            |operands, along| {
                let dz = flow.vector(s, operands, along);
                [dz, s.mul(dz, flow.deviation(s, operands, along))]
            },
            &more,
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
        for (l, &cell) in cells.iter().enumerate() {
            let line = mapped(lines, |of| of.line(l));
            let sums = of(l);
            add(part.start + l, if good(l) { sums } else { s.call(GradientAgain { tiles: line, cell, flow, sums }) });
        }
    }
}
