"""oneDNN batch and group norm, outputs reused: plain nchw (our layout), and for batch norm the blocked layout that its
own convolutions use.

The reorder into the blocked layout is done beforehand and not timed. Running statistics are not part of the primitive.
"""

import numpy as np

import dnnl
from case import EPS, Case, Contender, aligned
from ops import Op

FLAGS = dnnl.SCALE | dnnl.SHIFT
NAME = "oneDNN"
MEASURED = ("batch_norm", "batch_norm_backward", "batch_norm_inference")
GROUPED = ("group_norm", "group_norm_backward")


class Peer:
    def __init__(self, threads: int) -> None:
        self.library = dnnl.Library()
        self.version = self.library.version
        self.notes = "PyPI's onednn: SYCL CPU runtime over TBB; threads: as many as the process's affinity"

    def contenders(self, op: Op, mode: str, case: Case) -> list[Contender]:
        if mode == "out" and op.name in GROUPED and case.x.ndim == 4:
            return [self.grouped(op.name, case)]
        if mode == "fresh" or op.name not in MEASURED or case.x.ndim not in (2, 4):
            return []
        found = [self.contender(op.name, case, "nchw", dnnl.ABCD if case.x.ndim == 4 else dnnl.AB, case.shape.dims[1])]
        tag, padded = dnnl.blocked_tag(case.shape.dims[1])
        if case.x.ndim == 4 and padded == case.shape.dims[1]:
            found.append(self.contender(op.name, case, "blocked", tag, padded))
        return found

    def contender(self, op: str, case: Case, name: str, tag: int, channels: int) -> Contender:
        lib, plain = self.library, name == "nchw"
        layout, vector = lib.layout(case.x.shape, tag), lib.vector(channels)
        nchw = layout if plain else lib.layout(case.x.shape, dnnl.ABCD)
        mean, var = case.running()
        dgamma, dbeta = aligned((channels,)), aligned((channels,))
        x, out = case.x, case.out
        if not plain:
            x = self.blocked(nchw, layout, case.x)
        memories = {dnnl.SRC: lib.memory(layout, x), dnnl.GAMMA: lib.memory(vector, case.w)}
        memories |= {dnnl.MEAN: lib.memory(vector, mean), dnnl.VARIANCE: lib.memory(vector, var)}
        forward = memories | {dnnl.BETA: lib.memory(vector, case.b), dnnl.DST: lib.memory(layout, out)}
        keep = [x, mean, var, dgamma, dbeta, case]  # oneDNN holds addresses only
        if op == "batch_norm_inference":
            description = lib.forward(layout, dnnl.INFERENCE, EPS, FLAGS | dnnl.GLOBAL_STATS)
            run = lib.runner(lib.primitive(description), forward)
        else:
            description = hint = lib.forward(layout, dnnl.TRAINING, EPS, FLAGS)
            run = lib.runner(lib.primitive(description), forward)
            if op == "batch_norm_backward":
                run()  # leaves the saved statistics in mean and var
                dy = case.dy if plain else self.blocked(nchw, layout, case.dy)
                keep.append(dy)
                description = lib.backward(layout, EPS, FLAGS, hint)
                memories |= {dnnl.DIFF_DST: lib.memory(layout, dy), dnnl.DIFF_SRC: lib.memory(layout, out)}
                memories |= {dnnl.DIFF_GAMMA: lib.memory(vector, dgamma), dnnl.DIFF_BETA: lib.memory(vector, dbeta)}
                run = lib.runner(lib.primitive(description), memories)

        def result(_: object, keep=keep) -> tuple[np.ndarray, ...]:
            y = out
            if not plain:
                y = aligned(out.shape)
                lib.reorder(layout, out, nchw, y)
            return (y, dgamma, dbeta) if op == "batch_norm_backward" else (y,)

        says = f"dnnl batch_normalization, {name}, {lib.implementation(description)}, and dnnl_stream_wait"
        return Contender(f"{NAME} {name}", name, says, run, result)

    def grouped(self, op: str, case: Case) -> Contender:
        lib, x, out = self.library, case.x, case.out
        samples, channels = x.shape[:2]
        layout, vector = lib.layout(x.shape, dnnl.ABCD), lib.vector(channels)
        each = lib.layout((samples, case.groups), dnnl.AB)
        mean, var = aligned((samples, case.groups)), aligned((samples, case.groups))
        dgamma, dbeta = aligned((channels,)), aligned((channels,))
        memories = {dnnl.SRC: lib.memory(layout, x), dnnl.GAMMA: lib.memory(vector, case.w)}
        memories |= {dnnl.MEAN: lib.memory(each, mean), dnnl.VARIANCE: lib.memory(each, var)}
        description = lib.group_forward(layout, case.groups, EPS, FLAGS)
        forward = memories | {dnnl.BETA: lib.memory(vector, case.b), dnnl.DST: lib.memory(layout, out)}
        run = lib.runner(lib.primitive(description), forward)
        if op == "group_norm_backward":
            run()  # leaves the saved statistics in mean and var
            description = lib.group_backward(layout, case.groups, EPS, FLAGS, description)
            memories |= {dnnl.DIFF_DST: lib.memory(layout, case.dy), dnnl.DIFF_SRC: lib.memory(layout, out)}
            memories |= {dnnl.DIFF_GAMMA: lib.memory(vector, dgamma), dnnl.DIFF_BETA: lib.memory(vector, dbeta)}
            run = lib.runner(lib.primitive(description), memories)
        keep = [x, mean, var, dgamma, dbeta, case]  # oneDNN holds addresses only

        def result(_: object, keep=keep) -> tuple[np.ndarray, ...]:
            return (out, dgamma, dbeta) if op == "group_norm_backward" else (out,)

        says = f"dnnl group_normalization, nchw, {lib.implementation(description)}, and dnnl_stream_wait"
        return Contender(f"{NAME} nchw", "nchw", says, run, result)

    def blocked(self, nchw, layout, array: np.ndarray) -> np.ndarray:
        out = aligned(array.shape)
        self.library.reorder(nchw, array, layout, out)
        return out
