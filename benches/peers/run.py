"""normkit side by side with PyTorch, JAX and oneDNN: same data, same process, interleaved. See benches/README.md."""

import argparse
import dataclasses
import importlib
import os
import sys
import time
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import pages
import quiet
import record as records
import targets
import work
from agree import check
from case import Case
from ops import OPS
from shapes import SETS
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
    groups = tuple(targets.GROUPS)
    add(
        "--targets",
        type=lambda s: chosen(s, groups),
        help=f"what these rows of targets.py need, and its table: of {', '.join(groups)}, or all",
    )
    add("--limit", dest="targets", action="store_const", const=list(groups), help="all rows of it: --targets all")
    add("--reps", type=int, help="exactly so many rounds per cell, instead of a time budget")
    add("--budget", type=float, help="seconds per cell (op, shape, mode); 2, or 0.2 with --quick")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for every contender")
    add(
        "--record",
        type=Path,
        default=records.TOP / "benches" / "record",
        help="folder; an unfinished record in it is gone on with. Or a .json, to go on with or to make",
    )
    args = parser.parse_args()
    args.needed = None if args.targets is None else targets.needed(args.targets)
    sets = list(SETS) if args.needed is None else list(dict.fromkeys(name for name, _, _ in args.needed))
    args.ops = [OPS[name] for name in args.ops]
    measured = [name for name in sets if any(name in op.row.sets for op in args.ops)]
    args.shapes = args.shapes or (measured[:1] if args.quick and args.needed is None else measured)
    args.budget = args.budget or (0.2 if args.quick else 2.0)
    args.least = 3 if args.quick else 7
    if not 1 <= args.threads <= len(os.sched_getaffinity(0)):
        parser.error(f"--threads: expected 1 to {len(os.sched_getaffinity(0))} (the CPUs given), found {args.threads}")
    return args


def name_of(args: argparse.Namespace) -> str:
    """What a record is called."""
    everything = args.shapes == list(SETS) and args.ops == list(OPS.values())
    what = "all" if everything else "-".join(args.shapes)
    if args.targets is not None:
        what = "-".join(["limit", *(args.targets if len(args.targets) < len(targets.GROUPS) else ())])
    return what + ("-quick" if args.quick else "")


def bind(threads: int) -> None:
    """Leave the process as many CPUs as threads, before any peer is loaded: JAX and oneDNN take no thread count."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["NORMKIT_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)


def load(names: list[str], threads: int, skipped: dict[str, str]) -> dict[str, object]:
    """normkit, and the peers that can be loaded, by the name their contenders begin with; why not, for the others."""
    found = {}
    for name in ("normkit", *names):
        try:
            module = importlib.import_module(f"peer_{name}")
            found[module.NAME] = module.Peer(threads)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:  # noqa: PERF203
            if name == "normkit":
                raise
            skipped[name] = f"{type(error).__name__}: {error}"
    return found


def contenders(peers: dict, piece: work.Piece, case: Case, skipped: dict[str, str]) -> list:
    ours, *others = ((name, peer) for name, peer in peers.items() if name == "normkit" or piece.takes(name))
    found = ours[1].contenders(piece.op, piece.mode, case)
    for name, peer in others:
        try:
            found += peer.contenders(piece.op, piece.mode, case)
        except (RuntimeError, ValueError) as error:  # noqa: PERF203
            skipped[f"{name} {piece.op.name} {case.shape}"] = f"{type(error).__name__}: {error}"
    return found


def cell(piece: work.Piece, case: Case, peers: dict, yardstick: Yardstick, args: argparse.Namespace, record: dict):
    """Measure a piece."""
    start, op, shape = time.perf_counter(), piece.op, piece.shape
    agreed, differences = check(contenders(peers, piece, case, record["skipped"]), case)
    for key in set(differences) - {c.key for c in agreed}:
        record["skipped"][f"{key} {op.name} {shape}"] = f"disagrees by {differences[key]:.2g}"
    field = [*agreed, *yardstick.contenders(op, case)]
    others = quiet.Others()
    samples = measure(field, args.budget, args.reps, args.least)
    record["calls"] |= {f"{op.name}, {piece.mode}, {c.key}": c.says for c in field}
    return {
        **{"set": piece.shapes, "shape": shape.dims, "label": str(shape), "count": shape.count},
        **{"groups": shape.groups, "op": op.name, "mode": piece.mode, "dtype": op.row.dtype},
        **{"others_cpu": others.share(), "huge_pages_mib": pages.huge_mib()},
        "seconds": round(time.perf_counter() - start, 1),
        "differences": {key: float(f"{value:.2g}") for key, value in differences.items()},
        "timings": [{"peer": c.peer, "variant": c.variant, **dataclasses.asdict(samples[c.key])} for c in field],
    }


def new_record(args: argparse.Namespace) -> tuple[dict, dict]:
    """A record without cells, and the peers."""
    record: dict = {"schema": 1, "date": records.now(), **records.commit(), "finished": False, "seconds": 0.0}
    record["asked"] = {"targets": args.targets, "shapes": args.shapes, "ops": [op.name for op in args.ops]}
    record |= {"machine": records.machine(), "versions": records.versions(), "settings": {}, "notes": {}}
    record |= {"skipped": {}, "calls": {}, "cells": []}
    peers = load(args.peers, args.threads, record["skipped"])
    record["build"] = peers["normkit"].build
    record["notes"] = {name: f"{peer.version}; {peer.notes}" for name, peer in peers.items()}
    record["settings"] = {
        **{"threads": args.threads, "quick": args.quick, "budget_s": args.budget},
        **{"rounds": args.reps, "least_rounds": args.least, "peers": args.peers},
        "unit": "milliseconds",
        "malloc": "thresholds as glibc settles: 32 MiB, trim 64 MiB" if pages.CONTROLLED else "not controlled",
        "buffers": "64-byte aligned, one shared output; NumPy asks for huge pages from 4 MiB on",
    }
    return record, peers


def begun(new: dict, where: Path, console: Console) -> tuple[dict, Path | None]:
    """The record to go on with and its path; else the new one, whose path is None until it has a cell and a name."""
    is_file = where.suffix == ".json"
    path = where if is_file else records.unfinished(where, new["asked"])
    if not path or not path.exists():
        return new, path
    old = records.load(path)
    if other := ", ".join(records.differences(old, new)):
        if is_file:
            raise SystemExit(f"run.py: `--record` must be a record of the same {other}, or a new name, found {path}")
        console.print(f"{path} is unfinished but not of the same {other}: a new record", soft_wrap=True)
        return new, None
    old["continued"] = [*old.get("continued", []), {"date": new["date"], **records.commit()}]
    old["skipped"] |= new["skipped"]
    return old | {"finished": False, "asked": new["asked"]}, path


def run(
    todo: list[work.Piece], peers: dict, args: argparse.Namespace, record: dict, path: Path | None, console
) -> Path:
    """Measure, and write the record after each piece."""
    start, before = time.time(), record["seconds"]
    yardstick, case = Yardstick(args.threads), None
    costs = [piece.seconds(args.budget, args.least) for piece in todo]
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, speed_estimate_period=600) as progress:
        task = progress.add_task("", total=sum(costs))
        for number, (piece, cost) in enumerate(zip(todo, costs, strict=True), 1):
            what = f"{number} of {len(todo)}: {piece}"
            progress.update(task, description=what)
            case = case if piece.fits(case) else None  # freed before the next is made
            case = case or piece.case()
            record["cells"].append(cell(piece, case, peers, yardstick, args, record))
            record["seconds"] = round(before + time.time() - start, 1)
            record["finished"] = number == len(todo)
            record["machine"]["load_after"] = os.getloadavg()[0]
            if path:
                records.write(record, path)
            else:
                path = records.save(record, args.record, name_of(args))
            progress.advance(task, cost)
            if not console.is_terminal:
                remaining = progress.tasks[task].time_remaining
                rest = "" if remaining is None else f"; {remaining / 60:.1f} minutes left"
                console.print(f"{what}: {record['cells'][-1]['seconds']} s{rest}", highlight=False, soft_wrap=True)
    return path


def main() -> None:
    args = arguments()
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    bind(args.threads)
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    pages.settled()
    wanted = work.pieces(args.shapes, args.ops, args.needed)
    if not wanted:
        raise SystemExit("run.py: none of these ops is measured on these shapes")
    new, peers = new_record(args)
    new["machine"]["others_cpu_before"] = busy = quiet.now()
    if busy and busy > quiet.BUSY:
        console.print(f"[bold red]Other processes use {busy:.0%} of the CPUs: the ratios will be worth nothing.[/]")
    record, path = begun(new, args.record, console)
    todo = work.left(wanted, record)
    if len(todo) < len(wanted):
        console.print(f"going on with {path}: {len(wanted) - len(todo)} of {len(wanted)} pieces are there")
    about = sum(piece.seconds(args.budget, args.least) for piece in todo) / 60
    console.print(f"{len(todo)} pieces, about {about:.0f} minutes")
    try:
        path = run(todo, peers, args, record, path, console)
    except KeyboardInterrupt:
        console.print(f"stopped; {len(record['cells'])} pieces are measured, and the same command goes on with them")
        sys.exit(130)
    show(record, console)
    if args.targets is not None:
        console.print(targets.table(record))
    from plot import draw_all  # late: matplotlib starts slowly and is needed by nothing else

    for written in (path, *draw_all(record, path)):
        console.print(f"wrote {written}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
