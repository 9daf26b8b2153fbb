//! Python bindings of normkit: arguments in, errors out. No arithmetic.

mod adaptive;
mod allocation;
mod arguments;
mod arrays;
mod batch;
mod epilogue;
mod fold;
mod gradients;
mod group;
mod layer;
mod moments;
mod overlap;
mod parameters;
mod process;
mod renorm;
mod sync;
mod weights;

use pyo3::prelude::*;

/// The native part of normkit; use the names that `normkit` itself offers.
#[pymodule(gil_used = false)]
mod _normkit {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::adaptive::{AdaptiveInstanceNormCache, adaptive_instance_norm, adaptive_instance_norm_backward};
    #[pymodule_export]
    use crate::batch::{BatchNormCache, batch_norm, batch_norm_backward, batch_norm_inference};
    #[pymodule_export]
    use crate::fold::fold_conv_bn;
    #[pymodule_export]
    use crate::group::{
        GroupNormCache, InstanceNormCache, group_norm, group_norm_backward, instance_norm, instance_norm_backward,
    };
    #[pymodule_export]
    use crate::layer::{LayerNormCache, RMSNormCache, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
    #[pymodule_export]
    use crate::moments::{Moments, moments};
    #[pymodule_export]
    use crate::process::{config, get_num_threads, hear_plans, plans_heard, set_num_threads};
    #[pymodule_export]
    use crate::renorm::{BatchRenormCache, batch_renorm, batch_renorm_backward};
    #[pymodule_export]
    use crate::sync::{batch_norm_gradient_apply, batch_norm_gradient_sums, batch_norm_with_statistics};

    #[pymodule_export]
    use crate::weights::{
        ScaledWeightStandardizationCache, SpectralNormCache, WeightNormCache, scaled_weight_standardization,
        scaled_weight_standardization_backward, spectral_norm, spectral_norm_backward, weight_norm,
        weight_norm_backward,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
