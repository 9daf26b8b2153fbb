"""Batch normalization over the batch of several processes, by MPI.

Nothing here imports mpi4py: the communicator that the caller passes is all that is needed of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from normkit import _checks
from normkit._gradients import BatchNormGradients
from normkit._normkit import (
    BatchNormCache,
    Moments,
    batch_norm_gradient_apply,
    batch_norm_gradient_sums,
    batch_norm_with_statistics,
    moments,
)
from normkit.layers import BatchNorm

__all__ = ["Communicator", "SyncBatchNorm"]

# What a rank says of its own arguments. The others raise the same kind, so that an `except` acts alike on all.
_FAILURES: tuple[type[Exception], ...] = (ValueError, TypeError)
_FINE, _OTHER_FAILURE = 0, len(_FAILURES) + 1
_EFFORT = 100_000  # of `np.shares_memory`; beyond it two arrays count as overlapping


class Communicator(Protocol):
    """What `SyncBatchNorm` needs of `mpi4py.MPI.Intracomm`."""

    @property
    def rank(self) -> int:
        """Which of the ranks this process is."""

    @property
    def size(self) -> int:
        """Number of ranks."""

    def Allgather(self, sendbuf: Any, recvbuf: Any, /) -> None:  # noqa: N802 (MPI's name)
        """Give every rank the buffers of all ranks, in the order of the ranks."""


@dataclass(frozen=True)
class _Pass:
    """What backward needs of a forward pass by the statistics of all ranks."""

    cache: BatchNormCache
    count: int  # values per channel, of all ranks
    x: NDArray[Any]
    weight: NDArray[Any] | None
    bias: NDArray[Any] | None


class SyncBatchNorm(BatchNorm):
    """Batch normalization (Ioffe & Szegedy 2015) by the statistics of the batch of all ranks of an MPI communicator.

    Every rank calls the layer with its own shard of the batch and gets its own shard of what one process would get for
    the whole batch: output, gradient of the input, running statistics. Shards may differ in size and may be empty.
    `grads` hold the rank's own share of the parameters' gradients; their sum over the ranks is the whole batch's, as
    data-parallel training expects, which sums (or averages) the gradients of all layers alike.

    Forward: every rank takes count, mean and sum of squared deviations of its shard, and all merge those of all ranks
    (Chan, Golub & LeVeque 1983) in the order of the ranks, hence with the same bits on every rank. Backward: the same
    with Σdy and Σdy·(x - mean). A pass makes one call of `Allgather`, to which a rank contributes 2·C + 2 (backward:
    2·C + 1) float64 numbers, whatever the size of the batch. In eval mode with running statistics, the layer is a
    `BatchNorm` and the ranks do not communicate.

    All ranks must make the same calls in the same order, in the same mode, with the same `num_features`.

    When something goes wrong:

    - Arguments that one rank must refuse: that rank says so in the same message, and all ranks raise, ValueError or
      TypeError as that rank does. Nothing has changed, and the ranks are still in step.
    - A rank that raises anywhere else, and so never comes to the call: the others wait for it, as MPI has no timeout.
      Start programs by `mpiexec -n 3 python -m mpi4py program.py`, which ends all ranks at an exception that is not
      caught. The same holds for a rank that runs out of memory after the exchange.
    - A rank that dies: `mpiexec` ends the others. The running statistics move last in a pass, but a rank may have moved
      them when another dies: restart all ranks from one checkpoint.

    Args:
        num_features: number of channels C, at least 1; the same on all ranks.
        comm: the ranks, an mpi4py communicator (`pip install normkit[mpi]`), usually `MPI.COMM_WORLD`. A deep copy of
            the layer shares it; a pickle is possible where mpi4py can pickle it (not for one made by `Dup` or `Split`).
        eps: added to the variance; finite and >= 0.
        momentum: share of the new batch in the running statistics, 0 to 1; None: their cumulative average.
        affine: with `weight` (starts at 1) and `bias` (starts at 0), both (C,).
        track_running_stats: keep `running_mean`, `running_var`, both (C,), and `num_batches_tracked`, a 0-d int64
            array; without, all three are None. A batch that is empty on all ranks leaves all three as they are.
        axis: the axis of the channels: 1 for (N, C, *spatial), -1 for (N, *spatial, C).
        running_var_ddof: 1 for an unbiased running variance (PyTorch), 0 for a biased one (Keras, ONNX).
        dtype: of parameters and running statistics, float32 or float64; that of `x` need not be the same.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has the wrong type, or `dtype` is not supported.

    Example:
        One process here; `mpiexec -n 3 python -m mpi4py program.py` makes it three, each with its own `x`.

        >>> import numpy as np
        >>> from mpi4py import MPI
        >>> from normkit import SyncBatchNorm
        >>> layer = SyncBatchNorm(2, comm=MPI.COMM_WORLD, dtype=np.float64)
        >>> x = np.array([[1.0, 10.0], [4.0, 40.0], [1.0, 10.0]])  # this rank's shard (N, C)
        >>> layer(x).round(3).tolist()
        [[-0.707, -0.707], [1.414, 1.414], [-0.707, -0.707]]
        >>> dx = layer.backward(np.ones_like(x))
        >>> gradient = np.empty(2)
        >>> MPI.COMM_WORLD.Allreduce(layer.grads["bias"], gradient)  # of the whole batch
        >>> gradient.tolist()
        [3.0, 3.0]
    """

    def __init__(
        self,
        num_features: int,
        *,
        comm: Communicator,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        axis: int = 1,
        running_var_ddof: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """See the class."""
        super().__init__(
            num_features,
            eps=eps,
            momentum=momentum,
            affine=affine,
            track_running_stats=track_running_stats,
            axis=axis,
            running_var_ddof=running_var_ddof,
            dtype=dtype,
        )
        if not callable(getattr(comm, "Allgather", None)):
            raise _checks.type_error(type(self).__name__, "comm", "must be an mpi4py communicator", comm)
        self.comm = comm

    def __call__(  # type: ignore[override, unused-ignore] # no mask and no residual here
        self, x: NDArray[Any], *, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Normalize this rank's shard `x` and remember what `backward` needs; in training a call of all ranks together.

        The cache refers to `x` (no copy): leave `x` as it is until `backward`.

        Args:
            x: array with the layer's number of channels on `axis`, possibly empty; its other axes and its dtype may
                differ between ranks.
            out: array of the shape and dtype of `x` to write to.

        Returns:
            Array of the shape, dtype and memory layout of `x` (`out` if that was given).

        Raises:
            ValueError: on any rank, the number of channels or `out` does not fit; or all ranks together have one value
                per channel.
            TypeError: `x` is not a float array on any rank.
            RuntimeError: another rank failed for another reason, before it could send its statistics.
        """
        # All checks belong to `_forward`, where a refusal reaches the other ranks.
        y, self._cache = self._forward(x, out)
        return y

    def _forward(  # type: ignore[override, unused-ignore] # as `__call__`
        self, x: NDArray[Any], out: NDArray[Any] | None, *_none: None
    ) -> tuple[NDArray[Any], Any]:
        if not self.training and self.running_mean is not None:
            return super()._forward(x, out)

        total = self.merged_over_ranks(lambda: self._local_moments(x, out))
        if total.count == 0:  # no rank has anything to send in backward, either
            return super()._forward(x, out)
        if total.count == 1:
            expected = "must have more than one value per channel in training, on all ranks together"
            raise self._error("x", expected, "one")

        weight, bias = self.weight, self.bias
        y, cache = batch_norm_with_statistics(
            x, total.mean, total.var(), weight, bias, eps=self.eps, axis=self.axis, out=out
        )
        self._move_running_statistics(total)
        return y, _Pass(cache, total.count, x, weight, bias)

    def merged_over_ranks(self, local: Callable[[], Moments]) -> Moments:
        """Return what the ranks' `local()`, (C,), merge into, with the same bits on all; a call of all ranks together.

        Raises on all ranks where one `local` raises: that error there, and ValueError, TypeError or, for all other
        kinds, RuntimeError on the others.
        """

        name = type(self).__name__

        def packed() -> NDArray[np.float64]:
            own = _checks.function_of(name, "local", local, "without arguments")()
            _checks.instance(name, "local()", own, Moments)
            return np.concatenate([[own.count], own.mean, own.m2])

        received = self._exchange(2 * self.num_features + 1, packed)
        parts = (
            Moments(int(count), *of.reshape(2, -1)) for count, of in zip(received[:, 0], received[:, 1:], strict=True)
        )
        return reduce(Moments.merge, parts)

    def _local_moments(self, x: NDArray[Any], out: NDArray[Any] | None) -> Moments:
        """Those of this rank's shard; refuses all that this rank would refuse later in the pass."""
        if isinstance(x, np.ndarray) and -x.ndim <= self.axis < x.ndim and x.shape[self.axis] != self.num_features:
            raise self._error("x", f"must have {self.num_features} channels on axis {self.axis}", f"shape {x.shape}")
        # One process's forward pass of a batch of the same kind without elements: it checks everything, moves nothing.
        super()._forward(_without_elements(x, self.axis), None)
        self._check_out(out, x)
        axis = self.axis % x.ndim
        return moments(x, tuple(i for i in range(x.ndim) if i != axis))

    def _move_running_statistics(self, batch: Moments) -> None:
        count = self.num_batches_tracked
        if self.running_mean is None or self.running_var is None or count is None:
            return
        share = 1 / (int(count) + 1) if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, batch.mean), (self.running_var, batch.var(self.running_var_ddof))):
            running[...] = (1 - share) * running.astype(np.float64) + share * new.reshape(running.shape)
        if self.training:
            self._count_batch()

    def _backward(self, dy: NDArray[Any], cache: Any, out: NDArray[Any] | None) -> Any:
        if not isinstance(cache, _Pass):  # by running statistics, or of a batch that was empty on all ranks
            return super()._backward(dy, cache, out)

        def own_sums() -> NDArray[np.float64]:
            sums = np.concatenate(batch_norm_gradient_sums(dy, cache.cache))
            self._check_out(out, cache.x, dy)
            return sums

        received = self._exchange(2 * self.num_features, own_sums)
        dot, total = received.sum(axis=0).reshape(2, -1)
        dx = batch_norm_gradient_apply(dy, cache.cache, dot, total, cache.count, out=out)
        own_dot, own_total = received[self.comm.rank].reshape(2, -1)
        return BatchNormGradients(dx, _like(cache.weight, own_dot * cache.cache.rstd), _like(cache.bias, own_total))

    def _exchange(self, length: int, compute: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """The `length` numbers that every rank computes, (ranks, length); raises on all ranks where one did."""
        sent = np.zeros(1 + length)
        received = np.empty((self.comm.size, 1 + length))
        failure: Exception | None = None
        try:
            sent[1:] = compute()
        except Exception as error:  # the others are on their way to the exchange: meet them there, then raise
            failure = error
            sent[0] = next((i for i, kind in enumerate(_FAILURES, 1) if isinstance(error, kind)), _OTHER_FAILURE)
        self.comm.Allgather(sent, received)
        if failure is not None:
            raise failure
        said = received[:, 0].astype(np.int64)
        failed = np.flatnonzero(said != _FINE)
        if failed.size:
            kind = (*_FAILURES, RuntimeError)[said[failed[0]] - 1]
            ranks = ", ".join(map(str, failed))
            raise kind(f"{type(self).__name__}: every rank must be able to go on, found an error on rank {ranks}")
        return received[:, 1:]

    def _check_out(self, out: NDArray[Any] | None, x: NDArray[Any], dy: NDArray[Any] | None = None) -> None:
        """Refuse what the functions would refuse after the exchange; `out` may be `dy`."""
        if out is None:
            return
        if not isinstance(out, np.ndarray):
            raise TypeError(f"{type(self).__name__}: `out` must be a NumPy array, found {type(out).__name__}")
        if out.shape != x.shape:
            raise self._error("out", f"must have the shape of x, {x.shape}", f"shape {out.shape}")
        if out.dtype.newbyteorder("=") != x.dtype.newbyteorder("="):
            raise TypeError(f"{type(self).__name__}: `out` must have the dtype of x, {x.dtype}, found {out.dtype}")
        if not out.flags.writeable:
            raise self._error("out", "must be writeable", "a read-only array")
        if _overlap(out, x):
            raise self._error("out", "must not overlap x in training", "shared memory")
        for name, parameter in self.params.items() if dy is None else ():
            if _overlap(out, parameter):
                raise self._error("out", f"must not overlap {name}", "shared memory")
        if dy is not None and not _same_memory(out, dy) and _overlap(out, dy):
            raise self._error("out", "must be dy itself or not overlap it", "a partial overlap")

    def __deepcopy__(self, memo: dict[int, Any]) -> SyncBatchNorm:
        """Copy all but the communicator, which is no data."""
        memo[id(self.comm)] = self.comm
        memo[id(self)] = new = type(self).__new__(type(self))
        vars(new).update(copy.deepcopy(self.__getstate__(), memo))
        return new


def _without_elements(x: NDArray[Any], axis: int) -> NDArray[Any]:
    """`x` with another axis than the channels' cut to length 0; anything but a fitting array as it is."""
    if not isinstance(x, np.ndarray) or x.ndim < 2 or not -x.ndim <= axis < x.ndim:
        return x
    cut = [slice(None)] * x.ndim
    cut[1 if axis % x.ndim == 0 else 0] = slice(0)
    return x[tuple(cut)]


def _like(parameter: NDArray[Any] | None, gradient: NDArray[np.float64]) -> NDArray[Any] | None:
    return None if parameter is None else gradient.reshape(parameter.shape).astype(parameter.dtype.newbyteorder("="))


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    try:
        return np.shares_memory(a, b, max_work=_EFFORT)  # type: ignore[arg-type] # NumPy's stubs know two of the values
    except RuntimeError:  # too hard to tell
        return True


def _same_memory(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(a.ctypes.data == b.ctypes.data and a.strides == b.strides and a.dtype == b.dtype)
