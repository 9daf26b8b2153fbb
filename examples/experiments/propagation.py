"""What passes through a deep network, forward and backward: variance, similarity, rank, gradients."""

from typing import NamedTuple

import numpy as np

import normkit as nk
from digits.nn import softmax_cross_entropy
from experiments.residual import DeepNet


class Signal(NamedTuple):
    """One pass forward and backward of one batch."""

    variance: np.ndarray
    """(depth,): of every block's output, over samples and positions, mean over the channels."""
    gradient: np.ndarray
    """(depth,): Frobenius norm of the loss's gradient with respect to every block's output."""
    similarity: float
    """Mean cosine between the penultimate activations of different inputs."""
    rank: float
    """Stable rank of the penultimate activations (samples, features): ‖Y‖²_F / ‖Y‖²_2."""


def probe(network: DeepNet, images: np.ndarray, labels: np.ndarray) -> Signal:
    """Pass the batch through the network in training mode. Parameters stay; running statistics see the batch."""
    network.train()
    _, gradient = softmax_cross_entropy(network(images), labels)
    network.backward(gradient)
    return Signal(
        np.array([nk.moments(x, axis=(0, 2, 3)).var().mean() for x in network.outputs]),
        np.array([np.linalg.norm(dy.astype(np.float64)) for dy in network.gradients]),
        similarity(network.penultimate),
        stable_rank(network.penultimate),
    )


def similarity(y: np.ndarray) -> float:
    """Mean cosine over all pairs of different rows of (samples, features); rows of zeros are left out."""
    y = y.astype(np.float64)
    lengths = np.linalg.norm(y, axis=1)
    units = y[lengths > 0] / lengths[lengths > 0, None]
    count = len(units)
    return float((np.sum(units.sum(axis=0) ** 2) - count) / (count * (count - 1)))


def stable_rank(y: np.ndarray) -> float:
    """‖Y‖²_F / ‖Y‖²_2 of (samples, features): between 1 and the rank, and not upset by rounding."""
    singular = np.linalg.svd(y.astype(np.float64), compute_uv=False)
    return float(np.sum(singular**2) / singular[0] ** 2)


class Growth(NamedTuple):
    """How a positive quantity grows along the depth."""

    factor: float
    """Its last value over that in the middle: 2 if it is proportional to depth, 2**(depth/2) if it doubles."""
    linear_fit: float
    """R² of a straight line."""
    exponential_fit: float
    """R² of a straight line through its logarithm."""


def growth(values: np.ndarray) -> Growth:
    """`values` by depth, at least four."""
    depth = np.arange(1, len(values) + 1)
    return Growth(
        float(values[-1] / values[len(values) // 2 - 1]), r_squared(depth, values), r_squared(depth, np.log(values))
    )


def r_squared(x: np.ndarray, y: np.ndarray) -> float:
    """Share of y's variance that the best straight line explains."""
    return float(np.corrcoef(x, y)[0, 1] ** 2)
