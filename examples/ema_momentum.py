"""Running statistics by step for momenta 0.9, 0.99 and 0.999, and evaluation by them: `make experiment-momentum`.

Momentum in Keras' sense, the share that stays: normkit's and PyTorch's is one minus it. The network trains by the
statistics of the batch, so it is the same for every momentum; only what evaluation sees differs. Claims: Ioffe &
Szegedy 2015 (the moving average), Wu & Johnson 2021, Rethinking "Batch" in BatchNorm (what it misses).
"""

import sys

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from digits.data import bundled_digits
from experiments.averages import ARMS, CUMULATIVE, POPULATION, Checkpoint, checkpoints, settled_at, watch
from experiments.command import Settings, progress, run
from experiments.findings import Findings, Table, percent, spread, verdict
from experiments.pictures import band, plain_numbers, slide

NEAR = 0.02  # of accuracy
EARLY = 100
RETHINKING = "Wu & Johnson 2021"


def experiment(console: Console, settings: Settings) -> Findings:
    """Train once per seed, looking at all averages on the way."""
    steps = 150 if settings.quick else 3000
    data = bundled_digits()
    if settings.quick:
        data = data.first(320)
    runs = []
    with progress(console, total=settings.seeds * len(checkpoints(steps))) as on_run:
        for seed in range(settings.seeds):
            done: list[None] = []

            def on_look(seed: int = seed, done: list[None] = done) -> None:
                done.append(None)
                on_run(f"seed {seed}  {len(done)} of {len(checkpoints(steps))} looks" if len(done) % 10 == 0 else "")

            runs.append(watch(data, steps, seed, on_look))
    return findings(runs, len(data.train_labels))


def values(runs: list[list[Checkpoint]], field: str, arm: str) -> np.ndarray:
    """One of a checkpoint's fields for one kind of statistics, (seeds, checkpoints)."""
    return np.array([[getattr(checkpoint, field)[arm] for checkpoint in run] for run in runs])


def findings(runs: list[list[Checkpoint]], images: int) -> Findings:
    """Tables, verdicts and the picture."""
    seeds, steps = len(runs), np.array([checkpoint.step for checkpoint in runs[0]])
    accuracy = {arm: values(runs, "accuracy", arm) for arm in (*ARMS, POPULATION)}
    var_error = {arm: values(runs, "var_error", arm) for arm in ARMS}
    settled = {arm: [settled_at(run, arm, NEAR) for run in runs] for arm in ARMS}
    early = int(np.argmin(abs(steps - EARLY)))
    shown = [
        int(np.argmin(abs(np.log(steps / step)))) for step in (1, 10, 30, 100, 300, 1000, 3000) if step <= steps[-1]
    ]

    tables = [
        Table(
            "Test accuracy by the running statistics of each momentum (Keras' sense), and by the population's",
            ("Step", *ARMS, POPULATION),
            [(str(steps[i]), *(percent(accuracy[arm][:, i]) for arm in accuracy)) for i in shown],
        ),
        Table(
            "Error of the running variance, mean over the channels of |running / population - 1|",
            ("Step", *ARMS),
            [(str(steps[i]), *(spread(var_error[arm][:, i]) for arm in ARMS)) for i in shown],
        ),
        Table(
            "What the momentum alone says, and when evaluation was right",
            (
                "Momentum",
                "normkit's `momentum`",
                f"Weight of the start after {steps[early]} steps",
                f"Within {100 * NEAR:g} points of the population's accuracy from step",
            ),
            [
                (
                    arm,
                    "None" if stays is None else f"{1 - stays:g}",
                    "0" if stays is None else f"{stays ** int(steps[early]):.2g}",
                    " ".join(f"> {steps[-1]}" if s is None else str(s) for s in settled[arm]),
                )
                for arm, stays in ARMS.items()
            ],
        ),
    ]
    when = {arm: np.array([np.inf if step is None else step for step in settled[arm]]) for arm in ARMS}
    lost = {arm: accuracy[POPULATION][:, early] - accuracy[arm][:, early] for arm in ARMS}
    late = len(steps) - max(1, len(steps) // 10)
    end = {arm: var_error[arm][:, late:].mean(axis=1) for arm in ARMS}
    verdicts = [
        verdict(
            RETHINKING,
            "Early in training the moving average is not the population's statistics, and evaluation by it is wrong",
            f"points of test accuracy lost at step {steps[early]}: "
            + ", ".join(f"{100 * lost[arm].mean():.1f} with {arm}" for arm in ARMS)
            + f"; judged: more than {100 * NEAR:g} with 0.999",
            lost["0.999"] > NEAR,
        ),
        verdict(
            "its formula: the start weighs momentum^t",
            "The nearer the momentum is to 1, the later evaluation becomes right",
            "steps: " + "; ".join(f"{arm}: {' '.join(str(s or 'never') for s in settled[arm])}" for arm in ARMS),
            (when["0.9"] < when["0.99"]) & (when["0.99"] <= when["0.999"]),
        ),
        verdict(
            RETHINKING,
            "Late in training a short average is the noisier one: 0.9 is off by more than 0.99",
            f"error of the running variance over the last looks: {spread(end['0.9'])} and {spread(end['0.99'])}",
            end["0.9"] > end["0.99"],
        ),
        verdict(
            RETHINKING,
            "... and this noise costs accuracy",
            f"largest loss of accuracy over the last looks, in points, with 0.9: "
            f"{spread(100 * abs(accuracy['0.9'] - accuracy[POPULATION])[:, late:].max(axis=1))}; "
            f"judged: more than {100 * NEAR:g}",
            abs(accuracy["0.9"] - accuracy[POPULATION])[:, late:].max(axis=1) > NEAR,
        ),
        verdict(
            "its formula: no start in it",
            "A cumulative average (`momentum=None`) is right early",
            f"points lost at step {steps[early]}: {spread(100 * lost[CUMULATIVE])}; but it never forgets: variance off "
            f"by {spread(end[CUMULATIVE])} at the end; judged: fewer points lost than with 0.99 and 0.999",
            (lost[CUMULATIVE] < lost["0.99"]) & (lost[CUMULATIVE] < lost["0.999"]),
        ),
    ]
    setting = (
        f"The demo's convolutional network on scikit-learn digits, {images} training images, Adam 0.01, batch 32, "
        f"{steps[-1]} steps, looked at {len(steps)} times. One network per seed: all averages stand beside the same "
        f"batch norms. Population: the whole training set in one batch. {seeds} seeds, mean ± deviation."
    )

    def picture() -> Figure:
        percents = (f"{accuracy[arm][:, early].mean():.0%} with {arm}" for arm in ("0.999", "0.99", "0.9"))
        title = f"Evaluated after {steps[early]} steps: {', '.join(percents)}"
        note = f"Convolutional network on digits; line: mean of {seeds} seeds, band: lowest to highest"
        with slide(title, f"Running statistics by momentum (Keras' sense)\n{note}") as (figure, panels):
            first, second = panels[0]
            for index, arm in enumerate(accuracy):
                band(first, steps, 100 * accuracy[arm], arm, index, markevery=3)
            first.set(title="Test accuracy, %", ylim=(0, 101))
            for index, arm in enumerate(ARMS):
                band(second, steps, var_error[arm], arm, index, markevery=3)
            second.set(title="Error of the running variance, relative", yscale="log")
            for panel in panels[0]:
                finish(panel)
        return figure

    numbers = {"checkpoints": [[checkpoint._asdict() for checkpoint in run] for run in runs], "settled": settled}
    return Findings(setting, tables, verdicts, {"": picture}, numbers)


def finish(panel: Axes) -> None:
    """The axis of steps, and the legend."""
    panel.set(xscale="log", xlabel="Step")
    plain_numbers(panel.xaxis)
    panel.legend()


if __name__ == "__main__":
    sys.exit(run("momentum", __doc__, 5, experiment))
