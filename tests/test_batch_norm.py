"""What only batch norm has: running statistics, and inference. test_norms.py holds it to the oracle."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import checks
import normkit as nk
import reference
import tolerance
from cases import BY_NAME
from strategies import calls, inputs


@given(inputs())
def test_inference_equals_frozen_forward(i):
    frozen, _ = BY_NAME["batch_norm_frozen"].forward(i)
    y = nk.batch_norm_inference(i.x, i.running_mean, i.running_var, i.weight, i.bias, eps=i.eps, axis=i.axis)
    assert checks.same_bits(y, frozen)


@given(
    calls(("batch_norm", "batch_norm-mask", "batch_renorm")),
    st.sampled_from((0.0, 0.1, 0.25, 1.0)),
    st.sampled_from((0, 1)),
    st.booleans(),
    st.sampled_from(("plain", "strided", "row")),
)
def test_running_statistics(call, momentum, ddof, as_x, form):
    """running = (1 - momentum)·running + momentum·batch, in place; the variance with `running_var_ddof`."""
    row, i = call
    channels = i.x.shape[i.axis]
    if i.x.size == channels:
        return
    dtype = checks.native(i.x.dtype) if as_x else np.dtype(np.float64)
    before = [r.astype(dtype) for r in (i.running_mean, i.running_var)]
    buffers = [np.full(3 * channels, -7, dtype) for _ in before]
    views = [b[1::3] if form == "strided" else b[:channels] for b in buffers]
    for view, value in zip(views, before, strict=True):
        view[...] = value
    shaped = [v[None] if form == "row" else v for v in views]
    row.forward(i, running_mean=shaped[0], running_var=shaped[1], momentum=momentum, running_var_ddof=ddof)
    result = reference.norm(i.x, axis=i.axis, eps=i.eps, mask=i.mask)
    batch = result.mean, result.var * result.count / (result.count - ddof)
    # The statistic's own tolerance (the variance: 4 ulp of float32 for κ <= 1e6), and 3 roundings to `dtype`.
    own = tolerance.compute(checks.native(i.x.dtype))
    spread = tolerance.STATISTIC[own.itemsize] * tolerance.eps_of(own) * tolerance.kappa_of_spread(result)
    errors = tolerance.statistics(result, own)[0], spread * batch[1]
    for what, view, old, new, error in zip(("mean", "var"), views, before, batch, errors, strict=True):
        old = old.astype(new.dtype)
        expected = (1 - np.longdouble(momentum)) * old + np.longdouble(momentum) * new
        rounding = 3 * tolerance.eps_of(dtype) * (np.abs(old) + np.abs(new)) + tolerance.tiny(dtype)
        tolerance.assert_within(view, expected, momentum * error + rounding, f"running_{what}")
    gaps = np.ones(3 * channels, bool)
    gaps[1::3] = False
    if form == "strided":
        assert (buffers[0][gaps] == -7).all()
        assert (buffers[1][gaps] == -7).all()


def test_momentum_zero_leaves_running_statistics_and_one_replaces_them():
    x = np.random.default_rng(0).standard_normal((8, 3, 5))
    mean, var = np.full(3, 7.0), np.full(3, 9.0)
    nk.batch_norm(x, running_mean=mean, running_var=var, momentum=0.0)
    assert (mean == 7).all()
    assert (var == 9).all()
    nk.batch_norm(x, running_mean=mean, running_var=var, momentum=1.0)
    np.testing.assert_allclose(mean, x.mean((0, 2)), rtol=0, atol=1e-15)
    np.testing.assert_allclose(var, x.var((0, 2), ddof=1), rtol=1e-14)


def test_frozen_forward_leaves_running_statistics():
    x = np.random.default_rng(0).standard_normal((8, 3, 5)).astype(np.float32)
    mean, var = np.full(3, 7.0, np.float32), np.full(3, 9.0, np.float32)
    mean.flags.writeable = var.flags.writeable = False
    nk.batch_norm(x, running_mean=mean, running_var=var, training=False)
    assert (mean == 7).all()
    assert (var == 9).all()
