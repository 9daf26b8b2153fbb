from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, final, type_check_only

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normkit._gradients import (
    AdaptiveInstanceNormGradients,
    BatchNormGradients,
    BatchNormResidualGradients,
    BatchRenormGradients,
    GroupNormGradients,
    GroupNormResidualGradients,
    InstanceNormGradients,
    InstanceNormResidualGradients,
    LayerNormGradients,
    RMSNormGradients,
    ScaledWeightStandardizationGradients,
    WeightNormGradients,
)

# As PyO3 fills it in: every name that the native module adds.
__all__ = [
    "AdaptiveInstanceNormCache",
    "BatchNormCache",
    "BatchRenormCache",
    "GroupNormCache",
    "InstanceNormCache",
    "LayerNormCache",
    "Moments",
    "RMSNormCache",
    "ScaledWeightStandardizationCache",
    "SpectralNormCache",
    "WeightNormCache",
    "__version__",
    "_config",
    "_hear_plans",
    "_plans_heard",
    "adaptive_instance_norm",
    "adaptive_instance_norm_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_gradient_apply",
    "batch_norm_gradient_sums",
    "batch_norm_inference",
    "batch_norm_with_statistics",
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
    "rms_norm",
    "rms_norm_backward",
    "scaled_weight_standardization",
    "scaled_weight_standardization_backward",
    "set_num_threads",
    "spectral_norm",
    "spectral_norm_backward",
    "weight_norm",
    "weight_norm_backward",
]

__version__: str

_Float = TypeVar("_Float", bound=np.floating[Any])
_Activation: TypeAlias = Literal["relu", "leaky_relu", "silu"]

@type_check_only
class _Config(TypedDict):
    version: str
    isa: str
    isas: list[str]
    threads: int
    l1: int
    l2: int
    l3: int

@final
class BatchNormCache:
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def rstd(self) -> NDArray[np.float64]: ...

@final
class GroupNormCache:
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def rstd(self) -> NDArray[np.float64]: ...

@final
class InstanceNormCache:
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def rstd(self) -> NDArray[np.float64]: ...

@final
class LayerNormCache:
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def rstd(self) -> NDArray[np.float64]: ...

@final
class RMSNormCache:
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def rstd(self) -> NDArray[np.float64]: ...

@final
class AdaptiveInstanceNormCache:
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def rstd(self) -> NDArray[np.float64]: ...

@final
class BatchRenormCache:
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def rstd(self) -> NDArray[np.float64]: ...
    @property
    def r(self) -> NDArray[np.float64]: ...
    @property
    def d(self) -> NDArray[np.float64]: ...

@final
class WeightNormCache:
    @property
    def norm(self) -> NDArray[np.float64]: ...

@final
class SpectralNormCache:
    @property
    def u(self) -> NDArray[np.float64]: ...
    @property
    def v(self) -> NDArray[np.float64]: ...
    @property
    def sigma(self) -> float: ...

@final
class ScaledWeightStandardizationCache:
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def rstd(self) -> NDArray[np.float64]: ...

@final
class Moments:
    def __new__(cls, count: int, mean: ArrayLike, m2: ArrayLike) -> Moments: ...
    @property
    def count(self) -> int: ...
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def m2(self) -> NDArray[np.float64]: ...
    def var(self, ddof: int = 0) -> NDArray[np.float64]: ...
    def merge(self, other: Moments) -> Moments: ...
    def __reduce__(self) -> tuple[type[Moments], tuple[int, NDArray[np.float64], NDArray[np.float64]]]: ...

def batch_norm(
    x: NDArray[_Float],
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    running_mean: NDArray[Any] | None = None,
    running_var: NDArray[Any] | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    axis: int = 1,
    running_var_ddof: int = 1,
    activation: _Activation | None = None,
    residual: NDArray[Any] | None = None,
    mask: NDArray[np.bool_] | None = None,
    out: NDArray[_Float] | None = None,
) -> tuple[NDArray[_Float], BatchNormCache]: ...
def batch_norm_backward(
    dy: NDArray[Any], cache: BatchNormCache, *, out: NDArray[Any] | None = None
) -> BatchNormGradients | BatchNormResidualGradients: ...
def batch_norm_inference(
    x: NDArray[_Float],
    mean: NDArray[Any],
    var: NDArray[Any],
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    *,
    eps: float = 1e-5,
    axis: int = 1,
    activation: _Activation | None = None,
    residual: NDArray[Any] | None = None,
    out: NDArray[_Float] | None = None,
) -> NDArray[_Float]: ...
def group_norm(
    x: NDArray[_Float],
    num_groups: int,
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    *,
    eps: float = 1e-5,
    axis: int = 1,
    activation: _Activation | None = None,
    residual: NDArray[Any] | None = None,
    out: NDArray[_Float] | None = None,
) -> tuple[NDArray[_Float], GroupNormCache]: ...
def group_norm_backward(
    dy: NDArray[Any], cache: GroupNormCache, *, out: NDArray[Any] | None = None
) -> GroupNormGradients | GroupNormResidualGradients: ...
def instance_norm(
    x: NDArray[_Float],
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    *,
    eps: float = 1e-5,
    axis: int = 1,
    activation: _Activation | None = None,
    residual: NDArray[Any] | None = None,
    out: NDArray[_Float] | None = None,
) -> tuple[NDArray[_Float], InstanceNormCache]: ...
def instance_norm_backward(
    dy: NDArray[Any], cache: InstanceNormCache, *, out: NDArray[Any] | None = None
) -> InstanceNormGradients | InstanceNormResidualGradients: ...
def layer_norm(
    x: NDArray[_Float],
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    out: NDArray[_Float] | None = None,
) -> tuple[NDArray[_Float], LayerNormCache]: ...
def layer_norm_backward(
    dy: NDArray[Any], cache: LayerNormCache, *, out: NDArray[Any] | None = None
) -> LayerNormGradients: ...
def rms_norm(
    x: NDArray[_Float],
    weight: NDArray[Any] | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-6,
    out: NDArray[_Float] | None = None,
) -> tuple[NDArray[_Float], RMSNormCache]: ...
def rms_norm_backward(
    dy: NDArray[Any], cache: RMSNormCache, *, out: NDArray[Any] | None = None
) -> RMSNormGradients: ...
def adaptive_instance_norm(
    content: NDArray[_Float],
    style: NDArray[Any],
    *,
    eps: float = 1e-5,
    ddof: int = 0,
    axis: int = 1,
    out: NDArray[_Float] | None = None,
) -> tuple[NDArray[_Float], AdaptiveInstanceNormCache]: ...
def adaptive_instance_norm_backward(
    dy: NDArray[Any], cache: AdaptiveInstanceNormCache, *, out: NDArray[Any] | None = None
) -> AdaptiveInstanceNormGradients: ...
def batch_renorm(
    x: NDArray[_Float],
    running_mean: NDArray[Any],
    running_var: NDArray[Any],
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    *,
    r_max: float = 1.0,
    d_max: float = 0.0,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    axis: int = 1,
    running_var_ddof: int = 1,
    out: NDArray[_Float] | None = None,
) -> tuple[NDArray[_Float], BatchRenormCache]: ...
def batch_renorm_backward(
    dy: NDArray[Any], cache: BatchRenormCache, *, out: NDArray[Any] | None = None
) -> BatchRenormGradients: ...
def batch_norm_with_statistics(
    x: NDArray[_Float],
    mean: NDArray[Any],
    var: NDArray[Any],
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    *,
    eps: float = 1e-5,
    axis: int = 1,
    out: NDArray[_Float] | None = None,
) -> tuple[NDArray[_Float], BatchNormCache]: ...
def batch_norm_gradient_sums(
    dy: NDArray[Any], cache: BatchNormCache
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
def batch_norm_gradient_apply(
    dy: NDArray[Any],
    cache: BatchNormCache,
    dot: NDArray[np.float64],
    total: NDArray[np.float64],
    count: float,
    *,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
def moments(x: NDArray[Any], axis: int | tuple[int, ...] | None) -> Moments: ...
def fold_conv_bn(
    conv_weight: NDArray[_Float],
    conv_bias: NDArray[Any] | None,
    running_mean: NDArray[Any],
    running_var: NDArray[Any],
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    *,
    eps: float,
    groups: int = 1,
    transposed: bool = False,
) -> tuple[NDArray[_Float], NDArray[Any]]: ...
def weight_norm(
    v: NDArray[_Float], g: NDArray[Any], *, dim: int | None = 0
) -> tuple[NDArray[_Float], WeightNormCache]: ...
def weight_norm_backward(
    dw: NDArray[Any], cache: WeightNormCache, *, out: NDArray[Any] | None = None
) -> WeightNormGradients: ...
def spectral_norm(
    weight: NDArray[_Float],
    u: NDArray[Any],
    v: NDArray[Any],
    *,
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int = 0,
) -> tuple[NDArray[_Float], SpectralNormCache]: ...
def spectral_norm_backward(
    dw: NDArray[Any], cache: SpectralNormCache, *, out: NDArray[Any] | None = None
) -> NDArray[Any]: ...
def scaled_weight_standardization(
    weight: NDArray[_Float], gain: NDArray[Any] | None = None, *, eps: float = 1e-4
) -> tuple[NDArray[_Float], ScaledWeightStandardizationCache]: ...
def scaled_weight_standardization_backward(
    dw: NDArray[Any], cache: ScaledWeightStandardizationCache, *, out: NDArray[Any] | None = None
) -> ScaledWeightStandardizationGradients: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def _config() -> _Config: ...
def _hear_plans() -> None: ...
def _plans_heard() -> list[str]: ...
