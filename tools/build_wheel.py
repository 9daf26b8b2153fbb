"""Builds the manylinux wheel as others would: from the source distribution, in a fresh environment, far from the clone.

    python tools/build_wheel.py dist/normkit-0.1.0.tar.gz dist

zig is the linker, so that the wheel asks for no newer C library than its tag says, whatever machine builds it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from pythons import clean, quiet
from rich.console import Console

TAG = "manylinux2014"  # glibc 2.17, the oldest that Rust supports
HERE = Path(__file__).parents[1]


def main() -> None:
    """One wheel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdist", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="normkit-wheel-") as folder:
        away = Path(folder)
        quiet(sys.executable, "-m", "venv", away / "env")
        python = away / "env" / "bin" / "python"
        with console.status("A fresh environment with maturin and zig"):
            quiet(python, "-m", "pip", "install", "--quiet", "maturin[zig]>=1.9,<2")
        # Only registries' crates are shared with other builds.
        env = clean() | {"CARGO_TARGET_DIR": clean().get("CARGO_TARGET_DIR", str(HERE / "target" / "wheel"))}
        env |= {"PATH": f"{python.parent}:{env['PATH']}"}
        # No cache: pip would give the wheel of an older sdist of that name.
        build = (
            "-m",
            "pip",
            "wheel",
            "--no-cache-dir",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            given.out.resolve(),
        )
        options = f"--config-settings=build-args=--zig --compatibility {TAG}"
        with console.status(
            f"Building {given.sdist.name} (minutes: the kernels are compiled for each instruction set)"
        ):
            quiet(python, *build, options, "--wheel-dir", given.out.resolve(), given.sdist.resolve(), cwd=away, env=env)
    for wheel in given.out.glob("normkit-*.whl"):
        console.print(f"{wheel}: {wheel.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
