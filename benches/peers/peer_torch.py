"""PyTorch, at its best: raw kernels without autograd, and in "out" mode the faster of two ways to reuse memory.

Only `native_batch_norm.out` has a kernel that writes to `out`. The `.out` of the backward and of group norm are
generated: they compute into new memory and then copy. To charge PyTorch neither for the copy nor for page faults, its
plain calls are timed as well with an allocator that keeps its pages (see pages.py), and the faster of the two counts.
"""

import torch
import torch.nn.functional as F  # noqa: N812

from case import EPS, MOMENTUM, Case, Contender

NAME = "PyTorch"
aten = torch.ops.aten
ALL = [True, True, True]


def arrays(*tensors: torch.Tensor):
    return tuple(t.numpy() for t in tensors)


class Peer:
    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.version = torch.__version__
        self.notes = torch.__config__.parallel_info().strip()

    def contenders(self, op: str, mode: str, case: Case) -> list[Contender]:
        plain_says, plain, out_says, out, result = self.calls(op, case)
        if mode == "fresh":
            return [Contender(NAME, "fresh", plain_says, plain, result)]
        kept = f"{plain_says}, pages kept by the allocator"
        return [
            Contender(NAME, "out variant", out_says, out, result),
            Contender(NAME, "reused pages", kept, plain, result, reuse_pages=True),
        ]

    def calls(self, op: str, case: Case):
        tensors = (case.x, case.dy, case.out, case.weight, case.bias, *case.running())
        x, dy, out, w, b, rm, rv = map(torch.from_numpy, tensors)
        N, C = x.shape[:2]
        groups, inner = case.groups, x.numel() // (N * C)
        dw, db, mean, rstd = (torch.empty(C) for _ in range(4))
        if op in ("batch_norm", "batch_norm_inference"):
            train = op == "batch_norm"
            args = (x, w, b, rm, rv, train, MOMENTUM if train else 0.0, EPS)
            if not train:
                mean, rstd = torch.empty(0), torch.empty(0)
            return (
                f"F.batch_norm(x, rm, rv, w, b, training={train})",
                lambda: F.batch_norm(x, rm, rv, w, b, train, args[6], EPS),
                f"aten.native_batch_norm.out(x, w, b, rm, rv, {train}, …, out=)",
                lambda: aten.native_batch_norm.out(*args, out=out, save_mean=mean, save_invstd=rstd)[0],
                lambda y: arrays(y),
            )
        if op == "group_norm":
            mean, rstd = torch.empty(N, groups), torch.empty(N, groups)
            args = (x, w, b, N, C, inner, groups, EPS)
            return (
                "F.group_norm(x, groups, w, b)",
                lambda: F.group_norm(x, groups, w, b, EPS),
                "aten.native_group_norm.out(x, w, b, …, out0=) (generated: computes, then copies)",
                lambda: aten.native_group_norm.out(*args, out0=out, out1=mean, out2=rstd)[0],
                lambda y: arrays(y),
            )
        if op == "batch_norm_backward":
            _, mean, rstd = aten.native_batch_norm(x, w, b, rm, rv, True, MOMENTUM, EPS)
            args = (dy, x, w, rm, rv, mean, rstd, True, EPS, ALL)
            name, function = "native_batch_norm_backward", aten.native_batch_norm_backward
        else:
            _, mean, rstd = aten.native_group_norm(x, w, b, N, C, inner, groups, EPS)
            args = (dy, x, mean, rstd, w, N, C, inner, groups, ALL)
            name, function = "native_group_norm_backward", aten.native_group_norm_backward
        return (
            f"aten.{name}(dy, x, …)",
            lambda: function.default(*args),
            f"aten.{name}.out(dy, x, …, out0=) (generated: computes, then copies)",
            lambda: function.out(*args, out0=out, out1=dw, out2=db),
            lambda r: arrays(*r),
        )
