"""What the backward functions return: one named tuple per norm, built by the native module."""

from typing import Any, NamedTuple

from numpy.typing import NDArray


class BatchNormGradients(NamedTuple):
    """Gradients of `batch_norm`; each has the shape and dtype of what it belongs to, None where that was None."""

    dx: NDArray[Any]
    dweight: NDArray[Any] | None
    dbias: NDArray[Any] | None


class BatchNormResidualGradients(NamedTuple):
    """Gradients of `batch_norm` with a residual."""

    dx: NDArray[Any]
    dweight: NDArray[Any] | None
    dbias: NDArray[Any] | None
    dresidual: NDArray[Any]


class GroupNormGradients(NamedTuple):
    """Gradients of `group_norm`; each has the shape and dtype of what it belongs to, None where that was None."""

    dx: NDArray[Any]
    dweight: NDArray[Any] | None
    dbias: NDArray[Any] | None


class GroupNormResidualGradients(NamedTuple):
    """Gradients of `group_norm` with a residual."""

    dx: NDArray[Any]
    dweight: NDArray[Any] | None
    dbias: NDArray[Any] | None
    dresidual: NDArray[Any]


class InstanceNormGradients(NamedTuple):
    """Gradients of `instance_norm`; each has the shape and dtype of what it belongs to, None where that was None."""

    dx: NDArray[Any]
    dweight: NDArray[Any] | None
    dbias: NDArray[Any] | None


class InstanceNormResidualGradients(NamedTuple):
    """Gradients of `instance_norm` with a residual."""

    dx: NDArray[Any]
    dweight: NDArray[Any] | None
    dbias: NDArray[Any] | None
    dresidual: NDArray[Any]


class LayerNormGradients(NamedTuple):
    """Gradients of `layer_norm`; each has the shape and dtype of what it belongs to, None where that was None."""

    dx: NDArray[Any]
    dweight: NDArray[Any] | None
    dbias: NDArray[Any] | None


class RMSNormGradients(NamedTuple):
    """Gradients of `rms_norm`; each has the shape and dtype of what it belongs to, None where that was None."""

    dx: NDArray[Any]
    dweight: NDArray[Any] | None


class AdaptiveInstanceNormGradients(NamedTuple):
    """Gradients of `adaptive_instance_norm`; each has the shape and dtype of what it belongs to."""

    dcontent: NDArray[Any]
    dstyle: NDArray[Any]


class BatchRenormGradients(NamedTuple):
    """Gradients of `batch_renorm`; each has the shape and dtype of what it belongs to, None where that was None."""

    dx: NDArray[Any]
    dweight: NDArray[Any] | None
    dbias: NDArray[Any] | None


class WeightNormGradients(NamedTuple):
    """Gradients of `weight_norm`; each has the shape and dtype of what it belongs to."""

    dv: NDArray[Any]
    dg: NDArray[Any]


class ScaledWeightStandardizationGradients(NamedTuple):
    """Gradients of `scaled_weight_standardization`; `dgain` is None where the gain was None."""

    dweight: NDArray[Any]
    dgain: NDArray[Any] | None
