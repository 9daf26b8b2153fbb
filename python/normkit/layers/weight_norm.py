"""A weight-normalized weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normkit._normkit import weight_norm, weight_norm_backward
from normkit.layers._reparametrized import ReparametrizedWeight


class WeightNorm(ReparametrizedWeight):
    """Weight normalization (Salimans & Kingma 2016): the length and the direction of a weight as parameters.

    w = weight_g · weight_v / ‖weight_v‖, the norm over all axes but `dim`. The parameters start such that w is the
    given weight, under PyTorch's names (`torch.nn.utils.weight_norm`; `load_state_dict` takes those of
    `torch.nn.utils.parametrizations.weight_norm`, too). The same in training and eval mode.

    Args:
        weight: the weight to start from, (out, in, *kernel) or (out, in), of any float dtype, which the parameters will
            have, too. It is copied.
        dim: the axis of the norms, usually that of the outputs; None for one norm of the whole weight.

    Raises:
        ValueError: `dim` is not an axis of `weight`.
        TypeError: an argument has the wrong type.

    Example:
        >>> import numpy as np
        >>> from normkit import WeightNorm
        >>> weight = WeightNorm(np.array([[3.0, 4.0], [0.0, 2.0]]))
        >>> weight.params["weight_g"].tolist()
        [[5.0], [2.0]]
        >>> w = weight()  # for the convolution or linear layer
        >>> w.round(12).tolist()
        [[3.0, 4.0], [0.0, 2.0]]
        >>> weight.backward(np.ones_like(w))
        >>> weight.grads["weight_g"].round(12).tolist()
        [[1.4], [1.0]]
    """

    _shown = ("shape", "dim", "dtype")
    _other_names = {  # noqa: RUF012
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }

    def __init__(self, weight: ArrayLike, *, dim: int | None = 0) -> None:
        """See the class."""
        super().__init__()
        v = self._start(weight)
        self.dim = None if dim is None else self._axis("dim", dim, "weight", v.ndim)
        others = tuple(axis for axis in range(v.ndim) if axis != self.dim)
        g = np.sqrt(np.square(v, dtype=np.float64).sum(others, keepdims=self.dim is not None))
        self._add_parameter("weight_g", np.array(g, self.dtype))
        self._add_parameter("weight_v", v)

    def _forward(self) -> tuple[NDArray[Any], Any]:
        return weight_norm(self.params["weight_v"], self.params["weight_g"], dim=self.dim)

    def _backward(self, dw: NDArray[Any], cache: Any) -> dict[str, NDArray[Any] | None]:
        dv, dg = weight_norm_backward(dw, cache)
        return {"weight_g": dg, "weight_v": dv}
