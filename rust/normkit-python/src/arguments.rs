//! Arguments that are not arrays, and the one form of error.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use normkit::{Error, Result as CoreResult};
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyMemoryError, PyOverflowError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat};

/// An argument as it came, or nothing where the default holds.
pub(crate) struct Arg<'py>(pub(crate) Option<Bound<'py, PyAny>>);

impl<'py> FromPyObject<'_, 'py> for Arg<'py> {
    type Error = PyErr;
    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Arg(Some(object.to_owned())))
    }
}

/// ``function: `argument` must expected, found found``
fn message(function: &str, argument: &str, expected: impl Display, found: impl Display) -> String {
    format!("{function}: `{argument}` must {expected}, found {found}")
}

pub(crate) fn value_error(function: &str, argument: &str, expected: impl Display, found: impl Display) -> PyErr {
    PyValueError::new_err(message(function, argument, expected, found))
}

pub(crate) fn type_error(function: &str, argument: &str, expected: impl Display, found: impl Display) -> PyErr {
    PyTypeError::new_err(message(function, argument, expected, found))
}

/// What an object is, for a message: its type's name, and its value where that is short.
pub(crate) fn describe(object: &Bound<'_, PyAny>) -> String {
    let name = object.get_type().name().map_or_else(|_| "an object".to_owned(), |name| name.to_string());
    match object.repr().map(|repr| repr.to_string()) {
        Ok(repr) if object.is_none() => repr,
        Ok(repr) if repr.len() <= 40 => format!("{name} {repr}"),
        _ => name,
    }
}

impl<'py> Arg<'py> {
    /// The argument, unless it is None.
    pub(crate) fn given(&self) -> Option<&Bound<'py, PyAny>> {
        self.0.as_ref().filter(|object| !object.is_none())
    }

    pub(crate) fn flag(&self, function: &str, name: &str, default: bool) -> PyResult<bool> {
        let Some(object) = &self.0 else { return Ok(default) };
        if is_bool(object) {
            return object.is_truthy();
        }
        Err(type_error(function, name, "be True or False", describe(object)))
    }

    pub(crate) fn float(&self, function: &str, name: &str, default: f64) -> PyResult<f64> {
        let Some(object) = &self.0 else { return Ok(default) };
        // Some versions of NumPy convert an array of one element, whatever its axes.
        let array = || object.cast::<PyUntypedArray>().is_ok_and(|array| array.ndim() > 0);
        if is_bool(object) || array() {
            return Err(type_error(function, name, "be a number", describe(object)));
        }
        object.extract().map_err(|error: PyErr| {
            if error.is_instance_of::<PyOverflowError>(object.py()) {
                value_error(function, name, "be a float64", "a larger number")
            } else {
                type_error(function, name, "be a number", describe(object))
            }
        })
    }

    pub(crate) fn integer(&self, function: &str, name: &str, default: i64) -> PyResult<i64> {
        self.0.as_ref().map_or(Ok(default), |object| integer(function, name, object))
    }

    pub(crate) fn eps(&self, function: &str, default: f64) -> PyResult<f64> {
        let eps = self.float(function, "eps", default)?;
        if eps.is_finite() && eps >= 0.0 {
            return Ok(eps);
        }
        Err(value_error(function, "eps", "be finite and >= 0", eps))
    }

    /// An axis of an array with `ndim` of them.
    pub(crate) fn axis(&self, function: &str, default: i64, ndim: usize) -> PyResult<usize> {
        axis(function, self.integer(function, "axis", default)?, ndim)
    }
}

/// Python's or NumPy's; neither counts as a number.
fn is_bool(object: &Bound<'_, PyAny>) -> bool {
    let numpy = || object.get_type().name().is_ok_and(|name| name == "bool_" || name == "bool");
    object.is_instance_of::<PyBool>() || (!object.is_exact_instance_of::<PyFloat>() && numpy())
}

pub(crate) fn integer(function: &str, name: &str, object: &Bound<'_, PyAny>) -> PyResult<i64> {
    if object.is_instance_of::<PyBool>() {
        return Err(type_error(function, name, "be an integer", describe(object)));
    }
    object.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyTypeError>(object.py()) {
            type_error(function, name, "be an integer", describe(object))
        } else {
            value_error(function, name, "be an integer of a sensible size", describe(object))
        }
    })
}

pub(crate) fn axis(function: &str, axis: i64, ndim: usize) -> PyResult<usize> {
    let n = ndim as i64;
    if n == 0 {
        return Err(value_error(function, "x", "have at least one axis", "shape ()"));
    }
    if (-n..n).contains(&axis) {
        return Ok(axis.rem_euclid(n) as usize);
    }
    Err(value_error(function, "axis", format!("be an axis of x, from {} to {}", -n, n - 1), axis))
}

/// Runs the core without the interpreter where the work is worth that; nothing that happens there is a panic here.
pub(crate) fn compute<T: Send>(
    py: Python<'_>,
    function: &str,
    bytes: usize,
    work: impl FnOnce() -> CoreResult<T> + Send,
) -> PyResult<T> {
    /// Below this the call is over before another thread could use the time.
    const WORTH_DETACHING: usize = 16 << 10;
    let caught = || catch_unwind(AssertUnwindSafe(work));
    let result = if bytes >= WORTH_DETACHING { py.detach(caught) } else { caught() };
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(core_error(function, &error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(PyRuntimeError::new_err(format!("{function}: internal error, please report it: {text}")))
        }
    }
}

/// An error of the core as Python's.
pub(crate) fn core_error(function: &str, error: &Error) -> PyErr {
    if error.is_memory() {
        return PyMemoryError::new_err(format!("{function}: {error}"));
    }
    PyValueError::new_err(format!("{function}: {error}"))
}
