"""Render the README's benchmark tables from a named record, between its two markers; or check that they agree.

python benches/peers/table.py benches/record/2026-01-31-resnet50.json          writes README.md
python benches/peers/table.py --check                                          the record is the one the README names
"""

# ruff: noqa: RUF001 (the multiplication sign is meant)

import argparse
import re
import sys
from pathlib import Path

import record as records
import summary
from markup import line, split
from quiet import BUSY

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
NAMED = re.compile(r"\]\((benches/record/[^)\s]+\.json)\)")


def ratio(value: float | None, limit: bool = False) -> str:
    """A ratio; where it is against a peer, a loss is marked."""
    if value is None:
        return "–"
    text = f"{value:.2f}"
    return f"**{text} ▼**" if not limit and value < 1 else text


def header(left: list[str], right: list[str]) -> list[str]:
    return [line([*left, *right]), line(["---"] * len(left) + ["---:"] * len(right))]


def mean_table(record: dict, shapes: str) -> list[str]:
    peers = summary.peers(record, shapes)
    lines = header(["Op", "Output"], ["normkit ÷ limit", *(f"× {p}" for p in peers), "rows lost"])
    for row in summary.means(record, shapes):
        lost = ", ".join(f"{n} to {p}" for p, n in row["lost"].items() if n)
        values = [ratio(row["limit"][summary.OURS], limit=True), *(ratio(row["faster"][p]) for p in peers)]
        lines.append(line([summary.TITLES[row["op"]], summary.MODES[row["mode"]].split()[0], *values, lost or "none"]))
    return lines


def milliseconds(cell: dict, peer: str) -> str:
    time = summary.best(cell, peer)
    return f"{time['median']:.3g}" if time else "–"


def shape_table(record: dict, shapes: str, mode: str) -> list[str]:
    every = [c for op in summary.TITLES for c in summary.cells(record, shapes, op, mode)]
    peers = [p for p in summary.peers(record, shapes) if any(summary.best(c, p) for c in every)]
    right = ["uses", "limit, ms", "normkit, ms", "÷ limit", *(t for p in peers for t in (f"{p}, ms", "×"))]
    lines = header(["Op", "Shape"], right)
    for cell in every:
        values = [summary.TITLES[cell["op"]], summary.label(cell) + (" ~" if summary.noisy(cell) else "")]
        values += [str(cell["count"]), milliseconds(cell, summary.LIMIT), milliseconds(cell, summary.OURS)]
        values.append(ratio(summary.over_limit(cell), limit=True))
        for peer in peers:
            values += [milliseconds(cell, peer), ratio(summary.times_faster(cell, peer))]
        lines.append(line(values))
    return lines


def render(record: dict, name: str) -> str:
    machine, versions = record["machine"], record["versions"]
    software = ", ".join(f"{k} {v}" for k, v in versions.items())
    dtype = "float32" if {c.get("dtype", "float32") for c in record["cells"]} == {"float32"} else "float32 unless said"
    lines = [
        f"{dtype}, {record['settings']['threads']} threads, {machine['cpu']}, {record['date'][:10]}, {software}. "
        f"Raw results: [{Path(name).name}]({name}).",
        "",
        "*÷ limit*: normkit's time in parallel copies of the same tensor (forward, inference) or parallel `a + b` "
        "(backward). *× peer*: how many times faster normkit is, like for like; **▼** marks what it loses. Geometric "
        "means, each shape weighted by its uses.",
    ]
    if any(summary.limit(c) == "a + b" and not c["op"].endswith("backward") for c in record["cells"]):
        lines[-1] += " Forwards that read two tensors have `a + b` as their limit, too."
    if summary.disturbed(record) > BUSY:
        share = f"{summary.disturbed(record):.0%}"
        lines += ["", f"**Measured on a busy machine (others took {share} of the CPUs): not to be relied on.**"]
    if record["settings"]["quick"]:
        lines += ["", "**A quick look, not a measurement.**"]
    for shapes in summary.sets(record):
        lines += ["", f"**{shapes}**", "", *mean_table(record, shapes)]
        for mode, title in summary.MODES.items():
            if not any((c["set"], c["mode"]) == (shapes, mode) for c in record["cells"]):
                continue
            summary_line = f"<summary>{shapes}, every shape, {title} (medians; ~ means a noisy row)</summary>"
            lines += ["", "<details>", summary_line, "", *shape_table(record, shapes, mode), "", "</details>"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, nargs="?", help="default: the record the README names")
    parser.add_argument("--readme", type=Path, default=records.TOP / "README.md")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when README and record disagree")
    args = parser.parse_args()
    before, inside, after = split(args.readme.read_text(), START, END)
    if args.record:
        path = args.record.resolve()
    elif named := NAMED.search(inside):
        path = args.readme.resolve().parent / named[1]
    else:
        sys.exit(f"table.py: no record given, and none named in {args.readme}")
    if not path.exists():
        sys.exit(f"table.py: no such record: {path}")
    top = args.readme.resolve().parent
    name = str(path.relative_to(top)) if path.is_relative_to(top) else str(path)
    wanted = f"\n{render(records.load(path), name)}\n"
    if args.check:
        if inside != wanted:
            sys.exit(f"table.py: {args.readme} disagrees with {name}; run: python benches/peers/table.py {name}")
        print(f"{args.readme} agrees with {name}")
    else:
        args.readme.write_text(f"{before}{START}{wanted}{END}{after}")
        print(f"{args.readme} now shows {name}")


if __name__ == "__main__":
    main()
