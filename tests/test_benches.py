"""The benches' table has a row for every norm, and what its rows call runs. No timing, no peer."""

import sys
from pathlib import Path

import numpy as np
import pytest

import normkit as nk
from cases import BY_NAME, NORMS

sys.path.append(str(Path(__file__).parents[1] / "benches" / "peers"))  # last: there is another table.py

import agree
import peer_normkit
from case import Case
from ops import OPS, ROWS
from shapes import SETS, Shape

ELSEWHERE = {"get_num_threads", "set_num_threads", "num_threads", "show_config", "precise_statistics"}
MEASURED = {BY_NAME[op.norm].function if op.norm in BY_NAME else op.norm for op in OPS.values()}
CONVOLUTIONS = Shape((64 + 288,), parts=((4, 16, 1, 1), (8, 4, 3, 3)))


def small(shapes):
    """A shape with the axes of those of a set."""
    if shapes == "convolutions":
        return CONVOLUTIONS
    return Shape({2: (6, 8), 4: (3, 32, 5, 4)}[len(next(SETS[shapes]()).dims)])


def test_every_norm_of_the_table_is_measured():
    missing = {row.function for row in NORMS} - MEASURED
    assert not missing, f"without a row in benches/peers/ops.py: {missing}"


def test_every_public_function_is_measured():
    public = {name for name in nk.__all__ if name.islower() and not name.startswith("__")} - ELSEWHERE
    backward = {name for name in public if name.endswith("_backward")}
    assert public - backward == MEASURED
    names = {op.norm if op.norm not in BY_NAME else BY_NAME[op.norm].function for op in OPS.values() if op.backward}
    assert {name.removesuffix("_backward") for name in backward} == names


def test_names_and_sets():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {shapes for row in ROWS for shapes in row.sets} == SETS.keys()


@pytest.mark.parametrize("name", OPS)
def test_calls(name):
    """In both modes, and both ways where there are two: the same finite results."""
    op = OPS[name]
    threads = nk.get_num_threads()
    peer = peer_normkit.Peer(threads)
    for shapes in op.row.sets:
        case = Case(small(shapes), op.row.dtype, op.row.channels_last)
        for mode in op.modes:
            contenders = peer.contenders(op, mode, case)
            assert contenders[0].says.startswith("nk.")
            agreed, differences = agree.check(contenders, case)
            assert agreed == contenders, differences
            case.out.fill(np.nan)
            for result in contenders[0].result(contenders[0].call()):
                assert np.isfinite(result.astype(np.float64)).all()
