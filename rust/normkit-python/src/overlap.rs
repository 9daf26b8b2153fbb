//! Whether arrays share memory.

use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::arrays::{data, itemsize};

/// The memory of an array: the bytes from its first to its last element.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a, 'py> {
    array: &'a Bound<'py, PyUntypedArray>,
    low: usize,
    high: usize,
}

impl<'a, 'py> Span<'a, 'py> {
    pub(crate) fn of(array: &'a Bound<'py, PyUntypedArray>) -> Self {
        let (elements, low) = (array.len(), data(array).addr());
        if elements == 0 {
            return Span { array, low: 0, high: 0 };
        }
        if array.is_contiguous() {
            return Span { array, low, high: low + elements * itemsize(array) };
        }
        let (mut low, mut high) = (low as isize, low as isize);
        for (&n, &stride) in array.shape().iter().zip(array.strides()) {
            let far = (n as isize - 1) * stride;
            (low, high) = (low + far.min(0), high + far.max(0));
        }
        Span { array, low: low as usize, high: high as usize + itemsize(array) }
    }

    /// Whether two arrays share an element; where that is too hard to tell, whether they may.
    pub(crate) fn overlaps(&self, other: &Span) -> PyResult<bool> {
        if self.low >= other.high || other.low >= self.high {
            return Ok(false);
        }
        const EFFORT: usize = 100_000;
        let numpy = self.array.py().import("numpy")?;
        let shared = numpy.call_method1("shares_memory", (self.array, other.array, EFFORT));
        Ok(shared.and_then(|shared| shared.is_truthy()).unwrap_or(true))
    }
}

/// See [`Span::overlaps`].
pub(crate) fn overlaps(a: &Bound<'_, PyUntypedArray>, b: &Bound<'_, PyUntypedArray>) -> PyResult<bool> {
    Span::of(a).overlaps(&Span::of(b))
}
