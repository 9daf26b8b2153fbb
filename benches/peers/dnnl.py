"""The few entry points of oneDNN's C API that batch and group norm need, by ctypes: no compiler, no headers.

The library is the one in PyPI's `onednn` (libdnnl.so.3). Its CPU runtime is SYCL over TBB, so each call goes through a
SYCL queue: an overhead of some tens of microseconds that only small shapes can see.
"""

import ctypes
import math
import os
import sys
from pathlib import Path

import numpy as np

ABCD, ABCD_16B, ABCD_8B, AB = 5, 78, 102, 3  # dnnl_format_tag_t of oneDNN 3: nchw, nChw16c, nChw8c, nc
TRAINING, INFERENCE, BACKWARD = 64, 96, 128  # dnnl_prop_kind_t
GLOBAL_STATS, SCALE, SHIFT = 1, 2, 4  # dnnl_normalization_flags_t
SRC, DST, MEAN, VARIANCE, GAMMA, BETA = 1, 17, 49, 50, 51, 52  # DNNL_ARG_*
DIFF_SRC, DIFF_DST, DIFF_GAMMA, DIFF_BETA = 129, 145, 255, 256
F32, CPU, IN_ORDER = 3, 1, 1
NEEDED = ["libintlc", "libirng", "libimf", "libsvml", "libhwloc", "libtbb", "libumf", "libur_loader", "libsycl"]


class Arg(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_int), ("memory", ctypes.c_void_p)]


class Library:
    """An engine and a stream on the CPU."""

    def __init__(self) -> None:
        lib = Path(sys.prefix) / "lib"
        found = sorted(lib.glob("libdnnl.so.3*"))
        if not found:
            raise ImportError(f"oneDNN: no libdnnl.so.3 in {lib}; pip install onednn")
        # The wheels put their libraries in <venv>/lib and set no search path: load what libdnnl names, in order.
        # Its CPU device is Intel's OpenCL driver, which the loader finds by this variable.
        os.environ.setdefault("OCL_ICD_FILENAMES", str(lib / "libintelocl.so"))
        for stem in NEEDED:
            for path in sorted(lib.glob(f"{stem}.so.*"), key=lambda p: len(p.name))[:1]:
                ctypes.CDLL(str(path))
        self.dnnl = ctypes.CDLL(str(found[0]))
        self.dnnl.dnnl_version.restype = ctypes.POINTER(ctypes.c_int * 3)
        major, minor, patch = self.dnnl.dnnl_version().contents
        self.version = f"{major}.{minor}.{patch}"
        if major != 3:
            raise ImportError(f"oneDNN: written for version 3, found {self.version}")
        self.engine, self.stream = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("engine_create", ctypes.byref(self.engine), CPU, ctypes.c_size_t(0))
        self.call("stream_create", ctypes.byref(self.stream), self.engine, IN_ORDER)

    def call(self, name: str, *args: object) -> None:
        status = getattr(self.dnnl, f"dnnl_{name}")(*args)
        if status:
            raise RuntimeError(f"oneDNN: dnnl_{name} returned status {status}")

    def layout(self, shape: tuple[int, ...], tag: int) -> ctypes.c_void_p:
        out = ctypes.c_void_p()
        dims = (ctypes.c_int64 * len(shape))(*shape)
        self.call("memory_desc_create_with_tag", ctypes.byref(out), len(shape), dims, F32, tag)
        return out

    def vector(self, length: int) -> ctypes.c_void_p:
        out = ctypes.c_void_p()
        self.call("memory_desc_create_with_tag", ctypes.byref(out), 1, (ctypes.c_int64 * 1)(length), F32, 2)
        return out

    def bytes(self, layout: ctypes.c_void_p) -> int:
        self.dnnl.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        return self.dnnl.dnnl_memory_desc_get_size(layout)

    def memory(self, layout: ctypes.c_void_p, array: np.ndarray) -> ctypes.c_void_p:
        if array.nbytes < self.bytes(layout):
            raise ValueError(f"oneDNN: the layout needs {self.bytes(layout)} bytes, found {array.nbytes}")
        out = ctypes.c_void_p()
        self.call("memory_create", ctypes.byref(out), layout, self.engine, ctypes.c_void_p(array.ctypes.data))
        return out

    def primitive(self, description: ctypes.c_void_p) -> ctypes.c_void_p:
        out = ctypes.c_void_p()
        self.call("primitive_create", ctypes.byref(out), description)
        return out

    def runner(self, primitive: ctypes.c_void_p, memories: dict[int, ctypes.c_void_p]):
        """Return a callable that executes and waits, with nothing left to look up."""
        args = (Arg * len(memories))(*(Arg(key, value) for key, value in memories.items()))
        execute, wait, stream, count = (
            *(self.dnnl.dnnl_primitive_execute, self.dnnl.dnnl_stream_wait),
            *(self.stream, len(memories)),
        )

        def run() -> None:
            if execute(primitive, stream, count, args) or wait(stream):
                raise RuntimeError("oneDNN: execution failed")

        return run

    def reorder(self, src_layout, src: np.ndarray, dst_layout, dst: np.ndarray) -> None:
        pd = ctypes.c_void_p()
        engine = self.engine
        self.call("reorder_primitive_desc_create", ctypes.byref(pd), src_layout, engine, dst_layout, engine, None)
        self.runner(self.primitive(pd), {SRC: self.memory(src_layout, src), DST: self.memory(dst_layout, dst)})()

    def forward(self, layout, prop: int, eps: float, flags: int) -> ctypes.c_void_p:
        pd = ctypes.c_void_p()
        self.call(
            "batch_normalization_forward_primitive_desc_create",
            *(ctypes.byref(pd), self.engine, prop, layout, layout, ctypes.c_float(eps), flags, None),
        )
        return pd

    def backward(self, layout, eps: float, flags: int, hint) -> ctypes.c_void_p:
        pd = ctypes.c_void_p()
        self.call(
            "batch_normalization_backward_primitive_desc_create",
            *(ctypes.byref(pd), self.engine, BACKWARD, layout, layout, layout, ctypes.c_float(eps), flags, hint, None),
        )
        return pd

    def group_forward(self, layout, groups: int, eps: float, flags: int) -> ctypes.c_void_p:
        pd = ctypes.c_void_p()
        self.call(
            "group_normalization_forward_primitive_desc_create",
            *(ctypes.byref(pd), self.engine, TRAINING, layout, layout, ctypes.c_int64(groups)),
            *(ctypes.c_float(eps), flags, None),
        )
        return pd

    def group_backward(self, layout, groups: int, eps: float, flags: int, hint) -> ctypes.c_void_p:
        pd = ctypes.c_void_p()
        self.call(
            "group_normalization_backward_primitive_desc_create",
            *(ctypes.byref(pd), self.engine, BACKWARD, layout, layout, layout, ctypes.c_int64(groups)),
            *(ctypes.c_float(eps), flags, hint, None),
        )
        return pd

    def implementation(self, pd: ctypes.c_void_p) -> str:
        text = ctypes.c_char_p()
        self.call("primitive_desc_query", pd, 8, 0, ctypes.byref(text))  # dnnl_query_impl_info_str
        return (text.value or b"").decode()


def blocked_tag(channels: int) -> tuple[int, int]:
    """The blocked layout oneDNN's own convolutions use here: 16 channels with AVX-512, else 8. Returns (tag, block)."""
    flags = Path("/proc/cpuinfo").read_text()
    block = 16 if "avx512bw" in flags else 8
    return (ABCD_16B if block == 16 else ABCD_8B), math.ceil(channels / block) * block
