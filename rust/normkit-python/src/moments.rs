//! `moments` and the class of its results.

use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyTuple};

use crate::arguments::{Arg, axis as check_axis, compute, describe, integer, type_error, value_error};
use crate::arrays::{Array, with_element};
use crate::parameters::{collect, statistics};

/// Count, mean and sum of squared deviations of a set of values, for each position of the axes that were kept.
///
/// Two sets of values have moments that merge into those of both, whatever the split: so they can be taken over
/// batches, files or processes.
///
/// Parameters
/// ----------
/// count : int
///     Values of each entry.
/// mean, m2 : float64 arrays of one shape
///     Mean and sum of squared deviations from it.
///
/// Raises
/// ------
/// ValueError
///     A negative count or m2, or shapes that differ.
/// TypeError
///     An argument of the wrong type.
///
/// References
/// ----------
/// Chan, Golub & LeVeque 1983, "Algorithms for Computing the Sample Variance".
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> a, b = nk.moments(np.array([1.0, 2.0]), 0), nk.moments(np.array([3.0, 6.0]), 0)
/// >>> both = a.merge(b)
/// >>> both.count, float(both.mean), float(both.var()), float(both.var(ddof=1))
/// (4, 3.0, 3.5, 4.666666666666667)
#[pyclass(frozen, module = "normkit")]
pub(crate) struct Moments {
    count: u64,
    shape: Vec<usize>,
    mean: Vec<f64>,
    m2: Vec<f64>,
}

/// The shape and values of a float64 array made from `object`.
fn wide(name: &str, object: &Bound<'_, PyAny>) -> PyResult<(Vec<usize>, Vec<f64>)> {
    let numpy = object.py().import("numpy")?;
    // Nested lists of different lengths are no array, and an object's own `__array__` may raise anything.
    let refused = |error: PyErr| {
        if error.is_instance_of::<PyMemoryError>(object.py()) {
            return error;
        }
        type_error("Moments", name, "be a float64 array", describe(object))
    };
    let plain = numpy.call_method1("asarray", (object,)).map_err(refused)?;
    if !plain.getattr("dtype")?.getattr("kind")?.extract::<String>()?.contains(['f', 'i', 'u']) {
        return Err(type_error("Moments", name, "be a float64 array", describe(object)));
    }
    // A copy: an array that came in a message, as pickles of `Moments` do, may lie at any address.
    let order = [("order", "C")].into_py_dict(object.py())?;
    let array =
        numpy.call_method("array", (object, numpy::dtype::<f64>(object.py())), Some(&order)).map_err(refused)?;
    let array = array.cast::<PyArrayDyn<f64>>()?;
    // SAFETY: nobody else has this copy.
    Ok((array.shape().to_vec(), collect(unsafe { array.as_slice()? }.iter().copied())?))
}

#[pymethods]
impl Moments {
    #[new]
    fn new(count: &Bound<'_, PyAny>, mean: &Bound<'_, PyAny>, m2: &Bound<'_, PyAny>) -> PyResult<Self> {
        const NAME: &str = "Moments";
        let count = integer(NAME, "count", count)?;
        let count = u64::try_from(count).map_err(|_| value_error(NAME, "count", "be >= 0", count))?;
        let (shape, mean) = wide("mean", mean)?;
        let (other, m2) = wide("m2", m2)?;
        if shape != other {
            let expected = format!("have the shape of mean, {}", normkit::shape_text(&shape));
            return Err(value_error(NAME, "m2", expected, format!("shape {}", normkit::shape_text(&other))));
        }
        if let Some(&m2) = m2.iter().find(|&&m2| m2 < 0.0) {
            return Err(value_error(NAME, "m2", "be >= 0", m2));
        }
        Ok(Moments { count, shape, mean, m2 })
    }

    /// Values of each entry.
    #[getter]
    fn count(&self) -> u64 {
        self.count
    }

    /// Means, float64.
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.mean, &self.shape)
    }

    /// Sums of squared deviations from the means, float64.
    #[getter]
    fn m2<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, &self.m2, &self.shape)
    }

    /// Variances m2 / (count - ddof), float64; NaN where there are no more than ddof values.
    ///
    /// Raises ValueError for a negative ddof and TypeError for one that is no integer.
    ///
    /// >>> import numpy as np, normkit as nk
    /// >>> nk.moments(np.array([[1.0, 3.0], [2.0, 6.0]]), 1).var()
    /// array([1., 4.])
    #[pyo3(signature = (ddof=Arg(None)), text_signature = "($self, ddof=0)")]
    fn var<'py>(&self, py: Python<'py>, ddof: Arg<'py>) -> PyResult<Bound<'py, PyAny>> {
        let ddof = ddof.integer("Moments.var", "ddof", 0)?;
        if ddof < 0 {
            return Err(value_error("Moments.var", "ddof", "be >= 0", ddof));
        }
        let values = collect((0..self.mean.len()).map(|i| self.at(i).var(ddof as f64)))?;
        statistics(py, &values, &self.shape)
    }

    /// The moments of both sets of values together (Chan et al. 1983).
    ///
    /// Raises ValueError where the shapes differ and TypeError where other is no Moments.
    ///
    /// >>> import numpy as np, normkit as nk
    /// >>> x = np.arange(10.0)
    /// >>> whole = nk.moments(x[:3], 0).merge(nk.moments(x[3:], 0))
    /// >>> whole.count, float(whole.mean)
    /// (10, 4.5)
    fn merge(&self, other: &Bound<'_, PyAny>) -> PyResult<Moments> {
        const NAME: &str = "Moments.merge";
        let Ok(other) = other.cast::<Moments>() else {
            return Err(type_error(NAME, "other", "be Moments", describe(other)));
        };
        let other = other.get();
        if self.shape != other.shape {
            let expected = format!("have shape {}", normkit::shape_text(&self.shape));
            return Err(value_error(NAME, "other", expected, format!("shape {}", normkit::shape_text(&other.shape))));
        }
        let merged = || (0..self.mean.len()).map(|i| self.at(i).merge(other.at(i)));
        let (mean, m2) = (collect(merged().map(|m| m.mean))?, collect(merged().map(|m| m.m2))?);
        let count = self.count.checked_add(other.count).filter(|&count| i64::try_from(count).is_ok());
        let Some(count) = count else {
            return Err(value_error(NAME, "other", "keep the count below 2**63", format!("count {}", other.count)));
        };
        Ok(Moments { count, shape: self.shape.clone(), mean, m2 })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, this) = (slf.py(), slf.get());
        let arguments = (this.count, this.mean(py)?, this.m2(py)?);
        (slf.get_type(), arguments).into_pyobject(py)
    }

    fn __repr__(&self) -> String {
        format!("Moments(count={}, shape={})", self.count, normkit::shape_text(&self.shape))
    }
}

impl Moments {
    fn at(&self, i: usize) -> normkit::Moments {
        normkit::Moments { count: self.count as f64, mean: self.mean[i], m2: self.m2[i] }
    }
}

/// Count, mean and centred second moment of x over some axes, in float64 accuracy at the speed of x's dtype.
///
/// mean = sum(x) / count, m2 = sum((x - mean)**2), var = m2 / (count - ddof)
///
/// Parameters
/// ----------
/// x : float array
///     Any shape and strides.
/// axis : int, tuple of ints or None
///     The axes to reduce, as in NumPy; None is all of them.
///
/// Returns
/// -------
/// Moments
///     .count (int), .mean and .m2 (float64, of the shape of the other axes), .var(ddof=0), .merge(other)
///
/// Raises
/// ------
/// ValueError
///     An axis that x does not have, or one that is named twice.
/// TypeError
///     An argument of the wrong type or dtype.
///
/// References
/// ----------
/// Chan, Golub & LeVeque 1983; Schubert & Gertz 2018, "Numerically Stable Parallel Computation of (Co-)Variance".
///
/// Examples
/// --------
/// >>> import numpy as np, normkit as nk
/// >>> x = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)
/// >>> m = nk.moments(x, axis=0)
/// >>> m.count, m.mean, m.var()
/// (2, array([2., 4.]), array([1., 4.]))
#[pyfunction]
#[pyo3(signature = (x, axis))]
pub(crate) fn moments<'py>(py: Python<'py>, x: &Bound<'py, PyAny>, axis: &Bound<'py, PyAny>) -> PyResult<Moments> {
    const NAME: &str = "moments";
    let x = Array::input(NAME, "x", x)?;
    let ndim = x.shape().len();
    let mut axes = Vec::new();
    let mut add = |object: &Bound<'py, PyAny>| -> PyResult<()> {
        let axis = check_axis(NAME, integer(NAME, "axis", object)?, ndim)?;
        if axes.contains(&axis) {
            return Err(value_error(NAME, "axis", "name each axis once", format!("axis {axis} twice")));
        }
        axes.push(axis);
        Ok(())
    };
    if axis.is_none() {
        axes.extend(0..ndim);
    } else if let Ok(tuple) = axis.cast::<PyTuple>() {
        tuple.iter().try_for_each(|object| add(&object))?;
    } else {
        add(axis)?;
    }
    let shape = (0..ndim).filter(|axis| !axes.contains(axis)).map(|axis| x.shape()[axis]).collect();
    let of = with_element!(x.dtype, E => {
        let from = x.tensor::<E>();
        compute(py, NAME, x.bytes(), move || normkit::moments(&from, &axes))
    })?;
    debug_assert!(x.object.len() == of.count * of.mean.len());
    Ok(Moments { count: of.count as u64, shape, mean: of.mean, m2: of.m2 })
}
