//! New arrays: outputs on whole lines of the caches, and on huge pages where they are large; vectors as NumPy makes them.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::null_mut;

use normkit::layout::axes;
use numpy::npyffi::{NPY_ARRAY_WRITEABLE, NpyTypes, PY_ARRAY_API, get_type_object};
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use crate::arrays::Dtype;

/// Memory of an array that we have allocated: on whole lines, and on huge pages where it is large.
#[pyclass(frozen, module = "normkit._normkit")]
struct Memory {
    /// Where the array begins.
    data: *mut u8,
    allocated: *mut u8,
    layout: Layout,
}

// SAFETY: nothing here reads or writes the memory; it is only freed.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `Memory::new` with this layout.
        unsafe { dealloc(self.allocated, self.layout) }
    }
}

/// From so many bytes on glibc has the system map memory, and unmap it when it is freed, until it adapts.
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
const MAPPED: usize = 128 << 10;

/// Has glibc keep freed memory for the results that follow, up to 64 MiB at the end of a heap, as it does by itself once a block as large
/// as this has been freed, and never where the environment says how much to keep.
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
fn have_memory_kept() {
    // The most that it adapts to, less a page of any size. (Nothing of it is touched, so that it costs two calls of the system.)
    const MOST: Layout = Layout::new::<[u8; (32 << 20) - (128 << 10)]>();
    static ASKED: std::sync::Once = std::sync::Once::new();
    ASKED.call_once(|| {
        // SAFETY: the layout has a size; freed once, by that.
        unsafe {
            let block = std::hint::black_box(alloc(MOST));
            if !block.is_null() {
                dealloc(block, MOST);
            }
        }
    });
}

impl Memory {
    fn new(bytes: usize) -> PyResult<Memory> {
        const LINE: usize = 64;
        const HUGE_PAGE: usize = 2 << 20;
        let huge = cfg!(target_os = "linux") && bytes >= 2 * HUGE_PAGE;
        let failed = || PyMemoryError::new_err(format!("normkit: cannot allocate an output of {bytes} bytes"));
        // Allocators take longer to find a place on a line than to find a little more room. And what is kept fits what is asked for next,
        // which a place on a huge page with what was around it given back does not. (Measured: where it is mapped anew, 9 MiB take 263
        // page faults and 1.1 to 8 ms, else 0.4.)
        let place = if huge { HUGE_PAGE } else { LINE };
        let layout = bytes.checked_add(place).and_then(|room| Layout::from_size_align(room, align_of::<f64>()).ok());
        let layout = layout.ok_or_else(failed)?;
        debug_assert!(layout.size() > 0);
        #[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
        if bytes >= MAPPED {
            have_memory_kept();
        }
        // SAFETY: the layout has a size.
        let allocated = unsafe { alloc(layout) };
        if allocated.is_null() {
            return Err(failed());
        }
        let before = allocated.addr().next_multiple_of(place) - allocated.addr();
        debug_assert!(before + bytes <= layout.size());
        // SAFETY: within the allocation, as just asserted.
        let data = unsafe { allocated.add(before) };
        #[cfg(target_os = "linux")]
        if huge {
            debug_assert!(data.addr().is_multiple_of(HUGE_PAGE));
            // SAFETY: whole pages of our own allocation; a refusal changes nothing.
            unsafe { libc::madvise(data.cast(), bytes / HUGE_PAGE * HUGE_PAGE, libc::MADV_HUGEPAGE) };
        }
        Ok(Memory { data, allocated, layout })
    }
}

/// A new array; `strides` are those of a dense one, in elements.
pub(crate) fn allocate<'py>(
    py: Python<'py>,
    dtype: Dtype,
    shape: &[usize],
    strides: &[isize],
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let size = dtype.size();
    let bytes = shape.iter().product::<usize>() * size;
    let memory = Memory::new(bytes)?;
    let data = memory.data;
    let memory = Bound::new(py, memory)?;
    let mut steps = axes(strides.iter().map(|&s| s * size as isize));
    debug_assert!(strides.iter().all(|&stride| stride >= 0) && !normkit::overlaps_itself(shape, strides));
    debug_assert!({
        let last: isize = shape.iter().zip(&steps).map(|(&n, step)| (n as isize - 1) * step).sum();
        shape.contains(&0) || last as usize + size == bytes
    });
    // SAFETY: the memory holds an array of this shape and strides, as just asserted, and the array keeps it alive as its
    // base; the last call takes over the reference that it is given.
    unsafe {
        let array = array(py, dtype, shape, steps.as_mut_ptr(), data)?;
        if PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_array_ptr(), memory.into_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(array)
    }
}

/// A new array of one axis, in memory of NumPy's, which keeps some of it at hand for arrays as short as most parameters.
pub(crate) fn vector<'py>(py: Python<'py>, dtype: Dtype, len: usize) -> PyResult<Bound<'py, PyUntypedArray>> {
    // SAFETY: no memory and no strides are given.
    unsafe { array(py, dtype, &[len], null_mut(), null_mut()) }
}

/// A new array in this memory, or, where that is null, in NumPy's.
/// # Safety
/// The memory, if given, holds an array of this shape and strides (in bytes, one for each axis), and outlives it.
unsafe fn array<'py>(
    py: Python<'py>,
    dtype: Dtype,
    shape: &[usize],
    strides: *mut isize,
    data: *mut u8,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let descr = dtype.descr(py)?.into_dtype_ptr();
    let mut dims = axes(shape.iter().map(|&n| n as isize));
    // SAFETY: as the caller vouches; the call takes over the reference to the descriptor, and fails with an exception set.
    unsafe {
        let (kind, axes, sizes) = (get_type_object(py, NpyTypes::PyArray_Type), dims.len() as _, dims.as_mut_ptr());
        let flags = if data.is_null() { 0 } else { NPY_ARRAY_WRITEABLE };
        let of =
            PY_ARRAY_API.PyArray_NewFromDescr(py, kind, descr, axes, sizes, strides, data.cast(), flags, null_mut());
        Ok(Bound::from_owned_ptr_or_err(py, of)?.cast_into_unchecked())
    }
}
