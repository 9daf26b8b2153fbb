"""What has no row in the table of norms: inference, moments, folding, weights, the halves of SyncBatchNorm.

`results` yields (name, arrays); a name starts with the function's.
"""

import numpy as np

import normkit as nk
from cases import ACTIVATIONS, ALL_DTYPES, DTYPES, HALVES, LAYOUTS, lay_out, values
from layouts import exists
from normkit._normkit import batch_norm_gradient_apply, batch_norm_gradient_sums, batch_norm_with_statistics

F32 = DTYPES[0]
# Where axes stay in their places.
PLACES = tuple(name for name in LAYOUTS if name not in ("channels_last", "channels_first"))
IMAGES, LONG = (8, 32, 31, 29), (2, 3, 50_001)
WEIGHTS = ((6, 4, 3, 3), (64, 300, 3, 3), (2, 90_001), (90_001, 2))


def results():
    for functions in (inference, moments, fold, weights, synchronized, precise):
        yield from functions()


def inference():
    for s, shape in enumerate((IMAGES, LONG, (1303, 129))):
        for d, dtype in enumerate(ALL_DTYPES):
            for k, layout in enumerate(LAYOUTS):
                if (k + d) % 3 != s or not exists(layout, dtype):
                    continue
                i = lay_out(values(shape, dtype), layout)
                activation = (None, *ACTIVATIONS)[(k + s) % 4]
                how = {"activation": activation, "residual": i.dy if (k + d) % 2 else None, "axis": i.axis}
                y = nk.batch_norm_inference(i.x, i.running_mean, i.running_var, i.weight, i.bias, **how)
                yield f"batch_norm_inference-{activation}-{shape}-{layout}-{dtype.name}", (y,)


def moments():
    for shape in ((300, 500), (80_001, 2), (3, 60_001), (6, 40, 30, 31)):
        for d, dtype in enumerate(ALL_DTYPES):
            for k, layout in enumerate(PLACES):
                if ((k + d) % 4 and layout != "c_order") or not exists(layout, dtype):
                    continue
                x, _ = LAYOUTS[layout](values(shape, dtype).x)
                for axis in (0, 1, (0, 1), tuple(a for a in range(x.ndim) if a != 1), None):
                    m = nk.moments(x, axis)
                    both = m.merge(nk.moments(x[:1], axis)) if axis != 1 else m
                    yield f"moments-{shape}-{axis}-{layout}-{dtype.name}", (m.mean, m.m2, m.var(1), both.mean, both.m2)


def fold():
    for d, dtype in enumerate(ALL_DTYPES):
        for k, layout in enumerate(PLACES):
            if not exists(layout, dtype):
                continue
            transposed, groups = bool((k + d) % 2), (1, 4)[k % 2]
            weight, _ = LAYOUTS[layout](values((64, 32, 5, 5), dtype).x)
            i = values((2, 32 * groups if transposed else 64, 1), dtype)
            given = (i.running_mean, i.running_var, i.weight, None if k % 3 else i.bias)
            how = {"eps": 1e-5, "groups": groups, "transposed": transposed}
            yield f"fold_conv_bn-{layout}-{dtype.name}", nk.fold_conv_bn(weight, None, *given, **how)


def weights():
    for shape in WEIGHTS:
        for d, dtype in enumerate(ALL_DTYPES):
            for k, layout in enumerate(PLACES):
                if layout == "broadcast" or not exists(layout, dtype) or ((k + d) % 4 and layout != "c_order"):
                    continue
                i = values(shape, dtype)
                weight, dw = (LAYOUTS[layout](a)[0] for a in (i.x, i.dy))
                for function, arrays in of_weight(weight, dw):
                    yield f"{function}-{shape}-{layout}-{dtype.name}", arrays


def of_weight(weight, dw):
    """Every function that normalizes a weight, along either axis, and back."""
    own = np.float32 if weight.dtype in HALVES else weight.dtype.newbyteorder("=")
    scales = lambda dim: np.linspace(0.5, 2, weight.shape[dim]).astype(own)  # noqa: E731
    for dim in (0, 1):
        w, cache = nk.weight_norm(weight, scales(dim), dim=dim)
        yield f"weight_norm-{dim}", (w, cache.norm, *nk.weight_norm_backward(dw, cache))
        others = weight.size // weight.shape[dim]
        u, v = np.full(weight.shape[dim], weight.shape[dim] ** -0.5), np.linspace(0.5, 1.5, others) * others**-0.5
        w, cache = nk.spectral_norm(weight, u, v, dim=dim)
        sigma = np.array(cache.sigma)
        yield f"spectral_norm-{dim}", (w, cache.u, cache.v, sigma, nk.spectral_norm_backward(dw, cache))
    w, cache = nk.scaled_weight_standardization(weight, scales(0))
    found = nk.scaled_weight_standardization_backward(dw, cache)
    yield "scaled_weight_standardization", (w, cache.mean, cache.rstd, *found)


def synchronized():
    """Forward by merged statistics, backward by merged sums."""
    for dtype in ALL_DTYPES:
        for layout in ("c_order", "channels_last", "sliced"):
            i = lay_out(values(IMAGES, dtype), layout)
            over = tuple(a for a in range(i.x.ndim) if a != i.axis % i.x.ndim)
            m = nk.moments(i.x, over)
            y, cache = batch_norm_with_statistics(i.x, m.mean, m.var(), i.weight, i.bias, axis=i.axis)
            dot, total = batch_norm_gradient_sums(i.dy, cache)
            dx = batch_norm_gradient_apply(i.dy, cache, dot, total, m.count)
            yield f"batch_norm_with_statistics-{layout}-{dtype.name}", (y, dot, total, dx)


def precise():
    for dtype in DTYPES:
        layer = nk.BatchNorm(32, dtype=np.float64)
        (m,) = nk.precise_statistics([layer], layer, [values(IMAGES, dtype, seed=s).x for s in range(2)])
        yield f"precise_statistics-{dtype.name}", (m.mean, m.m2, layer.running_mean, layer.running_var)
