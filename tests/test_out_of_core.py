"""`Moments` as the reduction of dask.distributed: an array on disk, many times a worker's memory limit."""

import json
from pathlib import Path

import numpy as np

import normkit as nk
from subprocesses import output
from tolerance import STATISTIC, assert_within, eps_of, ulp

EXAMPLE = Path(__file__).parents[1] / "examples" / "out_of_core.py"


def test_workers_with_little_memory_find_the_moments_of_the_whole(tmp_path):
    """The example itself checks against NumPy in float64 and that no worker was restarted; here, the whole at once."""
    limit = 120
    output(
        str(EXAMPLE),
        f"--size={5 * limit}MiB",
        f"--memory-limit={limit}MiB",
        "--keep",
        f"--out={tmp_path}",
        timeout=120,
        NORMKIT_NUM_THREADS="1",
    )
    summary = json.loads((tmp_path / "out_of_core.json").read_text())
    found = np.load(tmp_path / "out_of_core.npz")
    array = np.load(tmp_path / "activations.npy", mmap_mode="r")
    (tmp_path / "activations.npy").unlink()
    assert summary["worker_peak_bytes"] < summary["memory_limit"] == limit * 2**20
    assert array.nbytes >= 5 * summary["memory_limit"] * 0.99

    whole = nk.moments(array, (0, 2, 3))
    assert found["count"] == whole.count == array.size // array.shape[1]
    # Both are within the promise for one array, 4 ulp: the merge of 75 parts adds only roundings in float64.
    n, f32 = STATISTIC[4], np.float32
    assert_within(
        found["mean"], whole.mean, 2 * n * ulp(np.maximum(np.abs(whole.mean), np.sqrt(whole.var())), f32), "mean"
    )
    assert_within(found["m2"], whole.m2, 2 * n * eps_of(f32) * whole.m2, "m2")
    assert (tmp_path / "out_of_core.png").stat().st_size > 10_000
