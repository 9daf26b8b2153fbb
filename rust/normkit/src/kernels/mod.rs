//! The two kernel families, *rows* and *columns*, as reductions and applications of one block.
//!
//! Blocks are small enough for a cache, so that statistics can be taken in two passes: a mean, then deviations from it
//! (float lanes inside a block, float64 between blocks). A kernel knows nothing of norms, threads or layouts.

pub(crate) mod activation;
pub(crate) mod apply;
pub(crate) mod flow;
pub(crate) mod gradients;
pub(crate) mod lines;
pub(crate) mod moments;
pub(crate) mod reduce;

use std::ops::Range;

use crate::simd::Real;

/// Statistics whose sums are taken together.
pub(crate) const TOGETHER: usize = 16;

/// Chains of additions that do not wait for each other: a sum in one chain would be slower, and less accurate.
const CHAINS: usize = 8;

/// How a run of columns divides into statistics: `repeat` × `width` × `fold`.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    pub(crate) repeat: usize,
    pub(crate) width: usize,
    pub(crate) fold: usize,
}

impl Pattern {
    /// The columns of statistic `w` in repetition `p`.
    #[inline]
    pub(crate) fn run(self, p: usize, w: usize) -> Range<usize> {
        let start = (p * self.width + w) * self.fold;
        start..start + self.fold
    }

    /// The statistics, in parts of [`TOGETHER`].
    #[inline(always)]
    pub(crate) fn parts(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.width.div_ceil(TOGETHER)).map(move |i| i * TOGETHER..self.width.min((i + 1) * TOGETHER))
    }

    #[inline]
    pub(crate) fn len(self) -> usize {
        self.repeat * self.width * self.fold
    }

    /// Writes the value of its statistic to each column.
    #[inline(always)]
    pub(crate) fn expand<T: Copy>(self, columns: &mut [T], value: impl Fn(usize) -> T) {
        let columns = &mut columns[..self.len()];
        if self.fold == 1 {
            for (w, column) in columns[..self.width].iter_mut().enumerate() {
                *column = value(w);
            }
        } else {
            for w in 0..self.width {
                columns[w * self.fold..][..self.fold].fill(value(w));
            }
        }
        let period = self.width * self.fold;
        for p in 1..self.repeat {
            columns.copy_within(..period, p * period);
        }
    }

    /// The sums over the columns of statistics `w`, `w + 1`, …, so many at a time, in float64 and a fixed order.
    #[inline(always)]
    pub(crate) fn sums<T: Real>(self, columns: &[T], w: usize) -> [f64; TOGETHER] {
        let n = TOGETHER.min(self.width - w);
        let mut sums = [0.0; TOGETHER];
        if self.fold > 1 {
            for (i, sum) in sums[..n].iter_mut().enumerate() {
                *sum = self.sum(columns, w + i);
            }
            return sums;
        }
        if self.repeat == 1 {
            let run = &columns[w..][..n];
            if let Some(run) = run.first_chunk::<TOGETHER>() {
                for i in 0..TOGETHER {
                    sums[i] = run[i].to_f64();
                }
            } else {
                for i in 0..n {
                    sums[i] = run[i].to_f64();
                }
            }
            return sums;
        }
        let mut chains = [[0.0f64; TOGETHER]; CHAINS];
        for p in 0..self.repeat {
            let run = &columns[p * self.width + w..][..n];
            let chain = &mut chains[p % CHAINS];
            if let Some(run) = run.first_chunk::<TOGETHER>() {
                for i in 0..TOGETHER {
                    chain[i] += run[i].to_f64();
                }
            } else {
                for i in 0..n {
                    chain[i] += run[i].to_f64();
                }
            }
        }
        let [a, b, c, d, e, f, g, h] = chains;
        for i in 0..TOGETHER {
            sums[i] = ((a[i] + e[i]) + (c[i] + g[i])) + ((b[i] + f[i]) + (d[i] + h[i]));
        }
        sums
    }

    /// The sum over the columns of statistic `w`, of which each repetition has several.
    #[inline(always)]
    pub(crate) fn sum<T: Real>(self, columns: &[T], w: usize) -> f64 {
        let period = self.width * self.fold;
        let mut sums = [0.0f64; CHAINS];
        for p in 0..self.repeat {
            let run = &columns[p * period + w * self.fold..][..self.fold];
            let (whole, rest) = run.as_chunks::<CHAINS>();
            for run in whole {
                for (sum, x) in sums.iter_mut().zip(run) {
                    *sum += x.to_f64();
                }
            }
            for (sum, x) in sums.iter_mut().zip(rest) {
                *sum += x.to_f64();
            }
        }
        let [a, b, c, d, e, f, g, h] = sums;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}
