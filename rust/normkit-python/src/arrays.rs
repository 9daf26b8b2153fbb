//! NumPy arrays as tensors, and the other way.

use std::alloc::{Layout, alloc, dealloc};
use std::fmt::Display;

use normkit::layout::strides_like;
use normkit::{Element, Tensor, TensorMut, overlaps_in_units, shape_text};
use numpy::npyffi::{NPY_ARRAY_WRITEABLE, NpyTypes, PY_ARRAY_API, flags, get_type_object};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods, dtype};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use crate::arguments::{Arg, describe, type_error, value_error};

/// The dtypes of `x`, `y` and their gradients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dtype {
    F32,
    F64,
    F16,
    Bf16,
}

impl Dtype {
    fn of(descr: &Bound<'_, PyArrayDescr>) -> Option<Dtype> {
        match (descr.kind(), descr.itemsize()) {
            (b'f', 4) => Some(Dtype::F32),
            (b'f', 8) => Some(Dtype::F64),
            (b'f', 2) => Some(Dtype::F16),
            // ml_dtypes.bfloat16 is a type of its own, known by its name.
            (kind, 2) if !b"iubO".contains(&kind) && descr.to_string() == "bfloat16" => Some(Dtype::Bf16),
            _ => None,
        }
    }

    pub(crate) fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    fn descr(self, py: Python<'_>) -> PyResult<Bound<'_, PyArrayDescr>> {
        match self {
            Dtype::F32 => Ok(dtype::<f32>(py)),
            Dtype::F64 => Ok(dtype::<f64>(py)),
            Dtype::F16 => PyArrayDescr::new(py, "float16"),
            // There is an array of it, so the module is there.
            Dtype::Bf16 => PyArrayDescr::new(py, py.import("ml_dtypes")?.getattr("bfloat16")?),
        }
    }
}

/// Runs a generic expression with the element type that a [`Dtype`] names.
macro_rules! with_element {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::arrays::Dtype::F32 => {
                type $E = f32;
                $body
            }
            $crate::arrays::Dtype::F64 => {
                type $E = f64;
                $body
            }
            $crate::arrays::Dtype::F16 => {
                type $E = half::f16;
                $body
            }
            $crate::arrays::Dtype::Bf16 => {
                type $E = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_element;

/// An aligned array in native byte order of a dtype that we compute on.
pub(crate) struct Array<'py> {
    pub(crate) object: Bound<'py, PyUntypedArray>,
    /// What the caller gave: the same, unless that had to be copied.
    pub(crate) given: Bound<'py, PyUntypedArray>,
    pub(crate) dtype: Dtype,
    data: *mut u8,
    /// In elements.
    strides: Vec<isize>,
}

pub(crate) fn as_array<'py>(
    function: &str,
    name: &str,
    object: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let array = object
        .cast::<PyUntypedArray>()
        .map_err(|_| type_error(function, name, "be a NumPy array", describe(object)))?;
    // Only a subclass can be masked; most arrays are none.
    if !array.is_exact_instance_of::<PyUntypedArray>() {
        let masked = array.py().import("numpy.ma")?.getattr("MaskedArray")?;
        if array.is_instance(&masked)? {
            return Err(type_error(function, name, "be a plain array, as its mask would be ignored", "MaskedArray"));
        }
    }
    Ok(array.clone())
}

/// A plain copy in this dtype and memory order (as `numpy.array` takes it), whatever methods a subclass may have.
/// Overflow in the conversion gives infinity, silently.
fn copy<'py>(
    array: &Bound<'py, PyAny>,
    descr: &Bound<'py, PyArrayDescr>,
    order: &str,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let numpy = array.py().import("numpy")?;
    let options = PyDict::new(array.py());
    options.set_item("dtype", descr)?;
    options.set_item("order", order)?;
    options.set_item("subok", false)?;
    let silence = numpy.call_method("errstate", (), Some(&[("all", "ignore")].into_py_dict(array.py())?))?;
    silence.call_method0("__enter__")?;
    let copy = numpy.call_method("array", (array,), Some(&options));
    silence.call_method1("__exit__", (array.py().None(), array.py().None(), array.py().None()))?;
    Ok(copy?.cast_into()?)
}

pub(crate) fn dtype_text(array: &Bound<'_, PyUntypedArray>) -> String {
    format!("dtype {}", array.dtype())
}

pub(crate) fn data(array: &Bound<'_, PyUntypedArray>) -> *mut u8 {
    // SAFETY: an array object is valid while it is borrowed.
    unsafe { (*array.as_array_ptr()).fields.data.cast() }
}

fn is_writeable(array: &Bound<'_, PyUntypedArray>) -> bool {
    // SAFETY: an array object is valid while it is borrowed.
    unsafe { (*array.as_array_ptr()).fields.flags & NPY_ARRAY_WRITEABLE != 0 }
}

fn is_plain(array: &Bound<'_, PyUntypedArray>) -> bool {
    // SAFETY: an array object is valid while it is borrowed.
    let aligned = unsafe { (*array.as_array_ptr()).fields.flags & flags::NPY_ARRAY_ALIGNED != 0 };
    let size = array.dtype().itemsize() as isize;
    let whole = array.strides().iter().zip(array.shape()).all(|(stride, &n)| n <= 1 || stride % size == 0);
    aligned && whole && array.dtype().is_native_byteorder() != Some(false)
}

impl<'py> Array<'py> {
    fn new(object: Bound<'py, PyUntypedArray>, dtype: Dtype) -> Self {
        let size = dtype.size() as isize;
        // The stride of an axis of one element may be anything.
        let strides = object.strides().iter().zip(object.shape()).map(|(s, &n)| if n <= 1 { 0 } else { s / size });
        Array { dtype, data: data(&object), strides: strides.collect(), given: object.clone(), object }
    }

    /// A float array to read; a misaligned or byte-swapped one is copied.
    pub(crate) fn input(function: &str, name: &str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = as_array(function, name, object)?;
        let Some(dtype) = Dtype::of(&array.dtype()) else {
            let found = dtype_text(&array);
            let expected = match array.dtype().kind() {
                b'i' | b'u' | b'b' => format!(
                    "be a float array: float32, float64, float16 or bfloat16 (convert with {name}.astype(np.float32))"
                ),
                _ => "be a float array: float32, float64, float16 or bfloat16".to_owned(),
            };
            return Err(type_error(function, name, expected, found));
        };
        if is_plain(&array) {
            return Ok(Array::new(array, dtype));
        }
        let copy = copy(&array, &dtype.descr(array.py())?, "K")?;
        Ok(Array { given: array, ..Array::new(copy, dtype) })
    }

    /// A new array of x's dtype, shape and memory order.
    pub(crate) fn like(x: &Array<'py>) -> PyResult<Self> {
        let strides = strides_like(x.shape(), &x.strides);
        Ok(Array::new(allocate(x.object.py(), x.dtype, x.shape(), &strides)?, x.dtype))
    }

    /// A new array of one axis.
    pub(crate) fn vector(py: Python<'py>, dtype: Dtype, len: usize) -> PyResult<Self> {
        Ok(Array::new(allocate(py, dtype, &[len], &[1])?, dtype))
    }

    /// Where to write: `out` as given if it fits `x`, or a new array. `may_be` is an input that `out` may be, and
    /// `apart` are arrays that it may not touch.
    pub(crate) fn output(
        function: &str,
        out: &Arg<'py>,
        x: &Array<'py>,
        may_be: Option<(&str, &Array<'py>)>,
        apart: &[(&str, Option<&Bound<'py, PyUntypedArray>>)],
    ) -> PyResult<Output<'py>> {
        let Some(object) = out.0.as_ref().filter(|object| !object.is_none()) else {
            return Ok(Output { array: Array::like(x)?, copy_to: None });
        };
        let array = as_array(function, "out", object)?;
        if array.shape() != x.shape() {
            let expected = format!("have the shape of x, {}", shape_text(x.shape()));
            return Err(value_error(function, "out", expected, format!("shape {}", shape_text(array.shape()))));
        }
        if Dtype::of(&array.dtype()) != Some(x.dtype) {
            let expected = format!("have the dtype of x, {}", x.dtype.descr(array.py())?);
            return Err(type_error(function, "out", expected, dtype_text(&array)));
        }
        if !is_writeable(&array) {
            return Err(value_error(function, "out", "be writeable", "a read-only array"));
        }
        let strides = array.strides();
        if overlaps_in_units(array.shape(), strides, x.dtype.size()) {
            return Err(value_error(function, "out", "hold each element once", "strides that overlap"));
        }
        let span = Span::of(&array);
        let same = |other: &Array<'py>| data(&array) == data(&other.given) && strides == other.given.strides();
        if let Some((name, other)) = may_be
            && !same(other)
            && span.overlaps(&Span::of(&other.given))?
        {
            let expected = format!("be {name} itself or not overlap it");
            return Err(value_error(function, "out", expected, "a partial overlap"));
        }
        for (name, other) in apart.iter().filter_map(|(name, other)| Some((name, (*other)?))) {
            if span.overlaps(&Span::of(other))? {
                return Err(value_error(function, "out", format!("not overlap {name}"), "shared memory"));
            }
        }
        if is_plain(&array) {
            return Ok(Output { array: Array::new(array, x.dtype), copy_to: None });
        }
        Ok(Output { array: Array::like(x)?, copy_to: Some(array) })
    }

    /// This array, or a copy of it, with the last axis fastest and no gaps.
    pub(crate) fn contiguous(self) -> PyResult<Self> {
        if self.object.is_c_contiguous() {
            return Ok(self);
        }
        let copy = copy(&self.object, &self.dtype.descr(self.object.py())?, "C")?;
        Ok(Array::new(copy, self.dtype))
    }

    /// All elements in order.
    /// # Safety
    /// The array is contiguous and of elements `E`.
    pub(crate) unsafe fn slice<E: Element>(&self) -> &[E] {
        debug_assert!(self.object.is_c_contiguous() && size_of::<E>() == self.dtype.size());
        // SAFETY: as the caller vouches; empty arrays have a pointer too.
        unsafe { std::slice::from_raw_parts(self.data.cast_const().cast(), self.object.len()) }
    }

    /// All elements in order.
    /// # Safety
    /// The array is contiguous, of elements `E`, and nobody else's.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice_mut<E: Element>(&self) -> &mut [E] {
        debug_assert!(self.object.is_c_contiguous() && size_of::<E>() == self.dtype.size());
        // SAFETY: as the caller vouches; empty arrays have a pointer too.
        unsafe { std::slice::from_raw_parts_mut(self.data.cast(), self.object.len()) }
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.object.shape()
    }

    /// Bytes of all elements.
    pub(crate) fn bytes(&self) -> usize {
        self.object.len() * self.dtype.size()
    }

    /// The array as the core sees it.
    pub(crate) fn tensor<E: Element>(&self) -> Tensor<'py, E> {
        debug_assert_eq!(size_of::<E>(), self.dtype.size());
        // SAFETY: NumPy vouches for shape and strides; the data is aligned, of this type, and kept alive by `object`.
        unsafe { Tensor::from_raw(self.data.cast_const().cast(), self.shape(), &self.strides) }
    }

    /// The array as the core sees it.
    /// # Safety
    /// It came from [`Array::output`] or [`Array::like`], and is used by one call at a time.
    pub(crate) unsafe fn tensor_mut<E: Element>(&self) -> TensorMut<'py, E> {
        debug_assert_eq!(size_of::<E>(), self.dtype.size());
        // SAFETY: as for `tensor`; writeable, without overlap, and apart from inputs as the function allows.
        unsafe { TensorMut::from_raw(self.data.cast(), self.shape(), &self.strides) }
    }
}

/// Where a function writes: the caller's array, or a new one; the latter's elements are copied to the caller's where
/// that is misaligned or byte-swapped.
pub(crate) struct Output<'py> {
    array: Array<'py>,
    copy_to: Option<Bound<'py, PyUntypedArray>>,
}

impl<'py> Output<'py> {
    /// The array as the core sees it.
    /// # Safety
    /// It is used by one call at a time.
    pub(crate) unsafe fn tensor_mut<E: Element>(&self) -> TensorMut<'py, E> {
        // SAFETY: as the caller vouches.
        unsafe { self.array.tensor_mut() }
    }

    /// What the function returns, once all elements are written.
    pub(crate) fn finish(self) -> PyResult<Bound<'py, PyAny>> {
        let Some(out) = self.copy_to else { return Ok(self.array.object.into_any()) };
        out.py().import("numpy")?.call_method1("copyto", (&out, self.array.object))?;
        Ok(out.into_any())
    }
}

/// The memory of an array: the bytes from its first to its last element.
#[derive(Clone, Copy)]
struct Span<'a, 'py> {
    array: &'a Bound<'py, PyUntypedArray>,
    low: usize,
    high: usize,
}

impl<'a, 'py> Span<'a, 'py> {
    fn of(array: &'a Bound<'py, PyUntypedArray>) -> Self {
        if array.is_empty() {
            return Span { array, low: 0, high: 0 };
        }
        let (mut low, mut high) = (data(array).addr() as isize, data(array).addr() as isize);
        for (&n, &stride) in array.shape().iter().zip(array.strides()) {
            let far = (n as isize - 1) * stride;
            (low, high) = (low + far.min(0), high + far.max(0));
        }
        Span { array, low: low as usize, high: high as usize + array.dtype().itemsize() }
    }

    /// Whether two arrays share an element; where that is too hard to tell, whether they may.
    fn overlaps(&self, other: &Span) -> PyResult<bool> {
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
fn allocate<'py>(
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

/// A parameter: one number for each channel, in any shape that says so and any float dtype.
pub(crate) struct Parameter {
    pub(crate) array: Py<PyUntypedArray>,
    pub(crate) values: Vec<f64>,
}

/// What the channels are, for messages.
#[derive(Clone, Copy)]
pub(crate) struct Channels<'a> {
    pub(crate) count: usize,
    pub(crate) of: &'a dyn Display,
}

impl Parameter {
    /// One number for each channel; nothing where `object` is None.
    pub(crate) fn optional(
        function: &str,
        name: &str,
        object: Option<&Bound<'_, PyAny>>,
        channels: Channels,
    ) -> PyResult<Option<Parameter>> {
        let object = object.filter(|object| !object.is_none());
        object.map(|object| Parameter::required(function, name, object, channels)).transpose()
    }

    pub(crate) fn required(
        function: &str,
        name: &str,
        object: &Bound<'_, PyAny>,
        channels: Channels,
    ) -> PyResult<Parameter> {
        let array = float_array(function, name, object)?;
        let Channels { count, of } = channels;
        let shape = array.shape();
        if shape.is_empty() || array.len() != count || shape.iter().filter(|&&n| n != 1).count() > 1 {
            let expected = format!("have {count} elements ({of})");
            return Err(value_error(function, name, expected, format!("shape {}", shape_text(shape))));
        }
        let values = read(&array)?;
        Ok(Parameter { array: array.unbind(), values })
    }

    /// One number for each position of `inner`, in that shape (axes of one element may be there or not).
    pub(crate) fn shaped(
        function: &str,
        name: &str,
        object: Option<&Bound<'_, PyAny>>,
        inner: &[usize],
    ) -> PyResult<Option<Parameter>> {
        let Some(object) = object.filter(|object| !object.is_none()) else { return Ok(None) };
        let array = float_array(function, name, object)?;
        let squeezed = |shape: &[usize]| shape.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
        if squeezed(array.shape()) != squeezed(inner) || array.shape().is_empty() {
            let expected = format!("have shape {} (the normalized axes of x)", shape_text(inner));
            return Err(value_error(function, name, expected, format!("shape {}", shape_text(array.shape()))));
        }
        let values = read(&array)?;
        Ok(Some(Parameter { array: array.unbind(), values }))
    }

    /// Numbers in the shape and dtype of this parameter.
    pub(crate) fn like<'py>(&self, py: Python<'py>, values: &[f64]) -> PyResult<Bound<'py, PyAny>> {
        let array = self.array.bind(py);
        let descr = array.dtype();
        let new = if Dtype::of(&descr) == Some(Dtype::F32) && descr.is_native_byteorder() == Some(true) {
            vector_of::<f32>(py, Dtype::F32, values)?
        } else {
            let wide = vector_of::<f64>(py, Dtype::F64, values)?;
            if descr.is_equiv_to(&dtype::<f64>(py)) { wide } else { copy(&wide, &descr, "C")?.into_any() }
        };
        if array.ndim() == 1 { Ok(new) } else { new.call_method1("reshape", (array.shape().to_vec(),)) }
    }
}

fn float_array<'py>(function: &str, name: &str, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    let array = as_array(function, name, object)?;
    if array.dtype().kind() != b'f' && Dtype::of(&array.dtype()).is_none() {
        return Err(type_error(function, name, "be a float array", dtype_text(&array)));
    }
    Ok(array)
}

/// The straight walk through a parameter: its length and the distance between elements, in bytes.
fn line(array: &Bound<'_, PyUntypedArray>) -> isize {
    array.shape().iter().zip(array.strides()).find(|&(&n, _)| n > 1).map_or(0, |(_, &stride)| stride)
}

/// The numbers of a parameter.
fn read(array: &Bound<'_, PyUntypedArray>) -> PyResult<Vec<f64>> {
    fn extend<E: Element>(values: &mut Vec<f64>, array: &Bound<'_, PyUntypedArray>) {
        let (data, step) = (data(array), line(array));
        debug_assert!(is_plain(array) && array.dtype().itemsize() == size_of::<E>());
        // SAFETY: an aligned array of `E` with that many elements this far apart.
        values.extend((0..array.len() as isize).map(|i| unsafe { data.offset(i * step).cast::<E>().read() }.to_f64()));
    }
    let mut values = Vec::new();
    let failed = |_| PyMemoryError::new_err(format!("normkit: cannot hold {} parameters", array.len()));
    values.try_reserve_exact(array.len()).map_err(failed)?;
    let straight = array.shape().iter().filter(|&&n| n > 1).count() <= 1;
    match Dtype::of(&array.dtype()).filter(|_| straight && is_plain(array)) {
        Some(dtype) => with_element!(dtype, E => extend::<E>(&mut values, array)),
        None => {
            let flat = copy(array, &dtype::<f64>(array.py()), "C")?.call_method1("reshape", (-1,))?;
            extend::<f64>(&mut values, flat.cast()?);
        }
    }
    Ok(values)
}

/// Running statistics: parameters that are written to.
pub(crate) struct Running {
    pub(crate) mean: Parameter,
    pub(crate) var: Parameter,
}

impl Running {
    /// Both or neither.
    pub(crate) fn optional(
        function: &str,
        mean: Option<&Bound<'_, PyAny>>,
        var: Option<&Bound<'_, PyAny>>,
        channels: Channels,
        written: bool,
        apart: &[(&str, Option<&Bound<'_, PyUntypedArray>>)],
    ) -> PyResult<Option<Running>> {
        let mean = Parameter::optional(function, "running_mean", mean, channels)?;
        let var = Parameter::optional(function, "running_var", var, channels)?;
        let (mean, var) = match (mean, var) {
            (Some(mean), Some(var)) => (mean, var),
            (None, None) => return Ok(None),
            (Some(_), None) => {
                return Err(value_error(function, "running_var", "be given together with `running_mean`", "None"));
            }
            (None, Some(_)) => {
                return Err(value_error(function, "running_mean", "be given together with `running_var`", "None"));
            }
        };
        if written {
            Python::attach(|py| {
                let arrays = [("running_mean", mean.array.bind(py)), ("running_var", var.array.bind(py))];
                for (name, array) in arrays {
                    if !is_writeable(array) {
                        return Err(value_error(function, name, "be writeable in training", "a read-only array"));
                    }
                    if overlaps_in_units(array.shape(), array.strides(), array.dtype().itemsize()) {
                        return Err(value_error(function, name, "hold each element once", "strides that overlap"));
                    }
                }
                let spans = arrays.map(|(name, array)| (name, Span::of(array)));
                if spans[0].1.overlaps(&spans[1].1)? {
                    return Err(value_error(function, "running_var", "not overlap running_mean", "shared memory"));
                }
                for (other, of) in apart.iter().filter_map(|(name, other)| Some((name, Span::of((*other)?)))) {
                    for (name, span) in &spans {
                        if span.overlaps(&of)? {
                            return Err(value_error(function, name, format!("not overlap {other}"), "shared memory"));
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(Some(Running { mean, var }))
    }

    /// Writes the new values, which must have been checked to be writeable, back to the arrays.
    pub(crate) fn write(&self, py: Python<'_>) -> PyResult<()> {
        fn to<E: Element>(array: &Bound<'_, PyUntypedArray>, values: &[f64]) {
            let (data, step) = (data(array), line(array));
            debug_assert!(is_plain(array) && is_writeable(array) && array.dtype().itemsize() == size_of::<E>());
            debug_assert!(values.len() <= array.len());
            for (i, &x) in values.iter().enumerate() {
                // SAFETY: an aligned writeable array of `E` with that many elements this far apart.
                unsafe { data.offset(i as isize * step).cast::<E>().write(E::from_f64(x)) };
            }
        }
        let plain = |array: &Bound<'_, PyUntypedArray>| Dtype::of(&array.dtype()).filter(|_| is_plain(array));
        let parameters = [&self.mean, &self.var];
        // Conversions by NumPy first: they may fail, writing may not.
        let mut converted = Vec::new();
        for parameter in parameters {
            let needed = plain(parameter.array.bind(py)).is_none();
            converted.push(if needed { Some(parameter.like(py, &parameter.values)?) } else { None });
        }
        for (parameter, converted) in parameters.into_iter().zip(converted) {
            let array = parameter.array.bind(py);
            match (plain(array), converted) {
                (Some(dtype), _) => with_element!(dtype, E => to::<E>(array, &parameter.values)),
                (None, Some(values)) => {
                    py.import("numpy")?.call_method1("copyto", (array, values))?;
                }
                (None, None) => {}
            }
        }
        Ok(())
    }
}

/// A new array of one axis with these values, rounded to its type.
fn vector_of<'py, E: Element>(py: Python<'py>, dtype: Dtype, values: &[f64]) -> PyResult<Bound<'py, PyAny>> {
    let array = Array::vector(py, dtype, values.len())?;
    // SAFETY: contiguous, new and ours.
    for (to, &x) in unsafe { array.slice_mut::<E>() }.iter_mut().zip(values) {
        *to = E::from_f64(x);
    }
    Ok(array.object.into_any())
}

/// The numbers, if there is memory for them.
pub(crate) fn collect(numbers: impl ExactSizeIterator<Item = f64>) -> PyResult<Vec<f64>> {
    let mut collected = Vec::new();
    let failed = |_| PyMemoryError::new_err(format!("normkit: cannot hold {} numbers", numbers.len()));
    collected.try_reserve_exact(numbers.len()).map_err(failed)?;
    collected.extend(numbers);
    Ok(collected)
}

/// A read-only float64 array of this shape.
pub(crate) fn statistics<'py>(py: Python<'py>, values: &[f64], shape: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    let array = vector_of::<f64>(py, Dtype::F64, values)?.call_method1("reshape", (shape.to_vec(),))?;
    array.call_method1("setflags", (false,))?;
    Ok(array)
}
