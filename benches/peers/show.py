"""The tables a run prints when it is done."""

# ruff: noqa: RUF001 (the multiplication sign is meant)

from rich.console import Console
from rich.table import Table

import summary
from quiet import BUSY


def cell(value: float | None, limit: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if limit or value >= 1 else f"[bold red]{value:.2f}[/]"


def shapes_table(record: dict, shapes: str, op: str, mode: str) -> Table | None:
    found = summary.cells(record, shapes, op, mode)
    if not found:
        return None
    contenders = [p for p in summary.peers(record, shapes) if any(summary.best(c, p) for c in found)]
    table = Table(title=f"{shapes}: {summary.TITLES[op]}, {summary.MODES[mode]}", title_justify="left")
    table.add_column("shape")
    for name in ("limit ms", "normkit ms", "÷ limit", *(t for p in contenders for t in (f"{p} ms", "× faster"))):
        table.add_column(name, justify="right")
    for c in found:
        ours, limit = summary.best(c, summary.OURS), summary.best(c, summary.LIMIT)
        row = [summary.label(c) + (" ~" if summary.noisy(c) else "")]
        row += [f"{limit['median']:.3g}", f"{ours['median']:.3g}", cell(summary.over_limit(c), limit=True)]
        for peer in contenders:
            time = summary.best(c, peer)
            row += [f"{time['median']:.3g}" if time else "–", cell(summary.times_faster(c, peer))]
        table.add_row(*row)
    return table


def means_table(record: dict, shapes: str) -> Table:
    contenders = summary.peers(record, shapes)
    table = Table(title=f"{shapes}: geometric means weighted by uses (red: lost)", title_justify="left")
    table.add_column("op")
    table.add_column("output")
    for name in ("normkit ÷ limit", *(f"{p} ÷ limit" for p in contenders), *(f"× {p}" for p in contenders)):
        table.add_column(name, justify="right")
    for row in summary.means(record, shapes):
        limits = [cell(row["limit"][p], limit=True) for p in (summary.OURS, *contenders)]
        faster = [cell(row["faster"][p]) for p in contenders]
        table.add_row(summary.TITLES[row["op"]], row["mode"], *limits, *faster)
    return table


def show(record: dict, console: Console) -> None:
    for shapes in summary.sets(record):
        for op in summary.TITLES:
            for mode in summary.MODES:
                if table := shapes_table(record, shapes, op, mode):
                    console.print(table)
    console.print("[bold]What was called[/]")
    for name, says in record["calls"].items():
        console.print(f"  {name}: {says}", markup=False, highlight=False, soft_wrap=True)
    for name, reason in record["skipped"].items():
        console.print(f"  skipped {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if summary.disturbed(record) > BUSY:
        share = f"{summary.disturbed(record):.0%}"
        console.print(
            f"[bold red]Other processes took {share} of the CPUs while this was measured: do not rely on it.[/]"
        )
    for shapes in summary.sets(record):
        console.print(means_table(record, shapes))
