"""The mean and rstd that a library finds, where it gives them away."""

import numpy as np

import accuracy_numpy
import calls
from case import EPS, MOMENTUM, Case
from ops import Op


def of_normkit(op: Op, case: Case) -> tuple[np.ndarray | None, np.ndarray]:
    cache = calls.forward(op.norm, case)()[1]
    return (None if op.row.name == "rms_norm" else cache.mean), cache.rstd


def of_numpy(op: Op, case: Case) -> tuple[np.ndarray | None, np.ndarray]:
    with np.errstate(all="ignore"):
        mean, rstd = accuracy_numpy.statistics(op, case)
    return mean, rstd


def of_torch(op: Op, case: Case) -> tuple[np.ndarray, np.ndarray]:
    from peer_torch import tensor
    from torch_chains import aten

    x, w, b, rm, rv = map(tensor, (case.x, case.w, case.b, *case.running()))
    n, c = case.x.shape[:2]
    found = {
        "batch_norm": lambda: aten.native_batch_norm(x, w, b, rm, rv, True, MOMENTUM, EPS),
        "instance_norm": lambda: aten.native_batch_norm(
            x.reshape(1, n * c, -1), None, None, None, None, True, MOMENTUM, EPS
        ),
        "group_norm": lambda: aten.native_group_norm(x, w, b, n, c, case.x.size // (n * c), case.groups, EPS),
        "layer_norm": lambda: aten.native_layer_norm(x, (c,), w, b, EPS),
    }[op.row.name]()
    return found[1].numpy(), found[2].numpy()


def of_jax(op: Op, case: Case) -> tuple[np.ndarray, np.ndarray]:
    import peer_jax

    x, w, b, rm, rv = map(peer_jax.jnp.asarray, (case.x, case.w, case.b, *case.running()))
    if op.row.name == "batch_norm":
        _, mean, rstd, *_ = peer_jax.batch_norm(x, w, b, rm, rv)
    else:
        _, mean, rstd = peer_jax.group_norm(x, w, b, case.groups)
    return np.asarray(mean), np.asarray(rstd)


OF = {
    "normkit": (("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"), of_normkit),
    "NumPy": (tuple(accuracy_numpy.OVER), of_numpy),
    "PyTorch": (("batch_norm", "group_norm", "instance_norm", "layer_norm"), of_torch),
    "JAX": (("batch_norm", "group_norm"), of_jax),
}


def found(library: str, op: Op, case: Case) -> tuple[np.ndarray | None, np.ndarray] | None:
    """(mean, rstd); None where the library gives none."""
    norms, of = OF.get(library, ((), None))
    return of(op, case) if op.row.name in norms else None
