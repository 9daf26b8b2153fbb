"""A run of the benches that is stopped and started again, and its parts. No timing: times are made up; no peer."""

import json
import math
import sys
from pathlib import Path

import pytest

import normkit as nk

sys.path.append(str(Path(__file__).parents[1] / "benches" / "peers"))  # last: there is another table.py

import plot
import record as records
import run
import summary
import targets
import work
from ops import OPS
from shapes import SETS
from test_benches import record_of
from timing import Sample

ALL = list(targets.GROUPS)


@pytest.fixture
def bench(monkeypatch, tmp_path, capsys):
    """run.py with arguments, interrupted in the piece `stop`: what it printed, and how many pieces it measured."""
    monkeypatch.setattr(run, "bind", lambda _: None)
    monkeypatch.setattr(run.pages, "settled", lambda: None)
    monkeypatch.setattr(run.quiet, "now", lambda: None)
    monkeypatch.setattr(plot, "draw_all", lambda *_: [])

    def started(*args, stop=None, folder=tmp_path):
        measured = []

        def measure(field, *_):
            measured.append(field)
            if len(measured) == stop:
                raise KeyboardInterrupt
            return {c.key: Sample(1.0, 1.0, 1.0, 1.0, 7, 0.0) for c in field}

        monkeypatch.setattr(run, "measure", measure)
        threads = str(nk.get_num_threads())
        monkeypatch.setattr(
            sys, "argv", ["run.py", "--peers=none", f"--threads={threads}", f"--record={folder}", *args]
        )
        if stop:
            with pytest.raises(SystemExit, match="130"):
                run.main()
        else:
            run.main()
        return capsys.readouterr().out, len(measured)

    return started


def keys(record):
    return [(c["set"], tuple(c["shape"]), c["op"], c["mode"]) for c in record["cells"]]


def the_only(folder):
    (path,) = folder.iterdir()
    return path


def test_a_stopped_run_is_gone_on_with(bench, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    _, total = bench("--targets=small", folder=whole)
    assert total == 5
    out, _ = bench("--targets=small", stop=3, folder=parts)
    assert "2 pieces are measured" in out
    stopped = records.load(the_only(parts))
    assert (len(stopped["cells"]), stopped["finished"]) == (2, False)
    out, measured = bench("--targets=small", folder=parts)
    assert "2 of 5 pieces are there" in out.replace("\n", " ")
    assert measured == total - 2
    resumed, at_once = records.load(the_only(parts)), records.load(the_only(whole))
    assert keys(resumed) == keys(at_once)
    assert resumed["cells"][:2] == stopped["cells"]
    assert resumed["finished"] and len(resumed["continued"]) == 1  # noqa: PT018
    assert [t.of(resumed) for t in targets.TARGETS] == [t.of(at_once) for t in targets.TARGETS]
    assert bench("--targets=small", folder=parts)[1] == total, "a finished record was gone on with"
    assert len(list(parts.iterdir())) == 2


def test_a_file_takes_more_rows(bench, tmp_path):
    path = tmp_path / "one.json"
    assert bench("--targets=small", folder=path)[1] == 5
    assert bench("--targets=threads", folder=path)[1] == 6
    assert bench("--targets=small,threads", folder=path)[1] == 0
    assert the_only(tmp_path) == path
    assert len(set(keys(records.load(path)))) == 11


@pytest.mark.parametrize(
    ("name", "change"),
    {
        "build": lambda record: record.update(build="0"),
        "machine": lambda record: record["machine"].update(cpu="another"),
        "budget_s": lambda record: record["settings"].update(budget_s=9.0),
    }.items(),
)
def test_what_is_of_another_build_or_machine_is_not_gone_on_with(bench, tmp_path, name, change):
    bench("--targets=small", stop=3)
    path = the_only(tmp_path)
    record = records.load(path)
    change(record)
    records.write(record, path)
    with pytest.raises(SystemExit, match=f"of the same {name}, or a new name, found .*{path.name}"):
        bench("--targets=small", folder=path)
    out, measured = bench("--targets=small")
    assert measured == 5
    assert f"not of the same {name}: a new record" in out
    assert records.load(path) == record


def test_writing_is_stopped(tmp_path, monkeypatch):
    """The old record is there as it was."""
    path, old = tmp_path / "one.json", {"cells": [], "date": "1"}
    records.write(old, path)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        records.write({"cells": [], "date": "2"}, path)
    assert records.load(path) == old


def test_a_record_is_never_overwritten(tmp_path):
    paths = [records.save({"cells": [], "date": date}, tmp_path, "limit") for date in "12"]
    assert [records.load(path)["date"] for path in paths] == ["1", "2"]


def test_an_unknown_row(bench, capsys):
    with pytest.raises(SystemExit):
        bench("--targets=batch,baches")
    assert f"expected some of {', '.join(targets.GROUPS)}, found baches" in capsys.readouterr().err


def planned(groups):
    return work.pieces(SETS, OPS.values(), targets.needed(groups))


def test_rows_need_all_that_they_are_judged_by_and_no_cell_twice():
    every = [piece.key for name in targets.GROUPS for piece in planned([name])]
    assert len(set(every)) == len(every)
    assert set(every) == {piece.key for piece in planned(ALL)}
    for target in targets.TARGETS:
        for piece in planned(ALL):
            if piece.key[0] == target.shapes and piece.key[2:] == target.cells[1:]:
                assert all(any(map(piece.takes, (peer, peer.split()[0]))) for peer in target.against), target


def test_the_table_of_a_part(tmp_path, monkeypatch, capsys):
    """All rows of what is whole, none of what lacks a shape; from a file, by targets.py."""
    record = record_of(dict.fromkeys(("yardstick", *summary.PEERS), 2.0) | {"normkit": 1.0})
    wanted = {piece.key for piece in planned(["rows", "halves"])}
    record["cells"] = [cell for cell, key in zip(record["cells"], keys(record), strict=True) if key in wanted]
    assert {name for name, group in targets.GROUPS.items() for t in group if t.of(record)} == {"rows", "halves"}
    lacks = keys(record)[0]
    record["cells"] = record["cells"][1:]
    for target in targets.TARGETS:
        there = target in (*targets.GROUPS["rows"], *targets.GROUPS["halves"]) and target.cells != (
            lacks[0],
            *lacks[2:],
        )
        assert (target.of(record) is not None) == there, target
    path = tmp_path / "part.json"
    path.write_text(json.dumps(record))
    monkeypatch.setattr(sys, "argv", ["targets.py", str(path)])
    monkeypatch.setenv("COLUMNS", "160")
    targets.main()
    out = capsys.readouterr().out
    assert out.count("not measured") == len(targets.TARGETS) - 11 + 1  # and the caption's
    assert "11 of 49 reached, 38 not measured" in out


def test_the_estimate_grows_with_what_there_is_to_do():
    large, *_, small = sorted(planned(["diffusion"]), key=lambda piece: -math.prod(piece.shape.dims))
    assert large.seconds(0, 7) > 2 * small.seconds(0, 7) > 0
    assert small.seconds(60, 7) > 60


def test_the_order_of_pieces_is_of_no_consequence():
    record = record_of(dict.fromkeys(("yardstick", *summary.PEERS, "normkit"), 1.0))
    for number, cell in enumerate(record["cells"], 1):
        cell["timings"] = [
            t | {"median": t["median"] * (number if t["peer"] == "normkit" else 1)} for t in cell["timings"]
        ]
    backwards = record | {"cells": record["cells"][::-1]}
    assert [t.of(backwards) for t in targets.TARGETS] == pytest.approx([t.of(record) for t in targets.TARGETS])
