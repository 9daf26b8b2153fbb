"""Data-parallel training on MPI ranks, the same as on one: `make demo-mpi`, or `python examples/data_parallel.py`.

Each rank holds the network and takes its shard of every batch; gradients are summed over the ranks. With SyncBatchNorm
the loss curve of 3 ranks is that of 1 rank. With a BatchNorm per rank it is not: each normalizes by its own shard.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import Progress
from rich.table import Table

import normkit as nk
from digits.data import bundled_digits
from digits.models import mlp
from digits.nn import Layer, Sequential, softmax_cross_entropy
from digits.ranks import LaunchError, launch
from digits.report import make_console

BATCH_SIZE = 16  # of all ranks together; 3 ranks take 6, 5 and 5
LEARNING_RATE = 0.1
RANKS = 3
SAME = 1e-12
"""The largest relative difference of losses that counts as rounding. The network is float64: a step adds some 1e-16,
hundreds of steps some 1e-13. Other statistics differ by 1e-2 in the first step already, see the table."""


class Curve(NamedTuple):
    """One training: the loss of every step, and how the network then does on the test images."""

    name: str
    losses: np.ndarray
    accuracy: float


def main() -> int:
    """Train three times, compare and show; 0 if SyncBatchNorm on several ranks was the same as one process."""
    args = parse_arguments()
    if args.rank_of is not None:
        train_on_this_rank(args.rank_of, args.epochs, args.seed)
        return 0
    console = make_console()
    args.out.mkdir(parents=True, exist_ok=True)
    runs = {
        "1 rank": (1, "sync"),
        f"{RANKS} ranks, SyncBatchNorm": (RANKS, "sync"),
        f"{RANKS} ranks, a BatchNorm each": (RANKS, "own"),
    }
    try:
        with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
            curves = [train(name, *how, args, bar) for name, how in runs.items()]
    except LaunchError as error:
        print(f"data_parallel: {error}", file=sys.stderr)
        return 2

    one, synchronized, own = curves
    console.print(table(curves))
    same = difference(synchronized, one).max() <= SAME
    console.print(
        f"SyncBatchNorm: {RANKS} ranks train {'as one does' if same else 'otherwise than one'}; the losses of "
        f"{len(one.losses)} steps differ by {difference(synchronized, one).max():.1e} of their size at most "
        f"(allowed {SAME:g}). A BatchNorm each: by {difference(own, one).max():.1e}."
    )
    path = args.out / "data_parallel.png"
    plot(curves, path)
    numbers = {curve.name: {"losses": curve.losses.tolist(), "accuracy": curve.accuracy} for curve in curves}
    (args.out / "data_parallel.json").write_text(json.dumps(numbers) + "\n")
    console.print(f"Picture and numbers: {path.resolve()}, data_parallel.json", soft_wrap=True)
    return 0 if same else 1


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="epochs per training (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where to write (default ./out)")
    parser.add_argument("--rank-of", choices=("sync", "own"), help=argparse.SUPPRESS)  # what mpiexec starts
    return parser.parse_args()


def train(name: str, ranks: int, norm: str, args: argparse.Namespace, bar: Progress) -> Curve:
    """One training by `ranks` processes, showing progress."""
    task = bar.add_task(name, total=args.epochs)
    losses: list[float] = []
    accuracy = float("nan")
    for line in launch(ranks, __file__, f"--rank-of={norm}", f"--epochs={args.epochs}", f"--seed={args.seed}"):
        epoch = json.loads(line)
        losses += epoch["losses"]
        accuracy = epoch["accuracy"]
        bar.advance(task)
        if len(losses) == args.epochs * len(epoch["losses"]):
            bar.console.print(f"  {name:26}  loss {losses[-1]:.6f}  test accuracy {100 * accuracy:.1f} %")
    return Curve(name, np.array(losses), accuracy)


def train_on_this_rank(norm: str, epochs: int, seed: int) -> None:
    """What every rank does; the first prints a line per epoch."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    data = bundled_digits()
    images, labels = data.train_images.astype(np.float64), data.train_labels

    def make_norm(channels: int) -> Layer:
        if norm == "own":
            return nk.BatchNorm(channels, dtype=np.float64)
        return nk.SyncBatchNorm(channels, comm=comm, dtype=np.float64)

    network = in_float64(mlp(data.image_shape, np.random.default_rng([seed, 0]), make_norm))
    order = np.random.default_rng([seed, 1])  # the same on every rank
    for _ in range(epochs):
        network.train()
        losses = []
        shuffled = order.permutation(len(labels))
        for start in range(0, len(labels) - BATCH_SIZE + 1, BATCH_SIZE):
            shard = np.array_split(shuffled[start : start + BATCH_SIZE], comm.size)[comm.rank]
            loss, gradient = softmax_cross_entropy(network(images[shard]), labels[shard])
            share = len(shard) / BATCH_SIZE  # the loss is a mean over the whole batch
            network.backward(gradient * share)
            losses.append(step_together(network, loss * share, comm))
        if comm.rank == 0:
            network.eval()
            answers = network(data.test_images.astype(np.float64)).argmax(axis=1)
            accuracy = float((answers == data.test_labels).mean())
            print(json.dumps({"losses": losses, "accuracy": accuracy}), flush=True)


def in_float64(network: Sequential) -> Sequential:
    """So that rounding is far below anything else that could differ."""
    for layer in network.layers:
        for name in layer.params:
            layer.params[name] = layer.params[name].astype(np.float64)
            layer.grads[name] = layer.grads[name].astype(np.float64)
    return network


def step_together(network: Sequential, loss: float, comm) -> float:
    """Sum the loss and all gradients over the ranks, in one message, and go one step of gradient descent."""
    names = [(layer, name) for layer in network.layers for name in layer.params]
    message = np.concatenate([[loss], *(layer.grads[name].ravel() for layer, name in names)])
    total = np.empty_like(message)
    comm.Allreduce(message, total)
    end = 1
    for layer, name in names:
        parameter = layer.params[name]
        start, end = end, end + parameter.size
        parameter -= LEARNING_RATE * total[start:end].reshape(parameter.shape)
    return float(total[0])


def difference(curve: Curve, reference: Curve) -> np.ndarray:
    """Of the losses of each step, relative to `reference`."""
    return np.abs(curve.losses - reference.losses) / np.abs(reference.losses)


def table(curves: list[Curve]) -> Table:
    """The three trainings."""
    result = Table(title=f"{len(curves[0].losses)} steps of {BATCH_SIZE} digits, float64", title_justify="left")
    for heading in ("", "First loss", "Last loss", "Largest difference to 1 rank", "Test accuracy"):
        result.add_column(heading, justify="right" if heading else "left")
    for curve in curves:
        result.add_row(
            curve.name,
            f"{curve.losses[0]:.12f}",
            f"{curve.losses[-1]:.12f}",
            f"{difference(curve, curves[0]).max():.1e}",
            f"{100 * curve.accuracy:.1f} %",
        )
    return result


def plot(curves: list[Curve], path: Path) -> None:
    """The losses, and how far they are from one rank's."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from digits.plots import GREY, LOOK, SLIDE

    styles = (
        {"color": GREY, "lw": 6, "alpha": 0.4},
        {"color": "#0072B2", "lw": 1.6},
        {"color": "#D55E00", "lw": 1.2},
    )
    with rc_context(LOOK):
        figure = Figure(figsize=SLIDE, layout="constrained")
        losses, differences = figure.subplots(1, 2)
        smooth = np.ones(15) / 15
        for curve, style in reversed(list(zip(curves, styles, strict=True))):
            losses.plot(np.convolve(curve.losses, smooth, "valid"), label=curve.name, **style)
        for curve, style in list(zip(curves, styles, strict=True))[1:]:
            values = np.maximum(difference(curve, curves[0]), np.finfo(np.float64).eps / 2)
            differences.plot(values, label=curve.name, **style)
        losses.set(title="Training loss, mean of 15 steps", xlabel="Step", yscale="log")
        differences.set(title="Relative difference of the loss to 1 rank's", xlabel="Step", yscale="log")
        for axes in (losses, differences):
            axes.legend()
        figure.suptitle(
            f"{RANKS} ranks with SyncBatchNorm train as 1 rank does: losses agree to "
            f"{difference(curves[1], curves[0]).max():.0e}",
            fontweight="bold",
        )
        figure.savefig(path, dpi=150)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
