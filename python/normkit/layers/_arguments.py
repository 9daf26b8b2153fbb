"""Checks of constructors' arguments, in the one form of all errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike

from normkit import _checks

_DTYPES = ("float32", "float64", "float16", "bfloat16")
_MOST_AXES = 64  # of a NumPy array


def at_least_float32(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a running average: in half precision small steps would be lost."""
    return dtype if dtype.itemsize > 2 else np.dtype(np.float32)


class Arguments:
    """The checks, as methods of the class whose name stands in the message."""

    @classmethod
    def _error(cls, argument: str, expected: str, found: object) -> ValueError:
        return _checks.value_error(cls.__name__, argument, expected, found)

    @classmethod
    def _integer(cls, argument: str, value: SupportsIndex, minimum: int | None = None) -> int:
        return _checks.integer(cls.__name__, argument, value, minimum)

    @classmethod
    def _zero_or_one(cls, argument: str, value: SupportsIndex) -> int:
        return _checks.zero_or_one(cls.__name__, argument, value)

    @classmethod
    def _flag(cls, argument: str, value: bool) -> bool:
        return _checks.flag(cls.__name__, argument, value)

    @classmethod
    def _integers(cls, argument: str, value: int | Sequence[int], minimum: int | None = None) -> tuple[int, ...]:
        """One integer or several, as a tuple."""
        several: Any = value
        if isinstance(value, np.ndarray) and value.size <= _MOST_AXES:
            several = value.tolist()
        if not isinstance(several, Sequence) or isinstance(several, (str, bytes, memoryview)):
            one: Any = several
            return (cls._integer(argument, one, minimum),)
        if len(several) > _MOST_AXES:
            raise cls._error(argument, f"must have no more than {_MOST_AXES} axes", len(several))
        return tuple(cls._integer(argument, element, minimum) for element in several)

    @classmethod
    def _axis(cls, argument: str, value: SupportsIndex, of: str, ndim: int) -> int:
        """An axis of an array with so many, counted from the front."""
        result = cls._integer(argument, value)
        if not -ndim <= result < ndim:
            raise cls._error(argument, f"must be an axis of {of}, which has {ndim}", result)
        return result % ndim

    @classmethod
    def _real(cls, argument: str, value: float, minimum: float = 0, maximum: float = math.inf) -> float:
        result = _checks.number(cls.__name__, argument, value)
        if not (math.isfinite(result) and minimum <= result <= maximum):
            limits = f"finite and >= {minimum:g}" if maximum == math.inf else f"in [{minimum:g}, {maximum:g}]"
            raise cls._error(argument, f"must be {limits}", _checks.shown(value))
        return result

    @classmethod
    def _float_dtype(cls, value: DTypeLike, argument: str = "dtype") -> np.dtype[Any]:
        return float_dtype(cls.__name__, value, argument)


def float_dtype(function: str, value: DTypeLike, argument: str = "dtype") -> np.dtype[Any]:
    """One of the dtypes that a parameter may have, in native byte order."""
    expected = f"must be {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}"
    try:
        # NumPy takes None for float64, and makes records of mappings.
        dtype = None if value is None or isinstance(value, np.ndarray) else np.dtype(value)
    except Exception:  # NumPy raises nearly anything here
        dtype = None
    if dtype is None:
        raise _checks.type_error(function, argument, expected, value)
    if dtype.name not in _DTYPES:
        raise TypeError(f"{function}: `{argument}` {expected}, found {dtype}")
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native
