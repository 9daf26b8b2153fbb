"""The pictures of a roofline record, and its table."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.table import Table

from markup import line
from roofline import MEASURED

TITLES = {"batch_norm": "forward", "batch_norm_backward": "backward", "batch_norm_inference": "inference"}
COLOURS = {"batch_norm": "#c2410c", "batch_norm_backward": "#0d9488", "batch_norm_inference": "#7c3aed"}
COLOURS |= {"copy": "#475569", "a + b": "#94a3b8"}
TENSORS = {name: tensors for name, (tensors, _) in MEASURED.items()} | {"copy": 2, "a + b": 3}
LABELS = TITLES | {"copy": "copy", "a + b": "a + b"}


def bandwidth(point: dict, name: str) -> float:
    """Bytes a second that must be moved: of all tensors that are read or written, each once."""
    return TENSORS[name] * point["bytes"] / point["s"][name]


def sizes(record: dict) -> list[dict]:
    """With all threads, by size."""
    count = record["settings"]["threads"]
    found = {p["bytes"]: p for p in record["cells"] if p["threads"] == count}
    return [found[size] for size in sorted(found)]


def by_threads(record: dict) -> list[dict]:
    """The large tensor, by threads."""
    found = {p["threads"]: p for p in record["cells"] if p["samples"] == record["large_samples"]}
    return [found[n] for n in sorted(found)]


def intensity(name: str) -> float:
    """Operations for each byte that must be moved, in float32."""
    tensors, operations = MEASURED[name]
    return operations / (4 * tensors)


def heading(record: dict) -> str:
    disturbed = max((p["others_cpu"] or 0) for p in record["cells"])
    note = f" (others took up to {disturbed:.0%} of the CPUs)" if disturbed > 0.05 else ""
    return f"{record['settings']['threads']} threads, {record['machine']['cpu']}, {record['date'][:10]}{note}"


def draw_roofline(record: dict, path: Path) -> Path:
    """Operations a second over operations for each byte: roofs of memory, of caches and of arithmetic; our calls."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    points, peak = sizes(record), record["operations_per_s"]
    large = by_threads(record)[-1]
    x = np.geomspace(0.05, 200, 200)
    cached = max(points, key=lambda p: bandwidth(p, "copy"))
    for point, where in ((large, "memory"), (cached, f"caches ({cached['bytes'] / 1e6:.1f} MB)")):
        roof = bandwidth(point, "copy")
        label = f"copy in {where}: {roof / 1e9:.3g} GB/s"
        axes.plot(x, np.minimum(roof * x, peak), "-" if point is large else "--", color=COLOURS["copy"], label=label)
    axes.axhline(peak, color="#cbd5e1", zorder=0, label=f"arithmetic (matrix product): {peak / 1e9:.3g} Gop/s")
    for name in MEASURED:
        for point, marker in ((large, "o"), (cached, "^")):
            speed = bandwidth(point, name) * intensity(name)
            label = f"{TITLES[name]}, {point['bytes'] / 1e6:.3g} MB: {bandwidth(point, name) / 1e9:.3g} GB/s"
            axes.plot(intensity(name), speed, marker, color=COLOURS[name], label=label)
    axes.set(xscale="log", yscale="log", xlabel="operations for each byte that must be moved", ylabel="operations / s")
    axes.set_title(f"Batch norm under the roofs\n{heading(record)}", fontsize=9)
    axes.legend(fontsize=7, loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def draw_growth(record: dict, path: Path) -> Path:
    """Time for each byte over the size, and bandwidth over threads."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    points, threads = sizes(record), by_threads(record)
    for name, colour in COLOURS.items():
        style = "--" if name in ("copy", "a + b") else "-"
        x = [p["bytes"] / 1e6 for p in points]
        left.plot(x, [1e9 / bandwidth(p, name) for p in points], f"{style}o", ms=3, color=colour, label=LABELS[name])
        y = [bandwidth(p, name) / 1e9 for p in threads]
        right.plot([p["threads"] for p in threads], y, f"{style}o", ms=3, color=colour, label=LABELS[name])
    left.set(xscale="log", ylim=(0, None), xlabel="MB of the tensor", ylabel="ns for each byte that must be moved")
    right.set(ylim=(0, None), xlabel="threads", ylabel="GB/s", xticks=[p["threads"] for p in threads])
    left.set_title("all threads", fontsize=9)
    right.set_title(f"{threads[-1]['bytes'] / 1e6:.0f} MB", fontsize=9)
    right.legend(fontsize=8)
    figure.suptitle(f"Growth: {heading(record)}", fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def rows(record: dict) -> list[list[str]]:
    """MB, threads, and GB/s of each call."""
    return [
        [f"{p['bytes'] / 1e6:.4g}", str(p["threads"]), *(f"{bandwidth(p, name) / 1e9:.3g}" for name in LABELS)]
        for p in (*sizes(record), *by_threads(record)[:-1])
    ]


def table(record: dict) -> Table:
    found = Table(title=f"GB/s, each tensor counted once: {heading(record)}", title_justify="left")
    for column in ("MB", "threads", *LABELS.values()):
        found.add_column(column, justify="right")
    for row in rows(record):
        found.add_row(*row)
    return found


def page_lines(record: dict, name: str) -> list[str]:
    """What the page shows of a record."""
    columns = ["MB", "threads", *LABELS.values()]
    return [
        f"Batch norm in float32, {heading(record)}; `benches/record/{name}`.",
        "",
        "![Operations a second over operations for each byte, under the roofs](../images/roofline.png)",
        "",
        "![Time for each byte by size, bandwidth by threads](../images/growth.png)",
        "",
        "GB/s, each tensor that must be read or written counted once:",
        "",
        *(line(columns), line(["---:"] * len(columns)), *map(line, rows(record))),
    ]
