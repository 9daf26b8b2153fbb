//! New arrays: on whole lines of the caches, and on huge pages where they are large.

use std::alloc::{Layout, alloc, dealloc};

use numpy::npyffi::{NPY_ARRAY_WRITEABLE, NpyTypes, PY_ARRAY_API, get_type_object};
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use crate::arrays::Dtype;

/// Memory of an array that we have allocated: on whole lines, and on huge pages where it is large.
#[pyclass(frozen, module = "normkit._normkit")]
struct Memory {
    data: *mut u8,
    layout: Layout,
}

// SAFETY: nothing here reads or writes the memory; it is only freed.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `Memory::new` with this layout.
        unsafe { dealloc(self.data, self.layout) }
    }
}

impl Memory {
    fn new(bytes: usize) -> PyResult<Memory> {
        const LINE: usize = 64;
        const HUGE_PAGE: usize = 2 << 20;
        let huge = bytes >= 2 * HUGE_PAGE;
        let failed = || PyMemoryError::new_err(format!("normkit: cannot allocate an output of {bytes} bytes"));
        let layout =
            Layout::from_size_align(bytes.max(1), if huge { HUGE_PAGE } else { LINE }).map_err(|_| failed())?;
        debug_assert!(layout.size() > 0);
        // SAFETY: the layout has a size.
        let data = unsafe { alloc(layout) };
        if data.is_null() {
            return Err(failed());
        }
        #[cfg(target_os = "linux")]
        if huge {
            debug_assert!(data.addr().is_multiple_of(HUGE_PAGE) && bytes / HUGE_PAGE * HUGE_PAGE <= layout.size());
            // SAFETY: whole pages of our own allocation; a refusal changes nothing.
            unsafe { libc::madvise(data.cast(), bytes / HUGE_PAGE * HUGE_PAGE, libc::MADV_HUGEPAGE) };
        }
        Ok(Memory { data, layout })
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
    let descr = dtype.descr(py)?;
    let memory = Memory::new(bytes)?;
    let data = memory.data;
    let memory = Bound::new(py, memory)?;
    let mut dims: Vec<_> = shape.iter().map(|&n| n as isize).collect();
    let mut steps: Vec<_> = strides.iter().map(|&s| s * size as isize).collect();
    debug_assert!(strides.iter().all(|&stride| stride >= 0) && !normkit::overlaps_itself(shape, strides));
    debug_assert!({
        let last: isize = dims.iter().zip(&steps).map(|(n, step)| (n - 1) * step).sum();
        shape.contains(&0) || last as usize + size == bytes
    });
    // SAFETY: the memory holds an array of this shape and strides, as just asserted, and the array keeps it alive as its
    // base; both calls take over the references that they are given.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            get_type_object(py, NpyTypes::PyArray_Type),
            descr.into_dtype_ptr(),
            dims.len() as _,
            dims.as_mut_ptr(),
            steps.as_mut_ptr(),
            data.cast(),
            NPY_ARRAY_WRITEABLE,
            std::ptr::null_mut(),
        );
        let array = Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked::<PyUntypedArray>();
        if PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_array_ptr(), memory.into_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(array)
    }
}
