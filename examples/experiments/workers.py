"""The SyncBN arm of the batch size sweep: two processes under MPI, each with half of every batch.

As a program, `mpiexec -n 2 python -m mpi4py -m experiments.workers RUNS`, it trains all runs of a JSON list and prints
one line of JSON for each. `sync_runs` starts that program.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from digits.nn import Layer
from experiments.batches import RATE, Outcome, Run, build, fit, load
from experiments.parallel import one_thread
from experiments.training import SGD

EXAMPLES = Path(__file__).parents[1]


def missing() -> str | None:
    """Why this arm cannot run here; None: it can."""
    if importlib.util.find_spec("normkit.distributed") is None:
        return "this normkit has no SyncBatchNorm"
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed (pip install 'normkit[mpi]')"
    return None if launcher() else "there is no mpiexec"


def launcher() -> str | None:
    """The mpiexec of this Python's environment, or the system's."""
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return shutil.which("mpiexec", path=places)


def sync_runs(runs: Sequence[Run]) -> Iterator[tuple[Run, Outcome]]:
    """Train all runs in two processes; each result as soon as it is there."""
    command = [
        str(launcher()),
        "-n",
        "2",
        sys.executable,
        "-m",
        "mpi4py",
        "-m",
        "experiments.workers",
        json.dumps(runs),
    ]
    paths = os.pathsep.join(filter(None, (str(EXAMPLES), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
    ) as process:
        for run, line in zip(runs, process.stdout, strict=False):
            yield run, Outcome(*json.loads(line))
        if process.wait() != 0:
            raise RuntimeError(f"the two workers ended with status {process.returncode}; see above")


class Averaged:
    """An optimizer whose gradients are first averaged over all ranks."""

    def __init__(self, optimizer: SGD, comm: object) -> None:
        self.optimizer = optimizer
        self.comm = comm

    def step(self) -> None:
        """One message for all gradients, then the optimizer's step."""
        gradients = [gradient for layer in self.optimizer.layers for gradient in layer.grads.values()]
        own = np.concatenate([gradient.ravel() for gradient in gradients])
        total = np.empty_like(own)
        self.comm.Allreduce(own, total)
        start = 0
        for gradient in gradients:
            gradient.flat = total[start : start + gradient.size] / self.comm.size
            start += gradient.size
        self.optimizer.step()


def sync_norm(run: Run, comm: object) -> Callable[[int], Layer]:
    """SyncBN over all ranks, for a number of channels."""
    from normkit.distributed import SyncBatchNorm

    return lambda channels: SyncBatchNorm(channels, momentum=run.momentum, comm=comm)


def main() -> None:
    """Every rank trains every run; the first one says what came of it."""
    from mpi4py import MPI

    one_thread()
    comm = MPI.COMM_WORLD
    for run in (Run(*fields) for fields in json.loads(sys.argv[1])):
        data = load(run)
        network = build(run, sync_norm(run, comm), data)
        optimizer = SGD(network.layers, RATE * run.total / 64, momentum=0.9)
        outcome = fit(network, Averaged(optimizer, comm).step, run, data, comm.rank)
        losses = comm.allgather(outcome.train_loss)
        if comm.rank == 0:
            print(json.dumps(outcome._replace(train_loss=float(np.mean(losses)))), flush=True)


if __name__ == "__main__":
    main()
