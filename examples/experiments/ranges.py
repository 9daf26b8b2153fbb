"""Feature ranges: gradient descent on inputs in [0, 1] beside inputs in [0, 10000], raw and standardized.

Source: LeCun, Bottou, Orr & Müller 1998, *Efficient BackProp*, sections 4.3 and 5: the largest eigenvalue of the
Hessian bounds the learning rate, the smallest one sets the pace, and standardized inputs bring them together.
"""

from typing import NamedTuple

import numpy as np

import normkit as nk
from digits.data import Digits
from digits.models import mlp
from digits.nn import Sequential
from digits.training import evaluate, predict
from experiments.training import SGD, shuffled_batches, train_step

RANGE = 10_000
RAW, STANDARDIZED, INPUT_NORM = "raw", "standardized", "raw, batch norm first"


def standardize(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Every array of (samples, features) by mean and deviation of `train`; a constant feature becomes zero."""
    statistics = nk.moments(train, axis=0)
    deviation = np.sqrt(statistics.var())
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    return [((x - statistics.mean) * scale).astype(x.dtype) for x in (train, *others)]


# A linear model, where everything is known: its loss is a quadratic with the Hessian XᵀX / N.


class Descent(NamedTuple):
    """Gradient descent on a linear model with the best constant learning rate."""

    condition: float
    rate: float
    excess: np.ndarray
    """(steps + 1,): loss above the lowest possible one, as a share of what it was at the start."""


def linear_problem(rng: np.random.Generator, samples: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (samples, 2), one in [0, 1] and one in [0, 10000]; targets to which both contribute alike."""
    share = rng.random((samples, 2))
    targets = share @ [1.0, 1.0] + 0.1 * rng.standard_normal(samples)
    return share * [1, RANGE], targets


def descend(inputs: np.ndarray, targets: np.ndarray, steps: int) -> Descent:
    """Full-batch descent from zero weights at rate 2/(λmax + λmin), which no other constant rate beats."""
    design = np.column_stack([inputs, np.ones(len(inputs))])
    hessian = design.T @ design / len(design)
    eigenvalues = np.linalg.eigvalsh(hessian)
    rate = 2 / (eigenvalues[0] + eigenvalues[-1])
    best = np.linalg.lstsq(design, targets, rcond=None)[0]
    error = -best
    excess = np.empty(steps + 1)
    for step in range(steps + 1):
        excess[step] = error @ hessian @ error / 2
        error = error - rate * (hessian @ error)
    return Descent(float(eigenvalues[-1] / eigenvalues[0]), float(rate), excess / excess[0])


def steps_until(excess: np.ndarray, share: float) -> int | None:
    """The first step at which `excess` is at most `share`; None: never."""
    below = np.flatnonzero(excess <= share)
    return int(below[0]) if len(below) else None


# A network on digits, half of whose pixels are in other units.


class Images(NamedTuple):
    """Digits as the network meets them, (N, pixels), and which pixels are in [0, 1]."""

    train: np.ndarray
    test: np.ndarray
    small: np.ndarray

    def without_small(self) -> np.ndarray:
        """The test images with every pixel that was in [0, 1] replaced by its mean over the training set."""
        return np.where(self.small, self.train.mean(axis=0), self.test)


def views(data: Digits, rng: np.random.Generator) -> dict[str, Images]:
    """The same digits with a random half of their pixels in [0, 10000] instead of [0, 1]: raw, and standardized."""
    train, test = (images.reshape(len(images), -1) for images in (data.train_images, data.test_images))
    units = np.ones(train.shape[1], np.float32)
    units[rng.permutation(len(units))[: len(units) // 2]] = RANGE
    raw = Images(train * units, test * units, units == 1)
    return {RAW: raw, STANDARDIZED: Images(*standardize(raw.train, raw.test), raw.small), INPUT_NORM: raw}


def build(arm: str, side: tuple[int, int], rng: np.random.Generator) -> Sequential:
    """The demo's multilayer perceptron without norms inside, so that only the inputs differ."""
    network = mlp(side, rng, norm=None)
    if arm == INPUT_NORM:
        network = Sequential([nk.BatchNorm(side[0] * side[1], affine=False), *network.layers])
    return network


class Curve(NamedTuple):
    """What one run came to."""

    losses: np.ndarray
    """(epochs + 1,): over the training set, before the first epoch and after each."""
    train_accuracy: float
    accuracy: float
    """Of the test set, after the last epoch."""
    heard: float
    """The share of its answers that change when the pixels in [0, 1] say nothing."""


def train(arm: str, images: Images, data: Digits, rate: float, epochs: int, seed: int) -> Curve:
    """Plain SGD, batches of 32. A run whose loss leaves the finite numbers has infinite losses from there on."""
    network = build(arm, data.image_shape, np.random.default_rng([seed, 0]))
    optimizer = SGD(network.layers, rate)
    batches = shuffled_batches(len(images.train), 32, np.random.default_rng([seed, 1]))
    losses = np.full(epochs + 1, np.inf)
    train_accuracy = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        losses[0] = evaluate(network, images.train, data.train_labels)[0]
        for epoch in range(1, epochs + 1):
            for _ in range(len(images.train) // 32):
                batch = next(batches)
                train_step(network, optimizer.step, images.train[batch], data.train_labels[batch])
            loss, train_accuracy = evaluate(network, images.train, data.train_labels)
            if not np.isfinite(loss):
                return Curve(losses, 0.0, 0.0, 0.0)
            losses[epoch] = loss
        answers, without = (predict(network, x).argmax(axis=1) for x in (images.test, images.without_small()))
    accuracy, heard = (answers == data.test_labels).mean(), (answers != without).mean()
    return Curve(losses, train_accuracy, float(accuracy), float(heard))


def best_rate(arm: str, images: Images, data: Digits, rates: np.ndarray, epochs: int, seed: int) -> float:
    """The learning rate with the highest training accuracy in the end (of equal ones, the lowest loss).

    Not by the loss alone: raw, the lowest is that of a network killed by the first step, which answers by chance.
    """

    def merit(rate: float) -> tuple[float, float]:
        curve = train(arm, images, data, rate, epochs, seed)
        return curve.train_accuracy, -float(curve.losses[-1])

    return max(map(float, rates), key=merit)
