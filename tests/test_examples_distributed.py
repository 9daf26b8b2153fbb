"""The examples of data-parallel training and of precise statistics: they run, and their numbers are looked at."""

import csv
import json
from pathlib import Path

import numpy as np

from subprocesses import output

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_three_ranks_have_the_loss_curve_of_one(tmp_path):
    output(str(EXAMPLES / "data_parallel.py"), "--epochs=2", f"--out={tmp_path}", timeout=300)
    curves = json.loads((tmp_path / "data_parallel.json").read_text())
    one, sync, own = (np.array(curve["losses"]) for curve in curves.values())
    assert len(one) == 2 * (1437 // 16)
    assert one[-20:].mean() < one[:20].mean() / 3, "it learns"
    # float64: a step adds some 1e-16, 178 steps some 1e-14; and the examples' bound leaves room for a thousand.
    np.testing.assert_allclose(sync, one, rtol=1e-12)
    assert np.abs(own / one - 1).max() > 0.1, "without synchronization it would show"
    accuracies = [curve["accuracy"] for curve in curves.values()]
    assert accuracies[0] == accuracies[1]
    assert (tmp_path / "data_parallel.png").stat().st_size > 10_000


def test_precise_statistics_are_better_early(tmp_path):
    """Wu & Johnson 2021, section 3: the moving average lags behind the weights, the more the smaller its momentum."""
    output(str(EXAMPLES / "precise_bn.py"), "--seeds=2", "--steps=20", f"--out={tmp_path}", timeout=300)
    losses = {}
    with (tmp_path / "precise_bn.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            losses.setdefault((row["statistics"], int(row["step"])), []).append(float(row["loss"]))
    average = [np.mean(losses[f"moving average, momentum {momentum}", 20]) for momentum in ("0.1", "0.01", "0.001")]
    precise = np.mean(losses["precise statistics", 20])
    assert precise < average[0] < average[1] < average[2]
    assert (tmp_path / "precise_bn.png").stat().st_size > 10_000
