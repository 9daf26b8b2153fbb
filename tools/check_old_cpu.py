"""The wheel on CPUs that are older than this one, emulated by QEMU: no illegal instruction, and the right kernels.

    python tools/check_old_cpu.py dist/normkit-*.whl      needs qemu-x86_64 (Debian: qemu-user)

For each model, first that the emulation is honest: an instruction that the model lacks must end the process by SIGILL.
Then the smoke test of the wheel, with nothing but NumPy, and the instruction set that `show_config()` names there; then
that a better one, asked for by `NORMKIT_ISA`, is refused with an error.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version
from pythons import clean, environment, interpreters, oldest_supported_numpy, quiet
from rich.console import Console

SMOKE = Path(__file__).parents[1] / "tests" / "wheel_smoke.py"
AVX, AVX512 = bytes.fromhex("c5f877"), bytes.fromhex("62f17d48efc0")  # vzeroupper; vpxord zmm0, zmm0, zmm0
# Runs the bytes given in hex as a function.
EXECUTE = """
import ctypes, mmap, sys
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex(sys.argv[1]) + bytes([0xC3]))
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""
TRY = "import numpy as np, normkit as nk; nk.batch_norm(np.eye(4))"


@dataclass(frozen=True)
class Model:
    """A CPU by QEMU's name, what normkit must use there, an instruction it lacks, and a NumPy that runs on it."""

    name: str
    isa: str
    lacks: bytes
    better: str
    oldest_numpy: bool


MODELS = (
    # SSSE3: less than NumPy 2 asks for (x86-64-v2); 1.24 asks for SSE3.
    Model("Conroe", "baseline", AVX, "avx2", oldest_numpy=True),
    Model("Nehalem", "baseline", AVX, "avx2", oldest_numpy=False),
    Model("Haswell", "avx2", AVX512, "avx512", oldest_numpy=False),
)
console = Console()


def emulated(model: Model, *command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """What a command does on this CPU."""
    line = ["qemu-x86_64", "-cpu", model.name, *map(str, command)]
    return subprocess.run(line, capture_output=True, text=True, cwd="/", env=clean() | env, check=False)


def check(model: Model, python: Path) -> str:
    """The smoke test on one CPU; what it said of itself."""
    lacking = emulated(model, python, "-c", EXECUTE, model.lacks.hex())
    if lacking.returncode != -signal.SIGILL:
        sys.exit(f"check_old_cpu: {model.name} runs an instruction that it lacks (status {lacking.returncode})")
    start = time.perf_counter()
    done = emulated(model, python, SMOKE)
    took = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"check_old_cpu: {model.name}\n{done.stdout}{done.stderr}failed with status {done.returncode}")
    isa = re.search(r"^isa (\w+)", done.stdout, re.M)
    if isa is None or isa[1] != model.isa:
        sys.exit(f"check_old_cpu: {model.name} must use {model.isa}\n{done.stdout}")
    refused = emulated(model, python, "-c", TRY, NORMKIT_ISA=model.better)
    message = refused.stderr.strip().splitlines()[-1] if refused.stderr else ""
    if refused.returncode != 1 or model.better not in message:
        sys.exit(f"check_old_cpu: NORMKIT_ISA={model.better} on {model.name}: status {refused.returncode} {message}")
    parts = len(re.findall(r"^ok ", done.stdout, re.M))
    head = " · ".join(done.stdout.splitlines()[1:2])
    return f"{model.name}: {head} · {parts} parts ok in {took:.0f} s · {message}"


def main() -> None:
    """Every model, with the newest Python that has the NumPy it needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    given = parser.parse_args()
    if shutil.which("qemu-x86_64") is None:
        sys.exit("check_old_cpu: there is no qemu-x86_64 here (Debian: apt-get install qemu-user)")
    console.print(quiet("qemu-x86_64", "-version").splitlines()[0])
    found, floor = interpreters(), oldest_supported_numpy(given.wheel)
    with tempfile.TemporaryDirectory(prefix="normkit-old-") as folder:
        for model in MODELS:
            fit = [p for p in found if not model.oldest_numpy or Version(p.oldest_numpy(floor)) < Version("1.26")]
            if not fit:
                sys.exit(f"check_old_cpu: no Python here has a NumPy that runs on {model.name}")
            numpy = f"numpy=={fit[-1].oldest_numpy(floor)}" if model.oldest_numpy else "numpy"
            with console.status(f"{model.name}: Python {fit[-1].version}, {numpy}"):
                inside = environment(fit[-1], Path(folder) / model.name, given.wheel.resolve(), numpy)
                line = check(model, inside)
            console.print(f"[green]ok[/] {line}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
