"""*Beyond BatchNorm* (Lubana, Dick & Tanaka, NeurIPS 2021), measured on small deep networks and digits.

Its claims: (a) in residual networks the variance of the activations grows linearly with depth under norms of the
activations, exponentially under norms of the weights or none; (b) larger groups make the activations of different
inputs more alike, and training slower; (c) smaller groups make larger gradients in earlier layers.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from digits.data import Digits, bundled_digits
from experiments.propagation import Signal, probe
from experiments.residual import (
    BATCH,
    NONE,
    STANDARDIZED,
    WEIGHT,
    DeepNet,
    Kind,
    group,
    plain_net,
    residual_net,
)
from experiments.training import SGD, shuffled_batches, train_step

RESIDUAL, PLAIN = "residual", "plain"
NETS: dict[str, Callable[..., DeepNet]] = {RESIDUAL: residual_net, PLAIN: plain_net}
REMEDY = "weight norm, branches / √depth"


class Scale(NamedTuple):
    """How large everything is."""

    width: int
    depth: dict[str, int]
    """Blocks: a residual one has two convolutions, a plain one has one."""
    train_width: int
    train_depth: dict[str, int]
    batch: int
    """Images in a probe."""
    steps: int
    rates: dict[str, tuple[float, ...]]
    """Learning rates of the trainings; the first is the one for speed, a further one asks what is stable."""


FULL = Scale(
    32, {RESIDUAL: 16, PLAIN: 20}, 16, {RESIDUAL: 6, PLAIN: 12}, 64, 88, {RESIDUAL: (0.01,), PLAIN: (0.01, 0.1)}
)
QUICK = Scale(8, {RESIDUAL: 6, PLAIN: 6}, 8, {RESIDUAL: 2, PLAIN: 3}, 16, 4, {RESIDUAL: (0.01,), PLAIN: (0.01, 0.1)})


def group_sizes(width: int) -> list[int]:
    """1 (instance norm), 2, 4, … up to the width (layer norm)."""
    return [2**power for power in range(width.bit_length()) if width % 2**power == 0]


def kinds(width: int, net: str = RESIDUAL) -> dict[str, Kind]:
    """All kinds that are compared and that this normkit has, by name; only a residual network has branches to scale."""
    every = [NONE, BATCH, *(group(size, width) for size in group_sizes(width)), WEIGHT, STANDARDIZED]
    if net == RESIDUAL:
        every.append(WEIGHT._replace(name=REMEDY))
    return {kind.name: kind for kind in every if kind.available}


def left_out() -> list[str]:
    """The kinds that this normkit does not have."""
    return [kind.name for kind in (WEIGHT, STANDARDIZED) if not kind.available]


def build(net: str, kind: Kind, width: int, depth: int, side: tuple[int, int], seed: int) -> DeepNet:
    """Equal seeds give equal convolution weights, whatever the kind."""
    more = {"scale": depth**-0.5} if kind.name == REMEDY else {}
    return NETS[net](kind, side, np.random.default_rng([seed, 0]), width=width, depth=depth, **more)


def data() -> Digits:
    """Digits with mean 0 and deviation 1 over all pixels of the training set."""
    digits = bundled_digits()
    mean, deviation = digits.train_images.mean(), digits.train_images.std()
    return digits._replace(
        train_images=(digits.train_images - mean) / deviation, test_images=(digits.test_images - mean) / deviation
    )


class Training(NamedTuple):
    """One training, and the network before and after it."""

    losses: np.ndarray
    """(steps,): of every batch, before its step; infinite from where it left the finite numbers."""
    before: Signal
    after: Signal | None
    """None where training diverged."""


def initial(net: str, name: str, seed: int, scale: Scale) -> Signal:
    """A network as initialized; the batch differs with the seed, too."""
    digits = data()
    network = build(net, kinds(scale.width, net)[name], scale.width, scale.depth[net], digits.image_shape, seed)
    return probe(network, *probe_batch(digits, seed, scale.batch))


def probe_batch(digits: Digits, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels that a network of this seed is probed with."""
    chosen = np.random.default_rng([seed, 2]).permutation(len(digits.train_labels))[:count]
    return digits.train_images[chosen], digits.train_labels[chosen]


def trained(net: str, name: str, rate: float, seed: int, scale: Scale) -> Training:
    """SGD with momentum 0.9, batches of 32, the same learning rate and the same order of data for every kind."""
    digits = data()
    width, depth = scale.train_width, scale.train_depth[net]
    network = build(net, kinds(width, net)[name], width, depth, digits.image_shape, seed)
    before = probe(network, *probe_batch(digits, seed, scale.batch))
    optimizer = SGD(network.layers, rate, momentum=0.9)
    batches = shuffled_batches(len(digits.train_labels), 32, np.random.default_rng([seed, 1]))
    losses = np.full(scale.steps, np.inf)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for step in range(scale.steps):
            batch = next(batches)
            loss = train_step(network, optimizer.step, digits.train_images[batch], digits.train_labels[batch])
            if not np.isfinite(loss):
                return Training(losses, before, None)
            losses[step] = loss
        if not all(np.isfinite(p).all() for layer in network.layers for p in layer.params.values()):
            return Training(losses, before, None)
        return Training(losses, before, probe(network, *probe_batch(digits, seed, scale.batch)))
