"""The picture of a record: per op and shape, each contender's time as a multiple of the memory's limit."""

# ruff: noqa: RUF001 (the multiplication sign is meant)

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

import record as records
import summary

COLOURS = {"normkit": "#c2410c", "PyTorch": "#475569", "JAX": "#0d9488", "oneDNN nchw": "#7c9cc4"}
COLOURS |= {"oneDNN blocked": "#b9cbe3", "normkit float32": "#f5b08a", "normkit unfused": "#e8c39e"}
COLOURS |= {"torch.compile": "#94a3b8", "normkit one thread": "#f7d0b5", "normkit NCHW": "#d98b5f"}


def panel(axes, found: list[dict], op: str, mode: str, contenders: list[str]) -> None:
    shown = [c for c in contenders if any(summary.best(cell, c) for cell in found)]
    width = 0.8 / max(1, len(shown))
    for i, contender in enumerate(shown):
        points = [(j, summary.over_limit(cell, contender)) for j, cell in enumerate(found)]
        at = [j + (i - (len(shown) - 1) / 2) * width for j, value in points if value]
        heights = [value for _, value in points if value]
        axes.bar(at, [h - 0.5 for h in heights], width, bottom=0.5, color=COLOURS[contender], label=contender, zorder=2)
        worst = max(heights)
        axes.set_ylim(0.5, max(axes.get_ylim()[1], worst * 1.25))
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda v, _: f"{v:g}×"))
    axes.axhline(1, color="black", linewidth=1, zorder=3)
    axes.grid(axis="y", color="#e5e7eb", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    title = f"{summary.TITLES[op]}, {summary.MODES[mode]}  (1× = parallel {summary.limit(found[0])})"
    axes.set_title(title, fontsize=9, loc="left")
    names = [summary.label(c) for c in found]
    axes.set_xticks(range(len(found)), names, rotation=20, ha="right", fontsize=7)


def draw(record: dict, shapes: str, path: Path) -> Path:
    ops = [op for op in summary.TITLES if any(c["op"] == op and c["set"] == shapes for c in record["cells"])]
    count = max(len(summary.cells(record, shapes, op, mode)) for op in ops for mode in summary.MODES)
    size = (max(12, 1.15 * count), 2.3 * len(ops) + 1)
    figure, grid = plt.subplots(len(ops), 2, figsize=size, squeeze=False, layout="constrained")
    contenders = [summary.OURS, *summary.peers(record, shapes)]
    for row, op in zip(grid, ops, strict=True):
        for axes, mode in zip(row, summary.MODES, strict=True):
            if found := summary.cells(record, shapes, op, mode):
                panel(axes, found, op, mode, contenders)
            else:
                axes.axis("off")
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[c]) for c in contenders]
    figure.legend(handles, contenders, loc="outside lower center", ncols=len(contenders), frameon=False)
    machine, threads = record["machine"], record["settings"]["threads"]
    heading = f"{shapes}, {threads} threads, {machine['cpu']}, {record['date'][:10]}: time, lower is better"
    figure.suptitle(heading, fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def draw_all(record: dict, path: Path) -> list[Path]:
    """One picture per set of shapes, beside the record."""
    found = summary.sets(record)
    names = [path.with_suffix(".png")] if len(found) == 1 else [path.with_name(f"{path.stem}-{s}.png") for s in found]
    return [draw(record, shapes, name) for shapes, name in zip(found, names, strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    for picture in draw_all(records.load(parser.parse_args().record), parser.parse_args().record):
        print(picture)
