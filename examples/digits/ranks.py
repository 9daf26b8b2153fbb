"""Starting a program on several MPI ranks, with the mpiexec of PyPI's mpich or the machine's own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# One thread per rank: there may be fewer cores than ranks. Open MPI alone minds that, and being root.
ENVIRONMENT = {
    "NORMKIT_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


class LaunchError(Exception):
    """There is no mpiexec, or a rank failed; the message says which."""


def launch(ranks: int, *arguments: str) -> Iterator[str]:
    """The lines that `mpiexec -n ranks python -m mpi4py *arguments` prints, as they come."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    mpiexec = shutil.which("mpiexec", path=path)
    if mpiexec is None:
        raise LaunchError("no mpiexec found: pip install mpich, or install an MPI")
    command = [mpiexec, "-n", str(ranks), sys.executable, "-m", "mpi4py", *arguments]
    environment = os.environ | ENVIRONMENT
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        try:
            yield from run.stdout
        finally:
            if run.stdout.read(1):  # the caller has left early
                run.terminate()
    if run.returncode:
        raise LaunchError(f"{ranks} ranks ended with exit status {run.returncode}")
