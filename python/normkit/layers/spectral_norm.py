"""A spectrally normalized weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normkit._normkit import spectral_norm, spectral_norm_backward
from normkit.layers._arguments import at_least_float32
from normkit.layers._reparametrized import ReparametrizedWeight

_FIRST_ITERATIONS = 15


def _direction(found: NDArray[Any], old: NDArray[Any]) -> NDArray[Any]:
    """Round to the dtype of `old`, which is kept where that leaves zeros alone: they have no direction."""
    rounded = found.astype(old.dtype)
    return rounded if rounded.any() else old


class SpectralNorm(ReparametrizedWeight):
    """Spectral normalization (Miyato et al. 2018): a weight divided by its largest singular value.

    w = weight_orig / sigma with sigma = uᵀ·W·v, where W is the weight read as a matrix of its axis `dim` by all others.
    u and v come from power iteration, which each call in training mode takes further, in `weight_u` and `weight_v`;
    eval mode leaves them, and so does a weight of zeros. The names are PyTorch's (`torch.nn.utils.spectral_norm`;
    `load_state_dict` takes those of `torch.nn.utils.parametrizations.spectral_norm`, too).

    Args:
        weight: the weight to start from, (out, in, *kernel) or (out, in), of any float dtype, which the parameter will
            have, too; u and v are at least float32. It is copied.
        n_power_iterations: of each call in training mode, at least 1.
        eps: the least norm that u and v are divided by; finite and >= 0.
        dim: the axis of the outputs.
        seed: of the random u to start from, which 15 iterations then improve.

    Raises:
        ValueError: an argument is out of its range; in a call, `weight_u` or `weight_v` is all zeros, or sigma is 0
            though the weight is not, as in `spectral_norm`.
        TypeError: an argument has the wrong type.

    Example:
        >>> import numpy as np
        >>> from normkit import SpectralNorm
        >>> weight = SpectralNorm(np.array([[3.0, 0.0], [0.0, 1.0]]))
        >>> w = weight()  # for the convolution or linear layer
        >>> w.round(6).tolist()
        [[1.0, 0.0], [0.0, 0.333333]]
        >>> weight.backward(np.ones_like(w))
        >>> weight.grads["weight_orig"].shape
        (2, 2)
    """

    _shown = ("shape", "n_power_iterations", "eps", "dim", "dtype")
    _buffers = ("weight_u", "weight_v")
    _other_names = {  # noqa: RUF012
        "parametrizations.weight.original": "weight_orig",
        "parametrizations.weight.0._u": "weight_u",
        "parametrizations.weight.0._v": "weight_v",
    }

    def __init__(
        self, weight: ArrayLike, *, n_power_iterations: int = 1, eps: float = 1e-12, dim: int = 0, seed: int = 0
    ) -> None:
        """See the class."""
        super().__init__()
        start = self._start(weight)
        self.n_power_iterations = self._integer("n_power_iterations", n_power_iterations, minimum=1)
        self.eps = self._real("eps", eps)
        self.dim = self._axis("dim", dim, "weight", start.ndim)
        rng = np.random.default_rng(self._integer("seed", seed, minimum=0))
        outputs = start.shape[self.dim]
        u, v = (rng.standard_normal((n,)) for n in (outputs, start.size // max(outputs, 1)))
        _, cache = spectral_norm(start, u, v, n_power_iterations=_FIRST_ITERATIONS, eps=self.eps, dim=self.dim)
        dtype = at_least_float32(self.dtype)
        self.weight_u: NDArray[Any] = _direction(cache.u, u.astype(dtype))
        self.weight_v: NDArray[Any] = _direction(cache.v, v.astype(dtype))
        self._add_parameter("weight_orig", start)

    def _forward(self) -> tuple[NDArray[Any], Any]:
        w, cache = spectral_norm(
            self.params["weight_orig"],
            self.weight_u,
            self.weight_v,
            n_power_iterations=self.n_power_iterations if self.training else 0,
            eps=self.eps,
            dim=self.dim,
        )
        if self.training:
            self.weight_u[...] = _direction(cache.u, self.weight_u)
            self.weight_v[...] = _direction(cache.v, self.weight_v)
        return w, cache

    def _backward(self, dw: NDArray[Any], cache: Any) -> dict[str, NDArray[Any] | None]:
        return {"weight_orig": spectral_norm_backward(dw, cache)}
