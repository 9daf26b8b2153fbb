"""NaN and infinity stay where they belong: what shares a statistic or a parameter with them, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

import checks
import normkit as nk
from cases import BY_NAME, NORMS, prepared
from data import lay_out

SHAPES = ((6, 4), (3, 4, 7, 7), (2, 4, 300), (2, 32, 5, 5))
LAYOUTS = ("c_order", "channels_last")
SPOILED = ("x", "dy", "weight", "bias", "residual", "style")


class Reach:
    """Where one bad number can be seen, as masks of the shape of x, for a norm called with `i`."""

    def __init__(self, row, i):
        result = row.oracle(i)
        self.result = result.content if hasattr(result, "content") else result

    def shared(self, spot):
        """All that shares a statistic with what is in `spot`."""
        if self.result.frozen:
            return spot
        sharing = self.result.sharing
        return sharing.at_elements(sharing.rows(spot).any(1), spot)

    def parameters(self, spot):
        """The elements of the weight that meet `spot`."""
        axes = tuple(a for a in range(spot.ndim) if a not in self.result.parameter_axes)
        return spot.any(axes)

    def of_parameter(self, which):
        """Where an element of the weight is used."""
        axes = self.result.parameter_axes
        shape = self.result.x_hat.shape
        return np.broadcast_to(which.reshape([s if a in axes else 1 for a, s in enumerate(shape)]), shape)


def one(shape, at):
    spot = np.zeros(shape, bool)
    spot[at] = True
    return spot


def spoil(i, what, at, bad):
    a = getattr(i, what).copy(order="K")  # another memory would be summed in another order
    a[at] = bad
    return replace(i, **{what: a})


def index(i):
    """An element that counts: the first where a mask says so, else one inside."""
    at = tuple(s // 2 for s in i.x.shape)
    if i.mask is None:
        return at
    inside = list(np.argwhere(i.mask)[len(np.argwhere(i.mask)) // 2])
    inside.insert(i.axis % i.x.ndim, at[i.axis])
    return tuple(inside)


def run(row, i):
    running = {}
    if row.function in ("batch_norm", "batch_renorm") and not row.frozen:
        running = {"running_mean": i.running_mean.copy(), "running_var": i.running_var.copy()}
    y, cache = row.forward(i, **running)
    return y, row.backward(i.dy, cache), running


def reached(what, at, i, reach):
    """(y, dx, parameters, everything of y inside is NaN): the masks of what a bad number in `what` may change."""
    shape = i.x.shape
    if what in ("weight", "bias"):
        y = reach.of_parameter(one(getattr(i, what).shape, at))
        return y, reach.shared(y), reach.parameters(y)
    if what == "style":
        y = reach.shared(one(shape, (at[0], at[1], *(0 for _ in shape[2:]))))
        return y, y, None
    spot = one(shape, at)
    y = {"x": reach.shared(spot), "dy": np.zeros(shape, bool), "residual": spot}[what]
    return y, reach.shared(spot if what == "dy" else y), reach.parameters(spot if what == "dy" else y)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [row.name for row in NORMS])
def test_a_bad_number_stays_in_its_statistic(name, shape, layout):
    """Outside, forward and backward have the bits of the clean call; inside, a NaN in x makes all of y NaN."""
    row = BY_NAME[name]
    if not row.defined(shape):
        return
    if "adaptive" in name and layout != "c_order":
        layout = "channels_last_memory"  # the style's channels are then on axis 1 as well
    i = lay_out(prepared(name, shape), layout)
    reach, (clean_y, clean, clean_running) = Reach(row, i), run(row, i)
    for what in SPOILED:
        if getattr(i, what) is None:
            continue
        owner = getattr(i, what)
        at = index(i) if owner.shape == i.x.shape else tuple(s // 2 for s in owner.shape)
        y_in, dx_in, parameters = reached(what, at, i, reach)
        for bad in (np.nan, np.inf, -np.inf) if what == "x" else (np.nan,):
            y, found, running = run(row, spoil(i, what, at, bad))
            same_outside(y, clean_y, y_in, f"y with {bad} in {what}")
            if what == "x" and np.isnan(bad):
                inside = y[y_in & reach.result.live(np.ones(i.x.shape, bool)).astype(bool)]
                assert np.isnan(inside).all()
            for gradient, a, b in zip(found._fields, found, clean, strict=True):
                if a is None:
                    continue
                if gradient == "dstyle":
                    spread = np.zeros(a.shape, bool)
                    spread[dx_in.any(tuple(range(2, dx_in.ndim)))] = True
                elif gradient in ("dweight", "dbias"):
                    spread = parameters.reshape(a.shape)
                else:
                    spread = dx_in if gradient != "dresidual" else y_in | one(i.x.shape, at) if what == "dy" else y_in
                same_outside(a, b, spread, f"{gradient} with {bad} in {what}")
            for statistic, value in running.items():
                touched = reach.parameters(y_in) if what == "x" else np.zeros(value.shape, bool)
                same_outside(value, clean_running[statistic], touched, statistic)
                assert what != "x" or not np.isfinite(value[touched]).any()


def same_outside(found, clean, inside, what):
    assert checks.same_bits(found[~inside], clean[~inside]), what
    assert np.isfinite(clean).all()


def test_a_bad_number_stays_in_its_row_of_a_weight():
    """Weight norm and standardization: the row. Spectral norm has one statistic, and sigma is NaN with all of w."""
    rng = np.random.default_rng(0)
    weight, dw, scale = rng.standard_normal((6, 4, 3, 3)), rng.standard_normal((6, 4, 3, 3)), rng.uniform(1, 2, 6)
    others = np.arange(6) != 2
    for norm in ("weight_norm", "scaled_weight_standardization"):
        forward, backward = getattr(nk, norm), getattr(nk, f"{norm}_backward")
        clean, cache = forward(weight, scale)
        clean_found = backward(dw, cache)
        for bad in (np.nan, np.inf):
            spoiled = weight.copy()
            spoiled[2, 1, 0, 0] = bad
            w, cache = forward(spoiled, scale)
            for a, b in zip((w, *backward(dw, cache)), (clean, *clean_found), strict=True):
                assert checks.same_bits(a[others], b[others])
                assert not np.isfinite(a[2]).all()
        spoiled = dw.copy()
        spoiled[2, 1, 0, 0] = np.nan
        for a, b in zip(backward(spoiled, forward(weight, scale)[1]), clean_found, strict=True):
            assert checks.same_bits(a[others], b[others])
            assert np.isnan(a[2]).all()
    weight[2, 1, 0, 0] = np.nan
    w, cache = nk.spectral_norm(weight, np.ones(6), np.ones(36))
    assert np.isnan(w).all()
    assert np.isnan(cache.sigma)


def test_a_bad_number_stays_in_its_output_of_a_fold():
    rng = np.random.default_rng(0)
    weight, conv_bias = rng.standard_normal((6, 4, 3, 3)), rng.standard_normal(6)
    given = [rng.uniform(1, 2, 6) for _ in range(4)]
    clean = nk.fold_conv_bn(weight, conv_bias, *given, eps=1e-5)
    others = np.arange(6) != 2
    for which in range(4):
        spoiled = [p.copy() for p in given]
        spoiled[which][2] = np.nan
        if which == 1:
            continue  # a variance that is NaN is refused or shown; test_bad_input.py
        for a, b in zip(nk.fold_conv_bn(weight, conv_bias, *spoiled, eps=1e-5), clean, strict=True):
            assert checks.same_bits(a[others], b[others])
    weight[2, 1, 0, 0] = np.nan
    w, b = nk.fold_conv_bn(weight, conv_bias, *given, eps=1e-5)
    assert np.argwhere(np.isnan(w)).tolist() == [[2, 1, 0, 0]]
    assert checks.same_bits(b, clean[1])
