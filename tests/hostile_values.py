"""Values that an argument may get in the place of a good one."""

from decimal import Decimal
from fractions import Fraction

import numpy as np

from public_calls import SHAPE, array


class Broken:
    """An object that refuses everything."""

    def _refuse(self, *_args, **_kwargs):
        raise ArithmeticError("broken")

    __repr__ = __str__ = __bool__ = __len__ = __index__ = __float__ = __int__ = __array__ = __iter__ = _refuse
    __eq__ = __ge__ = __lt__ = _refuse
    __hash__ = None


class Masked(np.ma.MaskedArray):
    pass


def overlapping():
    return np.lib.stride_tricks.as_strided(np.zeros(64, np.float32), SHAPE, (8, 4, 2))


def holding(value, *shape):
    a = array(*shape)
    a.flat[-1] = value
    return a


HUGE = 2**40
SCALARS = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "7": 7,
    "2**40": HUGE,
    "2**70": 2**70,
    "-2**70": -(2**70),
    "10**400": 10**400,
    "0.5": 0.5,
    "1.5": 1.5,
    "-1.0": -1.0,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": -float("inf"),
    "complex": 1j,
    "np.bool": np.True_,
    "np.int64": np.int64(1),
    "np.int8(-1)": np.int8(-1),
    "np.uint64": np.uint64(2**63 + 1),
    "np.float64": np.float64(0.5),
    "np.float16 nan": np.float16("nan"),
    "np.longdouble": np.longdouble(0.5),
    "np.datetime64": np.datetime64("2020"),
    "Decimal": Decimal("0.5"),
    "Fraction": Fraction(1, 2),
    "text": "text",
    "empty text": "",
    "text of a number": "1",
    "surrogate": "\ud800",
    "bytes": b"relu",
    "object": object(),
    "type": float,
    "function": lambda *_args, **_kwargs: None,
    "Ellipsis": Ellipsis,
    "slice": slice(None),
    "range": range(2),
    "generator": (i for i in ()),
    "[]": [],
    "()": (),
    "{}": {},
    "list": [0.5, 1.5],
    "tuple": (0, 1),
    "tuple of a float": (0, 1.5),
    "tuple of a tuple": ((0,), 1),
    "dictionary": {"weight": [1.0], 3: None},
    "set": {1},
    "memoryview": memoryview(b"123"),
}
ARRAYS = {
    "()": lambda: array(),
    "(0,)": lambda: array(0),
    "(0, 6, 5)": lambda: array(0, 6, 5),
    "(1,)": lambda: array(1),
    "(5,)": lambda: array(5),
    "(7, 1)": lambda: array(7, 1),
    "(2, 3)": lambda: array(2, 3),
    "(4, 6)": lambda: array(4, 6),
    "(4, 5, 6)": lambda: array(4, 5, 6),
    "(4, 6, 5, 1)": lambda: array(4, 6, 5, 1),
    "32 axes": lambda: array(*[1] * 32),
    "int": lambda: np.ones(SHAPE, np.int64),
    "bool": lambda: np.ones(SHAPE, bool),
    "complex": lambda: np.ones(SHAPE, complex),
    "text": lambda: np.full(SHAPE, "a"),
    "bytes": lambda: np.full(SHAPE, b"a"),
    "objects": lambda: np.full(SHAPE, None),
    "objects that are floats": lambda: array(*SHAPE).astype(object),
    "dates": lambda: np.zeros(SHAPE, "datetime64[s]"),
    "records": lambda: np.zeros(SHAPE, [("a", "f4")]),
    "void": lambda: np.zeros(SHAPE, "V2"),
    "int of a channel": lambda: np.ones(6, np.int64),
    "objects of a channel": lambda: np.full(6, None),
    "overlapping": overlapping,
    "broadcast": lambda: np.broadcast_to(array(6, 1), SHAPE),
    "read-only": lambda: frozen(array(*SHAPE)),
    "byte-swapped": lambda: array(*SHAPE).astype(">f4"),
    "float64": lambda: array(*SHAPE, dtype=np.float64),
    "masked": lambda: np.ma.masked_array(array(*SHAPE)),
    "masked subclass": lambda: array(*SHAPE).view(Masked),
    "matrix": lambda: np.ones((4, 6), np.float32).view(np.matrix),
    "huge": lambda: np.broadcast_to(np.float32(0), (HUGE, 6, 5)),
    "huge channels": lambda: np.broadcast_to(np.float32(0), (4, HUGE, 5)),
    "huge vector": lambda: np.broadcast_to(np.float32(1), (HUGE,)),
    "huge and empty": lambda: np.empty((0, HUGE, 64), np.float32),
    "NaN": lambda: holding(np.nan, *SHAPE),
    "NaN in a channel": lambda: holding(np.nan, 6),
    "negative in a channel": lambda: holding(-1e-3, 6),
}


def frozen(a):
    a.flags.writeable = False
    return a


def hostile():
    """Name and a new value, each of them; a broken object last."""
    yield from SCALARS.items()
    yield from ((f"array {name}", make()) for name, make in ARRAYS.items())
    yield "broken", Broken()
