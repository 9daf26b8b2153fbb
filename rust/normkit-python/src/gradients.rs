//! The named tuples that backward functions return.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use crate::arrays::Array;

/// The named tuple of this class with these fields.
pub(crate) fn named<'py>(
    py: Python<'py>,
    class: &str,
    fields: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<Bound<'py, PyAny>> {
    static CLASSES: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let classes = CLASSES.get_or_try_init(py, || py.import("normkit._gradients").map(Bound::unbind))?;
    let (class, fields) = (classes.bind(py).getattr(class)?, fields.into_pyobject(py)?);
    debug_assert_eq!(class.getattr("_fields").and_then(|names| names.len()).ok(), Some(fields.len()));
    // As the class itself does, but for a call of Python code.
    py.get_type::<PyTuple>().call_method1(intern!(py, "__new__"), (class, fields))
}

/// That of a norm, with the residual's where there is one.
pub(crate) fn with_residual<'py>(
    py: Python<'py>,
    norm: &str,
    dx: Bound<'py, PyAny>,
    dweight: Option<Bound<'py, PyAny>>,
    dbias: Option<Bound<'py, PyAny>>,
    dresidual: Option<Array<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    match dresidual {
        None => named(py, &format!("{norm}Gradients"), (dx, dweight, dbias)),
        Some(of) => named(py, &format!("{norm}ResidualGradients"), (dx, dweight, dbias, of.object)),
    }
}
