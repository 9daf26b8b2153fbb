"""Deep networks that differ in their normalization alone: residual ones, and plain ones as deep.

All have 3x3 convolutions of one width at one resolution, so that depth is the only thing that changes along them.
Residual (He et al. 2016, pre-activation): x + conv(relu(norm(conv(relu(norm(x)))))). Plain: relu(norm(conv(x))).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

import normkit as nk
from digits.models import CLASSES
from digits.nn import Conv2d, Flatten, Layer, Linear, Module, ReLU, Sequential, he_normal

RELU_SECOND_MOMENT = 1 / 2
"""E[relu(z)²] of a standard normal z: what He's initialization makes up for."""
RELU_VARIANCE = (1 - 1 / np.pi) / 2
"""Var[relu(z)]: what is left of it by weights whose mean is zero (Brock et al. 2021)."""


class WeightNormConv2d(Module):
    """A convolution with the weight g·v/‖v‖ (Salimans & Kingma 2016), ‖v‖ per output channel.

    g starts at the norm that keeps the second moment through ReLU (Arpit, Campos & Bengio 2019).
    """

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator, *, size: int = 3) -> None:
        v = he_normal((outputs, inputs, size, size), inputs * size**2, rng)
        g = np.full((outputs, 1, 1, 1), np.sqrt(1 / RELU_SECOND_MOMENT), np.float32)
        super().__init__(v=v, g=g)
        self.convolution = Conv2d(v)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        weight, self.cache = nk.weight_norm(self.params["v"], self.params["g"])
        return apply_weight(self.convolution, weight, x, self.training)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        dx = self.convolution.backward(dy)
        dv, dg = nk.weight_norm_backward(self.convolution.grads["weight"], self.cache)
        self.grads["v"][...], self.grads["g"][...] = dv, dg
        return dx


class StandardizedConv2d(Module):
    """A convolution with a scaled, standardized weight (Brock, De & Smith 2021), with a gain for every output channel.

    The gain starts at ReLU's, which keeps the variance.
    """

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator, *, size: int = 3) -> None:
        weight = he_normal((outputs, inputs, size, size), inputs * size**2, rng)
        gain = np.full((outputs, 1, 1, 1), np.sqrt(1 / RELU_VARIANCE), np.float32)
        super().__init__(weight=weight, gain=gain)
        self.convolution = Conv2d(weight)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        weight, self.cache = nk.scaled_weight_standardization(self.params["weight"], self.params["gain"])
        return apply_weight(self.convolution, weight, x, self.training)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        dx = self.convolution.backward(dy)
        dweight, dgain = nk.scaled_weight_standardization_backward(self.convolution.grads["weight"], self.cache)
        self.grads["weight"][...], self.grads["gain"][...] = dweight, dgain
        return dx


def apply_weight(convolution: Conv2d, weight: np.ndarray, x: np.ndarray, training: bool) -> np.ndarray:
    """Convolve with a weight that was made just now."""
    convolution.params["weight"] = weight
    convolution.training = training
    return convolution(x)


class Kind(NamedTuple):
    """A way to normalize: a norm of the activations for a number of channels, or a convolution of its own."""

    name: str
    norm: Callable[[int], Layer] | None = None
    conv: Callable[[int, int, np.random.Generator], Layer] = Conv2d.initialized
    needs: str | None = None
    """The function of normkit without which it cannot be had."""
    group_size: int | None = None

    @property
    def available(self) -> bool:
        """Whether this normkit has what it needs."""
        return self.needs is None or hasattr(nk, self.needs)


NONE = Kind("no norm")
BATCH = Kind("batch norm", nk.BatchNorm)
WEIGHT = Kind("weight norm", conv=WeightNormConv2d, needs="weight_norm")
STANDARDIZED = Kind("scaled weight std.", conv=StandardizedConv2d, needs="scaled_weight_standardization")


def group(size: int, width: int) -> Kind:
    """Group norm with `size` channels a group: 1 is instance norm, `width` is layer norm of the whole sample."""
    names = {1: "instance norm", width: "layer norm"}
    return Kind(names.get(size, f"group norm, {size}"), lambda c: nk.GroupNorm(c // size, c), group_size=size)


class Residual:
    """x + scale · branch(x)."""

    def __init__(self, branch: Sequential, scale: float = 1.0) -> None:
        self.branch = branch
        self.scale = np.float32(scale)

    @property
    def layers(self) -> Sequence[Layer]:
        return self.branch.layers

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x + self.scale * self.branch(x)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy + self.branch.backward(self.scale * dy)


class DeepNet:
    """Stages in a row: a stem, `depth` equal blocks, and a head to the classes.

    `outputs` and `gradients` are those of the blocks in the last passes, in order of depth; `penultimate` is what the
    last linear layer is given.
    """

    def __init__(self, stem: Layer, blocks: Sequence[Residual | Sequential], head: Sequential) -> None:
        self.stem, self.blocks, self.head = stem, blocks, head
        self.layers = [stem, *(layer for block in blocks for layer in block.layers), *head.layers]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = self.stem(x)
        self.outputs = []
        for block in self.blocks:
            x = block(x)
            self.outputs.append(x)
        for layer in self.head.layers[:-1]:
            x = layer(x)
        self.penultimate = x
        return self.head.layers[-1](x)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        dy = self.head.backward(dy)
        self.gradients = []
        for block in reversed(self.blocks):
            self.gradients.append(dy)
            dy = block.backward(dy)
        self.gradients.reverse()
        return self.stem.backward(dy)

    def train(self) -> None:
        for layer in self.layers:
            layer.train()

    def eval(self) -> None:
        for layer in self.layers:
            layer.eval()


def residual_net(
    kind: Kind, side: tuple[int, int], rng: np.random.Generator, *, width: int, depth: int, scale: float = 1.0
) -> DeepNet:
    """A pre-activation residual network of `depth` blocks with two convolutions each."""

    def norm_relu() -> list[Layer]:
        return [*([kind.norm(width)] if kind.norm else []), ReLU()]

    stem = kind.conv(1, width, rng)
    blocks = []
    for _ in range(depth):
        first, second = (kind.conv(width, width, rng) for _ in range(2))
        blocks.append(Residual(Sequential([*norm_relu(), first, *norm_relu(), second]), scale))
    head = Sequential([*norm_relu(), Flatten(), Linear(width * side[0] * side[1], CLASSES, rng)])
    return DeepNet(stem, blocks, head)


def plain_net(kind: Kind, side: tuple[int, int], rng: np.random.Generator, *, width: int, depth: int) -> DeepNet:
    """The same without shortcuts: `depth` times convolution, norm and ReLU."""

    def block(inputs: int) -> Sequential:
        norm = [kind.norm(width)] if kind.norm else []
        return Sequential([kind.conv(inputs, width, rng), *norm, ReLU()])

    stem, *blocks = (block(1 if index == 0 else width) for index in range(depth + 1))
    head = Sequential([Flatten(), Linear(width * side[0] * side[1], CLASSES, rng)])
    net = DeepNet(stem, blocks, head)
    net.layers = [*stem.layers, *net.layers[1:]]
    return net
