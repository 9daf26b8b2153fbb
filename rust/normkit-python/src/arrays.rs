//! NumPy arrays as tensors, and the other way.

use normkit::layout::{Axes, axes, strides_like};
use normkit::{Element, Tensor, TensorMut, overlaps_in_units, shape_text};
use numpy::npyffi::objects::PyArray_Descr_fields;
use numpy::npyffi::{NPY_ARRAY_WRITEABLE, NPY_TYPES};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods, dtype};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use crate::allocation::{allocate, vector};
use crate::arguments::{Arg, describe, type_error, value_error};
use crate::overlap::Span;

/// The dtypes of `x`, `y` and their gradients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dtype {
    F32,
    F64,
    F16,
    Bf16,
}

impl Dtype {
    /// NumPy's own, by their numbers: this is asked often, and their names take longer.
    fn numbered(array: &Bound<'_, PyUntypedArray>) -> Option<Dtype> {
        const FLOAT: i32 = NPY_TYPES::NPY_FLOAT as i32;
        const DOUBLE: i32 = NPY_TYPES::NPY_DOUBLE as i32;
        const HALF: i32 = NPY_TYPES::NPY_HALF as i32;
        match fields(array).type_num {
            FLOAT => Some(Dtype::F32),
            DOUBLE => Some(Dtype::F64),
            HALF => Some(Dtype::F16),
            _ => None,
        }
    }

    pub(crate) fn of(array: &Bound<'_, PyUntypedArray>) -> Option<Dtype> {
        let named = |descr: Bound<'_, PyArrayDescr>| match (descr.kind(), descr.itemsize()) {
            (b'f', 4) => Some(Dtype::F32),
            (b'f', 8) => Some(Dtype::F64),
            (b'f', 2) => Some(Dtype::F16),
            // ml_dtypes.bfloat16 is a type of its own, known by its name.
            (kind, 2) if !b"iubO".contains(&kind) && descr.to_string() == "bfloat16" => Some(Dtype::Bf16),
            _ => None,
        };
        Dtype::numbered(array).or_else(|| named(array.dtype()))
    }

    pub(crate) fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    pub(crate) fn descr(self, py: Python<'_>) -> PyResult<Bound<'_, PyArrayDescr>> {
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
    strides: Axes<isize>,
}

pub(crate) fn as_array<'py>(
    function: &str,
    name: &str,
    object: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    // Most are exactly that, which is quicker to see; only a subclass can be masked.
    if let Ok(array) = object.cast_exact::<PyUntypedArray>() {
        return Ok(array.clone());
    }
    let array = object
        .cast::<PyUntypedArray>()
        .map_err(|_| type_error(function, name, "be a NumPy array", describe(object)))?;
    let masked = array.py().import("numpy.ma")?.getattr("MaskedArray")?;
    if array.is_instance(&masked)? {
        return Err(type_error(function, name, "be a plain array, as its mask would be ignored", "MaskedArray"));
    }
    Ok(array.clone())
}

/// A plain copy in this dtype and memory order (as `numpy.array` takes it), whatever methods a subclass may have.
/// Overflow in the conversion gives infinity, silently.
pub(crate) fn copy<'py>(
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

/// What all versions of NumPy have in one place of a descriptor. (To ask for the descriptor itself would count references to
/// it, which takes longer.)
fn fields<'a>(array: &'a Bound<'_, PyUntypedArray>) -> &'a PyArray_Descr_fields {
    // SAFETY: an array object is valid while it is borrowed, and has a descriptor.
    unsafe { &(*(*array.as_array_ptr()).fields.descr).fields }
}

/// Bytes of an element.
pub(crate) fn itemsize(array: &Bound<'_, PyUntypedArray>) -> usize {
    Dtype::numbered(array).map_or_else(|| array.dtype().itemsize(), Dtype::size)
}

/// Whether elements are in the processor's byte order.
pub(crate) fn is_native(array: &Bound<'_, PyUntypedArray>) -> bool {
    let other = if cfg!(target_endian = "little") { b'>' } else { b'<' };
    fields(array).byteorder as u8 != other
}

pub(crate) fn data(array: &Bound<'_, PyUntypedArray>) -> *mut u8 {
    // SAFETY: an array object is valid while it is borrowed.
    unsafe { (*array.as_array_ptr()).fields.data.cast() }
}

pub(crate) fn is_writeable(array: &Bound<'_, PyUntypedArray>) -> bool {
    // SAFETY: an array object is valid while it is borrowed.
    unsafe { (*array.as_array_ptr()).fields.flags & NPY_ARRAY_WRITEABLE != 0 }
}

pub(crate) fn is_plain(array: &Bound<'_, PyUntypedArray>) -> bool {
    let whole = || {
        let size = itemsize(array) as isize;
        array.strides().iter().zip(array.shape()).all(|(stride, &n)| n <= 1 || stride % size == 0)
    };
    array.is_aligned() && is_native(array) && (array.is_contiguous() || whole())
}

/// Whether two indices reach one element.
pub(crate) fn overlaps_itself(array: &Bound<'_, PyUntypedArray>) -> bool {
    !array.is_contiguous() && overlaps_in_units(array.shape(), array.strides(), itemsize(array))
}

impl<'py> Array<'py> {
    fn new(object: Bound<'py, PyUntypedArray>, dtype: Dtype) -> Self {
        let size = dtype.size() as isize;
        // The stride of an axis of one element may be anything.
        let strides = object.strides().iter().zip(object.shape()).map(|(s, &n)| if n <= 1 { 0 } else { s / size });
        Array { dtype, data: data(&object), strides: axes(strides), given: object.clone(), object }
    }

    /// A float array to read; a misaligned or byte-swapped one is copied.
    pub(crate) fn input(function: &str, name: &str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = as_array(function, name, object)?;
        let Some(dtype) = Dtype::of(&array) else {
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
        Ok(Array::new(vector(py, dtype, len)?, dtype))
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
        let Some(object) = out.given() else {
            return Ok(Output { array: Array::like(x)?, copy_to: None });
        };
        let array = as_array(function, "out", object)?;
        if array.shape() != x.shape() {
            let expected = format!("have the shape of x, {}", shape_text(x.shape()));
            return Err(value_error(function, "out", expected, format!("shape {}", shape_text(array.shape()))));
        }
        if Dtype::of(&array) != Some(x.dtype) {
            let expected = format!("have the dtype of x, {}", x.dtype.descr(array.py())?);
            return Err(type_error(function, "out", expected, dtype_text(&array)));
        }
        if !is_writeable(&array) {
            return Err(value_error(function, "out", "be writeable", "a read-only array"));
        }
        if overlaps_itself(&array) {
            return Err(value_error(function, "out", "hold each element once", "strides that overlap"));
        }
        let span = Span::of(&array);
        let same = |other: &Array<'py>| data(&array) == data(&other.given) && array.strides() == other.given.strides();
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
        if self.object.is_empty() {
            return &[]; // NumPy calls it aligned wherever it is
        }
        // SAFETY: as the caller vouches.
        unsafe { std::slice::from_raw_parts(self.data.cast_const().cast(), self.object.len()) }
    }

    /// All elements in order.
    /// # Safety
    /// The array is contiguous, of elements `E`, and nobody else's.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice_mut<E: Element>(&self) -> &mut [E] {
        debug_assert!(self.object.is_c_contiguous() && size_of::<E>() == self.dtype.size());
        if self.object.is_empty() {
            return &mut [];
        }
        // SAFETY: as the caller vouches.
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
