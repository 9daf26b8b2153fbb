"""Inputs in [0, 1] beside inputs in [0, 10000], raw and standardized: `make experiment-ranges`.

A linear model by full-batch gradient descent at its best constant rate, and a network on digits by SGD, each at the
learning rate that suits it best. Claims: LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, sections 4.3 and 5.
"""

import sys

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from digits.data import bundled_digits
from experiments.command import Settings, progress, run
from experiments.findings import Findings, Table, percent, spread, verdict
from experiments.pictures import band, slide
from experiments.ranges import (
    INPUT_NORM,
    RANGE,
    RAW,
    STANDARDIZED,
    Curve,
    Descent,
    best_rate,
    descend,
    linear_problem,
    standardize,
    steps_until,
    train,
    views,
)

SOURCE = "LeCun et al. 1998"
TUNING_SEED = 1000  # rates are chosen on it; no result is reported of it
CLOSE = 0.01


def experiment(console: Console, settings: Settings) -> Findings:
    """Both parts, over all seeds."""
    steps, epochs = (100, 2) if settings.quick else (10_000, 10)
    rates = 10.0 ** np.arange(-6, 1.1, 1 if settings.quick else 0.5)
    linear: dict[str, list[Descent]] = {RAW: [], STANDARDIZED: []}
    curves: dict[str, list[Curve]] = {RAW: [], STANDARDIZED: [], INPUT_NORM: []}
    data = bundled_digits()
    if settings.quick:
        data = data.first(320)

    with progress(console, total=settings.seeds + len(curves) * (settings.seeds + 1)) as on_run:
        for seed in range(settings.seeds):
            inputs, targets = linear_problem(np.random.default_rng(seed))
            linear[RAW].append(descend(inputs, targets, steps))
            linear[STANDARDIZED].append(descend(*standardize(inputs), targets, steps))
            on_run(f"linear model, seed {seed}")
        tuning = views(data, np.random.default_rng(TUNING_SEED))
        chosen = {}
        for arm, images in tuning.items():
            chosen[arm] = best_rate(arm, images, data, rates, epochs, TUNING_SEED)
            on_run(f"{arm}  best learning rate {chosen[arm]:.1e}")
        for seed in range(settings.seeds):
            for arm, images in views(data, np.random.default_rng(seed)).items():
                curves[arm].append(train(arm, images, data, chosen[arm], epochs, seed))
                on_run(f"seed {seed}, {arm}  train loss {curves[arm][-1].losses[-1]:.4f}")
    return findings(linear, curves, chosen, len(data.train_labels), settings.seeds)


def share_left(shares: np.ndarray) -> str:
    """A share of the excess loss; what is below float64's rounding is not worth its digits."""
    return "< 1e-15" if shares.max() < 1e-15 else spread(shares, digits=5)


def findings(
    linear: dict[str, list[Descent]],
    curves: dict[str, list[Curve]],
    chosen: dict[str, float],
    images: int,
    seeds: int,
) -> Findings:
    """Tables, verdicts and the picture."""
    steps, epochs = len(linear[RAW][0].excess) - 1, len(curves[RAW][0].losses) - 1
    left = {arm: np.array([d.excess[-1] for d in descents]) for arm, descents in linear.items()}
    final = {arm: np.array([c.losses[-1] for c in runs]) for arm, runs in curves.items()}
    accuracy = {arm: np.array([c.accuracy for c in runs]) for arm, runs in curves.items()}
    heard = {arm: np.array([c.heard for c in runs]) for arm, runs in curves.items()}
    reached = {arm: [steps_until(d.excess, CLOSE) for d in descents] for arm, descents in linear.items()}
    train_accuracy = {arm: np.array([c.train_accuracy for c in runs]) for arm, runs in curves.items()}

    tables = [
        Table(
            f"Linear model, two features, {steps:,} steps of full-batch gradient descent at the best constant rate",
            ("Inputs", "Condition number", "Rate", f"Steps to {CLOSE:.0%} of the excess loss", "Excess loss left"),
            [
                (
                    arm,
                    spread([d.condition for d in descents]),
                    spread([d.rate for d in descents]),
                    f"not in {steps:,}" if None in reached[arm] else spread([c for c in reached[arm] if c is not None]),
                    share_left(left[arm]),
                )
                for arm, descents in linear.items()
            ],
        ),
        Table(
            f"MLP on digits, a random half of the pixels in [0, {RANGE}], {epochs} epochs of SGD, batch 32",
            (
                "Inputs",
                "Best rate",
                "Train loss",
                "Train accuracy",
                "Test accuracy",
                "Answers that need the pixels in [0, 1]",
            ),
            [
                (
                    arm,
                    f"{chosen[arm]:.1e}",
                    spread(final[arm]),
                    percent(train_accuracy[arm]),
                    percent(accuracy[arm]),
                    percent(heard[arm]),
                )
                for arm in curves
            ],
        ),
    ]
    verdicts = [
        verdict(
            SOURCE,
            "The spread of the Hessian's eigenvalues sets the pace of gradient descent; standardizing removes it",
            f"condition number {np.mean([d.condition for d in linear[RAW]]):.1e} raw, "
            f"{np.mean([d.condition for d in linear[STANDARDIZED]]):.2f} standardized; after {steps:,} steps "
            f"{share_left(left[RAW])} of the excess loss is left raw, {share_left(left[STANDARDIZED])} standardized",
            [a is None and b is not None for a, b in zip(reached[RAW], reached[STANDARDIZED], strict=True)],
        ),
        verdict(
            SOURCE,
            "A network learns faster from standardized inputs, each at its best learning rate",
            f"train loss {spread(final[RAW])} raw, {spread(final[STANDARDIZED])} standardized; "
            f"test accuracy {percent(accuracy[RAW])} and {percent(accuracy[STANDARDIZED])}",
            (final[STANDARDIZED] < final[RAW]) & (accuracy[STANDARDIZED] > accuracy[RAW]),
        ),
        verdict(
            SOURCE,
            "Raw, the features of small range are not learned from",
            f"answers that change when the pixels in [0, 1] are replaced by their mean: {percent(heard[RAW])} raw, "
            f"{percent(heard[STANDARDIZED])} standardized",
            (heard[RAW] < 0.05) & (heard[STANDARDIZED] > heard[RAW]),
        ),
        verdict(
            "Ioffe & Szegedy 2015",
            "A batch norm as the first layer does the same to raw inputs",
            f"test accuracy {percent(accuracy[INPUT_NORM])}; standardized {percent(accuracy[STANDARDIZED])}; "
            "judged: within 2 points",
            np.abs(accuracy[INPUT_NORM] - accuracy[STANDARDIZED]) < 0.02,
        ),
    ]
    setting = (
        f"Linear model: 1000 samples, y = the sum of both features as shares of their ranges + noise of 0.1. "
        f"MLP: scikit-learn digits, {images} training images, two hidden layers of 128, no norm inside; each at the "
        f"learning rate of highest final training accuracy on a further seed. {seeds} seeds, mean ± deviation."
    )

    def picture() -> Figure:
        title = (
            f"Inputs in [0, 1] beside [0, {RANGE:,}]: {accuracy[RAW].mean():.0%} test accuracy raw, "
            f"{accuracy[STANDARDIZED].mean():.0%} standardized"
        )
        note = f"Each at its best learning rate; line: mean of {seeds} seeds, band: lowest to highest"
        with slide(title, f"Gradient descent on raw and on standardized inputs\n{note}") as (figure, panels):
            first, second = panels[0]
            for index, arm in enumerate(linear):
                excess = np.maximum([d.excess for d in linear[arm]], 1e-16)
                marked = np.unique(np.geomspace(1, steps, 12).astype(int))
                band(first, np.arange(1, steps + 1), excess[:, 1:], arm, index, markevery=list(marked - 1))
            first.set(xscale="log", yscale="log", xlabel="Step", title="Linear model: share of the excess loss left")
            first.set_ylim(1e-17, 3)
            for index, arm in enumerate(curves):
                band(second, np.arange(epochs + 1), np.array([c.losses for c in curves[arm]]), arm, index)
            second.set(yscale="log", xlabel="Epoch", title="MLP on digits: training loss")
            for panel in panels[0]:
                panel.legend()
        return figure

    numbers = {
        "linear": {arm: [d._asdict() | {"excess": d.excess[-1]} for d in descents] for arm, descents in linear.items()},
        "mlp": {arm: [c._asdict() | {"losses": c.losses.tolist()} for c in runs] for arm, runs in curves.items()},
        "rates": chosen,
    }
    return Findings(setting, tables, verdicts, {"": picture}, numbers)


if __name__ == "__main__":
    sys.exit(run("ranges", __doc__, 5, experiment))
