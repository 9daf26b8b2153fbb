"""Batch norm, batch renorm, group norm and SyncBN at batch 2 to 64: `make experiment-batch-size`.

Claims: Wu & He 2018, Group Normalization (batch norm suffers from small batches, group norm does not); Ioffe 2017,
Batch Renormalization. SyncBN runs under MPI in two processes, where mpi4py is installed; its batch is what each sees.
"""

import sys
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from experiments.batches import BATCH, BATCHES, GROUP, NETS, RENORM, SYNC, Outcome, Run, available, sweep
from experiments.command import Settings, progress, run
from experiments.findings import Findings, Table, Verdict, percent, spread, verdict
from experiments.parallel import each
from experiments.pictures import band, plain_numbers, slide
from experiments.workers import missing, sync_runs

GROUPS, RENORMALIZATION = "Wu & He 2018", "Ioffe 2017"
POINTS = 0.02  # of accuracy: what counts as a difference
USUAL = 32

Outcomes = dict[tuple[str, str, int], list[Outcome]]
Values = Callable[[str, str, int], np.ndarray]
"""Test accuracies by network, arm and batch, one for each seed."""


def experiment(console: Console, settings: Settings) -> Findings:
    """All runs: those of one process side by side, then SyncBN's."""
    batches = (2, USUAL // 2, USUAL) if settings.quick else BATCHES
    epochs, images = (1, 320) if settings.quick else (3, None)
    absent = missing()
    arms = [*available(), *([] if absent else [SYNC])]
    runs = [
        Run(net, arm, batch, seed, epochs, images)
        for net in NETS
        for arm in arms
        for batch in batches
        for seed in range(settings.seeds)
    ]
    alone, together = ([r for r in runs if (r.arm == SYNC) == sync] for sync in (False, True))
    found: dict[Run, Outcome] = {}
    with progress(console, total=len(runs)) as on_run:

        def keep(run: Run, outcome: Outcome) -> None:
            found[run] = outcome
            on_run(f"{run.net}, {run.arm}, batch {run.batch}, seed {run.seed}  {100 * outcome.test_accuracy:.1f} %")

        for index, outcome in each([(sweep, r) for r in alone]):
            keep(alone[index], outcome)
        if together:
            for r, outcome in sync_runs(together):
                keep(r, outcome)
    outcomes: Outcomes = {}
    for r in runs:
        outcomes.setdefault((r.net, r.arm, r.batch), []).append(found[r])
    notes = [f"Left out: {SYNC}: {absent}."] if absent else []
    if RENORM not in arms:
        notes.append(f"Left out: {RENORM}: this normkit has no BatchRenorm.")
    return findings(outcomes, arms, batches, settings.seeds, epochs, notes)


def findings(
    outcomes: Outcomes, arms: list[str], batches: tuple[int, ...], seeds: int, epochs: int, notes: list[str]
) -> Findings:
    """Tables, verdicts and the picture."""

    def values(net: str, arm: str, batch: int, field: str = "test_accuracy") -> np.ndarray:
        return np.array([getattr(outcome, field) for outcome in outcomes[net, arm, batch]])

    tables = []
    for net in NETS:
        rows = [(arm, *(percent(values(net, arm, batch)) for batch in batches)) for arm in arms]
        tables.append(Table(f"{net}: test accuracy by batch", ("Norm", *map(str, batches)), rows))
    rows = [
        (f"{net}, {arm}", *(spread(values(net, arm, batches[0], field)) for field in Outcome._fields[:3]))
        for net in NETS
        for arm in arms
    ]
    heads = ("Norm", "Training mode, last epoch", "Eval mode, training set", "Eval mode, test set")
    tables.append(Table(f"Loss at batch {batches[0]}", heads, rows))

    setting = (
        f"scikit-learn digits, {epochs} epochs of SGD with momentum 0.9, learning rate 0.1 per 64 images. MLP: two "
        f"hidden layers of 128, a channel's statistics are over as many values as there are images. Convnet: 16 and 32 "
        f"channels, 64 and 16 values per image. {seeds} seeds, mean ± deviation."
    )
    verdicts = [v for net in NETS for v in verdicts_on(net, values, arms, batches)]
    if SYNC in arms:
        verdicts += [sync_verdict(net, values, batches) for net in NETS]

    def picture() -> Figure:
        drop = {net: 100 * (values(net, BATCH, USUAL) - values(net, BATCH, batches[0])).mean() for net in NETS}
        title = f"From batch {USUAL} to {batches[0]}, batch norm loses " + " and ".join(
            f"{points:.1f} points ({net})" for net, points in drop.items()
        )
        note = f"{epochs} epochs on digits; line: mean of {seeds} seeds, band: lowest to highest"
        with slide(title, f"Test accuracy by batch size\n{note}") as (figure, panels):
            for panel, net in zip(panels[0], NETS, strict=True):
                for index, arm in enumerate(arms):
                    runs = np.array([100 * values(net, arm, batch) for batch in batches]).T
                    band(panel, batches, runs, arm, index)
                panel.set(title=f"{net}: test accuracy, %", xlabel="Batch (images per worker)")
                panel.set_xscale("log", base=2)
                panel.set_xticks(batches)
                plain_numbers(panel.xaxis)
                panel.legend(loc="lower right")
        return figure

    numbers = {" | ".join(map(str, key)): [o._asdict() for o in runs] for key, runs in outcomes.items()}
    return Findings(setting, tables, verdicts, {"": picture}, numbers, notes)


def verdicts_on(net: str, values: Values, arms: list[str], batches: tuple[int, ...]) -> list[Verdict]:
    """The papers' claims, for one network."""
    small = batches[0]
    batch_small, batch_usual, group_small, group_usual = (
        values(net, arm, batch) for arm in (BATCH, GROUP) for batch in (small, USUAL)
    )
    rule = f"judged: by more than {100 * POINTS:g} points"
    found = [
        verdict(
            GROUPS,
            f"{net}: batch norm's error rises when the batch shrinks",
            f"accuracy {percent(batch_usual)} at batch {USUAL}, {percent(batch_small)} at {small}; {rule}",
            batch_usual - batch_small > POINTS,
        ),
        verdict(
            GROUPS,
            f"{net}: group norm's does not",
            f"accuracy {percent(group_usual)} at batch {USUAL}, {percent(group_small)} at {small}; judged: it falls by "
            f"at most {100 * POINTS:g} points",
            group_usual - group_small <= POINTS,
        ),
        verdict(
            GROUPS,
            f"{net}: at batch {small} group norm is the better one",
            f"accuracy {percent(group_small)}, batch norm {percent(batch_small)}; {rule}",
            group_small - batch_small > POINTS,
        ),
    ]
    if RENORM in arms:
        renorm_small = values(net, RENORM, small)
        found.append(
            verdict(
                RENORMALIZATION,
                f"{net}: at batch {small} batch renorm is better than batch norm",
                f"accuracy {percent(renorm_small)}, batch norm {percent(batch_small)}; {rule}",
                renorm_small - batch_small > POINTS,
            )
        )
    return found


def sync_verdict(net: str, values: Values, batches: tuple[int, ...]) -> Verdict:
    """Two workers with b images each are one with 2b, but for rounding, which training can magnify."""
    pairs = [(b, 2 * b) for b in batches if 2 * b in batches]
    gaps = np.array([abs(values(net, SYNC, b) - values(net, BATCH, double)) for b, double in pairs])
    return verdict(
        "its definition",
        f"{net}: SyncBN on two workers is batch norm on twice the batch",
        f"largest difference of accuracy: {100 * gaps.max():.2f} points, at {len(pairs)} batch sizes; judged: at most "
        f"{100 * POINTS:g}",
        gaps.max(axis=0) <= POINTS,
    )


if __name__ == "__main__":
    sys.exit(run("batch-size", __doc__, 5, experiment))
