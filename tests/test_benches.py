"""The benches' table has a row for every norm, and what its rows call runs. No timing, no peer."""

import sys
from pathlib import Path

import numpy as np
import pytest

import normkit as nk
from cases import BY_NAME, NORMS

sys.path.append(str(Path(__file__).parents[1] / "benches" / "peers"))  # last: there is another table.py

import agree
import cliffs
import peer_normkit
import roofline
import roofline_plot
import summary
import targets
from case import Case
from ops import OPS, ROWS
from shapes import SETS, Shape

ELSEWHERE = {
    "get_num_threads", "set_num_threads", "num_threads", "show_config", "show_plans", "precise_statistics",
}  # fmt: skip
FUNCTIONS = [op for op in OPS.values() if op.norm not in ("BatchNorm",)]  # not layers
MEASURED = {BY_NAME[op.norm].function if op.norm in BY_NAME else op.norm for op in FUNCTIONS}
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
    names = {op.norm if op.norm not in BY_NAME else BY_NAME[op.norm].function for op in FUNCTIONS if op.backward}
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


def record_of(times):
    """A record of every cell that the targets need: milliseconds by contender, the same for each."""
    cells = []
    for op in OPS.values():
        for shapes in op.row.sets:
            for shape in SETS[shapes]():
                timings = [{"peer": peer, "variant": op.limit, "median": time} for peer, time in times.items()]
                cell = {"set": shapes, "op": op.name, "shape": shape.dims, "count": shape.count, "timings": timings}
                cells += [cell | {"mode": mode, "dtype": op.row.dtype} for mode in op.modes]
    machine = {"cpu": "one", "caches": {"L2": "1024K, shared by CPUs 0", "L3": "4M, shared by CPUs 0"}}
    return {"cells": cells, "machine": machine, "date": "2026-01-01", "settings": {"threads": 2, "quick": False}}


def test_every_target_is_measured_and_judged():
    """Where all are equally fast but we take a tenth, everything that is compared is won; and the other way round."""
    contenders = dict.fromkeys(("yardstick", *summary.PEERS), 1.0)
    fast, slow = record_of(contenders | {"normkit": 1e-3}), record_of(contenders | {"normkit": 1e3})
    own = [target for target in targets.TARGETS if "(N, C)" in target.what or "per byte" in target.what]
    for target in targets.TARGETS:
        good, bad = target.of(fast), target.of(slow)
        assert good is not None, target
        assert target in own or target.reached(good), (target, good)
        assert target in own or not target.reached(bad), (target, bad)
    assert f"{len(targets.TARGETS)} reached" in targets.table(fast).caption.replace(" of ", " ")
    assert targets.last_cache(fast) == 4 << 20


def test_a_target_that_was_not_measured_is_not_judged():
    nothing = record_of({"normkit": 1.0, "yardstick": 1.0}) | {"cells": []}
    assert {target.of(nothing) for target in targets.TARGETS} == {None}
    assert "0 of" in targets.table(nothing).caption


def test_a_roofline_record_is_drawn_and_written(tmp_path):
    """Twice the bytes in twice the time: the same bandwidth, each tensor counted once."""
    times = {"batch_norm": 2.0, "batch_norm_backward": 3.0, "batch_norm_inference": 2.0, "copy": 1.0, "a + b": 3.0}

    def point(samples, threads):
        of = {"samples": samples, "threads": threads, "bytes": samples * 10**9, "others_cpu": 0.0}
        return of | {"s": {name: samples * s / threads for name, s in times.items()}}

    cells = [*(point(n, 2) for n in (1, 2, 4)), point(4, 1), point(4, 2)]
    record = record_of({}) | {"cells": cells, "large_samples": 4, "operations_per_s": 1e11}
    for p in roofline_plot.sizes(record):
        assert roofline_plot.bandwidth(p, "batch_norm") == roofline_plot.bandwidth(p, "a + b") == 2e9
        assert roofline_plot.bandwidth(p, "copy") == 4e9
    assert [p["threads"] for p in roofline_plot.by_threads(record)] == [1, 2]
    for draw in (roofline_plot.draw_roofline, roofline_plot.draw_growth):
        assert draw(record, tmp_path / f"{draw.__name__}.png").stat().st_size > 10_000
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{roofline.START}\nold\n{roofline.END}\n\nafter\n")
    roofline.write_page(record, "one.json", page)
    text = page.read_text()
    assert "old" not in text
    assert "| 4000 | 1 | 1 | 1 | 1 | 2 | 1 |" in text
    assert text.startswith("# Before") and text.endswith("after\n")  # noqa: PT018


def test_the_page_has_a_place_for_the_roofline():
    text = roofline.PAGE.read_text()
    assert text.count(roofline.START) == text.count(roofline.END) == 1


def test_cliffs_are_measured_and_shown(monkeypatch, tmp_path, capsys):
    """Every norm, in shapes and with values that it takes; the record says so."""
    monkeypatch.setattr(sys, "argv", ["cliffs.py", "--elements", "96", "--budget", "0", "--record", str(tmp_path)])
    monkeypatch.setattr(cliffs.quiet, "now", lambda: None)
    with nk.num_threads(1):  # what it sets is set again
        cliffs.main()
    (path,) = tmp_path.iterdir()
    cells = cliffs.records.load(path)["cells"]
    assert {cell["op"] for cell in cells} == {kind + way for kind in cliffs.KINDS for way in ("", "_backward")}
    assert all(set(cell["ns"]) - {"PyTorch"} <= set(cliffs.VALUES) and min(cell["ns"].values()) > 0 for cell in cells)
    assert {len(cell["shape"]) for cell in cells} == {2, 3}
    assert "batch_norm_backward: zeros and constants" in capsys.readouterr().out
    case = cliffs.filled(Case(Shape((2, 4, 3))), "dead half")
    assert not case.dy[:, ::2].any()
    assert case.dy[:, 1::2].all()
    case = cliffs.filled(Case(Shape((2, 4, 3))), "constant")
    assert (case.x == 1).all()
    case = cliffs.filled(Case(Shape((2, 4, 3))), "padded half")
    assert [a[i].any() for a in (case.x, case.dy) for i in range(2)] == [True, False] * 2
