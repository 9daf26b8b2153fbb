"""Rows of USERS.md about memory: what is kept, what is copied, what fusing saves. Timings are benches, never tests."""

import ast
import sys
from dataclasses import replace

import numpy as np
import page
import pytest

import checks
import normkit as nk
from cases import BY_NAME, CHANNEL_NORMS, prepared
from subprocesses import output

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@LINUX
def test_row_19_no_copy_of_the_input_is_kept():
    """Peak memory of forward and backward into given outputs: far below one more tensor (64 MB)."""
    # Not getrusage: its maximum starts at that of the process that forked this one.
    program = """
import numpy as np, normkit as nk
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
nk.batch_norm_backward(np.ones((256, 64, 30)), nk.batch_norm(np.ones((256, 64, 30)))[1])
x, y, dx = (np.full((64, 64, 64, 64), k, np.float32) for k in range(3))
before = peak()
cache = nk.batch_norm(x, out=y)[1]
nk.batch_norm_backward(y, cache, out=dx)
cache = nk.group_norm(x, 32, out=y)[1]
nk.group_norm_backward(y, cache, out=dx)
cache = nk.instance_norm(x, out=y)[1]
nk.instance_norm_backward(y, cache, out=dx)
cache = nk.layer_norm(x, axis=(1, 2, 3), out=y)[1]
nk.layer_norm_backward(y, cache, out=dx)
cache = nk.rms_norm(x, axis=1, out=y)[1]
nk.rms_norm_backward(y, cache, out=dx)
print(peak() - before)
"""
    kilobytes = int(output("-c", program, NORMKIT_NUM_THREADS="2"))
    assert kilobytes < 16_000


@LINUX
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu"])
@pytest.mark.parametrize("residual", ["None", "r"])
def test_row_19_what_a_fused_activation_keeps(residual, activation):
    """Without a residual nothing, with one a bit per element: 2 MB of 64. Not a byte each, which would be 16 MB."""
    program = f"""
import numpy as np, normkit as nk
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
def run(x, r, y, dx, dr):
    for forward, backward in (
        (lambda: nk.batch_norm(x, activation="{activation}", residual={residual}, out=y), nk.batch_norm_backward),
        (lambda: nk.instance_norm(x, activation="{activation}", residual={residual}, out=y), nk.instance_norm_backward),
    ):
        before = peak()
        cache = forward()[1]
        print(peak() - before)
    return cache
run(*(np.ones((256, 64, 30), np.float32) for _ in range(5)))
x, r, y, dx, dr = (np.full((64, 64, 64, 64), k, np.float32) for k in range(5))
run(x, r, y, dx, dr)
"""
    kilobytes = [int(line) for line in output("-c", program, NORMKIT_NUM_THREADS="2").split()[2:]]
    assert max(kilobytes) < 8_000


PEAK = """
import numpy as np, normkit as nk
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
nk.batch_norm_backward(np.ones((256, 64, 30)), nk.batch_norm(np.ones((256, 64, 30)))[1])
"""


@LINUX
@pytest.mark.parametrize("layout", ["channels_last", "samples_and_channels", "sliced", "reversed", "fortran"])
def test_row_20_no_layout_is_transposed_first(layout):
    """A layout without a kernel of its own would be copied to one that has: 16 MB more. The time: the benches.

    Mean, var and rstd of layer norm over the first axis have 2^18 float64 each: 6 MB; 2 MB are for threads and code.
    """
    program = f"""{PEAK}
shape = (65536, 64) if "{layout}" == "samples_and_channels" else (16, 64, 64, 64)
def new(value):
    if "{layout}" == "channels_last":
        return np.moveaxis(np.full(shape, value, np.float32), -1, 1)
    if "{layout}" == "sliced":
        return np.full((*shape[:-1], 2 * shape[-1]), value, np.float32)[..., ::2]
    if "{layout}" == "reversed":
        return np.full(shape, value, np.float32)[::-1, ::-1, ::-1, ::-1]
    return np.full(shape, value, np.float32, order="F" if "{layout}" == "fortran" else "C")
x, y, dx = map(new, range(3))
before = peak()
nk.batch_norm_backward(y, nk.batch_norm(x, out=y)[1], out=dx)
nk.layer_norm_backward(y, nk.layer_norm(x, axis=0, out=y)[1], out=dx)
if len(shape) > 2:
    nk.group_norm_backward(y, nk.group_norm(x, 32, out=y)[1], out=dx)
    nk.rms_norm_backward(y, nk.rms_norm(x, axis=1, out=y)[1], out=dx)
print(peak() - before)
"""
    assert int(output("-c", program, NORMKIT_NUM_THREADS="2")) < 8_192


def test_row_31_what_fuses_is_measured_beside_one_by_one():
    """The bench's table has the fused op with `beside="unfused"`; test_benches.py runs both, forward and backward."""
    body = ast.parse((page.TOP / "benches" / "peers" / "ops.py").read_text())
    rows = [n for n in ast.walk(body) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Row"]
    fused = [n for n in rows if n.args and "relu" in n.args[0].value]
    assert fused
    for row in fused:
        given = {k.arg: ast.literal_eval(k.value) for k in row.keywords if isinstance(k.value, ast.Constant)}
        assert given["beside"] == "unfused"
        assert given.get("has_backward", True)


@LINUX
def test_row_31_fused_needs_no_more_memory_than_one_by_one():
    """Fresh outputs: y, dx and dresidual, 64 MB each, in either way; a bit per element (2 MB) beside them."""
    program = f"""{PEAK}
import sys
def fused(x, r, dy):
    y, cache = nk.batch_norm(x, activation="relu", residual=r)
    return nk.batch_norm_backward(dy, cache)
def one_by_one(x, r, dy):
    y, cache = nk.batch_norm(x)
    np.add(y, r, out=y)
    np.maximum(y, 0, out=y)
    dresidual = np.multiply(dy, y > 0)
    return nk.batch_norm_backward(dresidual, cache), dresidual
x, r, dy = (np.full((64, 64, 64, 64), k, np.float32) for k in range(3))
before = peak()
{{}}(x, r, dy)
print(peak() - before)
"""
    fused, one_by_one = (
        int(output("-c", program.replace("{}", way), NORMKIT_NUM_THREADS="2")) for way in ("fused", "one_by_one")
    )
    assert fused <= one_by_one + 8_000


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("name", CHANNEL_NORMS)
def test_row_31_fused_is_what_one_by_one_gives(name, activation):
    """x̂·weight + bias is rounded once more before the residual is added: half an ulp, and half of the sum's."""
    row, i = BY_NAME[name], prepared(name, (6, 8, 9, 11))
    residual = np.random.default_rng(0).standard_normal(i.x.shape).astype(np.float32)
    y, cache = row.call(i, activation=activation, residual=residual)()
    plain, plain_cache = row.forward(i)
    z = plain + residual
    expected = np.where(z > 0, z, z * np.float32(0.1 * (activation == "leaky_relu")))
    eps = np.finfo(np.float32).eps
    within = 2 * eps * (np.abs(plain) + np.abs(residual))
    checks.assert_within(y, expected, within, "y")
    found = getattr(nk, f"{row.function}_backward")(i.dy, cache)
    slope = np.where(y > 0, 1, np.float32(0.1 * (activation == "leaky_relu"))).astype(np.float32)
    one_by_one = getattr(nk, f"{row.function}_backward")(slope * i.dy, plain_cache)
    assert (found.dresidual == slope * i.dy).all()
    # Each is as near to the truth as the oracle's tolerance says; their sums may be taken in another order.
    _, near = checks.expected_gradients(row.oracle(i), replace(i, dy=slope * i.dy))
    for name, a, b in zip(one_by_one._fields, found[:3], one_by_one, strict=True):
        checks.assert_within(a.reshape(near[name].shape), b.reshape(near[name].shape), 2 * near[name], name)
