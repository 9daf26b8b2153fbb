"""`show_plans` tells what was done: a paragraph for each pass, of this thread's calls, and only inside the block."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import normkit as nk

F32 = np.float32
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def shown(capsys, call):
    """The paragraphs, each a dictionary."""
    capsys.readouterr()
    with nk.show_plans():
        call()
    text = capsys.readouterr().out
    paragraphs = [paragraph for paragraph in text.rstrip("\n").split("\n\n") if paragraph]
    return [dict(re.match(r"(\w+) +(.*)", line).groups() for line in of.splitlines()) for of in paragraphs]


@pytest.mark.parametrize(
    ("shape", "call", "expected"),
    [
        ((64, 3, 100, 100), nk.batch_norm, "3 of 640000 elements: rows, 64 runs of 10000"),
        ((1024, 64), nk.batch_norm, "64 of 1024 elements: columns, "),
        ((512, 200), nk.layer_norm, "512 of 200 elements: lines, each a run of 200"),
        ((8, 6, 400), lambda x: nk.group_norm(x, 2), "16 of 1200 elements: "),
    ],
)
def test_what_is_said_of_memory(shape, call, expected, capsys):
    x = np.ones(shape, F32)
    (plan,) = shown(capsys, lambda: call(x))
    assert plan.keys() == {"memory", "statistics", "threads", "schedule", "stores"}
    assert plan["statistics"].startswith(expected)
    read, written = sizes(plan)
    assert read == written == pytest.approx(x.nbytes, rel=0.05)


def sizes(plan):
    """Bytes read and written."""
    return [float(n) * UNITS[unit] for n, unit in re.findall(r"([\d.]+) (\w+)", plan["memory"])]


@pytest.mark.parametrize(("activation", "operands"), [("relu", 3), ("silu", 3), (None, 2)])
def test_what_is_said_of_a_residual(activation, operands, capsys):
    x = np.ones((8, 16, 32, 32), F32)
    size = pytest.approx(x.nbytes, rel=0.05)
    given = (np.zeros(16), np.ones(16))
    for forward in (
        lambda: nk.batch_norm(x, activation=activation, residual=x),
        lambda: nk.group_norm(x, 4, activation=activation, residual=x),
        lambda: nk.batch_norm_inference(x, *given, activation=activation, residual=x),
    ):
        (plan,) = shown(capsys, forward)
        read, written = sizes(plan)
        assert (read / 2, written) == (size, size)
    _, cache = nk.batch_norm(x, activation=activation, residual=x, training=True)
    (plan,) = shown(capsys, lambda: nk.batch_norm_backward(x, cache))
    read, written = sizes(plan)
    assert (read / operands, written / 2) == (size, size)  # without an activation the residual itself is not asked for


@pytest.mark.parametrize(
    ("shape", "runs"),
    [
        ((32, 64), "32 runs of 64 x 1"),
        ((64, 64), "32 runs of 2 times 64 x 1"),
        ((512, 64), "32 runs of 16 times 64 x 1"),
        ((4096, 64), "256 runs of 16 times 64 x 1"),
        ((32, 16), "8 runs of 4 times 16 x 1"),
        ((4096, 3), "32 runs of 128 times 3 x 1"),
    ],
)
def test_narrow_columns_take_several_rows_as_one_where_enough_are_left(shape, runs, capsys):
    (plan,) = shown(capsys, lambda: nk.batch_norm(np.ones(shape, F32)))
    assert plan["statistics"].endswith(f" elements: columns, {runs}")


def test_rows_with_weights_are_taken_by_themselves(capsys):
    x, one = np.ones((64, 512), F32), np.ones(512)
    (plan,) = shown(capsys, lambda: nk.layer_norm(x, one))
    assert plan["schedule"] == "some lines at a time, applied while they are in cache"


def test_given_statistics_and_nothing_written(capsys):
    x, one = np.ones((64, 3, 100, 100), F32), np.ones(3)
    (plan,) = shown(capsys, lambda: nk.batch_norm_inference(x, one, one))
    assert plan["schedule"] == "one pass, as the statistics are given"
    (plan,) = shown(capsys, lambda: nk.moments(x, (0, 2, 3)))
    assert plan["memory"].endswith("writes 0 B")
    assert plan["stores"] == "none"
    assert "applied" not in plan["schedule"]


def test_threads_by_size(capsys):
    """Each has 64 KiB to read at least, and few statistics of which little is read are not shared."""
    with nk.num_threads(3):
        for shape, expected in [
            ((8, 64, 8, 8), "2, as less than 192 KiB is read"),
            ((6, 128, 8, 8), "3"),
            ((1, 4, 175, 175), "1, as less than 512 KiB is read, of few statistics"),
        ]:
            (plan,) = shown(capsys, lambda shape=shape: nk.batch_norm(np.ones(shape, F32)))
            assert plan["threads"] == expected
        one = np.ones(4)
        for alone in [
            lambda x: nk.batch_norm_inference(x, one, one),
            lambda x: nk.moments(x, (0, 2, 3)),
            lambda x: nk.layer_norm(x.reshape(50, 2450), np.ones(2450)),
        ]:
            (plan,) = shown(capsys, lambda alone=alone: alone(np.ones((1, 4, 175, 175), F32)))
            assert plan["threads"] == "3"  # no thread waits for another


def test_threads_and_schedule(capsys):
    small, large = np.ones((2, 64, 8, 8), F32), np.ones((64, 1, 200, 200), F32)
    with nk.num_threads(3):
        (of_small,), (of_large,) = (shown(capsys, lambda x=x: nk.batch_norm(x)) for x in (small, large))
    assert of_small["threads"] == "1, as less than 128 KiB is read"
    assert of_large["threads"] == "3"
    assert of_small["schedule"].startswith("fused: ")
    assert of_large["schedule"].startswith("split: ")  # one channel, three threads
    assert of_small["stores"].startswith("through the caches, as less than ")


@pytest.mark.parametrize(("length", "passes"), [(3072, 1), (4096, 1), (4097, 2)])
def test_parameters_of_long_rows_come_along(length, passes, capsys):
    x, weight = np.ones((64, length), F32), np.ones(length)
    _, cache = nk.layer_norm(x, weight, weight)
    plans = shown(capsys, lambda: nk.layer_norm_backward(x, cache))
    assert len(plans) == passes  # else the parameters' gradients read x and dy again


def test_only_inside_and_only_this_thread(capsys):
    x = np.ones((4, 3, 5), F32)
    with nk.show_plans(), ThreadPoolExecutor(1) as pool:
        pool.submit(nk.batch_norm, x).result()
    nk.batch_norm(x)
    assert capsys.readouterr().out == "\n"
    assert len(shown(capsys, lambda: [nk.batch_norm(x) for _ in range(3)])) == 3


def test_after_an_exception(capsys):
    def fails():
        nk.batch_norm(np.ones((4, 3, 5), F32))
        raise KeyError

    with pytest.raises(KeyError), nk.show_plans():
        fails()
    assert "schedule" in capsys.readouterr().out


def test_tables_of_parameters_begin_anywhere_in_a_sample(capsys):
    """Groups of short channels are taken as lines, some at a time: here 85, which are not whole samples of eight."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 24, 4, 4), dtype=F32)
    weight, bias = rng.standard_normal((2, 24))
    (plan,) = shown(capsys, lambda: nk.group_norm(x, 8, weight, bias))
    assert plan["schedule"].startswith("some lines at a time")
    y, _ = nk.group_norm(x, 8, weight, bias)
    groups = x.astype(np.float64).reshape(64, 8, -1)
    centred = groups - groups.mean(-1, keepdims=True)
    expected = (centred / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)).reshape(x.shape)
    expected = expected * weight[:, None, None] + bias[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
