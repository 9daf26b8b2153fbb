"""Checks of arguments in Python code, in the one form of all errors: function, argument, expected, found."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST = 2**63 - 1  # what an int64 holds
_SHORT = 60


def shown(value: object) -> str:
    """What a value is, for a message: itself where that is short, else its type; never an error."""
    if isinstance(value, np.ndarray):
        return f"{type(value).__name__} of shape {value.shape} and dtype {value.dtype}"
    try:
        text = repr(value)
    except Exception:  # an object's own __repr__ may do anything
        return type(value).__name__
    return text if len(text) <= _SHORT and "\n" not in text else type(value).__name__


def value_error(function: str, argument: str, expected: str, what: object) -> ValueError:
    return ValueError(f"{function}: `{argument}` {expected}, found {what}")


def type_error(function: str, argument: str, expected: str, value: object) -> TypeError:
    return TypeError(f"{function}: `{argument}` {expected}, found {shown(value)}")


def integer(function: str, argument: str, value: object, minimum: int | None = None) -> int:
    """An integer, no bool, that an int64 can hold."""
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)  # type: ignore[arg-type] # the error is what we are after
    except Exception:  # an object's own __index__ may do anything
        raise type_error(function, argument, "must be an integer", value) from None
    if minimum is not None and result < minimum:
        raise value_error(function, argument, f"must be >= {minimum}", shown(result))
    if abs(result) > _MOST:
        raise value_error(function, argument, "must be an integer of a sensible size", shown(result))
    return result


def zero_or_one(function: str, argument: str, value: object) -> int:
    result = integer(function, argument, value)
    if result not in (0, 1):
        raise value_error(function, argument, "must be 0 or 1", result)
    return result


def number(function: str, argument: str, value: object) -> float:
    """A real number, no bool, that a float64 can hold."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, (Real, Decimal)) or isinstance(value, bool):
        raise type_error(function, argument, "must be a number", value)
    try:
        return float(value)
    except OverflowError:
        raise value_error(function, argument, "must be a float64", "a larger number") from None


def flag(function: str, argument: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise type_error(function, argument, "must be True or False", value)
    return bool(value)


def text(function: str, argument: str, value: object) -> str:
    if not isinstance(value, str):
        raise type_error(function, argument, "must be a string", value)
    return value


def array(function: str, argument: str, value: object) -> NDArray[Any]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{function}: `{argument}` must be a NumPy array, found {type(value).__name__}")
    _refuse_mask(function, argument, value)
    return value


def as_array(function: str, argument: str, value: Any) -> NDArray[Any]:
    """What `numpy.asarray` makes of it."""
    _refuse_mask(function, argument, value)
    try:
        return np.asarray(value)
    except MemoryError:
        raise
    except Exception:  # nested lists of different lengths, or an object's own __array__
        raise type_error(function, argument, "must be an array or what NumPy makes one of", value) from None


def _refuse_mask(function: str, argument: str, value: object) -> None:
    if type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{function}: `{argument}` must be a plain array, as its mask would be ignored, found MaskedArray"
        )


def mapping(function: str, argument: str, value: Any, of: str = "name → array") -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{function}: `{argument}` must be a mapping {of}, found {type(value).__name__}")
    return value


def iterable(function: str, argument: str, value: Any, of: str) -> Iterable[Any]:
    if isinstance(value, np.ndarray) and value.ndim == 0:  # NumPy tells only when asked for the first element
        raise type_error(function, argument, f"must be an iterable of {of}", value)
    try:
        iter(value)
    except Exception:  # an object's own __iter__ may do anything
        raise type_error(function, argument, f"must be an iterable of {of}", value) from None
    return value  # type: ignore[no-any-return] # whatever it is, it can be iterated over


def function_of(function: str, argument: str, value: Any, what: str) -> Callable[..., Any]:
    if not callable(value):
        raise type_error(function, argument, f"must be a function {what}", value)
    return value  # type: ignore[no-any-return]


def instance(function: str, argument: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise type_error(function, argument, f"must be a {kind.__name__}", value)
