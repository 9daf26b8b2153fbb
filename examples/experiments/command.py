"""What the experiments' commands share: arguments, progress, and where the results go."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from digits.report import make_console
from experiments.findings import Findings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "experiments.md"

OnRun = Callable[[str], None]


class Settings(argparse.Namespace):
    """The command line of every experiment."""

    quick: bool
    seeds: int
    out: Path
    record: bool


def run(name: str, document: str | None, seeds: int, experiment: Callable[[Console, Settings], Findings]) -> int:
    """Parse the command line, run the experiment, say and write what it found; the process's exit status."""
    settings = parse_arguments(document, seeds)
    if settings.quick and settings.record:
        print(f"{name}: a quick run is no record; leave out --quick or --record", file=sys.stderr)
        return 2
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    console = make_console()
    start = time.perf_counter()
    with threadpool_limits(1):  # the matrices are small: more threads would mostly wait for each other
        findings = experiment(console, settings)
    show(console, findings)
    written = write(findings, settings.out, name)
    if settings.record:
        written += record(findings, name)
    console.print(f"\nDone in {time.perf_counter() - start:.0f} s. Written:")
    for path in written:
        console.print(f"  {path.resolve()}", soft_wrap=True)
    return 0


def parse_arguments(document: str | None, seeds: int) -> Settings:
    """The command line."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, to see it run: no evidence")
    parser.add_argument("--seeds", type=positive_int, metavar="N", help=f"default {seeds}, with --quick 2")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where to write (default ./out)")
    parser.add_argument("--record", action="store_true", help="also put picture and tables into docs/")
    settings = parser.parse_args(namespace=Settings())
    settings.seeds = settings.seeds or (2 if settings.quick else seeds)
    return settings


def positive_int(text: str) -> int:
    """A positive integer from the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {value}")
    return value


@contextmanager
def progress(console: Console, total: int) -> Iterator[OnRun]:
    """A bar over all runs (in a terminal), and a line for each; call what is yielded after each run, with its line.

    An empty line is counted, but not printed.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("running", total=total)
        start = time.perf_counter()

        def on_run(line: str) -> None:
            nonlocal start
            now = time.perf_counter()
            bar.update(task, advance=1, description=line.partition("  ")[0] or None)
            if not line:
                return
            console.print(f"  {line}  {now - start:5.1f} s", soft_wrap=True)
            start = now

        yield on_run


def show(console: Console, findings: Findings) -> None:
    """Tables and verdicts on the console."""
    console.print(f"\n{findings.setting}\n")
    for table in findings.tables:
        console.print(table.rich())
        console.print()
    for verdict in findings.verdicts:
        console.print(f"[bold]{verdict.outcome}[/]: {verdict.claim} ({verdict.source})\n  {verdict.measured}")
    for note in findings.notes:
        console.print(f"Note: {note}")


def write(findings: Findings, out: Path, name: str) -> list[Path]:
    """Picture, tables and numbers under `out`."""
    page, numbers = out / f"experiment-{name}.md", out / f"experiment-{name}.json"
    page.write_text(findings.markdown())
    numbers.write_text(json.dumps(findings.numbers, indent=1) + "\n")
    return [*findings.draw(out, name), page, numbers]


def record(findings: Findings, name: str) -> list[Path]:
    """Put the pictures into docs/images and the tables between this experiment's marks in docs/experiments.md."""
    images = DOCS / "images"
    images.mkdir(parents=True, exist_ok=True)
    start, end = (f"<!-- {name}:{edge} -->" for edge in ("start", "end"))
    before, found_start, rest = PAGE.read_text().partition(start)
    _, found_end, after = rest.partition(end)
    if not (found_start and found_end):
        raise ValueError(f"{PAGE} must have {start} and {end}, found neither or only one")
    PAGE.write_text(f"{before}{start}\n{findings.markdown()}{end}{after}")
    return [*findings.draw(images, name), PAGE]
