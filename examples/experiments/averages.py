"""EMA momentum: running statistics by step, and what evaluation by them gets wrong early in training.

Training uses the statistics of the batch, so the running ones do not act on it. One network is trained, and beside each
of its batch norms stand others that see the same inputs and differ in their momentum alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import normkit as nk
from digits.data import Digits
from digits.models import convnet
from digits.nn import Adam, Layer, Sequential
from digits.training import LEARNING_RATE, evaluate
from experiments.training import shuffled_batches, train_step

CUMULATIVE, POPULATION = "cumulative", "population"
ARMS: dict[str, float | None] = {"0.9": 0.9, "0.99": 0.99, "0.999": 0.999, CUMULATIVE: None}
"""Keras' sense, the share that stays; normkit and PyTorch count the share that comes. None: the average of all."""


class WatchedBatchNorm:
    """A batch norm that trains by the batch, with running statistics of several momenta beside it.

    In eval mode it is the one named by `using`. `measure` makes the next forward in training mode a measurement: the
    batch, which should be the whole training set, gives the population's statistics and nothing else changes.
    """

    def __init__(self, channels: int) -> None:
        self.batch = nk.BatchNorm(channels, track_running_stats=False)
        self.params, self.grads = self.batch.params, self.batch.grads
        self.averages = {
            name: nk.BatchNorm(channels, momentum=None if stays is None else 1 - stays) for name, stays in ARMS.items()
        }
        self.averages[POPULATION] = nk.BatchNorm(channels, momentum=1.0)
        for norm in self.averages.values():
            norm.params = self.params
        self.training, self.measure, self.using = True, False, POPULATION

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if not self.training:
            return self.averages[self.using].eval()(x)
        if self.measure:
            return self.averages[POPULATION].train()(x)
        for name in ARMS:
            self.averages[name].train()(x)
        return self.batch(x)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return self.batch.backward(dy)

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def eval(self) -> None:
        self.train(False)


class Checkpoint(NamedTuple):
    """What every kind of running statistics is worth after some step; `POPULATION` is the reference."""

    step: int
    accuracy: dict[str, float]
    loss: dict[str, float]
    mean_error: dict[str, float]
    """Mean over all channels of |running mean - population mean|, in the population's standard deviations."""
    var_error: dict[str, float]
    """Mean over all channels of |running variance / population variance - 1|."""


def checkpoints(steps: int) -> list[int]:
    """Steps to look at, about ten per decade."""
    return sorted({*np.geomspace(1, steps, round(10 * np.log10(steps)) + 1).round().astype(int).tolist()})


def watch(data: Digits, steps: int, seed: int, on_look: Callable[[], None] = lambda: None) -> list[Checkpoint]:
    """Train the demo's convolutional network for `steps` steps and look at the checkpoints."""
    norms: list[WatchedBatchNorm] = []

    def watched(channels: int) -> Layer:
        norms.append(WatchedBatchNorm(channels))
        return norms[-1]

    network = convnet(data.image_shape, np.random.default_rng([seed, 0]), watched)
    optimizer = Adam(network.layers, LEARNING_RATE)
    batches = shuffled_batches(len(data.train_labels), 32, np.random.default_rng([seed, 1]))
    looks, found = set(checkpoints(steps)), []
    for step in range(1, steps + 1):
        batch = next(batches)
        train_step(network, optimizer.step, data.train_images[batch], data.train_labels[batch])
        if step in looks:
            found.append(look(network, norms, data, step))
            on_look()
    return found


def look(network: Sequential, norms: list[WatchedBatchNorm], data: Digits, step: int) -> Checkpoint:
    """Evaluate by every kind of running statistics, and compare them with the population's."""
    measure_population(network, norms, data.train_images)
    found = Checkpoint(step, {}, {}, {}, {})
    for name in (*ARMS, POPULATION):
        for norm in norms:
            norm.using = name
        found.loss[name], found.accuracy[name] = evaluate(network, data.test_images, data.test_labels)
        pairs = [(norm.averages[name], norm.averages[POPULATION]) for norm in norms]
        mean = [abs(own.running_mean - true.running_mean) / np.sqrt(true.running_var) for own, true in pairs]
        var = [abs(own.running_var / true.running_var - 1) for own, true in pairs]
        found.mean_error[name] = float(np.concatenate(mean).mean())
        found.var_error[name] = float(np.concatenate(var).mean())
    return found


def measure_population(network: Sequential, norms: list[WatchedBatchNorm], images: np.ndarray) -> None:
    """One forward pass of the whole training set as one batch: exact, whatever the depth."""
    network.train()
    for norm in norms:
        norm.measure = True
    network(images)
    for norm in norms:
        norm.measure = False


def settled_at(found: list[Checkpoint], arm: str, points: float) -> int | None:
    """The first checkpoint from which on the accuracy stays within `points` of the population's; None: none."""
    settled = None
    for checkpoint in reversed(found):
        if abs(checkpoint.accuracy[arm] - checkpoint.accuracy[POPULATION]) > points:
            break
        settled = checkpoint.step
    return settled
