"""The interpreters of this machine, and empty environments for them."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename
from packaging.version import Version

ASK = (
    "import json, platform, sys, sysconfig; print(json.dumps([sys.executable, platform.python_version(),"
    "platform.python_implementation(), bool(sysconfig.get_config_var('Py_GIL_DISABLED'))]))"
)
# The first NumPy with wheels for a Python.
FIRST_NUMPY = {"3.10": "1.21.2", "3.11": "1.23.2", "3.12": "1.26.0", "3.13": "2.1.0", "3.14": "2.3.2"}


@dataclass(frozen=True)
class Python:
    """An interpreter that can load an abi3 wheel."""

    path: Path
    version: Version

    @property
    def minor(self) -> str:
        """As in 3.11."""
        return f"{self.version.major}.{self.version.minor}"

    def oldest_numpy(self, floor: str) -> str:
        """The oldest NumPy that the package asks for and this Python has wheels of."""
        return str(max(Version(floor), Version(FIRST_NUMPY.get(self.minor, floor))))


def candidates(given: Iterable[str]) -> Iterator[Path]:
    """Whatever may be a Python: those given, the search path's, pyenv's, the system's."""
    yield from map(Path, given)
    for folder in (*os.get_exec_path(), "/usr/bin", "/usr/local/bin"):
        yield from sorted(Path(folder).glob("python3*"))
    yield from sorted((Path.home() / ".pyenv" / "versions").glob("*/bin/python3"))


def interpreters(given: Iterable[str] = (), minimum: str = "3.10") -> list[Python]:
    """Each once, by version; those of one version at two places are two."""
    found: dict[Path, Python] = {}
    for candidate in candidates(given):
        if candidate.name.removeprefix("python3").strip(".0123456789"):
            continue  # python3-config
        answer = subprocess.run([candidate, "-Ic", ASK], capture_output=True, text=True, check=False)
        if answer.returncode:
            continue  # a shim of a version that is not chosen
        executable, version, implementation, without_gil = json.loads(answer.stdout)
        real = Path(executable).resolve()
        inside_venv = (Path(executable).parent.parent / "pyvenv.cfg").exists()
        if implementation == "CPython" and not without_gil and not inside_venv and Version(version) >= Version(minimum):
            found.setdefault(real, Python(real, Version(version)))
    return sorted(found.values(), key=lambda p: (p.version, p.path))


def environment(python: Python, folder: Path, *packages: str | Path) -> Path:
    """A fresh virtual environment with these packages and not even pip; its interpreter."""
    shutil.rmtree(folder, ignore_errors=True)
    quiet(python.path, "-m", "venv", "--without-pip", folder)
    inside = folder / "bin" / "python"
    quiet(sys.executable, "-m", "pip", "--python", inside, "install", "--quiet", "--only-binary=:all:", *packages)
    return inside


def metadata(wheel: Path) -> Message:
    """What the wheel says of itself."""
    name, version, _, _ = parse_wheel_filename(wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"{name}-{version}.dist-info/METADATA").decode())


def requirements(wheel: Path) -> list[Requirement]:
    """What the wheel needs, its extras apart."""
    every = map(Requirement, metadata(wheel).get_all("Requires-Dist", []))
    return [r for r in every if "extra ==" not in str(r.marker)]


def oldest_supported_numpy(wheel: Path) -> str:
    """The lower bound of the wheel's requirement."""
    numpy = next(r for r in requirements(wheel) if r.name == "numpy")
    return next(s.version for s in numpy.specifier if s.operator == ">=")


def clean() -> dict[str, str]:
    """The environment variables without those that change what Python imports or how normkit runs."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "NORMKIT_", "RAYON_", "PYO3_"))}


def quiet(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a command prints; if it fails, everything it printed, and the end."""
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=clean() if env is None else env,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}failed with status {done.returncode}")
    return done.stdout + done.stderr
