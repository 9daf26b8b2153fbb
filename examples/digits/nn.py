"""A small neural network library in NumPy, with the interface of normkit's layers.

A layer has `layer(x) -> y`, `layer.backward(dy) -> dx`, `.params` and `.grads` (name → array, the same names),
`.train()` and `.eval()`; so normkit's layers stand beside these in a `Sequential`.
"""

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Layer(Protocol):
    """What `Sequential` and `Adam` need of a layer."""

    params: dict[str, np.ndarray]
    grads: dict[str, np.ndarray]

    def __call__(self, x: np.ndarray) -> np.ndarray: ...
    def backward(self, dy: np.ndarray) -> np.ndarray: ...
    def train(self, mode: bool = True) -> object: ...
    def eval(self) -> object: ...


class Module:
    """A layer's common part; on its own, one without parameters."""

    training = True

    def __init__(self, **params: np.ndarray) -> None:
        self.params = params
        self.grads = {name: np.zeros_like(value) for name, value in params.items()}

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def eval(self) -> None:
        self.train(False)


class Linear(Module):
    """(N, in) → (N, out): `x @ weight + bias`, with He's normal initialization."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        super().__init__(weight=he_normal((inputs, outputs), inputs, rng), bias=np.zeros(outputs, np.float32))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        return x @ self.params["weight"] + self.params["bias"]

    def backward(self, dy: np.ndarray) -> np.ndarray:
        np.matmul(self.x.T, dy, out=self.grads["weight"])
        np.sum(dy, axis=0, out=self.grads["bias"])
        return dy @ self.params["weight"].T


class Conv2d(Module):
    """(N, C, H, W) → (N, out, H, W): odd square kernel, stride 1, zero padding that keeps the size.

    `weight` is (out, C, k, k). `bias` is left out (None) before a norm, whose own bias does its work.
    """

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
        super().__init__(weight=weight) if bias is None else super().__init__(weight=weight, bias=bias)

    @classmethod
    def initialized(cls, inputs: int, outputs: int, rng: np.random.Generator, *, size: int = 3) -> "Conv2d":
        """Without a bias, with He's normal initialization."""
        return cls(he_normal((outputs, inputs, size, size), inputs * size**2, rng))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        weight = self.params["weight"]
        columns = im2col(x, weight.shape[2])
        if self.training:
            self.columns = columns
        y = (weight.reshape(len(weight), -1) @ columns).reshape(len(x), -1, *x.shape[2:])
        if "bias" in self.params:
            y += self.params["bias"][:, None, None]
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        weight = self.params["weight"]
        rows = dy.reshape(*dy.shape[:2], -1)
        self.grads["weight"][...] = (rows @ self.columns.swapaxes(1, 2)).sum(axis=0).reshape(weight.shape)
        if "bias" in self.params:
            np.sum(dy, axis=(0, 2, 3), out=self.grads["bias"])
        return col2im(weight.reshape(len(weight), -1).T @ rows, dy.shape[2:], weight.shape[2])


class ReLU(Module):
    """max(x, 0)."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.y = np.maximum(x, 0)
        return self.y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy * (self.y > 0)


class MaxPool2d(Module):
    """(N, C, H, W) → (N, C, H/2, W/2): the largest of each 2x2 window; an odd last row or column is left out."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        self.y = functools.reduce(np.maximum, self._corners(x))
        return self.y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        dx = np.zeros_like(self.x)
        for corner, gradient in zip(self._corners(self.x), self._corners(dx), strict=True):
            largest = corner == self.y
            np.copyto(gradient, dy, where=largest)
            dy = np.where(largest, 0, dy)  # of equal ones the first is the largest
        return dx

    @staticmethod
    def _corners(x: np.ndarray) -> list[np.ndarray]:
        """Four views, each with one pixel of every window."""
        height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
        return [x[:, :, i:height:2, j:width:2] for i in range(2) for j in range(2)]


class Flatten(Module):
    """(N, ...) → (N, features)."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy.reshape(self.shape)


class Sequential:
    """Layers one after another."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers

    def __call__(self, x: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            x = layer(x)
        return x

    def backward(self, dy: np.ndarray) -> np.ndarray:
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def train(self) -> None:
        for layer in self.layers:
            layer.train()

    def eval(self) -> None:
        for layer in self.layers:
            layer.eval()


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1, with the step size of its section 2)."""

    def __init__(self, layers: Sequence[Layer], learning_rate: float) -> None:
        self.layers = layers
        self.learning_rate = learning_rate
        self.beta1, self.beta2, self.eps = 0.9, 0.999, 1e-8
        self.steps = 0
        self.moments = [
            {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in layer.params.items()}
            for layer in layers
        ]

    def step(self) -> None:
        """Update every parameter in place from its gradient."""
        self.steps += 1
        correction2 = np.sqrt(1 - self.beta2**self.steps)
        rate = float(self.learning_rate * correction2 / (1 - self.beta1**self.steps))
        eps = float(self.eps * correction2)
        for layer, moments in zip(self.layers, self.moments, strict=True):
            for name, (first, second) in moments.items():
                parameter, gradient = layer.params[name], layer.grads[name]
                first += (1 - self.beta1) * (gradient - first)
                second += (1 - self.beta2) * (gradient * gradient - second)
                parameter -= rate * first / (np.sqrt(second) + eps)


def softmax_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean loss over the batch, and its gradient with respect to the logits."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    gradient = np.exp(log_probabilities)
    gradient[rows, labels] -= 1
    return -float(log_probabilities[rows, labels].mean()), gradient / np.float32(len(labels))


def he_normal(shape: tuple[int, ...], fan_in: int, rng: np.random.Generator) -> np.ndarray:
    """Normal weights of variance 2/fan_in (He et al. 2015), float32."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in))


def im2col(x: np.ndarray, size: int) -> np.ndarray:
    """(N, C, H, W) → (N, C·size², H·W): column p holds the zero-padded neighbourhood of pixel p."""
    n, c, h, w = x.shape
    margin = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    windows = sliding_window_view(padded, (h, w), axis=(2, 3))  # (N, C, size, size, H, W)
    return windows.reshape(n, c * size**2, h * w)


def col2im(columns: np.ndarray, image_shape: tuple[int, int], size: int) -> np.ndarray:
    """The transpose of `im2col`: every entry is added to the pixel it was taken from."""
    n, (h, w), margin = len(columns), image_shape, size // 2
    windows = columns.reshape(n, -1, size, size, h, w)
    padded = np.zeros((n, windows.shape[1], h + 2 * margin, w + 2 * margin), columns.dtype)
    for i in range(size):
        for j in range(size):
            padded[:, :, i : i + h, j : j + w] += windows[:, :, i, j]
    return padded[:, :, margin : margin + h, margin : margin + w]
