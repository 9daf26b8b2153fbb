"""What is given away beside the code: locked dependencies, and the licences of those that are compiled in."""

import re
import shutil
import subprocess
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


def test_licences_are_those_of_the_crates():
    """`make licences` writes them; it is due when a dependency comes, goes or gets another version."""
    tree = cargo("tree", "--package", "normkit-python", "--edges", "normal", "--prefix", "none", "--format", "{p}")
    crates = {tuple(line.split()[:2]) for line in tree.splitlines() if line and not line.startswith("normkit")}
    text = (ROOT / "THIRD-PARTY-LICENSES.txt").read_text()
    assert {
        (name, f"v{version}") for name, version in re.findall(r"^  ([a-z]\S*) (\d\S*)(?: http\S*)?$", text, re.M)
    } == crates
    assert len(crates) > 10
