//! The two kernel families, *rows* and *columns*, as reductions and applications of one block.
//!
//! Blocks are small enough for a cache, so that statistics can be taken in two passes: a mean, then deviations from it
//! (float lanes inside a block, float64 between blocks). A kernel knows nothing of norms, threads or layouts.

pub(crate) mod activation;
pub(crate) mod apply;
pub(crate) mod flow;
pub(crate) mod lines;
pub(crate) mod reduce;

use std::ops::Range;

use crate::simd::Real;

/// How a run of columns divides into statistics: `repeat` × `width` × `fold`.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    pub(crate) repeat: usize,
    pub(crate) width: usize,
    pub(crate) fold: usize,
}

impl Pattern {
    /// The columns of statistic `w` in repetition `p`.
    pub(crate) fn run(self, p: usize, w: usize) -> Range<usize> {
        let start = (p * self.width + w) * self.fold;
        start..start + self.fold
    }

    pub(crate) fn len(self) -> usize {
        self.repeat * self.width * self.fold
    }

    /// Writes the value of its statistic to each column.
    #[inline(always)]
    pub(crate) fn expand<T: Copy>(self, columns: &mut [T], value: impl Fn(usize) -> T) {
        let columns = &mut columns[..self.len()];
        for w in 0..self.width {
            columns[w * self.fold..][..self.fold].fill(value(w));
        }
        self.repeat(columns);
    }

    /// Copies the first period to the others.
    #[inline(always)]
    pub(crate) fn repeat<T: Copy>(self, columns: &mut [T]) {
        let period = self.width * self.fold;
        for p in 1..self.repeat {
            columns.copy_within(..period, p * period);
        }
    }

    /// The sum over the columns of statistic `w`, in float64 and a fixed order.
    #[inline(always)]
    pub(crate) fn sum<T: Real>(self, columns: &[T], w: usize) -> f64 {
        const CHAINS: usize = 8; // independent additions, enough to hide their latency
        let period = self.width * self.fold;
        if self.fold == 1 && self.repeat == 1 {
            return columns[w].to_f64();
        }
        let mut sums = [0.0f64; CHAINS];
        for p in 0..self.repeat {
            let run = &columns[p * period + w * self.fold..][..self.fold];
            if let [x] = run {
                sums[p % CHAINS] += x.to_f64();
            } else {
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
        }
        let [a, b, c, d, e, f, g, h] = sums;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}
