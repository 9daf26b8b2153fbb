"""Layers: a norm with its parameters, gradients and state, for networks written in plain NumPy.

A new layer is a subclass of `Layer` with a constructor, `_forward` and `_backward`.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from normkit._gradients import BatchNormGradients, GroupNormGradients
from normkit._normkit import (
    BatchNormCache,
    GroupNormCache,
    batch_norm,
    batch_norm_backward,
    fold_conv_bn,
    group_norm,
    group_norm_backward,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BatchNorm", "GroupNorm", "Layer"]

_DTYPES = ("float32", "float64")


class Layer(ABC):
    """What all layers share: parameters and gradients, the cache of the last forward, train and eval mode, state.

    `params` and `grads` are dictionaries name → array with the same keys, and the storage itself: the arrays stay the
    same objects while the layer works on them in place, so an optimizer may hold on to them; a new array put into
    `params` is used from then on.
    """

    _shown: ClassVar[tuple[str, ...]]
    """The constructor's arguments, for `repr`."""
    _buffers: ClassVar[tuple[str, ...]] = ()
    """Attributes that belong to the state but are not trained; None where the layer goes without."""

    def __init__(self, num_channels: int, *, eps: float, affine: bool, axis: int, dtype: DTypeLike) -> None:
        """Check what all layers take and create `weight` (ones) and `bias` (zeros) if `affine`."""
        self._num_channels = num_channels
        self.eps = self._real("eps", eps)
        self.affine = bool(affine)
        self.axis = self._integer("axis", axis)
        self.dtype = self._float_dtype(dtype)
        self.training = True
        self.params: dict[str, NDArray[Any]] = {}
        if self.affine:
            self.params = {"weight": np.ones(num_channels, self.dtype), "bias": np.zeros(num_channels, self.dtype)}
        self.grads: dict[str, NDArray[Any]] = {name: np.zeros_like(param) for name, param in self.params.items()}
        self._cache: Any = None

    @abstractmethod
    def _forward(self, x: NDArray[Any], out: NDArray[Any] | None) -> tuple[NDArray[Any], Any]:
        """Return `(y, cache)`."""

    @abstractmethod
    def _backward(self, dy: NDArray[Any], cache: Any, out: NDArray[Any] | None) -> Any:
        """Return a named tuple: `dx`, and `d<name>` for each parameter."""

    def __call__(self, x: NDArray[Any], *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Normalize `x` and remember what `backward` needs.

        The cache refers to `x` (no copy): leave `x` as it is until `backward`.

        Args:
            x: array with the layer's number of channels on `axis`; float32 or float64, whatever the layer's dtype.
            out: array of the shape and dtype of `x` to write to.

        Returns:
            Array of the shape, dtype and memory layout of `x` (`out` if that was given).

        Raises:
            ValueError: the number of channels or `out` does not fit, or there are too few elements for statistics.
            TypeError: `x` is not a float array.
        """
        # Without parameters and running statistics nothing else would notice; the rest the function checks.
        if isinstance(x, np.ndarray) and -x.ndim <= self.axis < x.ndim and x.shape[self.axis] != self._num_channels:
            expected = f"must have {self._num_channels} channels on axis {self.axis}"
            raise self._error("x", expected, f"shape {x.shape}")
        y, self._cache = self._forward(x, out)
        return y

    def backward(self, dy: NDArray[Any], *, accumulate: bool = False, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the gradient of the last input, and write those of the parameters to `grads`.

        Args:
            dy: gradient of the last output, of its shape; float32 or float64.
            accumulate: add to `grads` instead of overwriting.
            out: array of the shape and dtype of the last input to write to; may be `dy` itself.

        Returns:
            Array of the shape, dtype and memory layout of the last input (`out` if that was given).

        Raises:
            RuntimeError: there was no forward pass.
            ValueError: the shape of `dy` or `out` does not fit.
            TypeError: `dy` is not a float array.
        """
        if self._cache is None:
            raise RuntimeError(
                f"{type(self).__name__}: `backward` needs a forward pass before it, found none "
                "(call the layer first; copies and pickles of a layer start without one)"
            )
        gradients = self._backward(dy, self._cache, out)
        for name in self.params:
            new = getattr(gradients, f"d{name}")
            if new is None:  # the parameter came after the forward pass
                continue
            grad = self.grads.get(name)
            if grad is None or grad.shape != new.shape or grad.dtype != new.dtype:  # the parameter was replaced
                grad = np.zeros_like(new) if grad is None else grad.reshape(new.shape).astype(new.dtype)
                self.grads[name] = grad
            if accumulate:
                grad += new
            else:
                grad[...] = new
        dx: NDArray[Any] = gradients.dx
        return dx

    @property
    def weight(self) -> NDArray[Any] | None:
        """The scale, `params["weight"]`; None without."""
        return self.params.get("weight")

    @weight.setter
    def weight(self, value: NDArray[Any]) -> None:
        self.params["weight"] = value

    @property
    def bias(self) -> NDArray[Any] | None:
        """The shift, `params["bias"]`; None without."""
        return self.params.get("bias")

    @bias.setter
    def bias(self, value: NDArray[Any]) -> None:
        self.params["bias"] = value

    def train(self, mode: bool = True) -> Self:
        """Set training mode (or eval mode, `mode=False`) and return the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Set eval mode and return the layer."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place."""
        for grad in self.grads.values():
            grad.fill(0)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of parameters and buffers under PyTorch's names."""
        return {name: np.array(value) for name, value in self._state().items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike], strict: bool = True) -> None:
        """Copy `state` into the layer's own arrays, converted to their dtypes; all of it or, on an error, nothing.

        Args:
            state: name → array, as `state_dict` returns it.
            strict: refuse missing and unexpected names; otherwise ignore them.

        Raises:
            ValueError: names are missing, unexpected or hold the wrong shape or kind of value; all are listed.
        """
        own = self._state()
        problems = []
        if strict:
            problems += [f"`{name}` is missing" for name in own if name not in state]
            problems += [f"`{name}` is unexpected" for name in state if name not in own]
        converted = {}
        for name, target in own.items():
            if name not in state:
                continue
            value = np.asarray(state[name])
            if not target.flags.writeable:
                problems.append(f"`{name}` must be writeable in the layer, found a read-only array")
            elif value.shape != target.shape:
                problems.append(f"`{name}` must have shape {target.shape}, found shape {value.shape}")
            elif not np.can_cast(value.dtype, np.float64, "same_kind"):
                problems.append(f"`{name}` must hold numbers, found dtype {value.dtype}")
            elif target.dtype.kind == "i" and not (
                np.all((value >= 0) & (value < 2**63)) and np.all(value == np.floor(value))
            ):
                problems.append(f"`{name}` must be an integer >= 0, found {value}")
            else:
                converted[name] = value.astype(target.dtype)
        if problems:
            raise ValueError(f"{type(self).__name__}: `state` does not fit: {'; '.join(problems)}")
        for name, value in converted.items():
            own[name][...] = value

    def _state(self) -> dict[str, NDArray[Any]]:
        buffers = {name: getattr(self, name) for name in self._buffers}
        return self.params | {name: value for name, value in buffers.items() if value is not None}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the cache: it refers to the last input and belongs to one pass."""
        return self.__dict__ | {"_cache": None}

    def __repr__(self) -> str:
        """Show the constructor's arguments."""
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!s}' for name in self._shown)})"

    # Checks of arguments, in the one form of all errors.

    @classmethod
    def _error(cls, argument: str, expected: str, found: object) -> ValueError:
        return ValueError(f"{cls.__name__}: `{argument}` {expected}, found {found}")

    @classmethod
    def _integer(cls, argument: str, value: SupportsIndex, minimum: int | None = None) -> int:
        try:
            result = operator.index(value)
        except TypeError:
            raise TypeError(f"{cls.__name__}: `{argument}` must be an integer, found {value!r}") from None
        if minimum is not None and result < minimum:
            raise cls._error(argument, f"must be >= {minimum}", result)
        return result

    @classmethod
    def _real(cls, argument: str, value: float, maximum: float = math.inf) -> float:
        if not isinstance(value, Real):
            raise TypeError(f"{cls.__name__}: `{argument}` must be a number, found {value!r}")
        result = float(value)
        if not (math.isfinite(result) and 0 <= result <= maximum):
            expected = "must be finite and >= 0" if maximum == math.inf else f"must be in [0, {maximum:g}]"
            raise cls._error(argument, expected, value)
        return result

    @classmethod
    def _float_dtype(cls, value: DTypeLike) -> np.dtype[Any]:
        message = f"{cls.__name__}: `dtype` must be {' or '.join(_DTYPES)}, found"
        try:
            dtype = np.dtype(value)
        except TypeError:
            raise TypeError(f"{message} {value!r}") from None
        if dtype.name not in _DTYPES:
            raise TypeError(f"{message} {dtype}")
        native: np.dtype[Any] = dtype.newbyteorder("=")
        return native


class BatchNorm(Layer):
    """Batch normalization (Ioffe & Szegedy 2015) over all axes but the channels'.

    y = (x - mean) / sqrt(var + eps) · weight + bias, per channel. In training mode by mean and biased variance of the
    batch, and the running statistics move: running = (1 - momentum)·running + momentum·batch. In eval mode by the
    running statistics, and `backward` takes them as constants. Without running statistics always by the batch's.

    Args:
        num_features: number of channels C, at least 1.
        eps: added to the variance; finite and >= 0.
        momentum: share of the new batch in the running statistics, 0 to 1; None: their cumulative average.
        affine: with `weight` (starts at 1) and `bias` (starts at 0), both (C,).
        track_running_stats: keep `running_mean`, `running_var`, both (C,), and `num_batches_tracked`, a 0-d int64
            array; without, all three are None. An empty batch leaves all three as they are.
        axis: the axis of the channels: 1 for (N, C, *spatial), -1 for (N, *spatial, C).
        running_var_ddof: 1 for an unbiased running variance (PyTorch), 0 for a biased one (Keras, ONNX).
        dtype: of parameters and running statistics, float32 or float64; that of `x` need not be the same.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has the wrong type, or `dtype` is not supported.

    Example:
        >>> import numpy as np
        >>> from normkit import BatchNorm
        >>> layer = BatchNorm(2, dtype=np.float64)
        >>> x = np.array([[1.0, 10.0], [4.0, 40.0], [1.0, 10.0]])  # (N, C)
        >>> layer(x).round(3).tolist()
        [[-0.707, -0.707], [1.414, 1.414], [-0.707, -0.707]]
        >>> layer.running_mean.round(3).tolist()
        [0.2, 2.0]
        >>> dx = layer.backward(np.ones_like(x))
        >>> layer.grads["bias"].tolist()
        [3.0, 3.0]
        >>> layer.eval()(x).shape
        (3, 2)
    """

    _shown = (
        "num_features",
        "eps",
        "momentum",
        "affine",
        "track_running_stats",
        "axis",
        "running_var_ddof",
        "dtype",
    )
    _buffers = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        axis: int = 1,
        running_var_ddof: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """See the class."""
        self.num_features = self._integer("num_features", num_features, minimum=1)
        super().__init__(self.num_features, eps=eps, affine=affine, axis=axis, dtype=dtype)
        self.momentum = None if momentum is None else self._real("momentum", momentum, maximum=1)
        self.running_var_ddof = self._integer("running_var_ddof", running_var_ddof)
        if self.running_var_ddof not in (0, 1):
            raise self._error("running_var_ddof", "must be 0 or 1", running_var_ddof)
        self.track_running_stats = bool(track_running_stats)
        self.running_mean: NDArray[Any] | None = None
        self.running_var: NDArray[Any] | None = None
        self.num_batches_tracked: NDArray[np.int64] | None = None
        if self.track_running_stats:
            self.running_mean = np.zeros(self.num_features, self.dtype)
            self.running_var = np.ones(self.num_features, self.dtype)
            self.num_batches_tracked = np.array(0, np.int64)

    def _forward(self, x: NDArray[Any], out: NDArray[Any] | None) -> tuple[NDArray[Any], BatchNormCache]:
        count = self.num_batches_tracked
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 if count is None else 1 / (int(count) + 1)
        y, cache = batch_norm(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            training=self.training or self.running_mean is None,
            momentum=momentum,
            eps=self.eps,
            axis=self.axis,
            running_var_ddof=self.running_var_ddof,
            out=out,
        )
        if self.training and self.num_batches_tracked is not None and y.size:
            self.num_batches_tracked += 1
        return y, cache

    def _backward(self, dy: NDArray[Any], cache: BatchNormCache, out: NDArray[Any] | None) -> BatchNormGradients:
        return batch_norm_backward(dy, cache, out=out)

    def fold_into(
        self,
        conv_weight: NDArray[Any],
        conv_bias: NDArray[Any] | None = None,
        *,
        groups: int = 1,
        transposed: bool = False,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Fold this layer in eval mode into the convolution or linear layer before it.

        w = conv_weight · s, b = (conv_bias - running_mean) · s + bias with s = weight / sqrt(running_var + eps), per
        output channel, in float64 with one rounding (Jacob et al. 2018, section 3.2).

        Args:
            conv_weight: (out, in/groups, *kernel); (in, out/groups, *kernel) if `transposed`; (out, in) if linear.
            conv_bias: (out,), or None for zeros.
            groups: groups of the convolution.
            transposed: whether the convolution is a transposed one.

        Returns:
            New arrays `(w, b)`; the arguments and the layer stay as they are.

        Raises:
            ValueError: the layer has no running statistics, or a shape does not fit.
            TypeError: an argument is not a float array.

        Example:
            >>> import numpy as np
            >>> from normkit import BatchNorm
            >>> layer = BatchNorm(3, dtype=np.float64).eval()
            >>> layer.running_mean[:] = [1, 2, 3]
            >>> x, linear = np.eye(4), np.arange(12.0).reshape(3, 4)
            >>> w, b = layer.fold_into(linear)
            >>> bool(np.allclose(x @ w.T + b, layer(x @ linear.T)))
            True
        """
        if self.running_mean is None or self.running_var is None:
            raise ValueError("BatchNorm: `fold_into` needs running statistics, found track_running_stats=False")
        return fold_conv_bn(
            conv_weight,
            conv_bias,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            eps=self.eps,
            groups=groups,
            transposed=transposed,
        )


class GroupNorm(Layer):
    """Group normalization (Wu & He 2018): per sample, over groups of neighbouring channels and all positions.

    y = (x - mean) / sqrt(var + eps) · weight + bias, mean and biased variance per sample and group, weight and bias
    per channel. The same in training and eval mode.

    Args:
        num_groups: number of groups, at least 1.
        num_channels: number of channels C, at least 1, a multiple of `num_groups`.
        eps: added to the variance; finite and >= 0.
        affine: with `weight` (starts at 1) and `bias` (starts at 0), both (C,).
        axis: the axis of the channels: 1 for (N, C, *spatial), -1 for (N, *spatial, C).
        dtype: of the parameters, float32 or float64; that of `x` need not be the same.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has the wrong type, or `dtype` is not supported.

    Example:
        >>> import numpy as np
        >>> from normkit import GroupNorm
        >>> layer = GroupNorm(2, 4)
        >>> x = np.array([[1, 3, 10, 30]], np.float32)  # (N, C): groups (1, 3) and (10, 30)
        >>> layer(x).round(3).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
        >>> dx = layer.backward(np.ones_like(x))
        >>> layer.grads["bias"].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    _shown = ("num_groups", "num_channels", "eps", "affine", "axis", "dtype")

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        axis: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """See the class."""
        self.num_groups = self._integer("num_groups", num_groups, minimum=1)
        self.num_channels = self._integer("num_channels", num_channels, minimum=1)
        if self.num_channels % self.num_groups:
            raise self._error("num_channels", f"must be a multiple of num_groups, {self.num_groups}", num_channels)
        super().__init__(self.num_channels, eps=eps, affine=affine, axis=axis, dtype=dtype)

    def _forward(self, x: NDArray[Any], out: NDArray[Any] | None) -> tuple[NDArray[Any], GroupNormCache]:
        return group_norm(x, self.num_groups, self.weight, self.bias, eps=self.eps, axis=self.axis, out=out)

    def _backward(self, dy: NDArray[Any], cache: GroupNormCache, out: NDArray[Any] | None) -> GroupNormGradients:
        return group_norm_backward(dy, cache, out=out)
