"""Starting programs on several ranks; MPI comes with the dev extra (PyPI's mpich), so nothing has to be installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
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


def mpiexec():
    """The launcher beside this Python, or the machine's."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = shutil.which("mpiexec", path=path)
    assert found, "no mpiexec: install the dev extra (pip install normkit[dev]), which has PyPI's mpich"
    return found


def run(ranks, *arguments, timeout=120):
    """`mpiexec -n ranks python -m mpi4py *arguments` in tests/. A hang is a failure, and leaves nothing behind."""
    command = [mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpi4py", *map(str, arguments)]
    with subprocess.Popen(
        command,
        cwd=HERE,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()  # mpiexec ends its ranks, then itself
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def output(ranks, *arguments, timeout=120):
    """What the program printed; it must succeed."""
    done = run(ranks, *arguments, timeout=timeout)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
