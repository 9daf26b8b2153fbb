"""PyTorch, at its best: raw kernels without autograd, and in "out" mode the faster of two ways to reuse memory.

Only `native_batch_norm.out` has a kernel that writes to `out`. The other `.out` are generated: they compute into new
memory and then copy; some ops have none. To charge PyTorch neither for the copy nor for page faults, its plain calls
are timed as well with an allocator that keeps its pages (see pages.py), and the faster of the two counts.
"""

import re

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.utils.fusion import fuse_conv_bn_weights

import torch_chains
from case import EPS, MOMENTUM, Case, Contender
from ops import Op

NAME = "PyTorch"
SHARED = {"torch": torch, "F": F, "fuse_conv_bn_weights": fuse_conv_bn_weights, "eps": EPS, "momentum": MOMENTUM}
SHARED |= {name: value for name, value in vars(torch_chains).items() if not name.startswith("_")}


def tensor(array: object) -> object:
    """An array as a tensor on its memory, also of bfloat16; so with what lists hold; all else as it is."""
    if isinstance(array, (list, tuple)):
        return type(array)(map(tensor, array))
    if not isinstance(array, np.ndarray):
        return array
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def arrays(returned: object) -> tuple[np.ndarray, ...]:
    if isinstance(returned, torch.Tensor):
        return ((returned.float() if returned.dtype == torch.bfloat16 else returned).detach().numpy(),)
    return tuple(a for part in returned for a in arrays(part))


class Peer:
    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.version = torch.__version__
        self.notes = torch.__config__.parallel_info().strip()

    def contenders(self, op: Op, mode: str, case: Case) -> list[Contender]:
        code = op.torch
        if not code:
            return []
        names = self.names(f"{code.call} {code.out} {code.setup}", case)
        exec(code.setup, names)
        says = f"{code.call}{', where ' * bool(code.setup)}{code.setup}"
        plain = eval(f"lambda: {code.call}", names)
        if mode == "fresh":
            return [Contender(NAME, "fresh", says, plain, arrays)]
        kept = f"{says}; pages kept by the allocator"
        found = [Contender(NAME, "reused pages", kept, plain, arrays, reuse_pages=True)]
        if code.out:
            found.insert(0, Contender(NAME, "out variant", code.out, eval(f"lambda: {code.out}", names), arrays))
        return found

    def names(self, code: str, case: Case) -> dict[str, object]:
        """What the code of the table names, of this case."""
        N, C = (*case.x.shape, 1)[:2]
        names = SHARED | {"N": N, "C": C, "sizes": (N, C, case.x.size // (N * C), case.groups)}
        names |= dict(zip(("rm", "rv"), map(tensor, case.running()), strict=True))
        asked = set(re.findall(r"\w+", code)) - names.keys()
        return names | {name: tensor(getattr(case, name)) for name in asked if hasattr(case, name)}
