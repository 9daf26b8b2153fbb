"""Train networks side by side: the same initial weights, the same batches in the same order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from digits.data import Digits
from digits.nn import Adam, Sequential, softmax_cross_entropy

BATCH_SIZE = 32
LEARNING_RATE = 0.01
EVALUATION_BATCH = 250

Build = Callable[[np.random.Generator], Sequential]


class Scores(NamedTuple):
    """One network after one epoch, in eval mode on the whole of both sets."""

    train_loss: float
    test_loss: float
    train_accuracy: float
    test_accuracy: float


OnEpoch = Callable[[str, int, list[Scores]], None]


@dataclass
class Trained:
    """One kind of network, trained once per seed."""

    name: str
    networks: list[Sequential]
    scores: list[list[Scores]]

    def curves(self, metric: str) -> np.ndarray:
        """One of `Scores`' fields as (seeds, epochs)."""
        return np.array([[getattr(scores, metric) for scores in run] for run in self.scores])


def compare(builds: dict[str, Build], data: Digits, *, seeds: int, epochs: int, on_epoch: OnEpoch) -> list[Trained]:
    """Train every network with every seed; `on_epoch(name, seed, scores so far)` is called after each epoch."""
    results = [Trained(name, [], []) for name in builds]
    for seed in range(seeds):
        for result in results:
            network = builds[result.name](np.random.default_rng([seed, 0]))
            scores: list[Scores] = []
            for epoch_scores in train(network, data, epochs, order=np.random.default_rng([seed, 1])):
                scores.append(epoch_scores)
                on_epoch(result.name, seed, scores)
            result.networks.append(network)
            result.scores.append(scores)
    return results


def train(network: Sequential, data: Digits, epochs: int, order: np.random.Generator) -> Iterator[Scores]:
    """Train in place with Adam, yielding the scores after each epoch; a last partial batch is dropped."""
    optimizer = Adam(network.layers, LEARNING_RATE)
    count = len(data.train_labels)
    for _ in range(epochs):
        network.train()
        shuffled = order.permutation(count)
        for start in range(0, count - BATCH_SIZE + 1, BATCH_SIZE):
            batch = shuffled[start : start + BATCH_SIZE]
            _, gradient = softmax_cross_entropy(network(data.train_images[batch]), data.train_labels[batch])
            network.backward(gradient)
            optimizer.step()
        train_loss, train_accuracy = evaluate(network, data.train_images, data.train_labels)
        test_loss, test_accuracy = evaluate(network, data.test_images, data.test_labels)
        yield Scores(train_loss, test_loss, train_accuracy, test_accuracy)


def evaluate(network: Sequential, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean loss and accuracy, in eval mode."""
    logits = predict(network, images)
    loss, _ = softmax_cross_entropy(logits, labels)
    return loss, float((logits.argmax(axis=1) == labels).mean())


def predict(network: Sequential, images: np.ndarray) -> np.ndarray:
    """Logits in eval mode."""
    network.eval()
    return np.concatenate([network(batch) for batch in batches(images)])


def batches(images: np.ndarray) -> list[np.ndarray]:
    """The images in pieces that bound the memory of a forward pass."""
    return [images[start : start + EVALUATION_BATCH] for start in range(0, len(images), EVALUATION_BATCH)]
