//! Numbers for each channel or position, in any shape that says so: parameters, running statistics, what is returned.

use std::fmt::Display;

use normkit::{Element, overlaps_in_units, shape_text};
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods, dtype};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use crate::arguments::{type_error, value_error};
use crate::arrays::{Array, Dtype, as_array, copy, data, dtype_text, is_plain, is_writeable, with_element};
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
