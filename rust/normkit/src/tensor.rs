//! Borrowed arrays with shape and strides.

use smallvec::smallvec;

use crate::error::{Error, Result, shape_text};
use crate::layout::{Axes, axes};
use crate::simd::{Base, BaseMut};

/// Strides (in elements) of a dense array of `shape`, last axis fastest.
pub(crate) fn dense_strides(shape: &[usize]) -> Axes<isize> {
    let mut strides = smallvec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1) as isize;
    }
    strides
}

/// The lowest and the highest element that an array of these strides reaches, from its first one; nothing if these, or
/// the number of elements, are no numbers of this machine, or there are none.
fn reach(shape: &[usize], strides: &[isize]) -> Option<(isize, isize)> {
    if shape.contains(&0) {
        return None;
    }
    shape.iter().try_fold(1isize, |all, &size| all.checked_mul(isize::try_from(size).ok()?))?;
    shape.iter().zip(strides).try_fold((0isize, 0isize), |(low, high), (&size, &stride)| {
        let far = isize::try_from(size).ok()?.checked_sub(1)?.checked_mul(stride)?;
        Some((low.checked_add(far.min(0))?, high.checked_add(far.max(0))?))
    })
}

fn check_reach(shape: &[usize], strides: &[isize], len: usize) -> Result<()> {
    if shape.len() != strides.len() {
        let expected = format!("have a stride for each axis of shape {}", shape_text(shape));
        return Err(Error::new("strides", expected, strides.len()));
    }
    let within = |(low, high): (isize, isize)| low >= 0 && high < len as isize;
    if !shape.contains(&0) && !reach(shape, strides).is_some_and(within) {
        let expected = format!("reach all of shape {} with the given strides", shape_text(shape));
        return Err(Error::new("data", expected, format!("{len} elements")));
    }
    Ok(())
}

/// An array to read.
#[derive(Clone)]
pub struct Tensor<'a, E> {
    pub(crate) base: Base<'a, E>,
    pub(crate) shape: Axes<usize>,
    pub(crate) strides: Axes<isize>,
}

/// An array to write.
pub struct TensorMut<'a, E> {
    pub(crate) base: BaseMut<'a, E>,
    pub(crate) shape: Axes<usize>,
    pub(crate) strides: Axes<isize>,
}

impl<'a, E> Tensor<'a, E> {
    /// A dense array, last axis fastest.
    /// # Errors
    /// `data` has fewer elements than `shape`.
    pub fn dense(data: &'a [E], shape: &[usize]) -> Result<Self> {
        Self::strided(data, shape, &dense_strides(shape))
    }

    /// An array that begins at `data[0]` and has these strides, in elements.
    /// # Errors
    /// The strides reach beyond `data`.
    pub fn strided(data: &'a [E], shape: &[usize], strides: &[isize]) -> Result<Self> {
        check_reach(shape, strides, data.len())?;
        let base = Base::new(data.as_ptr(), || reach(shape, strides));
        Ok(Tensor { base, shape: shape.into(), strides: strides.into() })
    }

    /// The array at `data`, with strides in elements.
    /// # Safety
    /// Every element that shape and strides reach from `data` is aligned and readable for `'a`.
    pub unsafe fn from_raw(data: *const E, shape: &[usize], strides: &[isize]) -> Self {
        debug_assert_eq!(shape.len(), strides.len());
        debug_assert!(shape.contains(&0) || data.is_aligned());
        Tensor { base: Base::new(data, || reach(shape, strides)), shape: shape.into(), strides: strides.into() }
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements it has.
    pub fn size(&self) -> usize {
        self.shape.iter().product()
    }
}

impl<'a, E> TensorMut<'a, E> {
    /// A dense array, last axis fastest.
    /// # Errors
    /// `data` has fewer elements than `shape`.
    pub fn dense(data: &'a mut [E], shape: &[usize]) -> Result<Self> {
        Self::strided(data, shape, &dense_strides(shape))
    }

    /// An array that begins at `data[0]` and has these strides, in elements.
    /// # Errors
    /// The strides reach beyond `data`, or reach an element twice.
    pub fn strided(data: &'a mut [E], shape: &[usize], strides: &[isize]) -> Result<Self> {
        check_reach(shape, strides, data.len())?;
        if overlaps_itself(shape, strides) {
            return Err(Error::new("strides", "reach no element of an output twice", format!("{strides:?}")));
        }
        let base = BaseMut::new(data.as_mut_ptr(), || reach(shape, strides));
        Ok(TensorMut { base, shape: shape.into(), strides: strides.into() })
    }

    /// The array at `data`, with strides in elements.
    /// # Safety
    /// Every element that shape and strides reach from `data` is aligned and writable for `'a`, each is reached once,
    /// and nobody else touches them. (It may be the memory of an input where a function allows that.)
    pub unsafe fn from_raw(data: *mut E, shape: &[usize], strides: &[isize]) -> Self {
        debug_assert_eq!(shape.len(), strides.len());
        debug_assert!(shape.contains(&0) || data.is_aligned());
        debug_assert!(!overlaps_itself(shape, strides));
        TensorMut { base: BaseMut::new(data, || reach(shape, strides)), shape: shape.into(), strides: strides.into() }
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements it has.
    pub fn size(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Whether two indices may reach one element: false for every slice of a dense array, whatever the order of its axes.
pub fn overlaps_itself(shape: &[usize], strides: &[isize]) -> bool {
    overlaps_in_units(shape, strides, 1)
}

/// The same for elements of `size` units, with strides in units, such as bytes.
pub fn overlaps_in_units(shape: &[usize], strides: &[isize], size: usize) -> bool {
    if shape.contains(&0) {
        return false;
    }
    let mut axes = axes(shape.iter().zip(strides).filter(|&(&n, _)| n > 1).map(|(&n, &s)| (s.unsigned_abs(), n)));
    axes.sort_unstable();
    let mut covered = size - 1; // the furthest unit that the axes so far reach
    axes.iter().any(|&(stride, size)| {
        let overlaps = stride <= covered;
        covered = covered.saturating_add(stride.saturating_mul(size - 1));
        overlaps
    })
}
