"""What the demo says: progress, tables, findings, and the raw numbers as files."""

import csv
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from digits.folding import FoldCheck
from digits.training import OnEpoch, Scores, Trained

PLAIN_WIDTH = 120  # of a log file, which has none of its own


def make_console() -> Console:
    """A console that draws progress bars in a terminal and plain lines anywhere else."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


@contextmanager
def progress(console: Console, *, runs: int, epochs: int) -> Iterator[OnEpoch]:
    """A progress bar over all epochs of all runs (in a terminal), and a line for each finished run."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("training", total=runs * epochs)
        run_start = time.perf_counter()

        def on_epoch(name: str, seed: int, scores: list[Scores]) -> None:
            nonlocal run_start
            bar.update(task, advance=1, description=f"seed {seed}, {name}")
            if len(scores) == epochs:
                now = time.perf_counter()
                last = scores[-1]
                console.print(
                    f"  seed {seed}  {name:18}  train loss {last.train_loss:.4f}  test loss {last.test_loss:.4f}  "
                    f"test accuracy {100 * last.test_accuracy:5.1f} %  {now - run_start:5.1f} s"
                )
                run_start = now

        yield on_epoch


def epochs_table(results: Sequence[Trained], title: str) -> Table:
    """Mean ± standard deviation over the seeds, for every epoch and network."""
    table = Table(title=title, title_justify="left")
    table.add_column("Epoch", justify="right")
    table.add_column("Network")
    for heading in ("Train loss", "Test loss", "Train accuracy", "Test accuracy"):
        table.add_column(heading, justify="right")
    epochs = results[0].curves("test_loss").shape[1]
    for epoch in range(epochs):
        for result in results:
            table.add_row(
                str(epoch + 1) if result is results[0] else "",
                result.name,
                *(mean_std(result.curves(metric)[:, epoch]) for metric in ("train_loss", "test_loss")),
                *(mean_std(result.curves(metric)[:, epoch], percent=True) for metric in Scores._fields[2:]),
                end_section=result is results[-1],
            )
    return table


def mean_std(values: np.ndarray, *, percent: bool = False) -> str:
    """`0.123 ± 0.004` or `97.1 ± 0.4 %`; a single value has no spread (and the sample deviation divides by n - 1)."""
    spread = values.std(ddof=1) if len(values) > 1 else None
    if percent:
        return f"{100 * values.mean():.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}") + " %"
    return f"{values.mean():.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def duel(first: Trained, second: Trained, epoch: int) -> str:
    """Who was better on the test set after `epoch`, seed by seed."""

    def score(metric: str, sign: int) -> str:
        difference = sign * (first.curves(metric)[:, epoch - 1] - second.curves(metric)[:, epoch - 1])
        return f"{(difference > 0).sum()} of {difference.size} seeds (ties: {(difference == 0).sum()})"

    return (
        f"After epoch {epoch}, {first.name} against {second.name}: higher test accuracy for "
        f"{score('test_accuracy', 1)}, lower test loss for {score('test_loss', -1)}."
    )


def fold_table(checks: Sequence[FoldCheck]) -> Table:
    """The folded network against the original, for every seed."""
    table = Table(title="Batch norm folded into the convolutions: test logits", title_justify="left")
    headings = (
        "Seed",
        "Largest difference",
        "Relative",
        "Allowed difference",
        "Accuracy before",
        "After",
        "Answers changed",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for seed, check in enumerate(checks):
        table.add_row(
            str(seed),
            f"{check.largest_difference:.1e}",
            f"{check.relative_difference:.1e}",
            f"{check.allowed_difference:.1e}",
            f"{100 * check.accuracy_before:.1f} %",
            f"{100 * check.accuracy_after:.1f} %",
            str(check.changed_predictions),
        )
    return table


def times_table(times: dict[str, np.ndarray], batch_size: int) -> Table:
    """Median and quartiles of the inference times."""
    table = Table(title=f"Inference, ms per batch of {batch_size} images", title_justify="left")
    for heading in ("Network", "Median", "Quartiles"):
        table.add_column(heading, justify="left" if heading == "Network" else "right")
    for name, values in times.items():
        lower, median, upper = np.percentile(values, (25, 50, 75))
        table.add_row(name, f"{median:.2f}", f"{lower:.2f} to {upper:.2f}")
    return table


def folding_speed(before: np.ndarray, after: np.ndarray) -> str:
    """How fast the folded network is, in words that the measurement carries."""
    lower, median, upper = np.percentile(before / after, (25, 50, 75))
    if lower <= 1 <= upper:
        return "as fast, within the noise"
    return f"{median:.2f} times as fast"


def write_numbers(out: Path, parts: dict[str, Sequence[Trained]], summary: dict[str, object]) -> list[Path]:
    """`curves.csv` with every epoch of every run, and `summary.json` with the settings, the folding and the times."""
    curves_path, summary_path = out / "curves.csv", out / "summary.json"
    with curves_path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("part", "network", "seed", "epoch", *Scores._fields))
        for part, results in parts.items():
            for result in results:
                for seed, run in enumerate(result.scores):
                    writer.writerows((part, result.name, seed, epoch, *scores) for epoch, scores in enumerate(run, 1))
    summary_path.write_text(json.dumps(summary, indent=2) + "\n")
    return [curves_path, summary_path]
