"""What layers with running statistics share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from normkit.layers._arguments import at_least_float32
from normkit.layers._channels import ChannelLayer

_MOST_BATCHES = 2**63 - 1  # what an int64 holds


class RunningStatisticsLayer(ChannelLayer):
    """`running_mean`, `running_var` and `num_batches_tracked`, all None without `track_running_stats`."""

    _buffers = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(
        self,
        num_features: int,
        *,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        axis: int,
        running_var_ddof: int,
        dtype: DTypeLike,
    ) -> None:
        """Start the running mean at 0, the running variance at 1."""
        self.num_features = self._integer("num_features", num_features, minimum=1)
        super().__init__(self.num_features, eps=eps, affine=affine, axis=axis, dtype=dtype)
        self.momentum = None if momentum is None else self._real("momentum", momentum, maximum=1)
        self.running_var_ddof = self._zero_or_one("running_var_ddof", running_var_ddof)
        self.track_running_stats = self._flag("track_running_stats", track_running_stats)
        self.running_mean: NDArray[Any] | None = None
        self.running_var: NDArray[Any] | None = None
        self.num_batches_tracked: NDArray[np.int64] | None = None
        if self.track_running_stats:
            self.running_mean = np.zeros(self.num_features, at_least_float32(self.dtype))
            self.running_var = np.ones(self.num_features, at_least_float32(self.dtype))
            self.num_batches_tracked = np.array(0, np.int64)

    def _share_of_batch(self) -> float:
        """What the next batch's share in the running statistics is; None in `momentum` makes them an average."""
        if self.momentum is not None:
            return self.momentum
        return 1.0 if self.num_batches_tracked is None else 1 / (int(self.num_batches_tracked) + 1)

    def _count_batch(self) -> None:
        count = self.num_batches_tracked
        if count is None:
            return
        new = int(count)
        new = new + 1 if new < _MOST_BATCHES else _MOST_BATCHES
        if isinstance(count, np.ndarray):
            count[()] = new  # a ufunc takes as long as a small batch
        else:  # somebody's sum: NumPy makes a scalar of a 0-d array plus 1
            self.num_batches_tracked = np.array(new, np.int64)
