"""Precise batch-norm statistics beside the moving average (Wu & Johnson 2021): `make demo-precise`.

A network with batch norm is trained on digits. After some steps the same weights are tested by moving averages of batch
norm's statistics, for three momenta, and by the precise statistics of some training images. Writes out/precise_bn.png
and .csv.
"""

import argparse
import copy
import csv
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import Progress
from rich.table import Table

import normkit as nk
from digits.data import Digits, bundled_digits
from digits.models import convnet
from digits.nn import Adam, Sequential, softmax_cross_entropy
from digits.report import make_console, mean_std
from digits.training import LEARNING_RATE, evaluate

BATCH_SIZE = 32
MOMENTA = (0.1, 0.01, 0.001)  # in Keras's sense 0.9, 0.99 and 0.999
PRECISE_IMAGES = 1024  # the paper's section 3: a thousand are enough
CHECKPOINTS = (1, 2, 5, 10, 20, 50, 100, 200, 400)


class Score(NamedTuple):
    """Loss and accuracy on the test images, by one kind of statistics."""

    loss: float
    accuracy: float


def main() -> int:
    """Train, test on the way, show."""
    args = parse_arguments()
    console = make_console()
    args.out.mkdir(parents=True, exist_ok=True)
    data = bundled_digits()
    steps = [step for step in CHECKPOINTS if step <= args.steps]
    results: dict[str, np.ndarray] = {}  # name -> (seeds, checkpoints, 2)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("training", total=args.seeds * len(steps))
        for seed in range(args.seeds):
            for at, scores in enumerate(train(data, seed, steps)):
                for name, score in scores.items():
                    of_all = results.setdefault(name, np.empty((args.seeds, len(steps), len(Score._fields))))
                    of_all[seed, at] = score
                bar.advance(task)

    console.print(table(results, steps))
    console.print(verdict(results, steps))
    write(results, steps, args.out / "precise_bn.csv")
    plot(results, steps, args.out / "precise_bn.png")
    console.print(f"Picture and numbers: {args.out.resolve()}/precise_bn.*", soft_wrap=True)
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="trainings (default 5)")
    parser.add_argument("--steps", type=int, default=CHECKPOINTS[-1], help=f"of each (default {CHECKPOINTS[-1]})")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where to write (default ./out)")
    return parser.parse_args()


def train(data: Digits, seed: int, steps: list[int]) -> Iterator[dict[str, Score]]:
    """The scores after each of `steps` steps.

    Only running statistics depend on the momentum, and training does not look at them: so one training carries a
    moving average for each momentum.
    """
    network = convnet(data.image_shape, np.random.default_rng([seed, 0]), partial(nk.BatchNorm, momentum=MOMENTA[0]))
    slower = {momentum: [copy.deepcopy(layer) for layer in norms(network)] for momentum in MOMENTA}
    for momentum, layers in slower.items():
        for layer in layers:
            layer.momentum = momentum
    optimizer = Adam(network.layers, LEARNING_RATE)
    order = np.random.default_rng([seed, 1])
    for step in range(1, steps[-1] + 1):
        network.train()
        batch = order.choice(len(data.train_labels), BATCH_SIZE, replace=False)
        gradient = forward_with_averages(network, slower, data.train_images[batch], data.train_labels[batch])
        network.backward(gradient)
        optimizer.step()
        if step in steps:
            yield test(network, slower, data, order)


def norms(network: Sequential) -> list[nk.BatchNorm]:
    """The network's batch norms."""
    return [layer for layer in network.layers if isinstance(layer, nk.BatchNorm)]


def forward_with_averages(
    network: Sequential, averages: dict[float, list[nk.BatchNorm]], images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """A forward pass that moves all the averages; returns the gradient of the logits."""
    x, at = images, 0
    for layer in network.layers:
        if isinstance(layer, nk.BatchNorm):
            for layers in averages.values():
                layers[at](x)
            at += 1
        x = layer(x)
    return softmax_cross_entropy(x, labels)[1]


def test(
    network: Sequential, averages: dict[float, list[nk.BatchNorm]], data: Digits, rng: np.random.Generator
) -> dict[str, Score]:
    """By each moving average, by precise statistics, and by the test images' own; the network stays as it is."""
    kept = [layer.state_dict() for layer in norms(network)]
    scores = {}
    for momentum, layers in averages.items():
        set_statistics(network, [(layer.running_mean, layer.running_var) for layer in layers])
        scores[f"moving average, momentum {momentum:g}"] = Score(*evaluate(network, data.test_images, data.test_labels))
    images = data.train_images[rng.choice(len(data.train_images), PRECISE_IMAGES, replace=False)]
    nk.precise_statistics(norms(network), network, np.split(images, len(images) // BATCH_SIZE))
    scores["precise statistics"] = Score(*evaluate(network, data.test_images, data.test_labels))
    for layer, state in zip(norms(network), kept, strict=True):
        layer.load_state_dict(state)
    return scores


def set_statistics(network: Sequential, statistics: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Give the batch norms other running statistics."""
    for layer, (mean, var) in zip(norms(network), statistics, strict=True):
        layer.running_mean[...], layer.running_var[...] = mean, var


def table(results: dict[str, np.ndarray], steps: list[int]) -> Table:
    """Mean and standard deviation over the seeds."""
    seeds = len(next(iter(results.values())))
    result = Table(title=f"Test error by the same weights, {seeds} seeds (mean ± std)", title_justify="left")
    result.add_column("Step", justify="right")
    for name in results:
        result.add_column(name.replace(", ", ",\n"), justify="right")
    for at, step in enumerate(steps):
        errors = (mean_std(1 - scores[:, at, 1], percent=True) for scores in results.values())
        result.add_row(str(step), *errors)
    return result


def verdict(results: dict[str, np.ndarray], steps: list[int]) -> str:
    """At which steps precise statistics were better in most seeds, and at which worse."""
    lines = ["Wu & Johnson: precise statistics are better and steadier than the moving average, early above all. Here:"]
    precise = results["precise statistics"]
    for name, scores in results.items():
        if scores is precise:
            continue
        for metric, gain in (
            ("loss", scores[:, :, 0] - precise[:, :, 0]),
            ("error", precise[:, :, 1] - scores[:, :, 1]),
        ):
            sides = [np.sign(np.sign(gain[:, at]).sum()) for at in range(len(steps))]
            better, worse = (
                ", ".join(str(step) for step, side in zip(steps, sides, strict=True) if side == sign) or "none"
                for sign in (1, -1)
            )
            lines.append(f"  {name}: precise test {metric} lower in most seeds at steps {better}; higher at {worse}")
    return "\n".join(lines)


def write(results: dict[str, np.ndarray], steps: list[int], path: Path) -> None:
    """Every number."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("statistics", "seed", "step", *Score._fields))
        for name, scores in results.items():
            for seed, run in enumerate(scores):
                writer.writerows((name, seed, step, *score) for step, score in zip(steps, run, strict=True))


def plot(results: dict[str, np.ndarray], steps: list[int], path: Path) -> None:
    """Test loss and error by step: mean of the seeds, in a band from the lowest to the highest."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from digits.plots import LOOK, SLIDE

    colors = ("#56B4E9", "#E69F00", "#D55E00", "#000000")
    with rc_context(LOOK):
        figure = Figure(figsize=SLIDE, layout="constrained")
        panels = figure.subplots(1, 2)
        for (name, scores), color, marker in zip(results.items(), colors, "os^D", strict=True):
            for axes, values in zip(panels, (scores[:, :, 0], 100 * (1 - scores[:, :, 1])), strict=True):
                axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.14, lw=0)
                axes.plot(steps, values.mean(axis=0), color=color, marker=marker, label=name)
        panels[0].set(title="Test loss", yscale="log")
        panels[1].set(title="Test error, %", yscale="log")
        for axes in panels:
            axes.set(xlabel="Training step", xscale="log")
            axes.set_xticks(steps, [str(step) for step in steps])
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panels[0].legend()
        figure.suptitle("The same weights, tested by moving averages and by precise statistics", fontweight="bold")
        figure.savefig(path, dpi=150)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
