//! Gradients of parameters, part by part: each part of the samples has sums of its own, so that it is the same who takes
//! which.

use std::cell::Cell;

use super::ParameterGradients;
use crate::error::{Result, zeros};

/// Numbers that a thread keeps from call to call: 1 MiB of them.
const MOST: usize = 1 << 17;

thread_local! {
    /// Room for parts. (New pages of memory cost as much as a small call: of 128 rows of 1024 elements it was half of the
    /// time.)
    static KEPT: Cell<Vec<f64>> = const { Cell::new(Vec::new()) };
}

/// Sums for each part, and where they are added up.
pub(super) struct Parts {
    all: ParameterGradients,
    /// Those of weights, then those of biases; none where a single part is all there is.
    parts: Vec<f64>,
}

impl Parts {
    /// Zeros: so many parts of so many parameters.
    pub(super) fn new(parts: usize, parameters: usize) -> Result<Self> {
        let all = ParameterGradients { weight: zeros(parameters)?, bias: zeros(parameters)? };
        let numbers = if parts > 1 { 2 * parts * parameters } else { 0 };
        let mut kept = KEPT.try_with(Cell::take).unwrap_or_default();
        if kept.capacity() < numbers {
            kept = zeros(numbers)?;
        } else {
            kept.clear();
            kept.resize(numbers, 0.0);
        }
        Ok(Parts { all, parts: kept })
    }

    /// Where those of weights and of biases go: `part * parameters + parameter`.
    pub(super) fn memory(&mut self) -> [&mut [f64]; 2] {
        let Parts { all: ParameterGradients { weight, bias }, parts } = self;
        if parts.is_empty() {
            return [weight, bias];
        }
        let half = parts.len() / 2;
        parts.split_at_mut(half).into()
    }

    /// The sums of all parts, in their order.
    pub(super) fn sum(mut self) -> ParameterGradients {
        let ParameterGradients { weight, bias } = &mut self.all;
        let (weights, biases) = self.parts.split_at(self.parts.len() / 2);
        for (all, parts) in [(weight, weights), (bias, biases)] {
            for part in parts.chunks_exact(all.len().max(1)) {
                all.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
        }
        std::mem::take(&mut self.all)
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if self.parts.capacity() <= MOST {
            let parts = std::mem::take(&mut self.parts);
            // A thread that ends keeps nothing.
            let _ = KEPT.try_with(|kept| kept.set(parts));
        }
    }
}
