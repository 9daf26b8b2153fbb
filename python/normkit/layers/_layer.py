"""What all layers share: parameters and gradients, modes, state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from normkit.layers._arguments import Arguments

if TYPE_CHECKING:
    from typing_extensions import Self

_PARAMETERS = ("weight", "bias")


class Layer(Arguments, ABC):
    """What all layers share: parameters and gradients, the cache of the last forward, train and eval mode, state.

    A layer is a subclass with a constructor, `_forward` and `_backward`.

    `params` and `grads` are dictionaries name → array with the same keys, and the storage itself: the arrays stay the
    same objects while the layer works on them in place, so an optimizer may hold on to them; a new array put into
    `params` is used from then on.
    """

    _shown: ClassVar[tuple[str, ...]]
    """The constructor's arguments, for `repr`; one that is a parameter's name says whether the layer has it."""
    _buffers: ClassVar[tuple[str, ...]] = ()
    """Attributes that belong to the state but are not trained; None where the layer goes without."""

    def __init__(self, *, eps: float, dtype: DTypeLike) -> None:
        """Check what all layers take; there are no parameters yet."""
        self.eps = self._real("eps", eps)
        self.dtype = self._float_dtype(dtype)
        self.training = True
        self.params: dict[str, NDArray[Any]] = {}
        self.grads: dict[str, NDArray[Any]] = {}
        self._cache: Any = None

    def _add_parameter(self, name: str, start: float, shape: int | tuple[int, ...]) -> None:
        self.params[name] = np.full(shape, start, self.dtype)
        self.grads[name] = np.zeros(shape, self.dtype)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse an input shape that does not fit the layer, where no check of the function would notice."""

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
            x: array of a shape that fits the layer; float32 or float64, whatever the layer's dtype.
            out: array of the shape and dtype of `x` to write to.

        Returns:
            Array of the shape, dtype and memory layout of `x` (`out` if that was given).

        Raises:
            ValueError: the shape of `x` or `out` does not fit, or there are too few elements for statistics.
            TypeError: `x` is not a float array.
        """
        if isinstance(x, np.ndarray):  # the function refuses the rest
            self._check_shape(x.shape)
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
        shown = {name: name in self.params if name in _PARAMETERS else getattr(self, name) for name in self._shown}
        return f"{type(self).__name__}({', '.join(f'{name}={value!s}' for name, value in shown.items())})"
