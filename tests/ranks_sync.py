"""What every rank does in the tests of `SyncBatchNorm`: `mpiexec -n 3 python -m mpi4py ranks_sync.py <case>`.

A case is a function. All ranks make the same whole batch, give the layer their own shard, and compare what all ranks
got together with one process's result. A failing assertion on any rank ends all of them (`-m mpi4py`).
"""

import copy
import doctest
import os
import pickle
import signal
import sys
from itertools import pairwise

import numpy as np
import pytest
from mpi4py import MPI

import checks
import normkit as nk
import reference
import tolerance
from cases import LAYOUTS, values
from normkit.distributed import SyncBatchNorm
from tolerance import assert_within

COMM = MPI.COMM_WORLD
RANK, RANKS = COMM.rank, COMM.size
MOMENTUM = 0.3


class Counting:
    """A communicator that keeps an account of its use."""

    def __init__(self, comm):
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.calls = self.sent = 0

    def Allgather(self, sent, received, /):  # noqa: N802
        self.calls += 1
        self.sent += sent.nbytes
        self.comm.Allgather(sent, received)


def cut(n, rng, kind):
    """Where each rank's shard of n samples begins and ends."""
    if kind == "even":
        edges = np.linspace(0, n, RANKS + 1).astype(int)
    elif kind == "uneven":
        edges = np.array([0, *sorted(rng.integers(0, n + 1, RANKS - 1)), n])
    else:  # all on one rank, the others go without
        edges = np.where(np.arange(RANKS + 1) <= rng.integers(RANKS), 0, n)
    return list(pairwise(edges))


def gathered(local, axis):
    """All ranks' shards as one batch, the channels on axis 1."""
    return np.concatenate(COMM.allgather(np.moveaxis(local, axis, 1)))


def same_on_all_ranks(*arrays):
    return len(set(COMM.allgather(b"".join(a.tobytes() for a in arrays)))) == 1


def whole_batches(count):
    """Random whole batches: shape, magnitude, memory layout, dtypes, shards."""
    for seed in range(count):
        rng = np.random.default_rng([seed, RANKS])
        spatial = [(), (1,), (7,), (3, 5), (7, 7), (300,)][rng.integers(6)]
        shape = (int(rng.integers(2, 12)), int(rng.integers(1, 9)), *spatial)
        dtype = np.dtype(rng.choice(["f4", "f8"]))
        mean = rng.choice([0.0, 3.0, -1e4])
        layout = str(rng.choice([name for name in LAYOUTS if name != "broadcast"]))
        kind = str(rng.choice(["even", "uneven", "uneven", "one rank has all"]))
        yield rng, values(shape, dtype, seed=seed, mean=mean), layout, cut(shape[0], rng, kind), np.dtype(dtype)


def equal_to_one_process():
    for rng, whole, layout, shards, dtype in whole_batches(60):
        begin, end = shards[RANK]
        x, axis = LAYOUTS[layout](whole.x[begin:end])
        dy, _ = LAYOUTS[layout](whole.dy[begin:end])
        of_parameters = np.dtype(rng.choice(["f4", "f8"]))
        affine = bool(rng.integers(4))
        comm = Counting(COMM)
        layer = SyncBatchNorm(
            x.shape[axis], comm=comm, axis=axis, momentum=MOMENTUM, affine=affine, dtype=of_parameters
        )
        weight = bias = None
        if affine:
            layer.weight[...], layer.bias[...] = whole.weight, whole.bias
            weight, bias = layer.weight, layer.bias

        y = layer(x)
        in_place = bool(rng.integers(2)) and dy.flags.writeable and dy.dtype.isnative
        gradient_sent = dy.copy(order="K") if in_place else dy
        dx = layer.backward(gradient_sent, out=gradient_sent if in_place else None)
        assert comm.calls == 2, "one exchange per pass"

        assert y.shape == dx.shape == x.shape
        assert checks.native(y.dtype) == checks.native(dx.dtype) == dtype
        result = reference.norm(whole.x, weight, bias)
        assert_within(gathered(y, axis), result.y, tolerance.y(result, dtype), "y")
        expected = result.backward(whole.dy)
        dtypes = {"dx": dtype, "dweight": of_parameters, "dbias": of_parameters, "dresidual": None}
        within = tolerance.gradients(result, whole.dy, expected, dtypes, dtype)
        assert_within(gathered(dx, axis), expected.dx, within["dx"], "dx")
        for name in layer.grads:
            of_all, bound = getattr(expected, f"d{name}"), within[f"d{name}"]
            # Each share was rounded to its dtype before they are summed: by half an ulp of its own at most.
            own = layer.grads[name]
            assert own.dtype == of_parameters
            shares = [share.astype(result.y.dtype) for share in COMM.allgather(own)]
            bound = bound + np.finfo(of_parameters).eps / 2 * sum(map(np.abs, shares))
            summed = sum(shares)
            assert_within(summed, of_all, bound, name)

        check_running(layer, result, dtype)
        assert layer.num_batches_tracked == 1


def check_running(layer, result, dtype):
    """One step from (0, 1), within the promise for the statistics and the roundings to the layer's dtype.

    In float64 the means of the shards, too, are only within their ulps, which moves m2 by up to 2·count·sigma·(that).
    """
    assert same_on_all_ranks(layer.running_mean, layer.running_var)
    mean_within, _ = tolerance.statistics(result, dtype)
    var_within = tolerance.STATISTIC[dtype.itemsize] * tolerance.eps_of(dtype) * result.var
    var_within = var_within * tolerance.kappa_of_spread(result)
    if dtype.itemsize == 8:
        var_within = var_within + 2 * (np.sqrt(result.var) + mean_within) * mean_within
    unbiased = result.count / (result.count - 1)
    eps = tolerance.eps_of(layer.dtype)
    mean, var = MOMENTUM * result.mean, (1 - MOMENTUM) + MOMENTUM * unbiased * result.var
    assert_within(layer.running_mean, mean, MOMENTUM * mean_within + eps * np.abs(mean), "running_mean")
    assert_within(layer.running_var, var, MOMENTUM * unbiased * var_within + eps * np.abs(var), "running_var")


def like_batch_norm_step_by_step():
    """Several steps, cumulative average, biased variance, accumulated gradients, eval mode: as with one process."""
    options = {"momentum": None, "running_var_ddof": 0, "dtype": np.float64}
    sync, alone = SyncBatchNorm(5, comm=COMM, **options), nk.BatchNorm(5, **options)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, dy = rng.normal(2, 3, (2, 9, 5, 4))
        begin, end = cut(9, rng, "uneven")[RANK]
        y, expected = sync(x[begin:end]), alone(x)
        dx, expected_dx = sync.backward(dy[begin:end], accumulate=True), alone.backward(dy, accumulate=True)
        # Both are within 64 eps·max(1, |y|) of the exact value, and |y| < 8; gradients: 128 + 8 eps of terms below 8.
        np.testing.assert_allclose(y, expected[begin:end], rtol=0, atol=2 * 64 * 8 * 2.3e-16)
        np.testing.assert_allclose(dx, expected_dx[begin:end], rtol=0, atol=2 * 136 * 8 * 2.3e-16)
    assert sync.num_batches_tracked == alone.num_batches_tracked == 4
    for name, grad in alone.grads.items():
        np.testing.assert_allclose(
            sum(COMM.allgather(sync.grads[name])), grad, rtol=0, atol=2 * 128 * 4 * 72 * 8 * 2.3e-16
        )
    for name in ("running_mean", "running_var"):
        np.testing.assert_allclose(getattr(sync, name), getattr(alone, name), rtol=2 * 64 * 2.3e-16)

    for layer in (sync, alone):
        layer.eval()
    alone.load_state_dict(sync.state_dict())
    if RANK == 0:  # eval mode needs no other rank
        x = np.random.default_rng(9).normal(2, 3, (3, 5, 2))
        assert checks.same_bits(sync(x), alone(x))
        assert checks.same_bits(sync.backward(x), alone.backward(x))
        assert sync.num_batches_tracked == 4


def communication_is_of_the_channels():
    """One call per pass; the same number of bytes for any batch."""
    for shape in ((4, 6), (64, 6, 9), (4, 6, 64, 64)):
        comm = Counting(COMM)
        layer = SyncBatchNorm(6, comm=comm)
        x = np.random.default_rng(RANK).standard_normal(shape).astype(np.float32)
        y = layer(x)
        assert (comm.calls, comm.sent) == (1, 8 * (2 * 6 + 2))
        layer.backward(y)
        assert (comm.calls, comm.sent) == (2, 8 * (2 * 6 + 2) + 8 * (2 * 6 + 1))
        layer.eval()
        layer.backward(layer(x))
        assert comm.calls == 2
    without = SyncBatchNorm(6, comm=(comm := Counting(COMM)), track_running_stats=False).eval()
    without.backward(without(x))
    assert comm.calls == 2, "batch statistics in eval mode are those of all ranks, too"


def constants_and_nan():
    """Constants give exactly the bias, a NaN on one rank spoils its channel on all, and no other."""
    layer = SyncBatchNorm(3, comm=COMM)
    layer.bias[...] = [0.1, -7.3, 1e-3]
    x = np.broadcast_to(np.array([1.1, -2.7e10, 3.9], np.float32), (RANK + 1, 3)).copy()
    assert (layer(x) == layer.bias).all()
    x = np.random.default_rng(RANK).standard_normal((4, 3)).astype(np.float32)
    if RANK == RANKS - 1:
        x[2, 1] = np.nan
    assert np.isnan(layer(x)).all(axis=0).tolist() == [False, True, False]
    assert np.isfinite(layer.running_mean).tolist() == [True, False, True]


def one_value_in_all():
    layer = SyncBatchNorm(3, comm=COMM)
    before = layer.state_dict()
    x = np.ones((int(RANK == RANKS - 1), 3), np.float32)
    with pytest.raises(ValueError, match=r"^SyncBatchNorm: `x` must have more than one value per channel"):
        layer(x)
    assert all(checks.same_bits(value, before[name]) for name, value in layer.state_dict().items())
    if RANK == 0:
        x = np.array([[1, 2, 3]], np.float32)
    layer(x)  # one on the first and one on the last rank are two
    assert layer.num_batches_tracked == 1
    # Of 1 and 1 the variance is 0, of 2 and 1 it is 1/4 (unbiased 1/2), of 3 and 1 it is 1 (unbiased 2); momentum 0.1.
    np.testing.assert_allclose(layer.running_var, [0.9, 0.95, 1.1], rtol=1e-6)


def nothing_at_all():
    layer = SyncBatchNorm(3, comm=COMM)
    before = layer.state_dict()
    x = np.ones((0, 3, 4), np.float32)
    assert layer(x).shape == x.shape
    assert all(checks.same_bits(value, before[name]) for name, value in layer.state_dict().items())
    assert layer.backward(x).shape == x.shape
    assert all((grad == 0).all() for grad in layer.grads.values())


def one_rank_refuses():
    """Whatever is wrong on one rank: all raise, nothing has changed, and the ranks are in step afterwards."""
    here = RANK == RANKS - 1
    elsewhere = f"^SyncBatchNorm: every rank .* on rank {RANKS - 1}$"
    good = np.random.default_rng(RANK).standard_normal((4, 3)).astype(np.float32)
    dy = np.ones((4, 3), np.float32)
    memory = np.ones((5, 3), np.float32)
    wrong = {
        "integers": (TypeError, {"x": np.ones((4, 3), int)}),
        "no array": (TypeError, {"x": [[1.0, 2.0, 3.0]]}),
        "channels": (ValueError, {"x": np.ones((4, 2), np.float32)}),
        "one axis": (ValueError, {"x": np.ones(3, np.float32)}),
        "out is no array": (TypeError, {"x": good, "out": [1]}),
        "shape of out": (ValueError, {"x": good, "out": np.empty((5, 3), np.float32)}),
        "dtype of out": (TypeError, {"x": good, "out": np.empty((4, 3))}),
        "out is x": (ValueError, {"x": good, "out": good}),
        "out is read-only": (ValueError, {"x": good, "out": LAYOUTS["read_only"](good)[0]}),
    }
    wrong_gradients = {
        "shape of dy": (ValueError, {"dy": np.ones((3, 4), np.float32)}),
        "dtype of dy": (TypeError, {"dy": np.ones((4, 3), int)}),
        "shape of dx": (ValueError, {"dy": dy, "out": np.empty((3, 3), np.float32)}),
        "dx is x": (ValueError, {"dy": dy, "out": good}),
        "dx is partly dy": (ValueError, {"dy": memory[1:], "out": memory[:-1]}),
    }

    def refused(kind, act, arguments):
        before = (layer.state_dict(), {name: grad.copy() for name, grad in layer.grads.items()}, layer._cache)
        with pytest.raises(kind, match=None if here else elsewhere):
            act(**arguments)
        for now, then in ((layer.state_dict(), before[0]), (layer.grads, before[1])):
            assert all(checks.same_bits(value, then[name]) for name, value in now.items())
        assert layer._cache is before[2]

    for affine, tracked in ((True, True), (False, False)):
        layer = SyncBatchNorm(3, comm=COMM, affine=affine, track_running_stats=tracked)
        layer(good)
        dx = layer.backward(dy)
        for kind, arguments in wrong.values():
            refused(kind, layer, arguments if here else {"x": good})
        for kind, arguments in wrong_gradients.values():
            refused(kind, layer.backward, arguments if here else {"dy": dy})
        assert checks.same_bits(layer.backward(dy), dx)

    layer = SyncBatchNorm(3, comm=COMM)
    weight = layer.params["weight"]
    if here:
        layer.params["weight"] = np.ones(4, np.float32)
    refused(ValueError, layer, {"x": good})
    layer.params["weight"] = weight
    shared = np.ones((4, 3), np.float32)
    layer.params["bias"] = shared[0] if here else layer.params["bias"]
    refused(ValueError, layer, {"x": good, "out": shared} if here else {"x": good})
    layer(good)

    # Something wrong on every rank: each raises its own error.
    with pytest.raises(TypeError if here else ValueError, match=r"`x`"):
        layer([1.0] if here else np.ones((4, 2), np.float32))


def copies():
    """A deep copy and a pickle share the communicator and nothing else."""
    part = COMM.Split(0, RANK)
    layer = SyncBatchNorm(2, comm=part)
    x = np.random.default_rng(RANK).standard_normal((3, 2)).astype(np.float32)
    twin = copy.deepcopy({"layer": layer, "again": layer})
    assert twin["layer"] is twin["again"]
    twin = twin["layer"]
    assert twin.comm is part
    y = layer(x)
    assert (twin.running_mean == 0).all()
    assert checks.same_bits(twin(x), y)
    other = pickle.loads(pickle.dumps(SyncBatchNorm(2, comm=COMM)))
    assert checks.same_bits(other(x), y)


def docstring_example():
    """As written it is of one rank."""
    (test,) = doctest.DocTestFinder(recurse=False).find(SyncBatchNorm, "SyncBatchNorm")
    report = []
    failed, tried = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert tried
    assert not failed, "".join(report)


def precise_statistics_of_all_ranks():
    """Uneven batches on every rank: the running statistics become those of all values of all ranks."""
    rng = np.random.default_rng(0)
    whole = rng.normal(5, 2, (4, 20, 3, 6))  # (batch, N, C, S)
    layer = SyncBatchNorm(3, comm=COMM, dtype=np.float64)
    mine = [batch[slice(*cut(20, rng, "uneven")[RANK])] for batch in whole]
    (of,) = nk.precise_statistics([layer], layer, mine)
    assert of.count == 4 * 20 * 6
    assert same_on_all_ranks(layer.running_mean, layer.running_var)
    # Each is within 64 eps of the exact one, and a merge of 4 parts from each rank adds less than that.
    np.testing.assert_allclose(layer.running_mean, whole.mean((0, 1, 3)), rtol=2 * 64 * 2.3e-16)
    np.testing.assert_allclose(layer.running_var, whole.var((0, 1, 3), ddof=1), rtol=2 * 64 * 2.3e-16)
    assert layer.num_batches_tracked == 0

    unused = SyncBatchNorm(3, comm=COMM)
    before = layer.state_dict()
    with pytest.raises(ValueError, match="did not use"):
        nk.precise_statistics([layer, unused], layer, mine)
    assert all(checks.same_bits(value, before[name]) for name, value in layer.state_dict().items())


def raises_before_the_exchange():
    layer = SyncBatchNorm(3, comm=COMM)
    if RANK == RANKS - 1:
        raise RuntimeError("the file of this rank cannot be read")
    layer(np.ones((4, 3), np.float32))
    print("went on")


def dies_before_the_exchange():
    layer = SyncBatchNorm(3, comm=COMM)
    if RANK == RANKS - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    layer(np.ones((4, 3), np.float32))
    print("went on")


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    COMM.Barrier()
    if RANK == 0:
        print(f"{sys.argv[1]} on {RANKS} ranks")
