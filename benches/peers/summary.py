"""From raw timings to ratios. Used by the tables, the plot and the README, so that they cannot differ."""

# ruff: noqa: RUF001 (the multiplication sign is meant)

import math
from collections.abc import Iterable

from ops import OPS
from quiet import BUSY

OURS, LIMIT = "normkit", "yardstick"
PEERS = ("PyTorch", "torch.compile", "JAX", "oneDNN nchw", "oneDNN blocked")
PEERS += ("normkit float32", "normkit NCHW", "normkit unfused", "normkit one thread")
TITLES = {op.name: op.title for op in OPS.values()}
MODES = {"out": "reused output", "fresh": "fresh output"}
NOISY = 0.25  # interquartile range ÷ median


def best(cell: dict, peer: str) -> dict | None:
    """The timing of a peer's fastest variant, by median."""
    return min((t for t in cell["timings"] if t["peer"] == peer), key=lambda t: t["median"], default=None)


def over_limit(cell: dict, peer: str = OURS) -> float | None:
    """Time in copies, or in a + b for what reads two tensors."""
    time = best(cell, peer)
    return time["median"] / best(cell, LIMIT)["median"] if time else None


def times_faster(cell: dict, peer: str) -> float | None:
    """How many times faster normkit is than a peer; below 1 it lost."""
    time = best(cell, peer)
    return time["median"] / best(cell, OURS)["median"] if time else None


def disturbed(record: dict) -> float:
    """The mean share of the CPUs that other processes took while a cell was measured."""
    return sum(c.get("others_cpu") or 0 for c in record["cells"]) / max(1, len(record["cells"]))


def noisy(cell: dict) -> bool:
    if (cell.get("others_cpu") or 0) > BUSY:
        return True
    times = [best(cell, peer) for peer in (OURS, LIMIT, *PEERS)]
    return any(t["q75"] - t["q25"] > NOISY * t["median"] for t in times if t)


def geomean(pairs: Iterable[tuple[float | None, int]]) -> float | None:
    """Weighted geometric mean; None if a shape is missing, rather than a mean over fewer shapes."""
    pairs = list(pairs)
    if not pairs or any(value is None for value, _ in pairs):
        return None
    return math.exp(sum(w * math.log(v) for v, w in pairs) / sum(w for _, w in pairs))


def cells(record: dict, shapes: str, op: str, mode: str) -> list[dict]:
    return [c for c in record["cells"] if (c["set"], c["op"], c["mode"]) == (shapes, op, mode)]


def sets(record: dict) -> list[str]:
    return list(dict.fromkeys(c["set"] for c in record["cells"]))


def label(cell: dict) -> str:
    """The shape, as the record writes it since there are shapes of many weights."""
    return cell.get("label") or "×".join(map(str, cell["shape"]))


def limit(cell: dict) -> str:
    """What the yardstick did: "copy" or "a + b"."""
    return best(cell, LIMIT)["variant"].split(",")[0]


def peers(record: dict, shapes: str) -> list[str]:
    """Those that take part in a set."""
    present = {t["peer"] for c in record["cells"] if c["set"] == shapes for t in c["timings"]}
    return [p for p in PEERS if p in present]


def means(record: dict, shapes: str) -> list[dict]:
    """Per op and mode the weighted geometric means over the shapes of a set."""
    rows = []
    for op in TITLES:
        for mode in MODES:
            found = cells(record, shapes, op, mode)
            if not found:
                continue
            row = {"op": op, "mode": mode, "shapes": len(found), "limit": {}, "faster": {}}
            for peer in (OURS, *peers(record, shapes)):
                row["limit"][peer] = geomean((over_limit(c, peer), c["count"]) for c in found)
                row["faster"][peer] = geomean((times_faster(c, peer), c["count"]) for c in found)
            row["lost"] = {p: sum((times_faster(c, p) or 1) < 1 for c in found) for p in peers(record, shapes)}
            rows.append(row)
    return rows
