"""JAX on the CPU: jit-compiled, fresh outputs only (XLA owns its memory).

The backward is given the saved statistics, as all others are.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from case import EPS, MOMENTUM, Case, Contender
from ops import Op

NAME = "JAX"
MEASURED = ("batch_norm", "batch_norm_backward", "batch_norm_inference", "group_norm", "group_norm_backward")


def channelwise(v: jax.Array, x: jax.Array) -> jax.Array:
    return v.reshape(1, -1, *[1] * (x.ndim - 2))


def over(x: jax.Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


@jax.jit
def batch_norm(x, w, b, rm, rv):
    mean, var = jnp.mean(x, over(x)), jnp.var(x, over(x))
    count = x.size // x.shape[1]
    scale = w * jax.lax.rsqrt(var + EPS)
    y = (x - channelwise(mean, x)) * channelwise(scale, x) + channelwise(b, x)
    rv = (1 - MOMENTUM) * rv + MOMENTUM * var * count / max(count - 1, 1)
    return y, mean, jax.lax.rsqrt(var + EPS), (1 - MOMENTUM) * rm + MOMENTUM * mean, rv


@jax.jit
def batch_norm_inference(x, w, b, rm, rv):
    return (x - channelwise(rm, x)) * channelwise(w * jax.lax.rsqrt(rv + EPS), x) + channelwise(b, x)


@jax.jit
def batch_norm_backward(dy, x, w, mean, rstd):
    xhat = (x - channelwise(mean, x)) * channelwise(rstd, x)
    dw, db = jnp.sum(dy * xhat, over(x)), jnp.sum(dy, over(x))
    count = x.size // x.shape[1]
    dx = channelwise(w * rstd, x) * (dy - channelwise(db / count, x) - xhat * channelwise(dw / count, x))
    return dx, dw, db


def grouped(x: jax.Array, groups: int) -> jax.Array:
    return x.reshape(x.shape[0], groups, -1)


def group_norm(x, w, b, groups):
    g = grouped(x, groups)
    mean, rstd = g.mean(2, keepdims=True), jax.lax.rsqrt(g.var(2, keepdims=True) + EPS)
    y = ((g - mean) * rstd).reshape(x.shape) * channelwise(w, x) + channelwise(b, x)
    return y, mean, rstd


def group_norm_backward(dy, x, w, mean, rstd, groups):
    xhat = (grouped(x, groups) - mean) * rstd
    dyw = grouped(dy * channelwise(w, x), groups)
    dx = rstd * (dyw - dyw.mean(2, keepdims=True) - xhat * (dyw * xhat).mean(2, keepdims=True))
    return dx.reshape(x.shape), jnp.sum(dy * xhat.reshape(x.shape), over(x)), jnp.sum(dy, over(x))


group_norm = jax.jit(group_norm, static_argnums=3)
group_norm_backward = jax.jit(group_norm_backward, static_argnums=5)


def numpy(*values: jax.Array) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(v) for v in values)


class Peer:
    def __init__(self, threads: int) -> None:
        self.version = jax.__version__
        self.notes = "threads: as many as the process's affinity"

    def contenders(self, op: Op, mode: str, case: Case) -> list[Contender]:
        name = op.name
        if mode == "out" or name not in MEASURED:
            return []
        x, dy, w, b, rm, rv = map(jnp.asarray, (case.x, case.dy, case.w, case.b, *case.running()))
        groups = case.groups
        if name == "batch_norm":
            function, args = batch_norm, (x, w, b, rm, rv)
        elif name == "batch_norm_inference":
            function, args = batch_norm_inference, (x, w, b, rm, rv)
        elif name == "group_norm":
            function, args = group_norm, (x, w, b, groups)
        elif name == "batch_norm_backward":
            function, args = batch_norm_backward, (dy, x, w, *batch_norm(x, w, b, rm, rv)[1:3])
        else:
            function, args = group_norm_backward, (dy, x, w, *group_norm(x, w, b, groups)[1:], groups)

        def result(r):
            if op.backward:
                return numpy(*r)
            return numpy(r if name == "batch_norm_inference" else r[0])

        says = f"jax.jit({name}), block_until_ready"
        return [Contender(NAME, "jit", says, lambda: jax.block_until_ready(function(*args)), result)]
