"""Measure the largest error of every norm, by distribution, beside peers: a record, docs/accuracy.md and its picture.

python benches/peers/accuracy.py                  measures all, writes the three
python benches/peers/accuracy.py --page RECORD    writes page and picture from a record
python benches/peers/accuracy.py --check          fails when the page is not what its record says
"""

import argparse
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import track

import accuracy_count as count
import accuracy_data as data
import accuracy_numpy
import accuracy_page as page
import accuracy_statistics
import calls
import normkit as nk
import record as records
from ops import OPS, Op
from record import TOP

HALVES = ("float16", "bfloat16")
PAGE = TOP / "docs" / "accuracy.md"
PEERS = ("torch", "jax", "onednn")
NAMED = re.compile(r"\]\((\.\./benches/record/\S+\.json)\)")


def load_peers(names: tuple[str, ...]) -> list[object]:
    """Those that are installed, NumPy first; with two threads, as results may depend on them."""
    found: list[object] = [accuracy_numpy.Peer()] if names else []
    for name in names:
        try:
            found.append(importlib.import_module(f"peer_{name}").Peer(2))
        except (ImportError, OSError) as why:  # noqa: PERF203
            print(f"without {name}: {why}", file=sys.stderr)
    return found


def results(op: Op, case, peers: list[object]) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    """(library, what it computes) of everyone."""
    yield "normkit", calls.results(calls.call(op, case)())
    for peer in peers:
        for mode in ("fresh", "out"):
            for contender in contenders(peer, op, mode, case):
                if contender.variant in ("fresh", "jit", "nchw", "blocked", "as written"):
                    try:
                        yield contender.peer, contender.result(contender.call())
                    except (RuntimeError, TypeError, ValueError):  # dtypes that it refuses to mix
                        continue


def contenders(peer: object, op: Op, mode: str, case) -> list:
    try:
        return peer.contenders(op, mode, case)
    except (RuntimeError, TypeError, ValueError):
        return []


def cell(row, distribution, dtype: str, peers: list[object], tiny: bool) -> list[dict]:
    """Errors in ulp of each library: [{library, quantity: ulp, ...}]."""
    case = data.case_of(row, distribution, dtype, tiny)
    true, found = count.truth(row, case), {}
    own = case.x.dtype
    for quantities, op in ((("y",), OPS[row.name]), (("dx", "dweight"), OPS[f"{row.name}_backward"])):
        if dtype != "float32" and op.backward:
            quantities = ("dx",)
        for library, arrays in results(op, case, peers):
            if dtype != "float32" and library not in page.ROUNDING:
                continue
            errors = found.setdefault(library, {})
            for quantity, array in zip(quantities, arrays, strict=False):
                if quantity in true:
                    errors[quantity] = count.ulps(array, true[quantity], own if quantity in ("y", "dx") else np.float32)
    if dtype == "float32" and "rstd" in true:
        for library, errors in found.items():
            given = accuracy_statistics.found(library, OPS[row.name], case)
            if given is not None:
                errors["statistics"] = count.statistics(given, true)
    what = {"norm": row.name, "distribution": distribution.name, "dtype": dtype}
    return [what | {"library": library} | errors for library, errors in found.items()]


def measure(peers: list[object], tiny: bool = False) -> list[dict]:
    work = [(row, d, "float32") for row in data.NORMS for d in data.DISTRIBUTIONS]
    work += [(row, d, dtype) for dtype in HALVES for row in data.NORMS for d in data.DISTRIBUTIONS if d.halves]
    found = []
    for row, distribution, dtype in track(work, "accuracy", console=page.CONSOLE, disable=tiny):
        # NaN and infinities of peers are results here.
        with np.errstate(all="ignore"):
            found += cell(row, distribution, dtype, peers, tiny)
    return found


def new_record(cells: list[dict], tiny: bool) -> dict:
    return {
        "date": records.now(), **records.commit(), "machine": records.machine(), "versions": records.versions(),
        "settings": {"threads": nk.get_num_threads(), "isa": nk._normkit._config()["isa"], "tiny": tiny},
        "shapes": {row.name: list(data.shape_of(row, tiny).dims) for row in data.NORMS},
        "cells": cells,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="a record to write the page from; nothing is measured")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--peers", default=",".join(PEERS), help="'' for normkit alone")
    parser.add_argument("--record", type=Path, default=TOP / "benches" / "record")
    parser.add_argument("--docs", type=Path, default=PAGE)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: to see that it runs")
    args = parser.parse_args()
    if args.check:
        named = NAMED.search(args.docs.read_text())
        if not named:
            sys.exit(f"accuracy.py: no record named in {args.docs}; run: make accuracy")
        path = (args.docs.parent / named[1]).resolve()
        if not page.in_step(args.docs, records.load(path), path):
            sys.exit(f"accuracy.py: {args.docs} is not what {path.name} says; run: accuracy.py --page {path}")
        print(f"{args.docs} says what {path.name} does")
        return
    path = args.page
    if not path:
        peers = load_peers(tuple(filter(None, args.peers.split(","))))
        path = records.save(new_record(measure(peers, args.tiny), args.tiny), args.record, "accuracy")
    page.write(args.docs, records.load(path), path)
    print(f"{path}\n{args.docs}")


if __name__ == "__main__":
    main()
