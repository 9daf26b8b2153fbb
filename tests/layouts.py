"""Layouts: values in C order with the channels on axis 1 -> (the same values in another memory, channel axis)."""

from collections.abc import Callable

import numpy as np


def channels_last(a):
    return np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1


def channels_last_memory(a):
    return np.moveaxis(channels_last(a)[0], -1, 1), 1


def channels_first(a):
    return np.ascontiguousarray(np.moveaxis(a, 1, 0)), 0


def sliced(a):
    buffer = np.full((a.shape[0] + 1, *a.shape[1:-1], 2 * a.shape[-1] + 1), np.nan, a.dtype)
    view = buffer[1:, ..., 1::2]
    view[...] = a
    return view, 1


def reversed_axes(a):
    backwards = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[backwards])[backwards], 1


def broadcast(a):
    return np.broadcast_to(a[:1], a.shape), 1


def misaligned(a):
    view = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view, 1


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a, 1


LAYOUTS: dict[str, Callable] = {
    "c_order": lambda a: (np.array(a, order="C"), 1),
    "channels_last": channels_last,
    "channels_last_memory": channels_last_memory,
    "channels_first": channels_first,
    "fortran": lambda a: (np.array(a, order="F"), 1),
    "sliced": sliced,
    "reversed": reversed_axes,
    "broadcast": broadcast,
    "misaligned": misaligned,
    "byte_swapped": lambda a: (a.astype(a.dtype.newbyteorder()), 1),
    "read_only": read_only,
}
DENSE = ("c_order", "channels_last", "channels_last_memory", "channels_first", "fortran")


def exists(layout, dtype):
    """bfloat16 has no byte-swapped form: NumPy makes raw bytes of it."""
    return layout != "byte_swapped" or dtype.kind == "f"
