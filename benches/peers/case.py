"""What every contender is given: the same buffers, and the form in which it offers its calls."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shapes import Shape

EPS = 1e-5
MOMENTUM = 0.1
MODES = ("fresh", "out")


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


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialized float32 array on a 64-byte boundary. From 4 MiB on NumPy asks for huge pages."""
    size = 4 * int(np.prod(shape))
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(shape)


class Case:
    """The tensors of one shape. There is one output buffer, `out`, and all contenders write to it in turn."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.shape, self.groups = shape, shape.groups
        self.x, self.dy, self.out = (aligned(shape.dims) for _ in range(3))
        rng.standard_normal(out=self.x, dtype=np.float32)
        rng.standard_normal(out=self.dy, dtype=np.float32)
        self.x *= 2
        self.x += 0.5
        self.out.fill(0)
        channels = shape.dims[1]
        self.weight, self.bias, self.mean, self.var = (aligned((channels,)) for _ in range(4))
        self.weight[:] = rng.uniform(0.5, 1.5, channels)
        self.bias[:] = rng.uniform(-1, 1, channels)
        self.mean[:] = rng.uniform(0, 1, channels)
        self.var[:] = rng.uniform(3, 5, channels)

    def running(self) -> tuple[np.ndarray, np.ndarray]:
        """Running statistics of the contender's own, to be updated by training."""
        return self.mean.copy(), self.var.copy()
