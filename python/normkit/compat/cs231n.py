"""The normalization layers of Stanford's CS231n, assignment 2 (`cs231n/layers.py`), under their names and call shapes.

Notebooks run unchanged with::

    from normkit.compat.cs231n import *  # after `from cs231n.layers import *`

`momentum` is the course's: the share of the old value, 0.9 by default. The running variance is biased, and both running
statistics start at zero. `gamma` and `beta` may hold integers, as in the notebooks. What is not as in a typical
solution: the cache is opaque; a batch with one value per channel is an error in training (its variance is 0); and
backward after a forward in test mode is the one of frozen statistics.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import normkit as nk
from normkit import _checks
from normkit.compat._errors import in_the_words_of

__all__ = [
    "batchnorm_backward",
    "batchnorm_backward_alt",
    "batchnorm_forward",
    "layernorm_backward",
    "layernorm_forward",
    "spatial_batchnorm_backward",
    "spatial_batchnorm_forward",
    "spatial_groupnorm_backward",
    "spatial_groupnorm_forward",
]

Array = NDArray[Any]
Params = MutableMapping[str, Any]

_FORWARD = {"weight": "gamma", "bias": "beta"}
_BATCH = _FORWARD | {
    "eps": "bn_param['eps']",
    "running_mean": "bn_param['running_mean']",
    "running_var": "bn_param['running_var']",
}
_BACKWARD = {"dy": "dout"}


class _Cache(NamedTuple):
    """normkit's cache, and the function that it came from."""

    of: str
    cache: Any


def batchnorm_forward(x: Array, gamma: Array, beta: Array, bn_param: Params) -> tuple[Array, Any]:
    """Batch normalization of (N, D), per feature (Ioffe & Szegedy 2015).

    out = (x - mean) / sqrt(var + eps) · gamma + beta, by the batch's mean and biased variance in train mode and by the
    running ones in test mode.

    Args:
        x: (N, D).
        gamma: (D,).
        beta: (D,).
        bn_param: a dictionary. "mode": "train" or "test", required; "eps": 1e-5 by default; "momentum": 0.9 by default,
            the share of the old; "running_mean", "running_var": (D,), zeros by default. In train mode the two are
            replaced by running = momentum·running + (1 - momentum)·batch; in test mode they are put in if missing.

    Returns:
        `(out, cache)`, out of the shape and dtype of x.

    Raises:
        ValueError: a mode, number or shape does not fit, or a train batch has one sample; `bn_param` is then unchanged.
        TypeError: an argument has the wrong type.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.cs231n import batchnorm_forward, batchnorm_backward
        >>> bn_param = {"mode": "train"}
        >>> out, cache = batchnorm_forward(np.array([[1.0], [3.0]]), np.ones(1), np.zeros(1), bn_param)
        >>> out.round(3).tolist()
        [[-1.0], [1.0]]
        >>> bn_param["running_mean"].round(3).tolist(), bn_param["running_var"].round(3).tolist()
        ([0.2], [0.1])
        >>> dx, dgamma, dbeta = batchnorm_backward(np.ones((2, 1)), cache)
    """
    return _batch("batchnorm_forward", x, "(N, D)", gamma, beta, bn_param)


def batchnorm_backward(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Return `(dx, dgamma, dbeta)` of `batchnorm_forward`.

    dx = gamma / sqrt(var + eps) · (dout - mean(dout) - x̂·mean(dout·x̂)), the means over the batch; dgamma = Σ dout·x̂,
    dbeta = Σ dout. After a forward in test mode dx = gamma / sqrt(var + eps) · dout.

    Args:
        dout: (N, D).
        cache: from `batchnorm_forward`.

    Returns:
        Arrays (N, D), and two of the shapes of gamma and beta.

    Raises:
        ValueError: the shape of `dout` does not fit.
        TypeError: an argument has the wrong type, or the cache is of another function.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.cs231n import batchnorm_forward, batchnorm_backward
        >>> _, cache = batchnorm_forward(np.array([[1.0], [3.0]]), np.ones(1), np.zeros(1), {"mode": "train"})
        >>> dx, dgamma, dbeta = batchnorm_backward(np.array([[1.0], [2.0]]), cache)
        >>> dgamma.round(3).tolist(), dbeta.tolist()
        ([1.0], [3.0])
    """
    return _backward("batchnorm_backward", "batchnorm_forward", dout, cache)


def batchnorm_backward_alt(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Return `(dx, dgamma, dbeta)` as `batchnorm_backward` does: normkit has the simplified form only.

    Args:
        dout: (N, D).
        cache: from `batchnorm_forward`.

    Returns:
        Arrays (N, D), and two of the shapes of gamma and beta.

    Raises:
        ValueError: the shape of `dout` does not fit.
        TypeError: an argument has the wrong type, or the cache is of another function.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.cs231n import batchnorm_forward, batchnorm_backward_alt
        >>> _, cache = batchnorm_forward(np.array([[1.0], [3.0]]), np.ones(1), np.zeros(1), {"mode": "train"})
        >>> batchnorm_backward_alt(np.array([[1.0], [2.0]]), cache)[2].tolist()
        [3.0]
    """
    return _backward("batchnorm_backward_alt", "batchnorm_forward", dout, cache)


def layernorm_forward(x: Array, gamma: Array, beta: Array, ln_param: Params) -> tuple[Array, Any]:
    """Layer normalization of (N, D), per sample (Ba, Kiros & Hinton 2016); the same in train and test mode.

    out = (x - mean) / sqrt(var + eps) · gamma + beta, mean and biased variance over the features of a sample.

    Args:
        x: (N, D).
        gamma: (D,).
        beta: (D,).
        ln_param: a dictionary. "eps": 1e-5 by default. Everything else is ignored.

    Returns:
        `(out, cache)`, out of the shape and dtype of x.

    Raises:
        ValueError: a number or shape does not fit.
        TypeError: an argument has the wrong type.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.cs231n import layernorm_forward
        >>> out, cache = layernorm_forward(np.array([[1.0, 3.0], [10.0, 30.0]]), np.ones(2), np.zeros(2), {})
        >>> out.round(3).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]
    """
    function = "layernorm_forward"
    x, gamma, beta = _floats(function, x, "(N, D)", gamma, beta)
    eps = _param(function, "ln_param", ln_param).get("eps", 1e-5)
    with in_the_words_of(function, _FORWARD | {"eps": "ln_param['eps']"}):
        out, cache = nk.layer_norm(x, gamma, beta, axis=-1, eps=eps)
    return out, _Cache(function, cache)


def layernorm_backward(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Return `(dx, dgamma, dbeta)` of `layernorm_forward`.

    dx = (g - mean(g) - x̂·mean(g·x̂)) / sqrt(var + eps) with g = gamma·dout, the means over the features of a sample.

    Args:
        dout: (N, D).
        cache: from `layernorm_forward`.

    Returns:
        Arrays (N, D), and two of the shapes of gamma and beta.

    Raises:
        ValueError: the shape of `dout` does not fit.
        TypeError: an argument has the wrong type, or the cache is of another function.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.cs231n import layernorm_forward, layernorm_backward
        >>> _, cache = layernorm_forward(np.array([[1.0, 3.0], [10.0, 30.0]]), np.ones(2), np.zeros(2), {})
        >>> layernorm_backward(np.ones((2, 2)), cache)[2].tolist()
        [2.0, 2.0]
    """
    return _backward("layernorm_backward", "layernorm_forward", dout, cache)


def spatial_batchnorm_forward(x: Array, gamma: Array, beta: Array, bn_param: Params) -> tuple[Array, Any]:
    """Batch normalization of (N, C, H, W), per channel.

    Args:
        x: (N, C, H, W).
        gamma: (C,).
        beta: (C,).
        bn_param: as for `batchnorm_forward`, the running statistics (C,).

    Returns:
        `(out, cache)`, out of the shape and dtype of x.

    Raises:
        ValueError: a mode, number or shape does not fit, or a train batch has one value per channel; `bn_param` is then
            unchanged.
        TypeError: an argument has the wrong type.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.cs231n import spatial_batchnorm_forward
        >>> x = np.arange(4.0).reshape(1, 1, 2, 2)
        >>> out, cache = spatial_batchnorm_forward(x, np.asarray([3]), np.asarray([6]), {"mode": "train"})
        >>> out.ravel().round(3).tolist()
        [1.975, 4.658, 7.342, 10.025]
    """
    return _batch("spatial_batchnorm_forward", x, "(N, C, H, W)", gamma, beta, bn_param)


def spatial_batchnorm_backward(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Return `(dx, dgamma, dbeta)` of `spatial_batchnorm_forward`; formulas as in `batchnorm_backward`.

    Args:
        dout: (N, C, H, W).
        cache: from `spatial_batchnorm_forward`.

    Returns:
        Arrays (N, C, H, W), and two of the shapes of gamma and beta.

    Raises:
        ValueError: the shape of `dout` does not fit.
        TypeError: an argument has the wrong type, or the cache is of another function.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.cs231n import spatial_batchnorm_forward, spatial_batchnorm_backward
        >>> x = np.arange(4.0).reshape(1, 1, 2, 2)
        >>> _, cache = spatial_batchnorm_forward(x, np.ones(1), np.zeros(1), {"mode": "train"})
        >>> spatial_batchnorm_backward(np.ones_like(x), cache)[2].tolist()
        [4.0]
    """
    return _backward("spatial_batchnorm_backward", "spatial_batchnorm_forward", dout, cache)


def spatial_groupnorm_forward(x: Array, gamma: Array, beta: Array, G: int, gn_param: Params) -> tuple[Array, Any]:
    """Group normalization of (N, C, H, W) (Wu & He 2018): per sample, over G groups of neighbouring channels.

    Args:
        x: (N, C, H, W).
        gamma: (1, C, 1, 1) or (C,), per channel.
        beta: (1, C, 1, 1) or (C,), per channel.
        G: number of groups, a divisor of C.
        gn_param: a dictionary. "eps": 1e-5 by default. Everything else is ignored.

    Returns:
        `(out, cache)`, out of the shape and dtype of x.

    Raises:
        ValueError: a number or shape does not fit.
        TypeError: an argument has the wrong type.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.cs231n import spatial_groupnorm_forward
        >>> x = np.array([1.0, 3.0, 10.0, 30.0]).reshape(1, 4, 1, 1)
        >>> out, cache = spatial_groupnorm_forward(x, np.ones((1, 4, 1, 1)), np.zeros((1, 4, 1, 1)), 2, {})
        >>> out.ravel().round(3).tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """
    function = "spatial_groupnorm_forward"
    x, gamma, beta = _floats(function, x, "(N, C, H, W)", gamma, beta)
    eps = _param(function, "gn_param", gn_param).get("eps", 1e-5)
    with in_the_words_of(function, _FORWARD | {"num_groups": "G", "eps": "gn_param['eps']"}):
        out, cache = nk.group_norm(x, G, gamma, beta, eps=eps)
    return out, _Cache(function, cache)


def spatial_groupnorm_backward(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Return `(dx, dgamma, dbeta)` of `spatial_groupnorm_forward`.

    dx = (g - mean(g) - x̂·mean(g·x̂)) / sqrt(var + eps) with g = gamma·dout, the means over a group.

    Args:
        dout: (N, C, H, W).
        cache: from `spatial_groupnorm_forward`.

    Returns:
        Arrays (N, C, H, W), and two of the shapes of gamma and beta.

    Raises:
        ValueError: the shape of `dout` does not fit.
        TypeError: an argument has the wrong type, or the cache is of another function.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.cs231n import spatial_groupnorm_forward, spatial_groupnorm_backward
        >>> x = np.array([1.0, 3.0, 10.0, 30.0]).reshape(1, 4, 1, 1)
        >>> _, cache = spatial_groupnorm_forward(x, np.ones((1, 4, 1, 1)), np.zeros((1, 4, 1, 1)), 2, {})
        >>> spatial_groupnorm_backward(np.ones_like(x), cache)[2].shape
        (1, 4, 1, 1)
    """
    return _backward("spatial_groupnorm_backward", "spatial_groupnorm_forward", dout, cache)


def _batch(function: str, x: Array, axes: str, gamma: Array, beta: Array, bn_param: Params) -> tuple[Array, _Cache]:
    x, gamma, beta = _floats(function, x, axes, gamma, beta)
    params = _param(function, "bn_param", bn_param)
    mode = params.get("mode")
    if not isinstance(mode, str) or mode not in ("train", "test"):
        raise ValueError(f"{function}: `bn_param['mode']` must be 'train' or 'test', found {_checks.shown(mode)}")
    momentum = _checks.number(function, "bn_param['momentum']", params.get("momentum", 0.9))
    if not 0 <= momentum <= 1:
        raise ValueError(f"{function}: `bn_param['momentum']` must be from 0 to 1, found {momentum}")
    # Copies, as the course's code makes new arrays at each step, too.
    mean, var = (
        _float(function, f"bn_param[{name!r}]", params.get(name, np.zeros(x.shape[1], x.dtype)), x.dtype, copy=True)
        for name in ("running_mean", "running_var")
    )
    with in_the_words_of(function, _BATCH):
        out, cache = nk.batch_norm(
            x,
            gamma,
            beta,
            mean,
            var,
            training=mode == "train",
            momentum=1 - momentum,
            eps=params.get("eps", 1e-5),
            running_var_ddof=0,
        )
    params["running_mean"], params["running_var"] = mean, var
    return out, _Cache(function, cache)


_BACKWARD_OF: dict[str, Callable[..., Any]] = {
    "batchnorm_forward": nk.batch_norm_backward,
    "layernorm_forward": nk.layer_norm_backward,
    "spatial_batchnorm_forward": nk.batch_norm_backward,
    "spatial_groupnorm_forward": nk.group_norm_backward,
}


def _backward(function: str, forward: str, dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    if not isinstance(cache, _Cache) or cache.of != forward:
        found = f"that of {cache.of}" if isinstance(cache, _Cache) else type(cache).__name__
        raise TypeError(f"{function}: `cache` must be the cache of {forward}, found {found}")
    with in_the_words_of(function, _BACKWARD):
        dx, dgamma, dbeta = _BACKWARD_OF[forward](_float(function, "dout", dout, np.float64), cache.cache)
    return dx, dgamma, dbeta


def _param(function: str, name: str, value: Any) -> Params:
    if not isinstance(value, MutableMapping):
        raise TypeError(f"{function}: `{name}` must be a dictionary, found {type(value).__name__}")
    return value


def _floats(function: str, x: Any, axes: str, gamma: Any, beta: Any) -> tuple[Array, Array, Array]:
    x = _float(function, "x", x, np.float64)
    ndim = axes.count(",") + 1
    if x.ndim != ndim:
        raise ValueError(f"{function}: `x` must have {ndim} axes, {axes}, found shape {x.shape}")
    return x, _float(function, "gamma", gamma, x.dtype), _float(function, "beta", beta, x.dtype)


def _float(function: str, argument: str, value: Any, dtype: Any, copy: bool = False) -> Array:
    """The array; integers as floats of `dtype`, which is what arithmetic would have made of them."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{function}: `{argument}` must be a NumPy array, found {type(value).__name__}")
    if value.dtype.kind in "iu":
        return value.astype(dtype)
    return value.copy() if copy else value
