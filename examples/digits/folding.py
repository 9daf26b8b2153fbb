"""Fold batch norm into the convolutions before it; check that nothing but rounding changed, and time both."""

import time
from typing import NamedTuple

import numpy as np

import normkit as nk
from digits.nn import Conv2d, Layer, Linear, Sequential
from digits.training import batches, predict


def fold_batch_norm(network: Sequential) -> Sequential:
    """The network without its batch norms, for inference: each became part of the convolution before it."""
    layers: list[Layer] = []
    for layer in network.layers:
        if isinstance(layer, nk.BatchNorm):
            convolution = layers.pop()
            weight, bias = layer.fold_into(convolution.params["weight"], convolution.params.get("bias"))
            layers.append(Conv2d(weight, bias))
        else:
            layers.append(layer)
    return Sequential(layers)


class FoldCheck(NamedTuple):
    """How far a folded network's logits are from the original's."""

    largest_difference: float
    largest_logit: float
    rounding_level: float
    accuracy_before: float
    accuracy_after: float
    changed_predictions: int

    @property
    def relative_difference(self) -> float:
        """The largest difference over the largest logit."""
        return self.largest_difference / self.largest_logit

    @property
    def allowed_difference(self) -> float:
        """Each form may be off by the rounding level, so the two may differ by twice that; the rest is slack."""
        return 4 * self.rounding_level

    @property
    def passed(self) -> bool:
        """Only rounding changed, and no answer."""
        return self.largest_difference <= self.allowed_difference and self.changed_predictions == 0


def check_fold(network: Sequential, folded: Sequential, images: np.ndarray, labels: np.ndarray) -> FoldCheck:
    """Compare the two in eval mode, with what float32 costs this network as the measure."""
    before, after = predict(network, images), predict(folded, images)
    exact, rounded = (plain_logits(network, images, dtype) for dtype in (np.float64, np.float32))
    return FoldCheck(
        largest_difference=float(np.abs(after - before).max()),
        largest_logit=float(np.abs(before).max()),
        rounding_level=float(np.abs(rounded - exact).max()),
        accuracy_before=float((before.argmax(axis=1) == labels).mean()),
        accuracy_after=float((after.argmax(axis=1) == labels).mean()),
        changed_predictions=int((before.argmax(axis=1) != after.argmax(axis=1)).sum()),
    )


def plain_logits(network: Sequential, images: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    """The unfolded network's logits computed in `dtype` by NumPy alone, so that normkit is not its own judge."""
    logits = []
    for x in batches(images.astype(dtype)):
        for layer in network.layers:
            x = _plain(layer, x)
        logits.append(x)
    return np.concatenate(logits)


def _plain(layer: Layer, x: np.ndarray) -> np.ndarray:
    params = {name: value.astype(x.dtype) for name, value in layer.params.items()}
    match layer:
        case Conv2d():
            return Conv2d(**params)(x)
        case Linear():
            return x @ params["weight"] + params["bias"]
        case nk.BatchNorm():
            per_channel = (layer.running_mean, layer.running_var, params["weight"], params["bias"])
            mean, var, weight, bias = (values.astype(x.dtype)[:, None, None] for values in per_channel)
            return (x - mean) / np.sqrt(var + x.dtype.type(layer.eps)) * weight + bias
        case _:
            return layer(x)


def time_inference(networks: dict[str, Sequential], batch: np.ndarray, *, rounds: int = 60) -> dict[str, np.ndarray]:
    """Milliseconds per batch, (rounds,) for each network; interleaved, so that all meet the same disturbances."""
    for network in networks.values():
        network.eval()
        network(batch)  # warm up
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds):
        for name, network in networks.items():
            start = time.perf_counter()
            network(batch)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times.items()}
