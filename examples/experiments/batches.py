"""Batch size sweep: what small batches cost batch norm, and what batch renorm, group norm and SyncBN make of them.

Every network sees the same number of images. The learning rate is proportional to the batch (Goyal et al. 2017, as Wu &
He 2018 use it), and so is the momentum of the running statistics, so that they look back on as many images whatever the
batch: what is left to differ is the noise of the batch's own statistics.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import normkit as nk
from digits.data import Digits, bundled_digits
from digits.models import convnet, mlp
from digits.nn import Layer, Sequential
from digits.training import evaluate
from experiments.training import SGD, shuffled_batches, train_step

BATCHES = (2, 4, 8, 16, 32, 64)
NETS: dict[str, Callable[..., Sequential]] = {"MLP": mlp, "convnet": convnet}
BATCH, RENORM, GROUP, SYNC = "batch norm", "batch renorm", "group norm", "sync batch norm, 2 workers"
RATE, MOMENTUM, WINDOW = 0.1, 0.1, 32
"""Learning rate for 64 images; the running statistics' momentum for `WINDOW` images."""


class Run(NamedTuple):
    """One training. For SyncBN, `batch` is what each worker sees."""

    net: str
    arm: str
    batch: int
    seed: int
    epochs: int
    images: int | None
    """Training images that are used; None: all."""

    @property
    def workers(self) -> int:
        return 2 if self.arm == SYNC else 1

    @property
    def total(self) -> int:
        """Images that share one step."""
        return self.batch * self.workers

    @property
    def momentum(self) -> float:
        """Of the running statistics, for batches of `total`."""
        return MOMENTUM * self.total / WINDOW


class Outcome(NamedTuple):
    """What a training came to; infinite and 0 where it diverged."""

    train_loss: float
    """In training mode, mean over the last epoch."""
    evaluated_loss: float
    """Of the training set in eval mode, after the last epoch."""
    test_loss: float
    test_accuracy: float


def available() -> list[str]:
    """The arms of one process that this normkit has."""
    return [arm for arm in (BATCH, RENORM, GROUP) if arm != RENORM or hasattr(nk, "BatchRenorm")]


def make_norm(run: Run, steps: int) -> Callable[[int], Layer]:
    """The norm of an arm, for a number of channels.

    Batch renorm has the paper's schedule, with its step 40,000 at the middle of this much shorter training.
    """
    if run.arm == GROUP:
        return lambda channels: nk.GroupNorm(channels // 4, channels)
    if run.arm == BATCH:
        return lambda channels: nk.BatchNorm(channels, momentum=run.momentum)
    pace = 40_000 / (steps / 2)
    return lambda channels: nk.BatchRenorm(
        channels,
        momentum=run.momentum,
        r_max=lambda step: float(np.interp(pace * step, (5_000, 40_000), (1, 3))),
        d_max=lambda step: float(np.interp(pace * step, (5_000, 25_000), (0, 5))),
    )


def load(run: Run) -> Digits:
    """The images that a run uses."""
    return bundled_digits().first(run.images)


def sweep(run: Run) -> Outcome:
    """Train and evaluate one network in this process."""
    data = load(run)
    network = build(run, make_norm(run, count_steps(run, data)), data)
    return fit(network, SGD(network.layers, RATE * run.total / 64, momentum=0.9).step, run, data)


def build(run: Run, norm: Callable[[int], Layer], data: Digits) -> Sequential:
    """Equal seeds give equal weights, whatever the norm."""
    return NETS[run.net](data.image_shape, np.random.default_rng([run.seed, 0]), norm)


def count_steps(run: Run, data: Digits) -> int:
    """Steps of a whole training."""
    return run.epochs * (len(data.train_labels) // run.total)


def fit(network: Sequential, step: Callable[[], None], run: Run, data: Digits, rank: int = 0) -> Outcome:
    """Train on this worker's part of every batch, then evaluate."""
    batches = shuffled_batches(len(data.train_labels), run.total, np.random.default_rng([run.seed, 1]))
    part = slice(rank * run.batch, (rank + 1) * run.batch)
    losses = []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(count_steps(run, data)):
            batch = next(batches)[part]
            losses.append(train_step(network, step, data.train_images[batch], data.train_labels[batch]))
        last = float(np.mean(losses[-max(1, len(losses) // run.epochs) :]))
        evaluated, _ = evaluate(network, data.train_images, data.train_labels)
        test_loss, accuracy = evaluate(network, data.test_images, data.test_labels)
    if not np.isfinite([last, evaluated, test_loss]).all():
        return Outcome(np.inf, np.inf, np.inf, 0.0)
    return Outcome(last, evaluated, test_loss, accuracy)
