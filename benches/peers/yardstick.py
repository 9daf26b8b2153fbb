"""The memory's limit, on the same tensors in the same run: a parallel copy, or a parallel a + b for what
reads two tensors, such as a backward.

Each is done by PyTorch (where it is installed) and by NumPy on slices over threads that persist; the faster counts.
"""

import threading
from collections.abc import Callable
from itertools import pairwise
from queue import SimpleQueue

import numpy as np

from case import Case, Contender
from ops import ADD, Op

NAME = "yardstick"


class Pool:
    """Threads that wait for one slice each; the caller works too."""

    def __init__(self, threads: int) -> None:
        self.threads, self.done = threads, SimpleQueue()
        self.queues: list[SimpleQueue] = [SimpleQueue() for _ in range(threads - 1)]
        for queue in self.queues:
            threading.Thread(target=self.work, args=(queue,), daemon=True).start()

    def work(self, queue: SimpleQueue) -> None:
        while True:
            queue.get()()
            self.done.put(None)

    def run(self, tasks: list[Callable[[], object]]) -> None:
        for queue, task in zip(self.queues, tasks[1:], strict=True):
            queue.put(task)
        tasks[0]()
        for _ in self.queues:
            self.done.get()


class Yardstick:
    def __init__(self, threads: int) -> None:
        self.pool = Pool(threads)
        try:
            import torch

            from peer_torch import tensor
        except ImportError:
            self.torch = None
        else:
            self.torch, self.tensor = torch, tensor

    def contenders(self, op: Op, case: Case) -> list[Contender]:
        x, dy, out = map(case.flat, (case.x, case.dy, case.out))
        cuts = [x.size * i // self.pool.threads // 16 * 16 for i in range(self.pool.threads)] + [x.size]
        slices = [slice(a, b) for a, b in pairwise(cuts)]
        if op.limit == ADD:
            tasks = [lambda s=s: np.add(x[s], dy[s], out=out[s]) for s in slices]
        else:
            tasks = [lambda s=s: np.copyto(out[s], x[s]) for s in slices]
        says = f"np.{'add' if op.limit == ADD else 'copyto'} on {len(tasks)} slices, persistent threads"
        found = [Contender(NAME, f"{op.limit}, NumPy", says, lambda: self.pool.run(tasks))]
        if self.torch:
            tx, tdy, tout = map(self.tensor, (x, dy, out))
            if op.limit == ADD:
                says, call = "torch.add(x, dy, out=out)", lambda: self.torch.add(tx, tdy, out=tout)
            else:
                says, call = "out.copy_(x) (torch)", lambda: tout.copy_(tx)
            found.append(Contender(NAME, f"{op.limit}, PyTorch", says, call))
        return found
