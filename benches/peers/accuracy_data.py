"""What accuracy is measured on: distributions of x, and the shapes of the norms."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from case import Case
from ops import ROWS, Row
from shapes import Shape


@dataclass(frozen=True)
class Distribution:
    """Values of x. `bias`: whether a bias is added, which would hide an y that is tiny."""

    name: str
    make: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    bias: bool = True
    halves: bool = True  # fits float16


def normal(mean: float, sigma: float = 1.0) -> Callable:
    return lambda rng, shape: mean + sigma * rng.standard_normal(shape)


DISTRIBUTIONS = (
    Distribution("normal", normal(0)),
    Distribution("mean 1e2", normal(1e2)),
    Distribution("mean 1e4", normal(1e4), halves=False),
    Distribution("mean 1e6", normal(1e6), halves=False),
    Distribution("mean 1, spread 1e-4", normal(1, 1e-4), halves=False),
    Distribution("uniform", lambda rng, shape: rng.random(shape)),
    Distribution("heavy tails", lambda rng, shape: rng.standard_t(2, shape)),
    Distribution("constant", lambda rng, shape: np.full(shape, 1234.567)),
    Distribution("huge, 1e30", normal(0, 1e30), halves=False),
    Distribution("subnormal, 1e-40", normal(0, 1e-40), bias=False, halves=False),
)
BY_NAME = {d.name: d for d in DISTRIBUTIONS}
# Every norm that is measured for speed, in one variant.
NORMS = tuple(
    r for r in ROWS if r.has_backward and r.dtype == "float32" and not (r.beside or r.channels_last or r.is_layer)
)
SHAPES = {"rows": (256, 768), "weights": (64, 64, 3, 3)}  # by the row's first set of shapes
IMAGES = (16, 32, 28, 28)
TINY = {"rows": (6, 40), "weights": (6, 4, 3, 3)}
TINY_IMAGES = (4, 32, 5, 5)


def shape_of(row: Row, tiny: bool = False) -> Shape:
    shapes, images = (TINY, TINY_IMAGES) if tiny else (SHAPES, IMAGES)
    return Shape(shapes.get(row.sets[0], images))


def case_of(row: Row, distribution: Distribution, dtype: str, tiny: bool = False) -> Case:
    """The inputs; dy is normal, weight and bias uniform, running statistics and style those of the benches."""
    case = Case(shape_of(row, tiny), dtype)
    with np.errstate(under="ignore"):
        case.x[...] = distribution.make(np.random.default_rng(1), case.x.shape)
    if row.name == "layer_norm" or row.name == "rms_norm":
        case.w, case.b = case.uniform(0.5, 1.5, case.x.shape[-1]), case.uniform(-1, 1, case.x.shape[-1])
    if not distribution.bias:
        case.b[...] = 0
    return case
