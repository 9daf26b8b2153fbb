"""PyTorch through torch.compile (inductor), whose kernels are C++ made for the very shape: needs a C++ compiler.

Its results are always new memory; in "out" mode the allocator keeps its pages (see pages.py). Its backward is
autograd's of the compiled forward; the graph is kept, only the gradients are timed.
"""

import shutil

from case import Case, Contender
from ops import Op
from peer_torch import Peer as Torch
from peer_torch import arrays

NAME = "torch.compile"


class Peer(Torch):
    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        compiler = next(filter(None, map(shutil.which, ("g++", "clang++"))), None)
        if not compiler:
            raise RuntimeError("no C++ compiler: inductor needs one")
        self.notes = f"inductor, {compiler}"

    def contenders(self, op: Op, mode: str, case: Case) -> list[Contender]:
        code = op.compiled
        if not code:
            return []
        names = self.names(f"{code.call} {code.setup}", case)
        exec(code.setup, names)
        call = eval(f"lambda: {code.call}", names)
        says = f"{code.call}, where {code.setup}"
        variant = "fresh" if mode == "fresh" else "reused pages"
        return [Contender(NAME, variant, says, call, arrays, reuse_pages=mode == "out")]
