"""All results of the experiment on *Beyond BatchNorm*, by job, and the numbers that are made of them."""

from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from experiments.beyond import NETS, Scale, Training, kinds
from experiments.propagation import Growth, Signal, growth
from experiments.residual import BATCH, NONE, group


class Results(NamedTuple):
    """What came of every job, by the name of its function and its arguments but the scale."""

    done: dict[tuple[object, ...], Signal | Training]
    scale: Scale
    seeds: int

    def signals(self, net: str, name: str) -> list[Signal]:
        """A kind of network as initialized, by seed."""
        return [self.done["initial", net, name, seed] for seed in range(self.seeds)]

    def trainings(self, net: str, name: str, rate: float) -> list[Training]:
        """A kind of network in training, by seed."""
        return [self.done["trained", net, name, rate, seed] for seed in range(self.seeds)]

    def growths(self, net: str, name: str) -> list[Growth]:
        """How the variance grows with depth, by seed."""
        return [growth(signal.variance) for signal in self.signals(net, name)]

    def values(self, net: str, names: list[str], measure: str) -> np.ndarray:
        """(seeds, kinds) of a number of the initialized networks; `explosion` is that of the gradient."""

        def value(signal: Signal) -> float:
            return explosion(signal) if measure == "explosion" else getattr(signal, measure)

        return np.array([[value(s) for s in self.signals(net, name)] for name in names]).T

    def speed(self, net: str, name: str) -> np.ndarray:
        """(seeds,): mean training loss over all steps; the lower, the faster. Infinite where it diverged."""
        return np.array([t.losses.mean() for t in self.trainings(net, name, self.scale.rates[net][0])])

    def speed_trend(self, net: str) -> np.ndarray:
        """(seeds,): rank correlation over the norms of similarity at initialization and mean training loss."""
        norms = [name for name, kind in kinds(self.scale.train_width).items() if kind.norm]
        rate = self.scale.rates[net][0]
        alike = [[training.before.similarity for training in self.trainings(net, name, rate)] for name in norms]
        return correlations(np.array(alike).T, np.array([self.speed(net, name) for name in norms]).T)

    def final(self, net: str, name: str, rate: float) -> np.ndarray:
        """(seeds,): mean training loss over the last quarter of the steps."""
        last = max(1, self.scale.steps // 4)
        return np.array([t.losses[-last:].mean() for t in self.trainings(net, name, rate)])

    def rates(self) -> list[tuple[str, int, float]]:
        """Network, position and value of every learning rate."""
        return [(net, i, rate) for net in NETS for i, rate in enumerate(self.scale.rates[net])]

    def shown(self, width: int, net: str) -> list[str]:
        """The kinds that get a line of their own."""
        middle = group(4, width).name
        sizes = [group(1, width).name, middle, group(width, width).name]
        others = [name for name, kind in kinds(width, net).items() if not kind.norm and name != NONE.name]
        return [NONE.name, BATCH.name, *sizes, *others]

    def numbers(self) -> dict[str, object]:
        """Everything, by the job's name."""

        def plain(value: object) -> object:
            if isinstance(value, np.ndarray):
                return value.tolist()
            return {k: plain(v) for k, v in value._asdict().items()} if hasattr(value, "_asdict") else value

        return {" | ".join(map(str, key)): plain(result) for key, result in self.done.items()}


def explosion(signal: Signal) -> float:
    """The gradient's norm at the first block over that at the last."""
    return float(signal.gradient[0] / signal.gradient[-1])


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of (seeds, n) and (seeds, n), seed by seed."""
    return np.array([spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)])
