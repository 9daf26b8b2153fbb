"""What every contender is given: the same buffers, and the form in which it offers its calls."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from record import TOP
from shapes import Shape

sys.path.append(str(TOP / "tests"))  # last: their module names are not to hide ours

from data import Inputs  # knows bfloat16, too

EPS = 1e-5
MOMENTUM = 0.1


@dataclass(frozen=True)
class Contender:
    """One way to compute an op. Of several variants of a peer in one mode, the fastest stands for the peer."""

    peer: str
    variant: str
    says: str  # what is called, as a reader would write it
    call: Callable[[], object]  # timed; what it returns is released inside the timed region
    result: Callable[[object], tuple[np.ndarray, ...]] | None = None  # (y,) or (dx, dweight, dbias), None: a yardstick
    reuse_pages: bool = False  # needs an allocator that keeps its pages: a peer without a real `out=`

    @property
    def key(self) -> str:
        return f"{self.peer}/{self.variant}"


def aligned(shape: tuple[int, ...], dtype: str | np.dtype = "float32") -> np.ndarray:
    """An uninitialized array on a 64-byte boundary. From 4 MiB on NumPy asks for huge pages."""
    dtype = np.dtype(dtype)
    size = dtype.itemsize * int(np.prod(shape))
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


class Case:
    """The tensors of one shape, made when first asked for. All contenders write to `out` in turn.

    Their names are those in the code of the table (ops.py).
    """

    def __init__(self, shape: Shape, dtype: str = "float32", channels_last: bool = False, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape, self.groups, self.dtype, self.channels_last = shape, shape.groups, dtype, channels_last
        self.over = (0, *range(2, len(shape.dims)))  # the axes that a channel's statistics run over
        self.x, self.dy, self.out = self.normal(2, 0.5), self.normal(), self.like(shape.dims)
        self.out.fill(0)
        channels = shape.dims[1] if len(shape.dims) > 1 else 1
        self.w, self.b = self.uniform(0.5, 1.5, channels), self.uniform(-1, 1, channels)
        self.rm, self.rv = self.uniform(0, 1, channels), self.uniform(3, 5, channels)
        self.given: dict = {}

    def like(self, shape: tuple[int, ...]) -> np.ndarray:
        """A buffer for an array like x: of its dtype and order of memory."""
        if not self.channels_last:
            return aligned(shape, self.dtype)
        return np.moveaxis(aligned((shape[0], *shape[2:], shape[1]), self.dtype), -1, 1)

    def normal(self, sigma: float = 1, mean: float = 0) -> np.ndarray:
        values = aligned(self.shape.dims)
        self.rng.standard_normal(out=values, dtype=np.float32)
        values *= sigma
        values += mean
        if self.dtype == "float32" and not self.channels_last:
            return values
        array = self.like(self.shape.dims)
        array[...] = values
        return array

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        array = aligned(shape)
        array[...] = self.rng.uniform(low, high, shape)
        return array

    def flat(self, array: np.ndarray) -> np.ndarray:
        """The same memory with one axis."""
        return (np.moveaxis(array, 1, -1) if self.channels_last else array).reshape(-1)

    def running(self) -> tuple[np.ndarray, np.ndarray]:
        """Running statistics of the contender's own, to be updated by training."""
        return self.rm.copy(), self.rv.copy()

    @cached_property
    def residual(self) -> np.ndarray:
        """Far from 0 on either side: a sum near 0 may have either sign, and its ReLU would pass either gradient."""
        residual = self.normal()
        residual += np.copysign(12, residual)
        return residual

    @cached_property
    def style(self) -> np.ndarray:
        return self.normal(1, 1)

    # x as a weight: (out, in, *kernel).

    @cached_property
    def g(self) -> np.ndarray:
        """A scale for each output channel."""
        return self.uniform(0.5, 1.5, self.x.shape[0], *(1 for _ in self.x.shape[1:]))

    def direction(self, size: int) -> np.ndarray:
        vector = self.uniform(-1, 1, size)
        return vector / np.linalg.norm(vector)

    @cached_property
    def u(self) -> np.ndarray:
        return self.direction(self.x.shape[0])

    @cached_property
    def v(self) -> np.ndarray:
        return self.direction(self.x[0].size)

    @cached_property
    def convolutions(self) -> list[tuple[np.ndarray, ...]]:
        """x cut into weights, each with the statistics and parameters of the norm after it."""
        found, start = [], 0
        for dims in self.shape.parts:
            weight = self.x[start : start + math.prod(dims)].reshape(dims)
            start += weight.size
            found.append((weight, *(self.uniform(low, low + 1, dims[0]) for low in (0, 3, 0.5, -0.5))))
        return found

    def inputs(self, row) -> Inputs:
        """What a row of the tests' table is called with: which arrays it decides, what is in them are ours."""
        if row.name not in self.given:
            plain = Inputs(self.x, self.dy, self.w, self.b, self.rm, self.rv, axis=1, groups=self.groups, eps=EPS)
            given = row.prepare(plain)
            ours = {"weight": "w", "bias": "b", "residual": "residual", "style": "style"}
            asked = {name: getattr(self, own) for name, own in ours.items() if getattr(given, name) is not None}
            self.given[row.name] = replace(given, **asked)
        return self.given[row.name]
