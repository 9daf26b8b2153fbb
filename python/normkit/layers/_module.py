"""Parameters and gradients, modes, state: what an optimizer and a checkpoint ask of anything with parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normkit import _checks
from normkit.layers._arguments import Arguments

if TYPE_CHECKING:
    from typing_extensions import Self

_PARAMETERS = ("weight", "bias")


class Module(Arguments):
    """Parameters and gradients, the cache of the last forward, train and eval mode, state.

    `params` and `grads` are dictionaries name → array with the same keys, and the storage itself: the arrays stay the
    same objects while the module works on them in place, so an optimizer may hold on to them; a new array put into
    `params` is used from then on.
    """

    _shown: ClassVar[tuple[str, ...]]
    """The constructor's arguments, for `repr`; one that is a parameter's name says whether the module has it."""
    _buffers: ClassVar[tuple[str, ...]] = ()
    """Attributes that belong to the state but are not trained; None where the module goes without."""
    _other_names: ClassVar[Mapping[str, str]] = {}
    """Names that states of other versions of PyTorch have, and ours."""
    _of_one_pass: ClassVar[tuple[str, ...]] = ("_cache",)
    """Attributes that belong to the last pass: copies and pickles start with None in them."""

    def __init__(self) -> None:
        """Start in training mode, without parameters."""
        self.training = True
        self.params: dict[str, NDArray[Any]] = {}
        self.grads: dict[str, NDArray[Any]] = {}
        self._cache: Any = None

    def _add_parameter(self, name: str, value: NDArray[Any]) -> None:
        self.params[name] = value
        self.grads[name] = np.zeros_like(value)

    def _last_cache(self) -> Any:
        """The cache of the last forward pass."""
        if self._cache is None:
            raise RuntimeError(
                f"{type(self).__name__}: `backward` needs a forward pass before it, found none "
                "(call the layer first; copies and pickles of a layer start without one)"
            )
        return self._cache

    def _store(self, name: str, new: NDArray[Any] | None, accumulate: bool) -> None:
        """Write or add to `grads`."""
        if new is None:  # the parameter came after the forward pass
            return
        grad = self.grads.get(name)
        if grad is None or grad.shape != new.shape or grad.dtype != new.dtype:  # the parameter was replaced
            grad = np.zeros_like(new) if grad is None else grad.reshape(new.shape).astype(new.dtype)
            self.grads[name] = grad
        if accumulate:
            grad += new
        else:
            grad[...] = new

    def train(self, mode: bool = True) -> Self:
        """Set training mode (or eval mode, `mode=False`) and return the layer.

        Raises:
            TypeError: `mode` is not a bool; the mode is as before.
        """
        self.training = self._flag("mode", mode)
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
            TypeError: `state` is not a mapping, or `strict` not a bool.
        """
        own = self._state()
        _checks.mapping(type(self).__name__, "state", state)
        self._flag("strict", strict)
        # Where a state has a value under both names, the other one stays and is unexpected.
        others = {other: name for other, name in self._other_names.items() if name not in state}
        state = {others.get(name, name): value for name, value in state.items()}
        problems = []
        if strict:
            problems += [f"`{name}` is missing" for name in own if name not in state]
            problems += [f"`{_name(name)}` is unexpected" for name in state if name not in own]
        converted = {}
        for name, target in own.items():
            if name not in state:
                continue
            try:
                value = _checks.as_array(type(self).__name__, name, state[name])
            except TypeError:
                problems.append(f"`{name}` must be an array, found {_checks.shown(state[name])}")
                continue
            if not target.flags.writeable:
                problems.append(f"`{name}` must be writeable in the layer, found a read-only array")
            elif value.shape != target.shape:
                problems.append(f"`{name}` must have shape {target.shape}, found shape {value.shape}")
            elif not np.can_cast(value.dtype, np.float64, "same_kind"):
                problems.append(f"`{name}` must hold numbers, found dtype {value.dtype}")
            elif target.dtype.kind == "i" and not (
                np.all((value >= 0) & (value < 2**63)) and np.all(value == np.floor(value))
            ):
                problems.append(f"`{name}` must be an integer >= 0, found {_checks.shown(value[()])}")
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
        """Leave out the last pass: its cache refers to the input."""
        return self.__dict__ | dict.fromkeys(self._of_one_pass)

    def __repr__(self) -> str:
        """Show the constructor's arguments."""
        shown = {name: name in self.params if name in _PARAMETERS else getattr(self, name) for name in self._shown}
        texts = (f"{name}={value!r}" if isinstance(value, str) else f"{name}={value}" for name, value in shown.items())
        return f"{type(self).__name__}({', '.join(texts)})"


def _name(name: object) -> str:
    """A name of a state, whatever that is, for a message."""
    return name if isinstance(name, str) else _checks.shown(name)
