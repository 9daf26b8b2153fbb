"""Where the time goes: bandwidth of this machine, normkit's share of it, and how both grow. `make roofline`.

Measures batch norm (forward, backward, inference) beside a parallel copy and a + b of the same tensors, from 1 MB to
1 GB with all threads, and one large tensor with 1, 2, … threads; and a product of matrices, as a roof of arithmetic.
Writes a record, docs/images/roofline.png and growth.png, and the section of docs/explanation/performance.md.

python benches/peers/roofline.py --quick                draws into out/, up to 64 MB: a look
python benches/peers/roofline.py --draw RECORD          the pictures again
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

import normkit as nk
import pages
import quiet
import record as records
from calls import call, results, says
from case import Case, Contender
from markup import split
from ops import OPS
from shapes import Shape
from timing import measure, timed
from yardstick import Yardstick

# Tensors that must be read or written, and operations for each element: see docs/explanation/performance.md.
MEASURED = {"batch_norm": (2, 7), "batch_norm_backward": (3, 9), "batch_norm_inference": (2, 3)}
SAMPLE = (64, 56, 56)  # of 0.8 MB, as in ResNet-50
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1337)
LARGE, QUICK = 320, 64  # samples: 257 MB; up to 51 MB
PRODUCT = 2048
PAGE = records.TOP / "docs" / "explanation" / "performance.md"
START, END = "<!-- roofline:start -->", "<!-- roofline:end -->"


def threads_of(n: int) -> None:
    """For all that is measured."""
    nk.set_num_threads(n)
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(n)


def point(samples: int, threads: int, budget: float) -> dict:
    """Seconds of each op, of the copy and of a + b; medians of interleaved calls into reused memory."""
    threads_of(threads)
    case, found = Case(Shape((samples, *SAMPLE))), {}
    field, yardstick = [], Yardstick(threads)
    for name in MEASURED:
        ours = call(OPS[name], case, out=case.out)
        field.append(Contender("normkit", name, says(ours, case), ours, results))
    for name in ("batch_norm", "batch_norm_backward"):
        field += yardstick.contenders(OPS[name], case)
    others = quiet.Others()
    for key, sample in measure(field, budget * len(field), None, 3).items():
        name = key.split("/")[1].split(",")[0]  # the faster of the ways to copy counts
        found[name] = min(found.get(name, np.inf), sample.median * 1e-3)
    return {"samples": samples, "threads": threads, "bytes": case.x.nbytes, "others_cpu": others.share(), "s": found}


def arithmetic() -> float:
    """Operations a second of a product of matrices, which has the machine's arithmetic at its best."""
    a = np.ones((PRODUCT, PRODUCT), np.float32)
    out = np.empty_like(a)
    best = min(timed(lambda: np.matmul(a, a, out=out))[0] for _ in range(10))
    return 2 * PRODUCT**3 / (best * 1e-3)


def write_page(record: dict, name: str, page: Path = PAGE) -> None:
    """Pictures and numbers between the markers of the page."""
    from roofline_plot import page_lines

    before, _, after = split(page.read_text(), START, END)
    page.write_text(f"{before}{START}\n" + "\n".join(page_lines(record, name)) + f"\n{END}{after}")


def measured(args: argparse.Namespace, console: Console) -> dict:
    sizes = [n for n in SAMPLES if not args.quick or n <= QUICK]
    large = min(LARGE, sizes[-1])
    counts = sorted({*(2**k for k in range(20) if 2**k <= args.threads), args.threads})
    work = [(n, args.threads) for n in sizes] + [(large, n) for n in counts]
    start, busy = time.time(), quiet.now()
    if busy and busy > quiet.BUSY:
        console.print(f"[bold red]Other processes use {busy:.0%} of the CPUs: this is not the machine's limit.[/]")
    points = [point(*of, args.budget) for of in track(work, "roofline", console=console)]
    settings = {"threads": args.threads, "quick": args.quick, "budget_s": args.budget, "unit": "seconds"}
    machine = records.machine() | {"others_cpu_before": busy}
    found = {"schema": 1, "kind": "roofline", "date": records.now(), **records.commit(), "machine": machine}
    found |= {"versions": records.versions(), "settings": settings, "operations_per_s": arithmetic()}
    return found | {"seconds": round(time.time() - start, 1), "large_samples": large, "cells": points}


def main() -> None:
    cpus = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, little time, pictures in out/")
    parser.add_argument("--threads", type=int, default=cpus)
    parser.add_argument("--budget", type=float, help="seconds for each call that is measured; 1, or 0.1")
    parser.add_argument("--record", type=Path, default=records.TOP / "benches" / "record", help="folder for the JSON")
    parser.add_argument("--images", type=Path, help="folder for the pictures; docs/images, or out with --quick")
    parser.add_argument("--draw", type=Path, metavar="RECORD", help="measure nothing, draw this record")
    args = parser.parse_args()
    args.budget = args.budget or (0.1 if args.quick else 1.0)
    args.images = args.images or records.TOP / ("out" if args.quick else "docs/images")
    console = Console()
    if args.draw:
        record = records.load(args.draw)
    else:
        pages.settled()
        record = measured(args, console)
        folder = args.images if args.quick else args.record
        saved = records.save(record, folder, "roofline")
        console.print(f"wrote {saved}", soft_wrap=True)
    from roofline_plot import draw_growth, draw_roofline, table  # late: matplotlib starts slowly

    console.print(table(record))
    args.images.mkdir(parents=True, exist_ok=True)
    for draw, name in ((draw_roofline, "roofline.png"), (draw_growth, "growth.png")):
        console.print(f"wrote {draw(record, args.images / name)}", soft_wrap=True)
    if args.images == records.TOP / "docs/images":
        name = args.draw or saved
        write_page(record, name.name)
        console.print(f"wrote {PAGE}", soft_wrap=True)


if __name__ == "__main__":
    main()
