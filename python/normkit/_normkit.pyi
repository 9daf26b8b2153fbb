from typing import Any, TypedDict, TypeVar, final, type_check_only

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normkit._gradients import BatchNormGradients, GroupNormGradients

# As PyO3 fills it in: every name that the native module adds.
__all__ = [
    "BatchNormCache",
    "GroupNormCache",
    "Moments",
    "__version__",
    "_config",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "fold_conv_bn",
    "get_num_threads",
    "group_norm",
    "group_norm_backward",
    "moments",
    "set_num_threads",
]

__version__: str

_Float = TypeVar("_Float", bound=np.floating[Any])

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
    out: NDArray[_Float] | None = None,
) -> tuple[NDArray[_Float], BatchNormCache]: ...
def batch_norm_backward(
    dy: NDArray[Any], cache: BatchNormCache, *, out: NDArray[Any] | None = None
) -> BatchNormGradients: ...
def batch_norm_inference(
    x: NDArray[_Float],
    mean: NDArray[Any],
    var: NDArray[Any],
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    *,
    eps: float = 1e-5,
    axis: int = 1,
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
    out: NDArray[_Float] | None = None,
) -> tuple[NDArray[_Float], GroupNormCache]: ...
def group_norm_backward(
    dy: NDArray[Any], cache: GroupNormCache, *, out: NDArray[Any] | None = None
) -> GroupNormGradients: ...
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
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def _config() -> _Config: ...
