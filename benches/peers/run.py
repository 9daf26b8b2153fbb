"""normkit side by side with PyTorch, JAX and oneDNN: same data, same process, interleaved. See benches/README.md."""

import argparse
import dataclasses
import importlib
import os
import time
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import pages
import quiet
import record as records
import targets
from agree import check
from case import Case
from ops import OPS, Op
from shapes import SETS, Shape
from show import show
from timing import measure
from yardstick import Yardstick

PEERS = ("torch", "compile", "jax", "onednn")


def chosen(text: str, known: tuple[str, ...]) -> list[str]:
    """A comma-separated choice, or all, or none."""
    names = list(known) if text == "all" else [] if text == "none" else text.split(",")
    if wrong := [n for n in names if n not in known]:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, found {', '.join(wrong)}")
    return names


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="a look, not a measurement: one set of shapes unless told, little time per cell",
    )
    add("--shapes", type=lambda s: chosen(s, tuple(SETS)), help=f"of {', '.join(SETS)}, or all (the default)")
    add("--ops", type=lambda s: chosen(s, tuple(OPS)), default="all", help=f"of {', '.join(OPS)}, or all")
    add("--peers", type=lambda s: chosen(s, PEERS), default="all", help=f"of {', '.join(PEERS)}, or none")
    add("--limit", action="store_true", help="what the table of targets asks for, and the table (targets.py)")
    add("--reps", type=int, help="exactly so many rounds per cell, instead of a time budget")
    add("--budget", type=float, help="seconds per cell (op, shape, mode); 2, or 0.2 with --quick")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for every contender")
    add("--record", type=Path, default=records.TOP / "benches" / "record", help="folder for the JSON and the picture")
    args = parser.parse_args()
    if args.limit:
        args.ops = [name for name in args.ops if name in targets.OPS_NEEDED]
        args.shapes = args.shapes or list(targets.SETS_NEEDED)
    args.ops = [OPS[name] for name in args.ops]
    measured = [name for name in SETS if any(name in op.row.sets for op in args.ops)]
    args.shapes = args.shapes or (measured[:1] if args.quick else measured)
    args.budget = args.budget or (0.2 if args.quick else 2.0)
    args.least = 3 if args.quick else 7
    if not 1 <= args.threads <= len(os.sched_getaffinity(0)):
        parser.error(f"--threads: expected 1 to {len(os.sched_getaffinity(0))} (the CPUs given), found {args.threads}")
    return args


def bind(threads: int) -> None:
    """Leave the process as many CPUs as threads, before any peer is loaded: JAX and oneDNN take no thread count."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["NORMKIT_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)


def load(names: list[str], threads: int, skipped: dict[str, str]) -> list:
    """normkit, and the peers that can be loaded; why not, for the others."""
    found = [importlib.import_module("peer_normkit").Peer(threads)]
    for name in names:
        try:
            found.append(importlib.import_module(f"peer_{name}").Peer(threads))
        except (ImportError, OSError, RuntimeError, AttributeError) as error:  # noqa: PERF203
            skipped[name] = f"{type(error).__name__}: {error}"
    return found


def contenders(peers: list, op: Op, mode: str, case: Case, skipped: dict[str, str]) -> list:
    found = peers[0].contenders(op, mode, case)
    for peer in peers[1:]:
        try:
            found += peer.contenders(op, mode, case)
        except (RuntimeError, ValueError) as error:  # noqa: PERF203
            skipped[f"{type(peer).__module__} {op.name} {case.shape}"] = f"{type(error).__name__}: {error}"
    return found


def on(shapes: str, ops: list[Op]) -> list[Op]:
    return [op for op in ops if shapes in op.row.sets]


def cells(args: argparse.Namespace, peers: list, yardstick: Yardstick, name: str, shape: Shape, record: dict, tick):
    """Measure all ops and modes of one shape. Neighbours of one dtype and order share their tensors."""
    case = None
    for op in on(name, args.ops):
        how = op.row.dtype, op.row.channels_last
        if case is None or (case.dtype, case.channels_last) != how:
            case = Case(shape, *how)
        for mode in op.modes:
            tick(f"{name} {shape} {op.name} {mode}", 0)
            agreed, differences = check(contenders(peers, op, mode, case, record["skipped"]), case)
            for key in set(differences) - {c.key for c in agreed}:
                record["skipped"][f"{key} {op.name} {shape}"] = f"disagrees by {differences[key]:.2g}"
            field = [*agreed, *yardstick.contenders(op, case)]
            others = quiet.Others()
            samples = measure(field, args.budget, args.reps, args.least)
            record["calls"] |= {f"{op.name}, {mode}, {c.key}": c.says for c in field}
            record["cells"].append(
                {
                    **{"set": name, "shape": shape.dims, "label": str(shape), "count": shape.count},
                    **{"groups": shape.groups, "op": op.name, "mode": mode, "dtype": op.row.dtype},
                    **{"others_cpu": others.share(), "huge_pages_mib": pages.huge_mib()},
                    "differences": {key: float(f"{value:.2g}") for key, value in differences.items()},
                    "timings": [
                        {"peer": c.peer, "variant": c.variant, **dataclasses.asdict(samples[c.key])} for c in field
                    ],
                }
            )
            del agreed, field
            tick("", 1)


def main() -> None:
    args = arguments()
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    bind(args.threads)
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    pages.settled()
    start = time.time()
    record: dict = {"schema": 1, "date": records.now(), **records.commit(), "machine": records.machine()}
    record |= {"versions": records.versions(), "settings": {}, "notes": {}, "skipped": {}, "calls": {}, "cells": []}
    peers = load(args.peers, args.threads, record["skipped"])
    for peer in peers:
        record["notes"][type(peer).__module__.removeprefix("peer_")] = f"{peer.version}; {peer.notes}"
    record["settings"] = {
        **{"threads": args.threads, "quick": args.quick, "budget_s": args.budget},
        **{"rounds": args.reps, "least_rounds": args.least, "peers": args.peers, "shapes": args.shapes},
        "unit": "milliseconds",
        "malloc": "thresholds as glibc settles: 32 MiB, trim 64 MiB" if pages.CONTROLLED else "not controlled",
        "buffers": "64-byte aligned, one shared output; NumPy asks for huge pages from 4 MiB on",
    }
    record["machine"]["others_cpu_before"] = busy = quiet.now()
    if busy and busy > quiet.BUSY:
        console.print(f"[bold red]Other processes use {busy:.0%} of the CPUs: the ratios will be worth nothing.[/]")
    work = [(name, shape) for name in args.shapes for shape in SETS[name]()]
    total = sum(len(op.modes) for name, _ in work for op in on(name, args.ops))
    if not total:
        raise SystemExit("run.py: none of these ops is measured on these shapes")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    yardstick = Yardstick(args.threads)
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=total)

        def tick(text: str, steps: int) -> None:
            progress.update(task, advance=steps, **({"description": text} if text else {}))

        for name, shape in work:
            cells(args, peers, yardstick, name, shape, record, tick)
    record["machine"]["load_after"] = os.getloadavg()[0]
    record["seconds"] = round(time.time() - start, 1)
    show(record, console)
    if args.limit:
        console.print(targets.table(record))
    everything = args.shapes == list(SETS) and args.ops == list(OPS.values())
    what = "limit" if args.limit else "all" if everything else "-".join(args.shapes)
    path = records.save(record, args.record, what + ("-quick" if args.quick else ""))
    from plot import draw_all  # late: matplotlib starts slowly and is needed by nothing else

    for written in (path, *draw_all(record, path)):
        console.print(f"wrote {written}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
