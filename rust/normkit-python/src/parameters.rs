//! Numbers for each channel or position, in any shape that says so: parameters, running statistics, what is returned.

use std::fmt::Display;

use normkit::{Element, shape_text};
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use crate::arguments::{type_error, value_error};
use crate::arrays::{
    Array, Dtype, as_array, copy, data, dtype_text, is_native, is_plain, is_writeable, itemsize, overlaps_itself,
    with_element,
};
use crate::overlap::Span;

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
        let (array, dtype) = float_array(function, name, object)?;
        let Channels { count, of } = channels;
        let shape = array.shape();
        let spread = || shape.len() > 1 && shape.iter().filter(|&&n| n != 1).count() > 1;
        if shape.is_empty() || array.len() != count || spread() {
            let expected = format!("have {count} elements ({of})");
            return Err(value_error(function, name, expected, format!("shape {}", shape_text(shape))));
        }
        let values = read(&array, dtype)?;
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
        let (array, dtype) = float_array(function, name, object)?;
        fn squeezed(shape: &[usize]) -> impl Iterator<Item = usize> {
            shape.iter().copied().filter(|&n| n != 1)
        }
        if !squeezed(array.shape()).eq(squeezed(inner)) || array.shape().is_empty() {
            let expected = format!("have shape {} (the normalized axes of x)", shape_text(inner));
            return Err(value_error(function, name, expected, format!("shape {}", shape_text(array.shape()))));
        }
        let values = read(&array, dtype)?;
        Ok(Some(Parameter { array: array.unbind(), values }))
    }

    /// Numbers in the shape and dtype of this parameter.
    pub(crate) fn like<'py>(&self, py: Python<'py>, values: &[f64]) -> PyResult<Bound<'py, PyAny>> {
        like(self.array.bind(py), values)
    }
}

/// Numbers in the shape and dtype of an array.
fn like<'py>(array: &Bound<'py, PyUntypedArray>, values: &[f64]) -> PyResult<Bound<'py, PyAny>> {
    let py = array.py();
    let new = match Dtype::of(array).filter(|_| is_native(array)) {
        Some(Dtype::F32) => vector_of::<f32>(py, Dtype::F32, values)?,
        Some(Dtype::F64) => vector_of::<f64>(py, Dtype::F64, values)?,
        _ => copy(vector_of::<f64>(py, Dtype::F64, values)?.cast()?, &array.dtype(), "C")?.into_any(),
    };
    if array.ndim() == 1 { Ok(new) } else { new.call_method1("reshape", (array.shape().to_vec(),)) }
}

/// An array of any float dtype, and which that is, if one of ours.
fn float_array<'py>(
    function: &str,
    name: &str,
    object: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyUntypedArray>, Option<Dtype>)> {
    let array = as_array(function, name, object)?;
    let dtype = Dtype::of(&array);
    if dtype.is_none() && array.dtype().kind() != b'f' {
        return Err(type_error(function, name, "be a float array", dtype_text(&array)));
    }
    Ok((array, dtype))
}

/// The straight walk through a parameter: its length and the distance between elements, in bytes.
fn line(array: &Bound<'_, PyUntypedArray>) -> isize {
    array.shape().iter().zip(array.strides()).find(|&(&n, _)| n > 1).map_or(0, |(_, &stride)| stride)
}

/// The numbers of a parameter of this dtype, if it is one of ours.
fn read(array: &Bound<'_, PyUntypedArray>, dtype: Option<Dtype>) -> PyResult<Vec<f64>> {
    fn extend<E: Element>(values: &mut Vec<f64>, array: &Bound<'_, PyUntypedArray>, step: isize) {
        let data = data(array);
        debug_assert!(is_plain(array) && itemsize(array) == size_of::<E>());
        debug_assert!(array.is_c_contiguous() && step == size_of::<E>() as isize || step == line(array));
        // SAFETY: an aligned array of `E` with that many elements this far apart: the caller has seen to it.
        let value = |i: isize, step: isize| unsafe { data.offset(i * step).cast::<E>().read() }.to_f64();
        let all = 0..array.len() as isize;
        if step == size_of::<E>() as isize {
            values.extend(all.map(|i| value(i, size_of::<E>() as isize))); // several at a time
        } else {
            values.extend(all.map(|i| value(i, step)));
        }
    }
    let mut values = Vec::new();
    let failed = |_| PyMemoryError::new_err(format!("normkit: cannot hold {} parameters", array.len()));
    values.try_reserve_exact(array.len()).map_err(failed)?;
    let straight = || array.shape().iter().filter(|&&n| n > 1).count() <= 1;
    let step = |dtype: Dtype| {
        if array.is_c_contiguous() { Some(dtype.size() as isize) } else { straight().then(|| line(array)) }
    };
    match dtype.filter(|_| is_plain(array)).and_then(|dtype| Some((dtype, step(dtype)?))) {
        Some((dtype, step)) => with_element!(dtype, E => extend::<E>(&mut values, array, step)),
        None => {
            let flat = copy(array, &numpy::dtype::<f64>(array.py()), "C")?.call_method1("reshape", (-1,))?;
            extend::<f64>(&mut values, flat.cast()?, size_of::<f64>() as isize);
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
        py: Python<'_>,
        function: &str,
        mean: Option<&Bound<'_, PyAny>>,
        var: Option<&Bound<'_, PyAny>>,
        channels: Channels,
        written: bool,
        apart: &[(&str, Option<&Bound<'_, PyUntypedArray>>)],
    ) -> PyResult<Option<Running>> {
        let mean = Parameter::optional(function, "running_mean", mean, channels)?;
        let var = Parameter::optional(function, "running_var", var, channels)?;
        let running = match (mean, var) {
            (Some(mean), Some(var)) => Running { mean, var },
            (None, None) => return Ok(None),
            (Some(_), None) => {
                return Err(value_error(function, "running_var", "be given together with `running_mean`", "None"));
            }
            (None, Some(_)) => {
                return Err(value_error(function, "running_mean", "be given together with `running_var`", "None"));
            }
        };
        if written {
            running.check_writing(py, function, apart)?;
        }
        Ok(Some(running))
    }

    /// Whether both can be written to.
    fn check_writing(
        &self,
        py: Python<'_>,
        function: &str,
        apart: &[(&str, Option<&Bound<'_, PyUntypedArray>>)],
    ) -> PyResult<()> {
        let arrays = [("running_mean", self.mean.array.bind(py)), ("running_var", self.var.array.bind(py))];
        for (name, array) in arrays {
            if !is_writeable(array) {
                return Err(value_error(function, name, "be writeable in training", "a read-only array"));
            }
            if overlaps_itself(array) {
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
    }

    /// Writes the new values, which must have been checked to be writeable, back to the arrays.
    pub(crate) fn write(&self, py: Python<'_>) -> PyResult<()> {
        fn to<E: Element>(array: &Bound<'_, PyUntypedArray>, values: &[f64]) {
            let (data, step) = (data(array), line(array));
            debug_assert!(is_plain(array) && is_writeable(array) && itemsize(array) == size_of::<E>());
            debug_assert!(values.len() <= array.len());
            for (i, &x) in values.iter().enumerate() {
                // SAFETY: an aligned writeable array of `E` with that many elements this far apart.
                unsafe { data.offset(i as isize * step).cast::<E>().write(E::from_f64(x)) };
            }
        }
        // Conversions by NumPy first: they may fail, writing may not.
        let prepare = |Parameter { array, values }: &Parameter| -> PyResult<_> {
            let array = array.bind(py);
            match Dtype::of(array).filter(|_| is_plain(array)) {
                Some(dtype) => Ok(Ok(dtype)),
                None => Ok(Err(like(array, values)?)),
            }
        };
        let prepared = [(&self.mean, prepare(&self.mean)?), (&self.var, prepare(&self.var)?)];
        for (Parameter { array, values }, how) in prepared {
            match how {
                Ok(dtype) => with_element!(dtype, E => to::<E>(array.bind(py), values)),
                Err(converted) => {
                    py.import("numpy")?.call_method1("copyto", (array, converted))?;
                }
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
