"""How each library writes a norm down, and the two directions between it and normkit. See `convert`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from normkit._checks import as_array, integer, mapping, number, shown, text, zero_or_one

_OURS = ("weight", "bias", "running_mean", "running_var")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Convention:
    """How a library writes a batch norm down.

    Attributes:
        names: its names of weight, bias, running mean and running variance, in this order.
        share_of_old: whether its momentum is the share of the old value (else of the new batch).
        momentum: its default, in its own sense.
        eps: its default.
        running_var_ddof: 1 if its running variance is unbiased, 0 if it is biased.
        axis: the axis of the channels.

    Example:
        >>> from normkit.convert import CONVENTIONS
        >>> CONVENTIONS["keras"].eps
        0.001
    """

    names: tuple[str, str, str, str]
    share_of_old: bool
    momentum: float
    eps: float
    running_var_ddof: int
    axis: int


CONVENTIONS: Mapping[str, Convention] = {
    "pytorch": Convention(_OURS, False, 0.1, 1e-5, 1, 1),
    "keras": Convention(("gamma", "beta", "moving_mean", "moving_variance"), True, 0.99, 1e-3, 0, -1),
    "flax": Convention(("scale", "bias", "mean", "var"), True, 0.99, 1e-5, 0, -1),
    "onnx": Convention(("scale", "B", "input_mean", "input_var"), True, 0.9, 1e-5, 0, 1),
    "darknet": Convention(("scales", "biases", "rolling_mean", "rolling_variance"), True, 0.99, 1e-5, 1, 1),
}


class Converted(NamedTuple):
    """What a conversion returns.

    Attributes:
        state: name → array, under the names of the target. For normkit: what `load_state_dict` takes.
        options: the other arguments, under the target's names and in its sense. For normkit: what `BatchNorm` takes.

    Example:
        >>> import numpy as np
        >>> from normkit.convert import from_keras
        >>> from_keras({"gamma": np.ones(2)}, epsilon=1e-3).options
        {'eps': 0.001, 'axis': -1}
    """

    state: dict[str, Any]
    options: dict[str, Any]


def momentum_from(library: str, momentum: float) -> float:
    """Return a library's momentum as normkit's, the share of the new batch.

    Args:
        library: a key of `CONVENTIONS`.
        momentum: from 0 to 1, in the library's sense.

    Returns:
        1 - momentum where the library counts the old, computed in decimal: 0.99 becomes 0.01.

    Raises:
        ValueError: an unknown library, or a momentum outside [0, 1].
        TypeError: the momentum is no number.

    Example:
        >>> from normkit.convert import momentum_from
        >>> momentum_from("keras", 0.99), momentum_from("pytorch", 0.1)
        (0.01, 0.1)
    """
    return cast(float, _momentum("momentum_from", library, momentum))


def momentum_to(library: str, momentum: float) -> float:
    """Return normkit's momentum, the share of the new batch, as a library's; the inverse of `momentum_from`.

    Args:
        library: a key of `CONVENTIONS`.
        momentum: from 0 to 1, normkit's.

    Returns:
        1 - momentum where the library counts the old, computed in decimal: 0.1 becomes 0.9.

    Raises:
        ValueError: an unknown library, or a momentum outside [0, 1].
        TypeError: the momentum is no number.

    Example:
        >>> from normkit.convert import momentum_to
        >>> momentum_to("keras", 0.1), momentum_to("pytorch", 0.1)
        (0.9, 0.1)
    """
    return cast(float, _momentum("momentum_to", library, momentum))


def convert_running_var(running_var: Any, count: SupportsIndex, *, from_ddof: int, to_ddof: int) -> NDArray[Any]:
    """Return a running variance that was kept with one divisor as if it had been kept with the other.

    running_var · (count - from_ddof) / (count - to_ddof): every batch's variance in the average has that factor, if all
    batches had `count` elements per channel. The value that the average started from is scaled, too.

    Args:
        running_var: float array of any shape.
        count: elements per channel in a training batch, N·H·W; at least 2.
        from_ddof: 0 if `running_var` is biased (Keras, Flax, ONNX), 1 if it is unbiased (PyTorch, darknet).
        to_ddof: the same of the result.

    Returns:
        A new array of the same shape and dtype; float64 inside, one rounding.

    Raises:
        ValueError: a divisor other than 0 and 1, or a count below 2.
        TypeError: `running_var` is no float array, or `count` no integer.

    Example:
        >>> import numpy as np
        >>> from normkit.convert import convert_running_var
        >>> convert_running_var(np.array([0.75]), 4, from_ddof=0, to_ddof=1)
        array([1.])
    """
    function = "convert_running_var"
    for name, ddof in (("from_ddof", from_ddof), ("to_ddof", to_ddof)):
        zero_or_one(function, name, ddof)
    return _rescaled(_array(function, "running_var", running_var), _count(function, count), from_ddof, to_ddof)


def to_normkit(
    library: str,
    state: Mapping[str, Any],
    eps: float,
    momentum: float | None,
    axis: int,
    kept_ddof: int = 1,
    running_var_ddof: int | None = None,
    count: SupportsIndex | None = None,
    eps_name: str = "eps",
    argument: str = "state",
    momentum_name: str = "momentum",
) -> Converted:
    function, convention = f"from_{library}", CONVENTIONS[library]
    found, counter = _checked(function, argument, state, convention.names)
    ours = {name: found[theirs] for name, theirs in zip(_OURS, convention.names, strict=True) if theirs in found}
    options: dict[str, Any] = {"eps": _eps(function, eps_name, eps), "axis": integer(function, "axis", axis)}
    count = None if count is None else _count(function, count)
    ddof = kept_ddof if running_var_ddof is None else zero_or_one(function, "running_var_ddof", running_var_ddof)
    if "running_var" in ours:
        if ddof != kept_ddof:
            if count is None:
                expected = f"must be given to go from running_var_ddof={kept_ddof} to {ddof}"
                raise ValueError(f"{function}: `count` {expected}, found None")
            ours["running_var"] = _rescaled(ours["running_var"], count, kept_ddof, ddof)
        ours[_COUNTER] = counter
        options["momentum"] = _momentum(function, library, momentum, momentum_name)
        options["running_var_ddof"] = ddof
    return Converted(ours, options)


def from_normkit(
    library: str,
    state: Mapping[str, Any],
    eps: float,
    momentum: float | None,
    axis: int,
    running_var_ddof: int,
    count: SupportsIndex | None,
    their_ddof: int | None = None,
    eps_name: str = "eps",
    momentum_name: str = "momentum",
) -> Converted:
    function, convention = f"to_{library}", CONVENTIONS[library]
    found, counter = _checked(function, "state", state, _OURS)
    ddof = zero_or_one(function, "running_var_ddof", running_var_ddof)
    count = None if count is None else _count(function, count)
    if "running_var" in found and count is not None:
        target = convention.running_var_ddof if their_ddof is None else their_ddof
        found["running_var"] = _rescaled(found["running_var"], count, ddof, target)
    theirs = {name: found[ours] for ours, name in zip(_OURS, convention.names, strict=True) if ours in found}
    options: dict[str, Any] = {eps_name: _eps(function, "eps", eps), "axis": integer(function, "axis", axis)}
    if "running_var" in found:
        if library == "pytorch":
            theirs[_COUNTER] = counter
        elif momentum is None:
            raise ValueError(
                f"{function}: `momentum` must be a number ({library} has no cumulative average), found None"
            )
        options[momentum_name] = _momentum(function, library, momentum)
    return Converted(theirs, options)


# Checks, in the one form of all errors.


def _checked(
    function: str, argument: str, state: Mapping[str, Any], names: tuple[str, str, str, str]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Copies of the four entries as arrays, and of `num_batches_tracked` (0 where it is missing)."""
    entries = mapping(function, argument, state)
    allowed = {*names, _COUNTER} if names == _OURS else {*names}
    if unexpected := [shown(name) for name in entries if name not in allowed]:
        expected = f"must have no names but {', '.join(sorted(allowed))}"
        raise ValueError(f"{function}: `{argument}` {expected}, found {', '.join(unexpected)}")
    if (names[2] in entries) != (names[3] in entries):
        present = names[2] if names[2] in entries else names[3]
        raise ValueError(
            f"{function}: `{argument}` must have both {names[2]} and {names[3]} or neither, found {present}"
        )
    found = {name: _array(function, name, entries[name]) for name in names if name in entries}
    shapes = {name: value.shape for name, value in found.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{function}: `{argument}` must have arrays of one shape, found {listed}")
    counter = as_array(function, _COUNTER, _numpy(entries.get(_COUNTER, 0)))
    if counter.dtype.kind not in "iu" or counter.shape or not 0 <= counter < 2**63:
        raise ValueError(f"{function}: `{_COUNTER}` must be an integer >= 0, found {shown(counter)}")
    return found, counter.astype(np.int64)


def _numpy(value: Any) -> Any:
    """A PyTorch tensor as what `asarray` takes: without its graph, on the CPU."""
    return value.detach().cpu() if hasattr(value, "detach") else value


def _array(function: str, argument: str, value: Any) -> NDArray[Any]:
    # A copy, but not by np.array: it warns where an `__array__` knows nothing of its copy argument.
    array: NDArray[Any] = as_array(function, argument, _numpy(value)).copy()
    # ml_dtypes.bfloat16 is of NumPy's kind "V".
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise TypeError(f"{function}: `{argument}` must be a float array, found dtype {array.dtype}")
    return array


def wide(value: NDArray[Any]) -> NDArray[np.float64]:
    return value.astype(np.float64)


def rounded(value: NDArray[np.float64], like: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = value.astype(like.dtype)
    return result


def _rescaled(var: NDArray[Any], count: int, from_ddof: int, to_ddof: int) -> NDArray[Any]:
    if from_ddof == to_ddof:
        return var
    return rounded(wide(var) * (count - from_ddof) / (count - to_ddof), var)


def _count(function: str, value: SupportsIndex) -> int:
    count = integer(function, "count", value)
    if count < 2:
        raise ValueError(f"{function}: `count` must be >= 2 (elements per channel in a batch), found {count}")
    return count


def _eps(function: str, argument: str, value: float) -> float:
    eps = number(function, argument, value)
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"{function}: `{argument}` must be finite and >= 0, found {shown(value)}")
    return eps


def check_not_negative(function: str, argument: str, value: NDArray[Any]) -> None:
    if np.any(value < 0):
        raise ValueError(f"{function}: `{argument}` must be >= 0, found {value.min()}")


def _momentum(function: str, library: str, momentum: Any, argument: str = "momentum") -> Any:
    """The momentum in the other sense; the same both ways. None (cumulative) only for PyTorch's layers."""
    if text(function, "library", library) not in CONVENTIONS:
        raise ValueError(f"{function}: `library` must be one of {', '.join(CONVENTIONS)}, found {shown(library)}")
    if momentum is None and function in ("from_pytorch", "to_pytorch"):
        return None
    value = number(function, argument, momentum)
    if not 0 <= value <= 1:
        raise ValueError(f"{function}: `{argument}` must be from 0 to 1, found {shown(momentum)}")
    if not CONVENTIONS[library].share_of_old:
        return value
    return float(1 - Decimal(repr(value)))  # 0.01 and not 1 - 0.99 = 0.010000000000000009
