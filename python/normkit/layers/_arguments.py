"""Checks of constructors' arguments, in the one form of all errors."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike

_DTYPES = ("float32", "float64", "float16", "bfloat16")


def at_least_float32(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a running average: in half precision small steps would be lost."""
    return dtype if dtype.itemsize > 2 else np.dtype(np.float32)


class Arguments:
    """The checks, as methods of the class whose name stands in the message."""

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
    def _integers(cls, argument: str, value: int | Sequence[int], minimum: int | None = None) -> tuple[int, ...]:
        """One integer or several, as a tuple."""
        several: Any = value.tolist() if isinstance(value, np.ndarray) else value
        if isinstance(several, Sequence) and not isinstance(several, str):
            return tuple(cls._integer(argument, element, minimum) for element in several)
        return (cls._integer(argument, several, minimum),)

    @classmethod
    def _axis(cls, argument: str, value: SupportsIndex, of: str, ndim: int) -> int:
        """An axis of an array with so many, counted from the front."""
        result = cls._integer(argument, value)
        if not -ndim <= result < ndim:
            raise cls._error(argument, f"must be an axis of {of}, which has {ndim}", result)
        return result % ndim

    @classmethod
    def _real(cls, argument: str, value: float, minimum: float = 0, maximum: float = math.inf) -> float:
        if not isinstance(value, Real):
            raise TypeError(f"{cls.__name__}: `{argument}` must be a number, found {value!r}")
        result = float(value)
        if not (math.isfinite(result) and minimum <= result <= maximum):
            limits = f"finite and >= {minimum:g}" if maximum == math.inf else f"in [{minimum:g}, {maximum:g}]"
            raise cls._error(argument, f"must be {limits}", value)
        return result

    @classmethod
    def _float_dtype(cls, value: DTypeLike, argument: str = "dtype") -> np.dtype[Any]:
        message = f"{cls.__name__}: `{argument}` must be {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}, found"
        try:
            dtype = np.dtype(value)
        except TypeError:
            raise TypeError(f"{message} {value!r}") from None
        if dtype.name not in _DTYPES:
            raise TypeError(f"{message} {dtype}")
        native: np.dtype[Any] = dtype.newbyteorder("=")
        return native
