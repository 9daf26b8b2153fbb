"""The layers that tests and their inputs go over: all of them take (4, 6, 5, 3) with six channels on axis 1."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import normkit as nk
from cases import values

SHAPE = (4, 6, 5, 3)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Row:
    """A layer by its constructor, with the names that its state must have."""

    build: Callable
    parameters: tuple[str, ...] = ("weight", "bias")
    buffers: tuple[str, ...] = ()
    takes_axis: bool = True


LAYERS = {
    "BatchNorm": Row(lambda **kw: nk.BatchNorm(6, **kw), buffers=STATISTICS),
    "BatchNorm cumulative": Row(lambda **kw: nk.BatchNorm(6, momentum=None, **kw), buffers=STATISTICS),
    "BatchNorm of batches": Row(lambda **kw: nk.BatchNorm(6, track_running_stats=False, **kw)),
    "GroupNorm": Row(lambda **kw: nk.GroupNorm(3, 6, **kw)),
    "InstanceNorm": Row(lambda **kw: nk.InstanceNorm(6, **kw)),
    "InstanceNorm tracking": Row(lambda **kw: nk.InstanceNorm(6, track_running_stats=True, **kw), buffers=STATISTICS),
    "LayerNorm": Row(lambda **kw: nk.LayerNorm((5, 3), **kw), takes_axis=False),
    "LayerNorm of channels": Row(lambda **kw: nk.LayerNorm(6, **{"axis": 1, **kw})),
    "LayerNorm without bias": Row(lambda **kw: nk.LayerNorm((6, 5, 3), bias=False, **kw), ("weight",), (), False),
    "RMSNorm": Row(lambda **kw: nk.RMSNorm(3, **kw), ("weight",), (), False),
    "RMSNorm of channels": Row(lambda **kw: nk.RMSNorm(6, **{"axis": 1, **kw}), ("weight",)),
    "BatchRenorm": Row(lambda **kw: nk.BatchRenorm(6, **kw), buffers=STATISTICS),
    "BatchRenorm loose": Row(lambda **kw: nk.BatchRenorm(6, r_max=3, d_max=5, **kw), buffers=STATISTICS),
}


def data(dtype=np.float32, seed=0):
    """(x, dy)."""
    i = values(SHAPE, np.dtype(dtype), seed=seed)
    return i.x, i.dy


def randomize(layer, seed=1):
    """The layer, its parameters uniform in [0.5, 2]."""
    rng = np.random.default_rng(seed)
    for p in layer.params.values():
        p[...] = rng.uniform(0.5, 2, p.shape)
    return layer
