"""Where a call is slow for its size: one number of elements cut into shapes in every way, beside PyTorch; and channels
that are zero or constant, as dead ones are, and samples that are zero, as padding is, beside random ones. One thread.
`make bench-cliffs`.

Prints, for each op, the shapes on which most is lost to PyTorch, and those with most time per element; writes a record.

python benches/peers/cliffs.py --elements 65536 --budget 0.01
"""

# ruff: noqa: RUF001 (the multiplication sign is meant)

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

import peer_normkit
import quiet
import record as records
from case import Case, Contender
from ops import FUSED, OPS
from shapes import Shape
from timing import timed

CHANNELS = (1, 2, 3, 8, 32, 64, 100, 256, 1024)
INSIDE = (1, 2, 4, 9, 16, 25, 49, 64, 100, 196, 784, 3136, 16384)
ROWS = (2, 3, 4, 8, 16, 17, 32, 50, 64, 100, 128, 256, 500, 768, 1000, 4096, 5000, 10000, 65536)
VALUES = ("random", "dead channels", "dead half", "constant", "constant half", "padded half")
KINDS = ("batch_norm", FUSED.name, "group_norm", "layer_norm")
SHOWN = 8


def shapes(kind: str, elements: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Shapes of about so many elements, and groups."""
    if kind == "layer_norm":
        yield from (((elements // n, n), 1) for n in ROWS if n <= elements)
        return
    for channels, inside in itertools.product(CHANNELS, INSIDE):
        samples = elements // (channels * inside)
        dims = (samples, channels, inside)[: 2 + (inside > 1)]
        if kind in ("batch_norm", FUSED.name) and samples and samples * inside > 1:
            yield dims, 1
        if kind == "group_norm" and samples:
            most = {1, math.gcd(32, channels), channels // 2, channels}
            yield from ((dims, n) for n in most if n and channels % n == 0 and channels // n * inside > 1)


def filled(case: Case, values: str) -> Case:
    """Random numbers, but in all or every other channel dy of zeros, or x of ones; or in half of the samples zeros."""
    if values == "padded half":
        kept = len(case.x) // 2
        case.x[kept:] = case.dy[kept:] = 0
        return case
    step = 2 if values.endswith("half") else 1
    if values.startswith("dead"):
        case.dy[:, ::step] = 0
    elif values.startswith("constant"):
        case.x[:, ::step] = 1
    return case


def least(contender: Contender, budget: float) -> float:
    """Nanoseconds of the fastest of some calls."""
    contender.call()
    end, times = time.perf_counter() + budget, []
    while len(times) < 3 or time.perf_counter() < end:
        times.append(timed(contender.call)[0])
    return min(times) * 1e6


def cells(peers: dict, args: argparse.Namespace, console: Console) -> Iterator[dict]:
    names = [name + way for name in KINDS for way in ("", "_backward")]
    work = [(n, *shape) for n in names for shape in shapes(n.removesuffix("_backward"), args.elements)]
    for name, dims, groups in track(work, "cliffs", console=console):
        found = {"op": name, "shape": dims, "groups": groups, "ns": {}}
        for values in VALUES:
            if values.startswith("dead") and not name.endswith("_backward"):
                continue
            if values == "padded half" and dims[0] == 1:
                continue
            case = Case(Shape(dims))
            case.groups = groups
            filled(case, values)
            for peer, of in peers.items():
                ours = peer == peer_normkit.NAME
                if ours or values == "random":
                    # The call itself, not what it is compared with elsewhere; PyTorch's better one of two.
                    field = of.contenders(OPS[name], "out", case)[: 1 if ours else 2]
                    found["ns"][values if ours else peer] = min(least(c, args.budget) for c in field)
        yield found


def show(found: list[dict], console: Console) -> None:
    def size(cell: dict) -> int:
        return math.prod(cell["shape"])

    orders = {
        "most lost to PyTorch": lambda c: c["ns"].get("PyTorch", math.inf) / c["ns"]["random"],
        "most time per element": lambda c: -c["ns"]["random"] / size(c),
        "zeros and constants": lambda c: -max(c["ns"][v] for v in VALUES if v in c["ns"]) / c["ns"]["random"],
    }
    for name, (title, order) in itertools.product({c["op"]: 0 for c in found}, orders.items()):
        table = Table("shape", "groups", "ns each", "× PyTorch", *VALUES[1:], title=f"{name}: {title}")
        for cell in sorted((c for c in found if c["op"] == name), key=order)[:SHOWN]:
            ns = cell["ns"]
            beside = [f"{ns[v] / ns['random']:.2f}" if v in ns else "–" for v in VALUES[1:]]
            torch = f"{ns['PyTorch'] / ns['random']:.2f}" if "PyTorch" in ns else "–"
            each = f"{ns['random'] / size(cell):.2f}"
            table.add_row("×".join(map(str, cell["shape"])), str(cell["groups"]), each, torch, *beside)
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=1 << 17, help="of each tensor, about")
    parser.add_argument("--budget", type=float, default=0.02, help="seconds for each call that is measured")
    parser.add_argument("--record", type=Path, default=records.TOP / "benches" / "record", help="folder for the JSON")
    args = parser.parse_args()
    console, start, busy = Console(), time.time(), quiet.now()
    peers = {peer_normkit.NAME: peer_normkit.Peer(1)}
    try:
        import peer_torch
    except ImportError:
        console.print("PyTorch is not installed: it does not take part")
    else:
        peers[peer_torch.NAME] = peer_torch.Peer(1)
    found = list(cells(peers, args, console))
    settings = {"threads": 1, "elements": args.elements, "budget_s": args.budget, "unit": "nanoseconds"}
    machine = records.machine() | {"others_cpu_before": busy}
    record = {"schema": 1, "kind": "cliffs", "date": records.now(), **records.commit(), "machine": machine}
    record |= {"build": peers[peer_normkit.NAME].build, "versions": records.versions(), "settings": settings}
    record["seconds"] = round(time.time() - start, 1)
    saved = records.save(record | {"cells": found}, args.record, "cliffs")
    show(found, console)
    console.print(f"wrote {saved}", soft_wrap=True)


if __name__ == "__main__":
    main()
