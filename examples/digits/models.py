"""The networks that are compared.

A norm draws nothing from `rng`, so networks built from equal generators have equal linear and convolution weights,
whatever their norm.
"""

from collections.abc import Callable

import numpy as np

import normkit as nk
from digits.nn import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU, Sequential

CLASSES = 10
Norm = Callable[[int], Layer]


def mlp(image_shape: tuple[int, int], rng: np.random.Generator, norm: Norm | None, *, hidden: int = 128) -> Sequential:
    """Linear-(norm)-ReLU twice, then Linear."""
    layers: list[Layer] = [Flatten()]
    width = image_shape[0] * image_shape[1]
    for _ in range(2):
        layers.append(Linear(width, hidden, rng))
        if norm is not None:
            layers.append(norm(hidden))
        layers.append(ReLU())
        width = hidden
    return Sequential([*layers, Linear(width, CLASSES, rng)])


def convnet(image_shape: tuple[int, int], rng: np.random.Generator, norm: Norm) -> Sequential:
    """Conv-norm-ReLU-pool twice, with 16 and 32 channels, then Linear."""
    height, width = image_shape
    layers: list[Layer] = []
    inputs = 1
    for channels in (16, 32):
        layers += [Conv2d.initialized(inputs, channels, rng), norm(channels), ReLU(), MaxPool2d()]
        inputs = channels
    features = inputs * (height // 4) * (width // 4)
    return Sequential([*layers, Flatten(), Linear(features, CLASSES, rng)])


def batch_norm(channels: int) -> nk.BatchNorm:
    """Statistics per channel over the batch; running ones in inference."""
    return nk.BatchNorm(channels)


def group_norm(channels: int) -> nk.GroupNorm:
    """Statistics per sample over groups of four channels."""
    return nk.GroupNorm(channels // 4, channels)
