"""Training by the step, where the demo trains by the epoch: other batch sizes, plain SGD, a look between two steps."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from digits.nn import Layer, softmax_cross_entropy


class Network(Protocol):
    """What a training loop needs of a network."""

    layers: Sequence[Layer]

    def __call__(self, x: np.ndarray) -> np.ndarray: ...
    def backward(self, dy: np.ndarray) -> np.ndarray: ...
    def train(self) -> object: ...
    def eval(self) -> object: ...


class SGD:
    """Gradient descent with heavy-ball momentum (0: without), as PyTorch writes it: v = m·v + g, p = p - rate·v."""

    def __init__(self, layers: Sequence[Layer], learning_rate: float, momentum: float = 0.0) -> None:
        self.layers = layers
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.velocities = [{name: np.zeros_like(p) for name, p in layer.params.items()} for layer in layers]

    def step(self) -> None:
        """Update every parameter in place from its gradient."""
        for layer, velocities in zip(self.layers, self.velocities, strict=True):
            for name, velocity in velocities.items():
                velocity *= self.momentum
                velocity += layer.grads[name]
                layer.params[name] -= self.learning_rate * velocity


def shuffled_batches(count: int, batch_size: int, order: np.random.Generator) -> Iterator[np.ndarray]:
    """Index arrays of full batches, epoch after epoch, for ever; a last partial batch is dropped."""
    while True:
        shuffled = order.permutation(count)
        for start in range(0, count - batch_size + 1, batch_size):
            yield shuffled[start : start + batch_size]


def train_step(network: Network, step: Callable[[], None], images: np.ndarray, labels: np.ndarray) -> float:
    """One step of the optimizer; the loss before it."""
    network.train()
    loss, gradient = softmax_cross_entropy(network(images), labels)
    network.backward(gradient)
    step()
    return loss
