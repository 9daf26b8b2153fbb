"""Moments of an array on disk, by dask workers that each have memory for a small part of it: `make demo-dask`.

`normkit.Moments` can be pickled and merged in any order, so `Moments.merge` is the reduction of a dask bag as it is:
every task reads some samples and sends back 2 numbers per channel. Writes out/out_of_core.png, .npz and .json.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import dask.bag
import numpy as np
from dask.distributed import Client, LocalCluster, progress, wait
from dask.utils import format_bytes, parse_bytes
from distributed.diagnostics import MemorySampler
from rich.console import Console
from rich.progress import track
from rich.table import Table

import normkit as nk
from digits.report import make_console

CHANNELS, SIDE = 8, 32
SAMPLE_BYTES = CHANNELS * SIDE**2 * 4
BLOCK_BYTES = 8 * 2**20  # what a task reads


def main() -> int:
    """Write the array, take its moments, check and show them; 0 if they are the whole array's."""
    args = parse_arguments()
    console = make_console()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "activations.npy"
    try:
        rows = blocks(max(1, args.size // SAMPLE_BYTES))
        write_activations(path, rows, console)
        console.print(
            f"{path}: {format_bytes(path.stat().st_size)} on disk, {CHANNELS} channels of {SIDE} x {SIDE} pixels; "
            f"{args.workers} workers with {format_bytes(args.memory_limit)} each"
        )
        start = time.perf_counter()
        found, peak, samples = by_workers(path, rows, args, console)
        seconds = time.perf_counter() - start
        console.print(f"{len(rows)} tasks in {seconds:.1f} s; a worker never used more than {format_bytes(peak)}")
        whole = by_numpy(path, rows, console)
        size = path.stat().st_size
    finally:
        if not args.keep:
            path.unlink(missing_ok=True)

    console.print(table(found, whole))
    np.savez(args.out / "out_of_core.npz", count=found.count, mean=found.mean, m2=found.m2)
    summary = {"array_bytes": size, "memory_limit": args.memory_limit, "worker_peak_bytes": peak, "seconds": seconds}
    (args.out / "out_of_core.json").write_text(json.dumps(summary, indent=2) + "\n")
    plot(samples, size, args, found, args.out / "out_of_core.png")
    console.print(f"Picture and numbers: {args.out.resolve()}/out_of_core.*", soft_wrap=True)
    if not equal(found, whole):
        print("out_of_core: the merged moments are not those of the whole array", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_bytes, default="2 GiB", help="of the array on disk (default 2 GiB)")
    parser.add_argument("--memory-limit", type=parse_bytes, default="160 MiB", help="of a worker (default 160 MiB)")
    parser.add_argument("--workers", type=int, default=2, help="number of worker processes (default 2)")
    parser.add_argument("--keep", action="store_true", help="leave the array in the output directory")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where to write (default ./out)")
    return parser.parse_args()


def blocks(count: int) -> list[tuple[int, int]]:
    """First and last sample (exclusive) of every task."""
    step = BLOCK_BYTES // SAMPLE_BYTES
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def write_activations(path: Path, rows: list[tuple[int, int]], console: Console) -> None:
    """Normal float32 (N, C, H, W), each channel with another mean, to 1e4 standard deviations, block by block."""
    shape = (rows[-1][1], CHANNELS, SIDE, SIDE)
    array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    mean = np.float32(10) ** np.arange(-3, CHANNELS - 3, dtype=np.float32).reshape(-1, 1, 1)
    rng = np.random.default_rng(0)
    for start, stop in track(rows, "writing", console=console, disable=not console.is_terminal):
        values = rng.standard_normal((stop - start, *shape[1:]), np.float32)
        drift = np.float32(start / shape[0])  # so that blocks differ
        array[start:stop] = values + (mean + drift)
    array.flush()


def block_moments(rows: tuple[int, int], path: Path) -> nk.Moments:
    """Per channel, of some samples of the array in `path`; all a worker does."""
    array = np.load(path, mmap_mode="r")
    return nk.moments(array[slice(*rows)], axis=(0, 2, 3))


def by_workers(
    path: Path, rows: list[tuple[int, int]], args: argparse.Namespace, console: Console
) -> tuple[nk.Moments, int, list[tuple[float, int]]]:
    """The moments of the whole array, the most memory that a worker has used, and that of all workers over time."""
    cluster = LocalCluster(
        n_workers=args.workers, threads_per_worker=1, memory_limit=args.memory_limit, dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        workers = client.run(os.getpid)
        parts = dask.bag.from_sequence(rows, partition_size=1).map(block_moments, path=path.resolve())
        sampler = MemorySampler()
        with sampler.sample("process", client=client, measure="process", interval=0.1):
            future = client.compute(parts.fold(nk.Moments.merge, split_every=8))
            if console.is_terminal:
                progress(future)
            wait(future)
        found = future.result()
        if client.run(os.getpid) != workers:
            raise RuntimeError("a worker was restarted: it exceeded its memory limit")
        return found, max(client.run(peak_memory).values()), sampler.samples["process"]


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def by_numpy(path: Path, rows: list[tuple[int, int]], console: Console) -> tuple[np.ndarray, np.ndarray]:
    """Mean and m2 by their definitions in float64, in two passes over the array: what must come out."""
    array = np.load(path, mmap_mode="r")
    shape = (1, CHANNELS, 1, 1)
    mean = np.zeros(CHANNELS)
    shift = array[0].mean((1, 2), np.float64).reshape(shape)  # of deviations, so that sums keep their digits
    m2 = np.zeros(CHANNELS)
    for start, stop in track(rows, "checking", console=console, disable=not console.is_terminal):
        mean += (array[start:stop].astype(np.float64) - shift).sum((0, 2, 3))
    mean = shift.ravel() + mean / (len(array) * SIDE**2)
    for start, stop in track(rows, "checking", console=console, disable=not console.is_terminal):
        m2 += np.square(array[start:stop].astype(np.float64) - mean.reshape(shape)).sum((0, 2, 3))
    return mean, m2


def errors(found: nk.Moments, whole: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of mean and variance, in ulps of float32; a mean's ulp is at least that of the standard deviation."""
    mean, m2 = whole
    deviation = np.sqrt(m2 / found.count)
    ulp = np.spacing(np.maximum(np.abs(mean), deviation).astype(np.float32))
    return np.abs(found.mean - mean) / ulp, np.abs(found.m2 / m2 - 1) / np.finfo(np.float32).eps


def equal(found: nk.Moments, whole: tuple[np.ndarray, np.ndarray]) -> bool:
    """Within the 4 ulp of float32 that `moments` promises for one array, though there were many."""
    return all((error <= 4).all() for error in errors(found, whole))


def table(found: nk.Moments, whole: tuple[np.ndarray, np.ndarray]) -> Table:
    """The channels' statistics, and how far they are from the whole array's."""
    result = Table(title="Merged from all tasks, against two passes of NumPy in float64", title_justify="left")
    for heading in ("Channel", "Mean", "Variance", "Error of the mean", "Error of the variance (ulp of float32)"):
        result.add_column(heading, justify="right")
    for channel, (mean, var, *wrong) in enumerate(zip(found.mean, found.var(), *errors(found, whole), strict=True)):
        result.add_row(str(channel), f"{mean:.6f}", f"{var:.6f}", *(f"{error:.1e}" for error in wrong))
    return result


def plot(samples: list[tuple[float, int]], size: int, args: argparse.Namespace, found: nk.Moments, path: Path) -> None:
    """Memory of all workers over time, below the size of the array; and how many numbers each task sends."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from digits.plots import GREY, LOOK

    with rc_context(LOOK):
        figure = Figure(figsize=(10, 5.6), layout="constrained")
        axes = figure.subplots()
        seconds, used = np.array(samples, float).T
        limit = args.workers * args.memory_limit
        axes.plot(seconds - seconds[0], used / 2**20, color="#0072B2", label=f"{args.workers} workers use")
        for value, label in ((size, "array on disk"), (limit, f"limit of {args.workers} workers")):
            axes.axhline(value / 2**20, color=GREY, ls="--", lw=1.4)
            axes.annotate(f"{label}, {format_bytes(value)}", (0, value / 2**20), (4, 4), textcoords="offset points")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="Seconds", ylabel="MiB", ylim=(16, size / 2**20 * 2))
        axes.legend(loc="lower right")
        axes.set_title(
            f"Moments of {found.count * CHANNELS / 1e6:.0f} million numbers, "
            f"{size / args.memory_limit:.0f} times a worker's memory limit"
        )
        figure.savefig(path, dpi=150)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
