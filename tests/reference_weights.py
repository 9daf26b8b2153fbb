"""The oracle of the parametric normalizers, as their definitions read, in wider floats than the input's."""

import numpy as np

from reference import wide


def divide(a, b):
    """a/b; 0 where b is 0."""
    return np.divide(
        a, b, out=np.zeros(np.broadcast_shapes(np.shape(a), np.shape(b)), np.result_type(a, b)), where=b != 0
    )


def weight_norm(v, g, dim):
    """(w, norms shaped to broadcast)."""
    v = wide(v)
    axes = None if dim is None else tuple(a for a in range(v.ndim) if a != dim % v.ndim)
    norm = np.sqrt(np.square(v).sum(axes, keepdims=True))
    return v * divide(wide(g).astype(v.dtype).reshape(norm.shape), norm), norm


def weight_norm_backward(dw, v, g, dim):
    """(dv, dg shaped to broadcast, Σ|dw·v|/‖v‖ of dg)."""
    v, dw = wide(v), wide(dw)
    dw = dw.astype(v.dtype)
    _, norm = weight_norm(v, g, dim)
    axes = tuple(a for a in range(v.ndim) if norm.shape[a] == 1 and (dim is None or a != dim % v.ndim))
    direction = divide(v, norm)
    dg = (dw * direction).sum(axes, keepdims=True)
    terms = np.abs(dw * direction).sum(axes, keepdims=True)
    scale = divide(wide(g).astype(v.dtype).reshape(norm.shape), norm)
    return scale * (dw - dg * direction), dg, terms, np.abs(scale) * (np.abs(dw) + terms * np.abs(direction))


def matrix(weight, dim):
    """Rows: the positions of `dim`."""
    return np.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1)


def spectral_norm(weight, u, v, n, eps, dim):
    """(w, u, v, sigma)."""
    w = matrix(wide(weight), dim)
    u, v = wide(u).astype(w.dtype).ravel(), wide(v).astype(w.dtype).ravel()
    for _ in range(n):
        u = (w @ v) / max(np.sqrt(np.square(w @ v).sum()), eps)
        v = (w.T @ u) / max(np.sqrt(np.square(w.T @ u).sum()), eps)
    sigma = u @ w @ v
    return wide(weight) / sigma, u, v, sigma


def spectral_norm_backward(dw, weight, u, v, sigma, dim):
    """(dweight, the sum of the magnitudes of its terms)."""
    weight = wide(weight)
    dw = wide(dw).astype(weight.dtype)
    outer = np.outer(u, v).reshape(np.moveaxis(weight, dim, 0).shape)
    outer = np.moveaxis(outer, 0, dim)
    size = (np.abs(dw) + (np.abs(dw * weight)).sum() / abs(sigma) * np.abs(outer)) / abs(sigma)
    return (dw - (dw * weight).sum() / sigma * outer) / sigma, size


def standardization(weight, gain, eps):
    """(w, mean, rstd), the latter shaped to broadcast."""
    w = wide(weight)
    axes = tuple(range(1, w.ndim))
    mean = w.mean(axes, keepdims=True)
    mean = mean + (w - mean).mean(axes, keepdims=True)
    fan_in = w[0].size
    var = np.square(w - mean).mean(axes, keepdims=True)
    rstd = divide(w.dtype.type(1), np.sqrt(np.maximum(var * fan_in, w.dtype.type(eps))))
    gain = np.ones_like(mean) if gain is None else wide(gain).astype(w.dtype).reshape(mean.shape)
    return (w - mean) * rstd * gain, mean, rstd


def standardization_backward(dw, weight, gain, eps):
    """(dweight, dgain, magnitudes of dweight's terms, of dgain's)."""
    w = wide(weight)
    dw = wide(dw).astype(w.dtype)
    axes = tuple(range(1, w.ndim))
    _, mean, rstd = standardization(weight, None, eps)
    hat = (w - mean) * rstd
    free = np.square(w - mean).sum(axes, keepdims=True) > eps
    gain = np.ones_like(mean) if gain is None else wide(gain).astype(w.dtype).reshape(mean.shape)
    dgain = (dw * hat).sum(axes, keepdims=True)
    dweight = gain * rstd * (dw - dw.mean(axes, keepdims=True) - np.where(free, hat * dgain, 0))
    terms = np.abs(dw * hat).sum(axes, keepdims=True)
    size = np.abs(gain) * rstd * (np.abs(dw) + np.abs(dw).mean(axes, keepdims=True) + np.abs(hat) * terms)
    return dweight, dgain, size, terms
