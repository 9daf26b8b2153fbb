"""The command behind docs/accuracy.md: it runs, its numbers are errors, the page is what its record says. No peers."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benches" / "peers"))  # last: there is another table.py

import accuracy
import accuracy_count
import accuracy_data
import accuracy_page
import record as records

TOP = Path(__file__).parents[1]
# Bounds of the contract in ulp at max(1, |y|) or so: 1e-6 is 8.4 eps. dx: three terms, each with errors of that size.
BOUNDS = {"y": 8.4, "dx": 40, "dweight": 40, "statistics": 4}
F32 = np.dtype(np.float32)


@pytest.fixture(scope="module")
def cells():
    return accuracy.measure([], tiny=True)


def test_every_norm_meets_every_distribution(cells):
    assert {c["library"] for c in cells} == {"normkit"}
    found = {(c["norm"], c["distribution"]) for c in cells if c["dtype"] == "float32"}
    assert found == {(row.name, d.name) for row in accuracy_data.NORMS for d in accuracy_data.DISTRIBUTIONS}
    assert all("y" in c and "dx" in c for c in cells)


def test_the_errors_keep_the_contract(cells):
    for c in cells:
        for quantity, bound in BOUNDS.items():
            if c["dtype"] == "float32":
                assert c.get(quantity, 0) <= bound, c
        if c["dtype"] != "float32":
            assert c["y"] <= 0.51, c  # rounded once from float32: half, and what float32 is off by


def test_an_error_is_counted_in_its_units():
    one, next_ = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    true = np.array([1, -1, 1, 1], np.longdouble)
    found = np.array([one, -one, next_, one])
    assert accuracy_count.ulps(found, true, F32) == 1
    assert accuracy_count.ulps(found[:2], true[:2], F32) == 0
    # Beside numbers of order 1, the last place of a number near 0 is theirs; alone it is its own.
    small = np.array([1e-6], np.float32)
    off = small + np.float32(2**-40)
    both = np.concatenate([off, np.float32([1, -1, 1])])
    assert accuracy_count.ulps(both, np.array([small[0], 1, -1, 1], np.longdouble), F32) < 1e-3
    assert accuracy_count.ulps(off, small.astype(np.longdouble), F32) == pytest.approx(2**-40 / np.spacing(small[0]))
    assert math.isinf(accuracy_count.ulps(np.array([np.nan, 1], F32), true[:2], F32))


def test_a_wrong_result_is_seen(monkeypatch):
    """A mean that is off by 100 float32 ulp of sigma, as x - mean in float32 would have it."""
    row = next(row for row in accuracy_data.NORMS if row.name == "batch_norm")
    right = accuracy.calls.results
    wrong = lambda returned: (right(returned)[0] + np.float32(100 * 2**-23), *right(returned)[1:])  # noqa: E731
    monkeypatch.setattr(accuracy.calls, "results", wrong)
    found = accuracy.cell(row, accuracy_data.DISTRIBUTIONS[0], "float32", [], tiny=True)
    assert found[0]["y"] > 20


def test_the_command_writes_a_record_a_page_and_a_picture(tmp_path):
    page = tmp_path / "docs" / "accuracy.md"
    page.parent.mkdir()
    shutil.copy(TOP / "docs" / "accuracy.md", page)
    command = [sys.executable, TOP / "benches" / "peers" / "accuracy.py", "--tiny", "--peers=", "--docs", page]
    folder = tmp_path / "benches" / "record"
    subprocess.run([*command, "--record", folder], check=True, capture_output=True, text=True)
    (record,) = folder.glob("*-accuracy.json")
    assert "Tiny sizes" in page.read_text()
    assert (page.parent / "images" / "accuracy.png").stat().st_size > 10_000
    check = [*command[:2], "--check", "--docs", page]
    subprocess.run(check, check=True, capture_output=True)
    record.write_text(record.read_text().replace('"y": 0.', '"y": 7.'))
    assert subprocess.run(check, check=False, capture_output=True).returncode == 1


def test_the_page_is_what_its_record_says():
    page = accuracy.PAGE
    path = (page.parent / accuracy.NAMED.search(page.read_text())[1]).resolve()
    assert accuracy_page.in_step(page, records.load(path), path)
