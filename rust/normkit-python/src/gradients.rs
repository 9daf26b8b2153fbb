//! The named tuples that backward functions return.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple};

use crate::arrays::Array;

/// The named tuple of this class with these fields.
pub(crate) fn named<'py>(
    py: Python<'py>,
    class: &Bound<'py, PyString>,
    fields: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<Bound<'py, PyAny>> {
    static CLASSES: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    static NEW: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let classes = CLASSES.get_or_try_init(py, || py.import("normkit._gradients").map(Bound::unbind))?;
    // As the class itself does, but for a call of Python code.
    let new = NEW.get_or_try_init(py, || py.get_type::<PyTuple>().getattr("__new__").map(Bound::unbind))?;
    let (class, fields) = (classes.bind(py).getattr(class)?, fields.into_pyobject(py)?);
    debug_assert_eq!(class.getattr("_fields").and_then(|names| names.len()).ok(), Some(fields.len()));
    new.bind(py).call1((class, fields))
}

/// The classes of a norm: that of dx and the parameters' gradients, and that with the residual's gradient too.
pub(crate) type Classes<'a, 'py> = [&'a Bound<'py, PyString>; 2];

/// The named tuple of a norm, with the residual's gradient where there is one.
pub(crate) fn with_residual<'py>(
    py: Python<'py>,
    [plain, residual]: Classes<'_, 'py>,
    dx: Bound<'py, PyAny>,
    dweight: Option<Bound<'py, PyAny>>,
    dbias: Option<Bound<'py, PyAny>>,
    dresidual: Option<Array<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    match dresidual {
        None => named(py, plain, (dx, dweight, dbias)),
        Some(of) => named(py, residual, (dx, dweight, dbias, of.object)),
    }
}
