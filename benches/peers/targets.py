"""What normkit is to reach, row by row, and what a record says of it: reached, missed, or not measured.

python benches/peers/run.py --limit                            measures what the rows need (`make bench-limit`)
python benches/peers/run.py --targets batch,halves             some rows only
python benches/peers/targets.py benches/record/<record>.json   the table of a record, also of an unfinished one
"""

# ruff: noqa: RUF001 (the multiplication sign is meant)

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import record as records
import summary
from shapes import SETS
from summary import OURS, best, geomean, over_limit, times_faster

BN, GN, INFERENCE, FUSED = "batch_norm", "group_norm", "batch_norm_inference", "batch_norm-relu-residual"
TORCH, INDUCTOR, DNNL = ("PyTorch",), ("torch.compile",), ("oneDNN nchw", "oneDNN blocked")
Cells = list[dict]
Value = Callable[[dict, Cells, tuple[str, ...]], float | None]


@dataclass(frozen=True)
class Target:
    """A number to reach. `value` makes it of the cells of an op on all shapes of a set; None where one lacks."""

    what: str
    bound: float
    most: bool  # the value is to be at most the bound, rather than at least
    op: str
    shapes: str
    value: Value
    against: tuple[str, ...] = ()  # contenders that `value` compares with
    mode: str = "out"

    @property
    def cells(self) -> tuple[str, str, str]:
        """What it is measured on: a set of shapes, an op and a mode."""
        return self.shapes, self.op, self.mode

    def reached(self, value: float) -> bool:
        return value <= self.bound if self.most else value >= self.bound

    def of(self, record: dict) -> float | None:
        """None where a shape is missing, rather than a value of fewer shapes."""
        there = {tuple(cell["shape"]): cell for cell in summary.cells(record, *self.cells)}
        dims = [shape.dims for shape in SETS[self.shapes]()]
        return self.value(record, [there[d] for d in dims], self.against) if there.keys() >= set(dims) else None


def limit(_: dict, found: Cells, __: tuple[str, ...]) -> float | None:
    """In copies, or in a + b."""
    return geomean((over_limit(c), c["count"]) for c in found)


def size(cell: dict) -> int:
    """Bytes of the tensor."""
    elements = 1
    for n in cell["shape"]:
        elements *= n
    return elements * (2 if cell.get("dtype", "").endswith("float16") else 4)


def last_cache(record: dict) -> int:
    """Bytes of the last-level cache of the machine."""
    text = max(record["machine"]["caches"].items(), default=("", "0K"))[1].split(",")[0]
    return int(text[:-1]) << {"K": 10, "M": 20}[text[-1]]


def limit_beyond_cache(record: dict, found: Cells, against: tuple[str, ...]) -> float | None:
    return limit(record, [c for c in found if size(c) > last_cache(record)], against)


def faster(_: dict, found: Cells, against: tuple[str, ...]) -> float | None:
    """Than the fastest of these, in the mean."""

    def of(cell: dict) -> float | None:
        return min(filter(None, (times_faster(cell, peer) for peer in against)), default=None)

    return geomean((of(c), c["count"]) for c in found)


def slowest(_: dict, found: Cells, against: tuple[str, ...]) -> float | None:
    """The shape on which least is won."""
    times = [times_faster(c, peer) for c in found for peer in against]
    return None if None in times else min(times)


def share(record: dict, found: Cells, against: tuple[str, ...]) -> float | None:
    """Our time, of another way's."""
    ratio = faster(record, found, against)
    return None if ratio is None else 1 / ratio


def share_if_large(record: dict, found: Cells, against: tuple[str, ...]) -> float | None:
    """Of shapes of 8 MiB and more in float32."""
    return share(record, [c for c in found if 2 * size(c) >= 8 << 20], against)


def per_byte(cell: dict) -> float:
    return best(cell, OURS)["median"] / size(cell)


def of_first(*places: int) -> Value:
    """The worst time per byte of some shapes of a set, in the first one's."""
    return lambda _, found, __: max(per_byte(found[i]) for i in places) / per_byte(found[0])


def microseconds(_: dict, found: Cells, __: tuple[str, ...]) -> float:
    return 1e3 * best(found[0], OURS)["median"]


def both(what: str, bounds: tuple[float, float], op: str, shapes: str, value: Value, *against: str, **kw):
    """A target forward and one backward."""
    for way, name, bound in (("forward", op, bounds[0]), ("backward", f"{op}_backward", bounds[1])):
        yield Target(
            what.format(way), bound, kw.get("most", False), name, shapes, value, against, kw.get("mode", "out")
        )


def halves() -> Iterator[Target]:
    for norm in (BN, GN):
        for dtype in ("float16", "bfloat16"):
            what, op = f"{norm} {{}} in {dtype}, of own float32", f"{norm}-{dtype}"
            yield from both(what, (0.6, 0.6), op, "resnet50-three", share_if_large, "normkit float32", most=True)


# THE table. Each name can be asked for alone; no two of them measure the same cells.
GROUPS: dict[str, tuple[Target, ...]] = {
    "batch": (
        Target("batch norm forward ÷ copy", 1.05, True, BN, "resnet50", limit),
        Target("… where the tensor exceeds the last cache", 1.0, True, BN, "resnet50", limit_beyond_cache),
        Target("batch norm backward ÷ a + b", 1.15, True, f"{BN}_backward", "resnet50", limit),
        *both("batch norm {} × PyTorch", (4.5, 1.9), BN, "resnet50", faster, *TORCH),
        *both("batch norm {} × torch.compile", (2.0, 1.5), BN, "resnet50", faster, *INDUCTOR),
        *both("batch norm {} × oneDNN's best", (1.3, 1.3), BN, "resnet50", faster, *DNNL),
    ),
    "inference": (
        Target("inference ÷ copy", 1.0, True, INFERENCE, "resnet50", limit),
        Target("inference × PyTorch", 1.2, False, INFERENCE, "resnet50", faster, TORCH),
    ),
    "group": (
        *both("group norm {} × PyTorch", (1.35, 1.9), GN, "resnet50", faster, *TORCH),
        Target("group norm backward × oneDNN", 10, False, f"{GN}_backward", "resnet50", faster, DNNL),
    ),
    "fused": (
        *both("BN + add + ReLU {} × own unfused", (1.8, 1.5), FUSED, "residuals", faster, "normkit unfused"),
        *both("BN + add + ReLU {} × PyTorch's chain", (5, 2.5), FUSED, "residuals", faster, *TORCH),
        *both("BN + add + ReLU {} × torch.compile", (1.5, 1.5), FUSED, "residuals", faster, *INDUCTOR),
    ),
    "densenet": (
        *both("DenseNet-121, batch norm {}, worst × PyTorch", (1, 1), BN, "densenet121", slowest, *TORCH),
        Target("DenseNet-121, inference, worst × PyTorch", 1, False, INFERENCE, "densenet121", slowest, TORCH),
    ),
    "diffusion": tuple(both("diffusion, group norm {}, worst × PyTorch", (1, 1), GN, "groupnorm", slowest, *TORCH)),
    "layouts": (
        *both("1 and 3 channels {}, per byte of 64", (1.15, 1.15), BN, "layouts", of_first(2, 3), most=True),
        *both("(N, C) {}, of own NCHW", (1.25, 1.25), BN, "layouts", of_first(1), most=True),
        *both(
            *("channels last {}, of own NCHW", (1.25, 1.25), f"{BN}-channels_last", "resnet50-three"),
            *(share, "normkit NCHW"),
            most=True,
        ),
    ),
    "rows": (
        *both("layer_norm {} × PyTorch", (1.0, 1.3), "layer_norm", "rows", faster, *TORCH),
        *both("rms_norm {} × PyTorch", (1.0, 1.3), "rms_norm", "rows", faster, *TORCH),
    ),
    "halves": tuple(halves()),
    "small": (
        *both("small, layer {} × PyTorch's module", (3, 3), f"{BN}-module", "tiny", faster, *TORCH, mode="fresh"),
        Target("the call itself, µs", 2, True, BN, "nothing", microseconds),
    ),
    "threads": tuple(
        both("1 → 2 threads in cache, {}", (1.8, 1.8), f"{BN}-threads", "in-cache", faster, "normkit one thread")
    ),
    "fold": (
        Target(
            "folding ResNet-50 ÷ copy of its weights", 1.2, True, "fold_conv_bn", "convolutions", limit, (), "fresh"
        ),
    ),
}
TARGETS = tuple(target for group in GROUPS.values() for target in group)


def needed(groups: Iterable[str]) -> dict[tuple[str, str, str], set[str]]:
    """What some rows are measured on (set of shapes, op, mode), and the contenders that they name."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for target in (target for name in groups for target in GROUPS[name]):
        found.setdefault(target.cells, set()).update(target.against)
    return found


def verdict(target: Target, value: float | None) -> str:
    if value is None:
        return "not measured"
    return "reached" if target.reached(value) else "[bold red]missed[/]"


def table(record: dict) -> Table:
    machine, threads = record["machine"]["cpu"], record["settings"]["threads"]
    found = Table(title=f"targets: {threads} threads, {machine}, {record['date'][:10]}", title_justify="left")
    for name in ("", "what", "asked", "found", " "):
        found.add_column(name, justify="right" if name in ("asked", "found") else "left")
    values = [target.of(record) for target in TARGETS]
    names = {group[0]: name for name, group in GROUPS.items()}
    for target, value in zip(TARGETS, values, strict=True):
        asked, number = f"{'≤' if target.most else '≥'} {target.bound:g}", "–" if value is None else f"{value:.3g}"
        found.add_row(names.get(target, ""), target.what, asked, number, verdict(target, value))
    measured = [(target, value) for target, value in zip(TARGETS, values, strict=True) if value is not None]
    reached = sum(target.reached(value) for target, value in measured)
    found.caption = f"{reached} of {len(TARGETS)} reached, {len(TARGETS) - len(measured)} not measured"
    if record["settings"]["quick"] or summary.disturbed(record) > summary.BUSY:
        found.caption += "; a quick look or a busy machine: not to be relied on"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    Console().print(table(records.load(parser.parse_args().record)))


if __name__ == "__main__":
    main()
