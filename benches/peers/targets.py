"""What normkit is to reach, row by row, and what a record says of it: reached, missed, or not measured.

python benches/peers/run.py --limit                        measures what the rows need (`make bench-limit`)
python benches/peers/targets.py benches/record/<record>.json   the table again
"""

# ruff: noqa: RUF001 (the multiplication sign is meant)

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import record as records
import summary
from summary import OURS, best, geomean, over_limit, times_faster

BN, GN, INFERENCE, FUSED = "batch_norm", "group_norm", "batch_norm_inference", "batch_norm-relu-residual"
Cells = list[dict]


@dataclass(frozen=True)
class Target:
    """A number to reach. `value` makes it of the cells of an op on a set; None where something is missing."""

    what: str
    bound: float
    most: bool  # the value is to be at most the bound, rather than at least
    op: str
    shapes: str
    value: Callable[[dict, Cells], float | None]
    mode: str = "out"

    def reached(self, value: float) -> bool:
        return value <= self.bound if self.most else value >= self.bound

    def of(self, record: dict) -> float | None:
        found = summary.cells(record, self.shapes, self.op, self.mode)
        return self.value(record, found) if found else None


def limit(_: dict, found: Cells) -> float | None:
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


def limit_beyond_cache(record: dict, found: Cells) -> float | None:
    return limit(record, [c for c in found if size(c) > last_cache(record)])


def faster(*peers: str) -> Callable[[dict, Cells], float | None]:
    """Than the fastest of these, in the mean."""

    def value(_: dict, found: Cells) -> float | None:
        def of(cell: dict) -> float | None:
            return min(filter(None, (times_faster(cell, peer) for peer in peers)), default=None)

        return geomean((of(c), c["count"]) for c in found)

    return value


def slowest(peer: str) -> Callable[[dict, Cells], float | None]:
    """The shape on which least is won."""
    return lambda _, found: min((times_faster(c, peer) or 0 for c in found), default=None)


def share_of(peer: str) -> Callable[[dict, Cells], float | None]:
    """Our time, of another way's."""

    def value(_: dict, found: Cells) -> float | None:
        ratio = geomean((times_faster(c, peer), c["count"]) for c in found)
        return None if ratio is None else 1 / ratio

    return value


def per_byte(cell: dict) -> float:
    return best(cell, OURS)["median"] / size(cell)


def against_first(*places: int) -> Callable[[dict, Cells], float | None]:
    """The worst time per byte of some shapes of a set, in the first one's."""
    return lambda _, found: max(per_byte(found[i]) for i in places) / per_byte(found[0]) if len(found) > 1 else None


def large(value: Callable[[dict, Cells], float | None]) -> Callable[[dict, Cells], float | None]:
    """Of shapes of 8 MiB and more in float32."""
    return lambda record, found: value(record, [c for c in found if 2 * size(c) >= 8 << 20])


def both(what: str, bounds: tuple[float, float], op: str, shapes: str, value: Callable, most: bool = False):
    """A target forward and one backward."""
    for way, name, bound in (("forward", op, bounds[0]), ("backward", f"{op}_backward", bounds[1])):
        yield Target(what.format(way), bound, most, name, shapes, value)


def targets() -> Iterator[Target]:
    torch, inductor, dnnl = faster("PyTorch"), faster("torch.compile"), faster("oneDNN nchw", "oneDNN blocked")
    yield Target("batch norm forward ÷ copy", 1.05, True, BN, "resnet50", limit)
    yield Target("… where the tensor exceeds the last cache", 1.0, True, BN, "resnet50", limit_beyond_cache)
    yield Target("batch norm backward ÷ a + b", 1.15, True, f"{BN}_backward", "resnet50", limit)
    yield Target("inference ÷ copy", 1.0, True, INFERENCE, "resnet50", limit)
    yield from both("batch norm {} × PyTorch", (4.5, 1.9), BN, "resnet50", torch)
    yield Target("inference × PyTorch", 1.2, False, INFERENCE, "resnet50", torch)
    yield from both("group norm {} × PyTorch", (1.35, 1.9), GN, "resnet50", torch)
    yield Target("batch norm forward × torch.compile", 2.0, False, BN, "resnet50", inductor)
    yield Target("batch norm backward × torch.compile", 1.5, False, f"{BN}_backward", "resnet50", inductor)
    yield from both("BN + add + ReLU {} × torch.compile", (1.5, 1.5), FUSED, "residuals", inductor)
    yield from both("batch norm {} × oneDNN's best", (1.3, 1.3), BN, "resnet50", dnnl)
    yield Target("group norm backward × oneDNN", 10, False, f"{GN}_backward", "resnet50", dnnl)
    yield from both("DenseNet-121, batch norm {}, worst × PyTorch", (1, 1), BN, "densenet121", slowest("PyTorch"))
    yield Target("DenseNet-121, inference, worst × PyTorch", 1, False, INFERENCE, "densenet121", slowest("PyTorch"))
    yield from both("diffusion, group norm {}, worst × PyTorch", (1, 1), GN, "groupnorm", slowest("PyTorch"))
    yield from both("1 and 3 channels {}, per byte of 64", (1.15, 1.15), BN, "layouts", against_first(2, 3), True)
    yield from both("(N, C) {}, of own NCHW", (1.25, 1.25), BN, "layouts", against_first(1), True)
    of_nchw = share_of("normkit NCHW")
    yield from both(
        "channels last {}, of own NCHW", (1.25, 1.25), f"{BN}-channels_last", "resnet50-three", of_nchw, True
    )
    for norm in ("layer_norm", "rms_norm"):
        yield from both(f"{norm} {{}} × PyTorch", (1.0, 1.3), norm, "rows", torch)
    for norm in (BN, GN):
        for dtype in ("float16", "bfloat16"):
            of_float32 = large(share_of("normkit float32"))
            what = f"{norm} {{}} in {dtype}, of own float32"
            yield from both(what, (0.6, 0.6), f"{norm}-{dtype}", "resnet50-three", of_float32, True)
    yield from both("BN + add + ReLU {} × own unfused", (1.8, 1.5), FUSED, "residuals", faster("normkit unfused"))
    yield from both("BN + add + ReLU {} × PyTorch's chain", (5, 2.5), FUSED, "residuals", torch)
    for op in ("batch_norm-module", "batch_norm-module_backward"):
        way = "backward" if op.endswith("backward") else "forward"
        yield Target(f"small, layer {way} × PyTorch's module", 3, False, op, "tiny", torch, "fresh")
    yield Target("the call itself, µs", 2, True, BN, "nothing", lambda _, found: 1e3 * best(found[0], OURS)["median"])
    alone = faster("normkit one thread")
    yield from both("1 → 2 threads in cache, {}", (1.8, 1.8), "batch_norm-threads", "in-cache", alone)
    yield Target("folding ResNet-50 ÷ copy of its weights", 1.2, True, "fold_conv_bn", "convolutions", limit, "fresh")


TARGETS = tuple(targets())
OPS_NEEDED = {target.op for target in TARGETS}
SETS_NEEDED = tuple(dict.fromkeys(target.shapes for target in TARGETS))


def verdict(target: Target, value: float | None) -> str:
    if value is None:
        return "not measured"
    return "reached" if target.reached(value) else "[bold red]missed[/]"


def table(record: dict) -> Table:
    machine, threads = record["machine"]["cpu"], record["settings"]["threads"]
    found = Table(title=f"targets: {threads} threads, {machine}, {record['date'][:10]}", title_justify="left")
    for name in ("what", "to reach", "measured", ""):
        found.add_column(name, justify="left" if name in ("what", "") else "right")
    for target in TARGETS:
        value = target.of(record)
        number = "–" if value is None else f"{value:.3g}"
        found.add_row(target.what, f"{'≤' if target.most else '≥'} {target.bound:g}", number, verdict(target, value))
    values = [(target, target.of(record)) for target in TARGETS]
    measured = [(target, value) for target, value in values if value is not None]
    reached = sum(target.reached(value) for target, value in measured)
    found.caption = f"{reached} of {len(TARGETS)} reached, {len(TARGETS) - len(measured)} not measured"
    if record["settings"]["quick"] or summary.disturbed(record) > summary.BUSY:
        found.caption += "; a quick look or a busy machine: not to be relied on"
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    Console().print(table(records.load(parser.parse_args().record)))
