"""Population statistics of batch norm layers, as an alternative to the moving average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from normkit import _checks
from normkit._normkit import Moments, moments
from normkit.distributed import SyncBatchNorm
from normkit.layers import BatchNorm

__all__ = ["precise_statistics"]

_NAME = "precise_statistics"
_Batch = TypeVar("_Batch")


def precise_statistics(
    layers: Iterable[BatchNorm],
    forward: Callable[[_Batch], object],
    batches: Iterable[_Batch],
    *,
    update: bool = True,
) -> list[Moments]:
    """Give batch norm layers the mean and variance of all their inputs over `batches` (Wu & Johnson 2021).

    The running statistics of training are a moving average: of few batches if `momentum` is large, and behind the
    weights if it is small. Precise statistics are those of the network as it is. With the weights fixed, `forward` is
    called for each batch; meanwhile the layers normalize by each batch's own statistics, as in training, and count,
    mean and sum of squared deviations of their inputs are merged exactly (Chan, Golub & LeVeque 1983):

    mean = sum(x) / count, var = sum((x - mean)**2) / (count - running_var_ddof), over all values of a channel

    A larger batch therefore counts for more, and the mean of a batch's variances is not mistaken for the variance of
    all. Only forward passes are made. A thousand to ten thousand samples are enough as a rule (section 3 there).

    Nothing is written before all batches are through: then `running_mean` and `running_var` of all layers, in place.
    `num_batches_tracked`, mode and cache of the layers stay as they were. When anything raises, nothing has changed.

    `SyncBatchNorm` layers take their statistics over the batches of all ranks, which must call this together, with
    equally many batches; one more exchange per layer follows the last batch.

    Args:
        layers: all `BatchNorm` layers of the network that should get precise statistics, each with running statistics;
            a layer that `forward` uses several times gets those of all its inputs.
        forward: runs the network on one batch; what it returns is ignored. Other layers are in whatever mode they are.
        batches: what `forward` takes, one by one; an iterator will do, so a progress bar may be around it.
        update: write the running statistics; False only returns the moments.

    Returns:
        The moments of each layer's inputs, in the order of `layers`: `.count`, `.mean`, `.m2`, `.var(ddof)`, (C,).

    Raises:
        ValueError: there is no layer or no batch, a layer is without running statistics or they are read-only, or
            `forward` did not bring it any values.
        TypeError: something in `layers` is no `BatchNorm`, or another argument has the wrong type.

    References:
        Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3.

    Example:
        >>> import numpy as np
        >>> import normkit as nk
        >>> x = np.arange(12.0).reshape(6, 2)
        >>> layer = nk.BatchNorm(2, dtype=np.float64)
        >>> (population,) = nk.precise_statistics([layer], layer, [x[:4], x[4:]])  # batches of 4 and of 2
        >>> layer.running_mean.tolist(), x.mean(axis=0).tolist()
        ([5.0, 6.0], [5.0, 6.0])
        >>> layer.running_var.tolist(), x.var(axis=0, ddof=1).tolist()
        ([14.0, 14.0], [14.0, 14.0])
        >>> population.count
        6
    """
    layers = list(_checks.iterable(_NAME, "layers", layers, "BatchNorm layers"))
    _checks.function_of(_NAME, "forward", forward, "of a batch")
    _checks.iterable(_NAME, "batches", batches, "batches")
    _checks.flag(_NAME, "update", update)
    for layer in layers:
        _check(layer)
    if not layers:
        raise ValueError(f"{_NAME}: `layers` must have at least one layer, found none")

    count = 0
    with ExitStack() as stack:
        observers = {layer: stack.enter_context(_observed(layer)) for layer in dict.fromkeys(layers)}
        for batch in batches:
            forward(batch)
            count += 1
    if not count:
        raise ValueError(f"{_NAME}: `batches` must have at least one batch, found none")
    population = {layer: observer.of_all() for layer, observer in observers.items()}

    if update:
        for layer, of in population.items():
            _write(layer.running_mean, of.mean)
            _write(layer.running_var, of.var(layer.running_var_ddof))
    return [population[layer] for layer in layers]


def _check(layer: BatchNorm) -> None:
    if not isinstance(layer, BatchNorm):
        raise _checks.type_error(_NAME, "layers", "must be BatchNorm layers", layer)
    for running in (layer.running_mean, layer.running_var):
        if running is None:
            raise ValueError(f"{_NAME}: `layers` must have running statistics, found {layer!r}")
        if not running.flags.writeable:
            raise ValueError(f"{_NAME}: `layers` must have writeable running statistics, found read-only ones")


def _write(running: NDArray[Any] | None, values: NDArray[np.float64]) -> None:
    assert running is not None
    running[...] = values.reshape(running.shape)


class _Observer:
    """In the place of a layer's `_forward`: takes the moments of what goes by."""

    def __init__(self, layer: BatchNorm) -> None:
        self.layer = layer
        self.forward = layer._forward
        self.seen: Moments | None = None

    def __call__(
        self,
        x: NDArray[Any],
        out: NDArray[Any] | None,
        residual: NDArray[Any] | None = None,
        mask: NDArray[np.bool_] | None = None,
        *more: Any,
    ) -> tuple[NDArray[Any], Any]:
        result = self.forward(x, out, residual, mask, *more)  # first, because it checks all of them
        channels = self.layer.axis % x.ndim
        if mask is None:
            new = moments(x, tuple(axis for axis in range(x.ndim) if axis != channels))
        else:
            values = np.moveaxis(x, channels, -1)
            new = moments(values[np.broadcast_to(mask, values.shape[:-1])], 0)
        self.seen = new if self.seen is None else self.seen.merge(new)
        return result

    def of_all(self) -> Moments:
        """What was seen, on all ranks."""
        layer = self.layer
        of = layer.merged_over_ranks(self._seen) if isinstance(layer, SyncBatchNorm) else self._seen()
        if of.count == 0:
            raise ValueError(f"{_NAME}: `forward` must bring values to every layer, found none for {layer!r}")
        return of

    def _seen(self) -> Moments:
        if self.seen is None:
            raise ValueError(f"{_NAME}: `forward` must use every layer, found it did not use {self.layer!r}")
        return self.seen


@contextmanager
def _observed(layer: BatchNorm) -> Iterator[_Observer]:
    """The layer in training mode, with an observer and with copies for it to move; afterwards as it was before."""
    before = dict(vars(layer))
    try:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(layer, name, np.array(getattr(layer, name)))
        layer.train()
        observer = _Observer(layer)
        vars(layer)["_forward"] = observer
        yield observer
    finally:
        vars(layer).clear()
        vars(layer).update(before)
