//! What may follow a norm's affine map: activation, residual, mask.

use normkit::{Activation, Extras, Operand, Tensor, shape_text};
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::arguments::{Arg, describe, type_error, value_error};
use crate::arrays::{Array, as_array, data, dtype_text, with_element};

/// These arguments, checked.
pub(crate) struct Epilogue<'py> {
    pub(crate) activation: Activation,
    pub(crate) residual: Option<Array<'py>>,
    /// Of x's shape, the same for all channels.
    pub(crate) mask: Option<Bound<'py, PyUntypedArray>>,
}

/// What a cache keeps of them.
#[derive(Default)]
pub(crate) struct Kept {
    activation: Activation,
    residual: Option<Py<PyUntypedArray>>,
    mask: Option<Py<PyUntypedArray>>,
}

impl<'py> Epilogue<'py> {
    pub(crate) fn new(
        function: &str,
        activation: &Arg<'py>,
        residual: &Arg<'py>,
        mask: Option<&Arg<'py>>,
        x: &Array<'py>,
        axis: usize,
    ) -> PyResult<Self> {
        let mask = mask.and_then(Arg::given).map(|mask| masked(function, mask, x, axis)).transpose()?;
        let residual = residual.given().map(|residual| Array::input(function, "residual", residual)).transpose()?;
        if let Some(residual) = residual.as_ref().filter(|residual| residual.shape() != x.shape()) {
            let expected = format!("have the shape of x, {}", shape_text(x.shape()));
            let found = format!("shape {}", shape_text(residual.shape()));
            return Err(value_error(function, "residual", expected, found));
        }
        Ok(Epilogue { activation: activated(function, activation)?, residual, mask })
    }

    /// For the core. The arrays live as long as this.
    pub(crate) fn extras(&self) -> Extras<'py> {
        Extras {
            activation: self.activation,
            residual: self.residual.as_ref().map(Array::operand),
            mask: self.mask.as_ref().map(|mask| {
                debug_assert_eq!(mask.dtype().itemsize(), 1);
                // SAFETY: NumPy vouches for shape and strides; a bool is one byte, so strides in bytes are in elements.
                unsafe { Tensor::from_raw(data(mask).cast_const().cast(), mask.shape(), mask.strides()) }
            }),
        }
    }

    /// Arrays that an output may not touch.
    pub(crate) fn apart(&self) -> [(&'static str, Option<&Bound<'py, PyUntypedArray>>); 2] {
        [("residual", self.residual.as_ref().map(|residual| &residual.given)), ("mask", self.mask.as_ref())]
    }

    pub(crate) fn keep(&self) -> Kept {
        Kept {
            activation: self.activation,
            residual: self.residual.as_ref().map(|residual| residual.object.clone().unbind()),
            mask: self.mask.as_ref().map(|mask| mask.clone().unbind()),
        }
    }
}

impl Kept {
    /// Whether the backward pass looks at x again.
    pub(crate) fn needs_x(&self) -> bool {
        self.activation != Activation::Identity
    }

    pub(crate) fn back<'py>(&self, py: Python<'py>, function: &str) -> PyResult<Epilogue<'py>> {
        let residual = self.residual.as_ref().map(|residual| Array::input(function, "residual", residual.bind(py)));
        Ok(Epilogue {
            activation: self.activation,
            residual: residual.transpose()?,
            mask: self.mask.as_ref().map(|mask| mask.bind(py).clone()),
        })
    }
}

impl<'py> Array<'py> {
    /// The array as the core sees it where its type does not matter.
    pub(crate) fn operand(&self) -> Operand<'py> {
        with_element!(self.dtype, E => (&self.tensor::<E>()).into())
    }
}

fn activated(function: &str, activation: &Arg<'_>) -> PyResult<Activation> {
    const EXPECTED: &str = "be None, 'relu', 'leaky_relu' or 'silu'";
    let Some(object) = activation.given() else { return Ok(Activation::Identity) };
    let Ok(name) = object.cast::<PyString>() else {
        return Err(type_error(function, "activation", EXPECTED, describe(object)));
    };
    Activation::named(&name.to_string_lossy())
        .ok_or_else(|| value_error(function, "activation", EXPECTED, describe(object)))
}

/// A mask as an array of x's shape, without a copy.
fn masked<'py>(
    function: &str,
    mask: &Bound<'py, PyAny>,
    x: &Array<'py>,
    axis: usize,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let array = as_array(function, "mask", mask)?;
    if array.dtype().kind() != b'b' {
        return Err(type_error(function, "mask", "be a bool array", dtype_text(&array)));
    }
    let numpy = mask.py().import("numpy")?;
    let mut shape = x.shape().to_vec();
    shape.remove(axis);
    let options = PyDict::new(mask.py());
    options.set_item("subok", false)?;
    let Ok(spread) = numpy.call_method("broadcast_to", (&array, shape.clone()), Some(&options)) else {
        let expected = format!("broadcast to {}, x's shape without its channels", shape_text(&shape));
        return Err(value_error(function, "mask", expected, format!("shape {}", shape_text(array.shape()))));
    };
    let spread = numpy.call_method1("expand_dims", (spread, axis))?;
    let spread = numpy.call_method("broadcast_to", (spread, x.shape().to_vec()), Some(&options))?;
    Ok(spread.cast_into()?)
}
