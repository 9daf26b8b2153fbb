"""Train real networks on handwritten digits in plain NumPy with normkit: `make demo`, or `python examples/demo.py`.

Part 1: a multilayer perceptron with and without batch norm. Part 2: a small convolutional network with batch norm and
with group norm; then batch norm is folded into the convolutions, checked and timed.
"""

import argparse
import platform
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console

from digits import models, plots, report
from digits.data import DataError, Digits, bundled_digits, mnist
from digits.folding import FoldCheck, check_fold, fold_batch_norm, time_inference
from digits.training import BATCH_SIZE, EVALUATION_BATCH, LEARNING_RATE, Build, Trained, compare


def main() -> int:
    """Run both parts; 0 if all went well, 1 if folding changed more than rounding, 2 for unusable input."""
    args = parse_arguments()
    console = report.make_console()
    start = time.perf_counter()
    try:
        data = (mnist(args.mnist) if args.mnist else bundled_digits()).first(args.limit)
        args.out.mkdir(parents=True, exist_ok=True)
        if len(data.train_labels) < BATCH_SIZE:
            raise DataError(f"a batch needs {BATCH_SIZE} training images, found {len(data.train_labels)}")
    except (DataError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2

    setting = (
        f"{data.name}, {len(data.train_labels)} training and {len(data.test_labels)} test images; "
        f"Adam, learning rate {LEARNING_RATE}, batch {BATCH_SIZE}"
    )
    console.print(f"{setting}; seeds: {args.seeds}, epochs: {args.epochs}")
    mlp_results, mlp_path = mlp_part(console, data, setting, args)
    conv_results, checks, times, conv_path = conv_part(console, data, setting, args)
    written = report.write_numbers(
        args.out,
        {"mlp": mlp_results, "convnet": conv_results},
        {
            "data": data.name,
            "train_images": len(data.train_labels),
            "test_images": len(data.test_labels),
            "seeds": args.seeds,
            "epochs": args.epochs,
            "batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in ("numpy", "normkit")}},
            "folding": [check._asdict() for check in checks],
            "inference_ms": {name: values.tolist() for name, values in times.items()},
        },
    )

    console.print(f"\nDone in {time.perf_counter() - start:.0f} s. Pictures and raw numbers:")
    for path in (mlp_path, conv_path, *written):
        console.print(f"  {path.resolve()}", soft_wrap=True)
    if not all(check.passed for check in checks):
        print("demo: folding changed the network by more than rounding; see the table above", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mnist",
        type=Path,
        metavar="DIR",
        help="use the original MNIST (IDX) files in DIR; all of it takes hours: try --limit 6000 --seeds 2",
    )
    parser.add_argument("--limit", type=positive_int, metavar="N", help="use only the first N training images")
    parser.add_argument("--seeds", type=positive_int, metavar="N", help="runs per network (default 5)")
    parser.add_argument("--epochs", type=positive_int, metavar="N", help="epochs per run (default 10)")
    parser.add_argument("--quick", action="store_true", help="a first look: 2 seeds and 3 epochs unless told otherwise")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where to write (default ./out)")
    args = parser.parse_args()
    args.seeds = args.seeds or (2 if args.quick else 5)
    args.epochs = args.epochs or (3 if args.quick else 10)
    return args


def positive_int(text: str) -> int:
    """A positive integer from the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {value}")
    return value


def mlp_part(console: Console, data: Digits, setting: str, args: argparse.Namespace) -> tuple[list[Trained], Path]:
    """The classic comparison; returns the runs and where the picture is."""
    console.print("\n[bold]Part 1: a multilayer perceptron with and without batch norm[/]")
    builds = {
        "with batch norm": partial(models.mlp, data.image_shape, norm=models.batch_norm),
        "without batch norm": partial(models.mlp, data.image_shape, norm=None),
    }
    results = train_all(console, builds, data, args)
    console.print(report.epochs_table(results, "2 x Linear-BN-ReLU, Linear; with and without BN (mean ± std)"))
    for epoch in sorted({1, args.epochs}):
        console.print(report.duel(*results, epoch))

    path = args.out / "mlp.png"
    with_norm, without = (100 * result.curves("test_accuracy").mean(axis=0) for result in results)
    title = f"Batch norm: {with_norm[0]:.1f} % test accuracy after one epoch (without: {without[0]:.1f} %)"
    if args.epochs > 1:
        title += f", {with_norm[-1]:.1f} % after {args.epochs} ({without[-1]:.1f} %)"
    plots.plot_mlp(results, title, f"{setting}\nMLP, two hidden layers of 128; {spread_note(args.seeds)}", path)
    return results, path


def conv_part(
    console: Console, data: Digits, setting: str, args: argparse.Namespace
) -> tuple[list[Trained], list[FoldCheck], dict[str, np.ndarray], Path]:
    """Batch norm against group norm, and folding; returns the runs, the checks, the times and where the picture is."""
    console.print("\n[bold]Part 2: a convolutional network with batch norm and with group norm[/]")
    builds = {
        "BatchNorm": partial(models.convnet, data.image_shape, norm=models.batch_norm),
        "GroupNorm": partial(models.convnet, data.image_shape, norm=models.group_norm),
    }
    results = train_all(console, builds, data, args)
    console.print(report.epochs_table(results, "2 x Conv-norm-ReLU-pool, Linear (mean ± std)"))
    for epoch in sorted({1, args.epochs}):
        console.print(report.duel(*results, epoch))

    originals = results[0].networks
    folded = [fold_batch_norm(network) for network in originals]
    checks = [check_fold(*pair, data.test_images, data.test_labels) for pair in zip(originals, folded, strict=True)]
    console.print()
    console.print(report.fold_table(checks))

    batch = data.test_images[:EVALUATION_BATCH]
    contestants = (originals[0], folded[0], results[1].networks[0])
    times = time_inference(dict(zip(("BatchNorm", "BatchNorm, folded", "GroupNorm"), contestants, strict=True)), batch)
    speed = report.folding_speed(times["BatchNorm"], times["BatchNorm, folded"])
    console.print()
    console.print(report.times_table(times, len(batch)))
    console.print(f"Folded, inference is {speed}; what is left is NumPy: convolutions, pooling, ReLU.")

    path = args.out / "convnet.png"
    batch_norm, group_norm = (100 * result.curves("test_accuracy")[:, -1].mean() for result in results)
    title = f"Test accuracy {batch_norm:.1f} % (BatchNorm), {group_norm:.1f} % (GroupNorm); folded, {speed}"
    subtitle = f"{setting}\n3x3 convolutions, 16 and 32 channels; {spread_note(args.seeds)}; bars: median, quartiles"
    plots.plot_convnet(results, times, title, subtitle, path)
    return results, checks, times, path


def train_all(console: Console, builds: dict[str, Build], data: Digits, args: argparse.Namespace) -> list[Trained]:
    """Train every network with every seed, showing progress."""
    with report.progress(console, runs=len(builds) * args.seeds, epochs=args.epochs) as on_epoch:
        return compare(builds, data, seeds=args.seeds, epochs=args.epochs, on_epoch=on_epoch)


def spread_note(seeds: int) -> str:
    """What lines and bands of the pictures are."""
    return "one seed" if seeds == 1 else f"line: mean of {seeds} seeds, band: lowest to highest"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
