//! Moments of one block: what a forward pass needs.

use super::reduce::{Scratch, Zeros, size, trusted};
use super::{Pattern, TOGETHER};
use crate::moments::Moments;
use crate::simd::{Behind, Kernel, Real, Simd, Stored, Tile, columns, lanes, sample_sum, short_lanes};

/// Moments about a point near the mean: blocks are added without a division, and none waits for the one before it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct MomentSums {
    pub(super) count: f64,
    pub(super) at: f64,
    /// Σ(x − at)
    pub(super) sum: f64,
    /// Σ(x − at)²
    pub(super) squares: f64,
}

impl MomentSums {
    /// Count, mean and m2.
    #[inline(always)]
    pub(crate) fn moments(self) -> Moments {
        if self.count == 0.0 {
            return Moments::default();
        }
        let mean = self.sum / self.count;
        let m2 = self.squares - self.sum * mean;
        // `max` would turn NaN into 0.
        Moments { count: self.count, mean: self.at + mean, m2: if m2 < 0.0 { 0.0 } else { m2 } }
    }

    /// The same moments about another point.
    #[inline(always)]
    fn about(moments: Moments, at: f64) -> Self {
        let Moments { count, mean, m2 } = moments;
        if count == 0.0 {
            return MomentSums { at, ..MomentSums::default() };
        }
        let low = mean - at;
        MomentSums { count, at, sum: low * count, squares: m2 + low * low * count }
    }

    /// Of both sets together.
    #[inline(always)]
    pub(crate) fn merge(self, other: Self) -> Self {
        if self.count == 0.0 {
            other
        } else if other.count == 0.0 {
            self
        } else if self.at == other.at {
            MomentSums {
                count: self.count + other.count,
                sum: self.sum + other.sum,
                squares: self.squares + other.squares,
                ..self
            }
        } else {
            let both = self.moments().merge(other.moments());
            // A point far off the mean would cost the squares their last digits.
            let near = (both.mean - self.at).abs() <= (both.mean - other.at).abs();
            Self::about(both, if near { self.at } else { other.at })
        }
    }
}

/// Elements that a first guess of a mean is taken from…
pub(super) const SAMPLE: usize = 128;
/// …in so many places, as neighbours are alike.
pub(super) const PLACES: usize = 4;

/// Some of the rows of a block of columns of which each has so many elements of a statistic.
#[inline(always)]
fn sample<E: Copy>(x: Tile<E>, each: usize) -> Tile<E> {
    let rows = SAMPLE.div_ceil(each).max(PLACES).min(x.rows());
    x.every(x.rows() / rows)
}

/// Whether a guess was close enough to the mean: within half a standard deviation, so that taking the square of what is
/// between them off the sum of squares costs no more than a third in accuracy. False for NaN.
#[inline(always)]
pub(super) fn close(count: f64, sum: f64, squares: f64) -> bool {
    sum * sum * 4.0 <= squares * count
}

/// The mean of a sample of a block; exact for a constant, as deviations are taken from a value of it.
#[inline(always)]
pub(super) fn guess<T: Real, E: Stored<T>, S: Simd<T>>(s: S, x: Tile<E>) -> T {
    let x = x.places(PLACES, SAMPLE / PLACES);
    let first = x.get(0, 0).value();
    T::from_f64(first.to_f64() + sample_sum(s, x, first) / (x.rows() * x.len()) as f64)
}

/// The mean of a block, to float lanes' accuracy; exact for a constant, as deviations are taken from a value of it.
#[inline(always)]
fn rough_mean<T: Real, E: Stored<T>, S: Simd<T>>(s: S, x: Tile<E>) -> T {
    let first = x.get(0, 0).value();
    let at = s.splat(first);
    let [sum] = short_lanes(
        s,
        [x],
        [first],
        #[inline(always)]
        |[x]| [s.sub(x, at)],
    );
    T::from_f64(first.to_f64() + sum / (x.rows() * x.len()) as f64)
}

/// Sums of deviations from `at` and of their squares.
#[inline(always)]
fn squares_of<T: Real, E: Stored<T>, S: Simd<T>>(s: S, x: Tile<E>, at: T, behind: &mut impl Behind) -> [f64; 2] {
    let v = s.splat(at);
    lanes(
        s,
        [x],
        [at],
        behind,
        #[inline(always)]
        |[x]| {
            let d = s.difference(x, v);
            [d, s.mul(d, d)]
        },
    )
}

/// Whether every element is `at`. (Sums of squares can be zero by underflow too; of sizes they cannot.)
#[inline(always)]
fn is_constant<T: Real, E: Stored<T>, S: Simd<T>>(s: S, x: Tile<E>, at: T) -> bool {
    let v = s.splat(at);
    let [sizes] = short_lanes(
        s,
        [x],
        [at],
        #[inline(always)]
        |[x]| [size(s, s.sub(x, v))],
    );
    sizes == 0.0
}

/// Merges the moments of a block into those of the blocks before it, about the same point unless that proves to be far
/// from the block's mean.
#[inline(always)]
pub(crate) fn moments_rows<T: Real, E: Stored<T>, S: Simd<T>>(
    s: S,
    x: Tile<E>,
    into: &mut MomentSums,
    behind: &mut impl Behind,
) {
    let count = (x.rows() * x.len()) as f64;
    let at = if into.count > 0.0 { T::from_f64(into.at) } else { guess(s, x) };
    let sums = squares_of(s, x, at, behind);
    let [sum, squares] = sums;
    let good = close(count, sum, squares) && trusted::<T>(squares);
    *into = into.merge(if good {
        MomentSums { count, at: at.to_f64(), sum, squares }
    } else {
        s.call(MomentsAgain { x, at, sums })
    });
}

/// The moments of a block where the guess of its mean was far off, or the squares have left the range of `T`.
pub(super) struct MomentsAgain<'t, T, E> {
    pub(super) x: Tile<'t, E>,
    pub(super) at: T,
    pub(super) sums: [f64; 2],
}

impl<T: Real, E: Stored<T>> Kernel<T> for MomentsAgain<'_, T, E> {
    type Output = MomentSums;
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> MomentSums {
        let MomentsAgain { x, mut at, mut sums } = self;
        let count = (x.rows() * x.len()) as f64;
        if !close(count, sums[0], sums[1]) && sums[1] != 0.0 {
            at = rough_mean(s, x);
            sums = squares_of(s, x, at, &mut ());
        }
        let [sum, squares] = sums;
        if trusted::<T>(squares) || (squares == 0.0 && is_constant(s, x, at)) {
            MomentSums { count, at: at.to_f64(), sum, squares }
        } else {
            moments_wide(x.values().map(E::value))
        }
    }
}

/// Merges the moments of the columns of a block into those of their statistics, which all have one count.
#[inline(always)]
pub(crate) fn moments_columns<T: Real, E: Stored<T>, S: Simd<T>>(
    s: S,
    x: Tile<E>,
    pattern: Pattern,
    scratch: &mut Scratch<T>,
    into: &mut [MomentSums],
) {
    debug_assert!(into.len() == pattern.width && x.len() == pattern.len());
    let each = pattern.repeat * pattern.fold;
    let count = (x.rows() * each) as f64;
    let before = into[0].count;
    let [at, means, sums, squares, lost, sizes, _] = scratch.take(x.len());
    if before > 0.0 {
        for (mean, into) in means.iter_mut().zip(into.iter()) {
            *mean = T::from_f64(into.at);
        }
    } else {
        rough_means(s, sample(x, each), pattern, [at, means, sums]);
    }
    squares_about(s, x, pattern, [at, means, sums, squares, lost]);
    let (mut wrong, mut zeros) = (false, Zeros::new(false));
    for part in pattern.parts() {
        let (sums, squares) = (pattern.sums(sums, part.start), pattern.sums(squares, part.start));
        // Most blocks are the first of ordinary numbers.
        let ordinary = |i: usize| close(count, sums[i], squares[i]) & trusted::<T>(squares[i]);
        if before == 0.0 && part.len() == TOGETHER && (0..TOGETHER).fold(true, |all, i| all & ordinary(i)) {
            for (i, into) in into[part.clone()].iter_mut().enumerate() {
                *into = MomentSums { count, at: means[part.start + i].to_f64(), sum: sums[i], squares: squares[i] };
            }
            continue;
        }
        for (w, (sum, squares)) in part.zip(sums.into_iter().zip(squares)) {
            let good = if squares == 0.0 {
                zeros.at(pattern, w, |ask| {
                    if ask {
                        s.call(Sizes { x, at: &*at, sums: &mut *sizes });
                    }
                    &*sizes
                })
            } else {
                close(count, sum, squares) && trusted::<T>(squares)
            };
            if good {
                into[w] = into[w].merge(MomentSums { count, at: means[w].to_f64(), sum, squares });
            } else {
                wrong = true;
            }
        }
    }
    if wrong {
        rough_means(s, x, pattern, [at, means, sums]);
        squares_about(s, x, pattern, [at, means, sums, squares, lost]);
        let mut zeros = Zeros::new(false);
        for part in pattern.parts() {
            let (sums, squares) = (pattern.sums(sums, part.start), pattern.sums(squares, part.start));
            for (w, (sum, squares)) in part.zip(sums.into_iter().zip(squares)) {
                // The others have counted this block.
                if into[w].count != before {
                    continue;
                }
                // Constant here, and not in the blocks before: padding, say.
                let constant = squares == 0.0
                    && zeros.at(pattern, w, |ask| {
                        if ask {
                            s.call(Sizes { x, at: &*at, sums: &mut *sizes });
                        }
                        &*sizes
                    });
                into[w] = into[w].merge(if constant || trusted::<T>(squares) {
                    MomentSums { count, at: means[w].to_f64(), sum, squares }
                } else {
                    moments_wide(columns_of(x, pattern, w))
                });
            }
        }
    }
}

/// [`rough_mean`] of each statistic of a block of columns.
#[inline(always)]
fn rough_means<T: Real, E: Stored<T>, S: Simd<T>>(
    s: S,
    x: Tile<E>,
    pattern: Pattern,
    [at, means, sums]: [&mut [T]; 3],
) {
    let count = (x.rows() * pattern.repeat * pattern.fold) as f64;
    pattern.expand(at, |w| x.get(0, w * pattern.fold).value());
    sums.fill(T::ZERO);
    columns(
        s,
        [x],
        [at],
        [sums],
        [],
        #[inline(always)]
        |[x], [at]| [s.sub(x, at)],
    );
    for part in pattern.parts() {
        let sums = pattern.sums(sums, part.start);
        for (w, sum) in part.zip(sums) {
            means[w] = T::from_f64(at[w * pattern.fold].to_f64() + sum / count);
        }
    }
}

/// Sums of deviations from `means` and of their squares down each column.
#[inline(always)]
fn squares_about<T: Real, E: Stored<T>, S: Simd<T>>(
    s: S,
    x: Tile<E>,
    pattern: Pattern,
    [at, means, sums, squares, lost]: [&mut [T]; 5],
) {
    pattern.expand(at, |w| means[w]);
    sums.fill(T::ZERO);
    squares.fill(T::ZERO);
    lost.fill(T::ZERO);
    columns(
        s,
        [x],
        [at],
        [sums, squares],
        [lost],
        #[inline(always)]
        |[x], [at]| {
            let d = s.difference(x, at);
            [d, s.mul(d, d)]
        },
    );
}

/// Σ|x − at| down each column, which is zero only where all of it is.
struct Sizes<'t, T, E> {
    x: Tile<'t, E>,
    at: &'t [T],
    sums: &'t mut [T],
}

impl<T: Real, E: Stored<T>> Kernel<T> for Sizes<'_, T, E> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        self.sums.fill(T::ZERO);
        columns(
            s,
            [self.x],
            [self.at],
            [self.sums],
            [],
            #[inline(always)]
            |[x], [at]| [size(s, s.sub(x, at))],
        );
    }
}

/// The elements of statistic `w` in a block of columns.
fn columns_of<T: Real, E: Stored<T>>(x: Tile<E>, pattern: Pattern, w: usize) -> impl Iterator<Item = T> + Clone {
    let period = pattern.width * pattern.fold;
    (0..x.rows()).flat_map(move |r| {
        (0..pattern.repeat)
            .flat_map(move |p| (0..pattern.fold).map(move |f| x.get(r, p * period + w * pattern.fold + f).value()))
    })
}

/// The same in float64 throughout: for blocks whose squares leave the range of `T`, and for NaN and infinity.
#[cold]
#[inline(never)]
fn moments_wide<T: Real>(values: impl Iterator<Item = T> + Clone) -> MomentSums {
    let first = values.clone().next().map_or(0.0, T::to_f64);
    let (mut count, mut sum) = (0.0, 0.0);
    for x in values.clone() {
        count += 1.0;
        sum += x.to_f64() - first;
    }
    // A value of `T`, as the blocks that follow take deviations from it.
    let at = T::from_f64(first + sum / count).to_f64();
    let (mut sum, mut squares) = (0.0, 0.0);
    for x in values {
        let d = x.to_f64() - at;
        sum += d;
        squares += d * d;
    }
    MomentSums { count, at, sum, squares }
}
