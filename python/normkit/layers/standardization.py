"""A standardized weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normkit._normkit import scaled_weight_standardization, scaled_weight_standardization_backward
from normkit.layers._reparametrized import ReparametrizedWeight


class ScaledWeightStandardization(ReparametrizedWeight):
    """Scaled weight standardization (Brock et al. 2021): mean 0 and variance 1 / fan_in per output channel.

    w = (weight - mean) · gain / sqrt(max(var · fan_in, eps)), mean and biased variance over all axes but the first. The
    same in training and eval mode.

    Args:
        weight: the weight to start from, (out, in, *kernel) or (out, in), of any float dtype, which the parameters will
            have, too. It is copied.
        gain: with `gain` (starts at 1), (out,).
        eps: the least var · fan_in; finite and >= 0.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has the wrong type.

    Example:
        >>> import numpy as np
        >>> from normkit import ScaledWeightStandardization
        >>> weight = ScaledWeightStandardization(np.array([[1.0, 3.0], [0.0, 8.0]]))
        >>> w = weight()  # for the convolution or linear layer
        >>> w.round(3).tolist()
        [[-0.707, 0.707], [-0.707, 0.707]]
        >>> weight.backward(w)
        >>> weight.grads["gain"].round(12).tolist()
        [1.0, 1.0]
    """

    _shown = ("shape", "gain", "eps", "dtype")

    def __init__(self, weight: ArrayLike, *, gain: bool = True, eps: float = 1e-4) -> None:
        """See the class."""
        super().__init__()
        start = self._start(weight)
        if start.ndim < 2:
            raise self._error("weight", "must have at least two axes: output and input channels", f"shape {self.shape}")
        self.eps = self._real("eps", eps)
        self.gain = self._flag("gain", gain)
        self._add_parameter("weight", start)
        if self.gain:
            self._add_parameter("gain", np.ones(self.shape[0], self.dtype))

    def _forward(self) -> tuple[NDArray[Any], Any]:
        return scaled_weight_standardization(self.params["weight"], self.params.get("gain"), eps=self.eps)

    def _backward(self, dw: NDArray[Any], cache: Any) -> dict[str, NDArray[Any] | None]:
        dweight, dgain = scaled_weight_standardization_backward(dw, cache)
        return {"weight": dweight, "gain": dgain}
