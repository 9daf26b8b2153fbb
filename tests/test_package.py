"""What is given away beside the code: locked dependencies, and the licences of those that are compiled in."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("cargo") is None, reason="asks cargo")


def cargo(*arguments):
    """What it prints; `--locked` makes it fail where Cargo.lock is not that of the manifests."""
    done = subprocess.run(
        ["cargo", *arguments, "--locked", "--offline"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_lock_file_is_that_of_the_manifests():
    assert '"normkit"' in cargo("metadata", "--format-version", "1")


def test_a_source_distribution_can_be_built(tmp_path):
    """It leaves out the crate that fuzzes: what is left must do without it, and without the network."""
    pytest.importorskip("maturin")

    def maturin(*arguments, cwd):
        """As pip calls it."""
        command = [sys.executable, "-m", "maturin", *arguments]
        environment = os.environ | {"CARGO_NET_OFFLINE": "true"}
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    maturin("sdist", "--out", tmp_path, cwd=ROOT)
    (packed,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(packed, tmp_path)
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert (unpacked / "Cargo.lock").is_file()
    metadata = ("--metadata-directory", tmp_path / "metadata", "--interpreter", sys.executable)
    maturin("pep517", "write-dist-info", *metadata, cwd=unpacked)


def test_licences_are_those_of_the_crates():
    """`make licences` writes them; it is due when a dependency comes, goes or gets another version."""
    tree = cargo("tree", "--package", "normkit-python", "--edges", "normal", "--prefix", "none", "--format", "{p}")
    crates = {tuple(line.split()[:2]) for line in tree.splitlines() if line and not line.startswith("normkit")}
    text = (ROOT / "THIRD-PARTY-LICENSES.txt").read_text()
    assert {
        (name, f"v{version}") for name, version in re.findall(r"^  ([a-z]\S*) (\d\S*)(?: http\S*)?$", text, re.M)
    } == crates
    assert len(crates) > 10
