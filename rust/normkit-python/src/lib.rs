//! Python bindings of normkit: arguments in, errors out. No arithmetic.

mod arguments;
mod arrays;
mod batch;
mod fold;
mod group;
mod moments;
mod process;

use pyo3::prelude::*;

/// The native part of normkit; use the names that `normkit` itself offers.
#[pymodule(gil_used = false)]
mod _normkit {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::batch::{BatchNormCache, batch_norm, batch_norm_backward, batch_norm_inference};
    #[pymodule_export]
    use crate::fold::fold_conv_bn;
    #[pymodule_export]
    use crate::group::{GroupNormCache, group_norm, group_norm_backward};
    #[pymodule_export]
    use crate::moments::{Moments, moments};
    #[pymodule_export]
    use crate::process::{config, get_num_threads, set_num_threads};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
