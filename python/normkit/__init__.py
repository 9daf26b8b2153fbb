"""Normalization for NumPy, in Rust: batch norm and group norm, forward and backward, as fast as memory allows.

Arrays in, arrays out. `x` is (N, C, *spatial) with `axis=1`, or has its channels on any other axis, for example
(N, *spatial, C) with `axis=-1`; (N, C) too. Every forward function returns `(y, cache)`, every backward function takes
`(dy, cache)`. Statistics are taken in float64 precision whatever the dtype of `x`; results have the same bits for every
number of threads and every instruction set. The cache refers to `x` (no copy): leave `x` as it is until backward.

Training, with a layer that keeps parameters, gradients and running statistics::

    >>> import numpy as np
    >>> import normkit as nk
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(3.0, 2.0, size=(32, 8, 4, 4)).astype(np.float32)  # a batch (N, C, H, W) ...
    >>> target = rng.normal(size=x.shape).astype(np.float32)  # ... and what the layer should make of it
    >>> layer = nk.BatchNorm(8)
    >>> losses = []
    >>> for step in range(10):
    ...     error = layer(x) - target
    ...     losses.append(float(np.mean(error**2)))
    ...     dx = layer.backward(2 * error / error.size)  # fills layer.grads; dx goes on to the layer below
    ...     for name, parameter in layer.params.items():
    ...         parameter -= 0.5 * layer.grads[name]
    >>> losses[-1] < losses[0]
    True
    >>> y = layer.eval()(x)  # by the running statistics

Or by functions alone::

    >>> weight, bias = np.ones(8, np.float32), np.zeros(8, np.float32)
    >>> y, cache = nk.batch_norm(x, weight, bias)
    >>> dx, dweight, dbias = nk.batch_norm_backward(np.ones_like(y), cache)

Functions:
    batch_norm, batch_norm_backward: by the statistics of the batch, or frozen running ones (`training=False`).
    batch_norm_inference: by given statistics, without a cache.
    group_norm, group_norm_backward: by the statistics of groups of channels, per sample.
    instance_norm, instance_norm_backward: by the statistics of each channel of each sample.
    layer_norm, layer_norm_backward: over any axes; rms_norm, rms_norm_backward: the same without the mean.
    adaptive_instance_norm, adaptive_instance_norm_backward: an instance norm with another array's mean and deviation.
    batch_renorm, batch_renorm_backward: batch norm corrected towards its running statistics.
    moments: count, mean and sum of squared deviations over any axes, as a mergeable `Moments`.
    fold_conv_bn: batch norm folded into the convolution before it.
    weight_norm, spectral_norm, scaled_weight_standardization, each with `_backward`: normalized weights.

Layers:
    BatchNorm, BatchRenorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm: parameters, gradients, train and eval mode,
        state dict with PyTorch's keys.
    AdaptiveInstanceNorm: two inputs, no parameters.
    WeightNorm, SpectralNorm, ScaledWeightStandardization: the weight of another layer from parameters of its own.
    SyncBatchNorm: BatchNorm by the statistics of the batch of all ranks of an MPI communicator.
    precise_statistics: population mean and variance for batch norm layers, instead of moving averages.

The process:
    set_num_threads, get_num_threads, num_threads: how many threads work.
    show_config: version, instruction set, threads, caches.
    show_plans: how calls are carried out here, and why.

Bad arguments raise ValueError (values, shapes) or TypeError (types, dtypes) that name the argument, what was expected
and what was found; nothing of the caller's has changed then.
"""

from normkit._normkit import (
    AdaptiveInstanceNormCache,
    BatchNormCache,
    BatchRenormCache,
    GroupNormCache,
    InstanceNormCache,
    LayerNormCache,
    Moments,
    RMSNormCache,
    ScaledWeightStandardizationCache,
    SpectralNormCache,
    WeightNormCache,
    __version__,
    adaptive_instance_norm,
    adaptive_instance_norm_backward,
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    batch_renorm,
    batch_renorm_backward,
    fold_conv_bn,
    get_num_threads,
    group_norm,
    group_norm_backward,
    instance_norm,
    instance_norm_backward,
    layer_norm,
    layer_norm_backward,
    moments,
    rms_norm,
    rms_norm_backward,
    scaled_weight_standardization,
    scaled_weight_standardization_backward,
    set_num_threads,
    spectral_norm,
    spectral_norm_backward,
    weight_norm,
    weight_norm_backward,
)
from normkit._process import num_threads, show_config, show_plans
from normkit.distributed import SyncBatchNorm
from normkit.layers import (
    AdaptiveInstanceNorm,
    BatchNorm,
    BatchRenorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    RMSNorm,
    ScaledWeightStandardization,
    SpectralNorm,
    WeightNorm,
)
from normkit.precise import precise_statistics

__all__ = [
    "AdaptiveInstanceNorm",
    "AdaptiveInstanceNormCache",
    "BatchNorm",
    "BatchNormCache",
    "BatchRenorm",
    "BatchRenormCache",
    "GroupNorm",
    "GroupNormCache",
    "InstanceNorm",
    "InstanceNormCache",
    "LayerNorm",
    "LayerNormCache",
    "Moments",
    "RMSNorm",
    "RMSNormCache",
    "ScaledWeightStandardization",
    "ScaledWeightStandardizationCache",
    "SpectralNorm",
    "SpectralNormCache",
    "SyncBatchNorm",
    "WeightNorm",
    "WeightNormCache",
    "__version__",
    "adaptive_instance_norm",
    "adaptive_instance_norm_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_renorm",
    "batch_renorm_backward",
    "fold_conv_bn",
    "get_num_threads",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "moments",
    "num_threads",
    "precise_statistics",
    "rms_norm",
    "rms_norm_backward",
    "scaled_weight_standardization",
    "scaled_weight_standardization_backward",
    "set_num_threads",
    "show_config",
    "show_plans",
    "spectral_norm",
    "spectral_norm_backward",
    "weight_norm",
    "weight_norm_backward",
]
