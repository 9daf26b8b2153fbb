"""The picture of docs/accuracy.md: a panel for each norm that has peers, errors by distribution, a mark per library."""

import math
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from accuracy_data import DISTRIBUTIONS, NORMS

STYLES = {  # the colours of plot.py, and shapes for who sees no colours
    "NumPy": ("#9ca3af", "x"),
    "oneDNN nchw": ("#7c9cc4", "^"),
    "JAX": ("#0d9488", "s"),
    "PyTorch": ("#475569", "D"),
    "normkit": ("#c2410c", "o"),
}
ROWS = {"y": "y", "dx": "dx"}
TOP, BOTTOM = 1e6, 0.02  # what is beyond lies on the edge


def panel(axes, cells: list[dict], quantity: str) -> None:
    names = [d.name for d in DISTRIBUTIONS]
    for shift, (library, (colour, marker)) in enumerate(STYLES.items()):
        points = [
            (names.index(c["distribution"]), c[quantity]) for c in cells if c["library"] == library and quantity in c
        ]
        at = [x + (shift - 2) * 0.13 for x, _ in points]
        heights = [TOP if math.isinf(e) else min(max(e, BOTTOM), TOP) for _, e in points]
        size = 34 if library == "normkit" else 24
        axes.scatter(
            at, heights, s=size, color=colour, marker=marker, zorder=4 if library == "normkit" else 3, clip_on=False
        )
    axes.set_yscale("log")
    axes.set_ylim(BOTTOM, TOP)
    axes.set_yticks([0.1, 1, 10, 1e3, 1e5, TOP], ["0.1", "1", "10", "1e3", "1e5", "≥ 1e6, ∞"], fontsize=8)
    axes.minorticks_off()
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.axhline(1, color="black", linewidth=0.8, zorder=2)
    axes.grid(axis="y", color="#e5e7eb", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    for x in range(1, len(names), 2):
        axes.axvspan(x - 0.5, x + 0.5, color="#f8fafc", zorder=0)


def draw(record: dict, path: Path) -> None:
    cells = [c for c in record["cells"] if c["dtype"] == "float32"]
    compared = {c["norm"] for c in cells if c["library"] != "normkit"}
    norms = [row for row in NORMS if row.name in compared] or list(NORMS)
    norms = norms[:6]
    names = [d.name for d in DISTRIBUTIONS]
    figure, grid = plt.subplots(
        len(norms), len(ROWS), figsize=(13, 2.1 * len(norms) + 1.2), squeeze=False, sharex=True, layout="constrained"
    )
    for row, line in zip(norms, grid, strict=True):
        for quantity, axes in zip(ROWS, line, strict=True):
            panel(axes, [c for c in cells if c["norm"] == row.name], quantity)
            axes.set_title(f"{row.title}: {ROWS[quantity]}", fontsize=10, loc="left")
    for axes in grid[-1]:
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    for line in grid:
        line[0].set_ylabel("ulp", fontsize=9)
    marks = [plt.Line2D([], [], color=c, marker=m, linestyle="", label=name) for name, (c, m) in STYLES.items()]
    figure.legend(handles=marks[::-1], loc="outside lower center", ncols=len(marks), frameon=False, fontsize=10)
    heading = "Largest error in float32's units in the last place, by distribution of x: lower is better"
    figure.suptitle(f"{heading} ({record['date'][:10]})", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)
