"""What an experiment found: tables, and a verdict on every claim, judged by one rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table as RichTable

from digits.report import mean_std


class Table(NamedTuple):
    """Text in columns; the first `labels` columns are words, the others numbers."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    labels: int = 1

    def rich(self) -> RichTable:
        """For the console."""
        table = RichTable(title=self.title, title_justify="left")
        for column, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if column < self.labels else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page."""
        rules = ["---" if column < self.labels else "---:" for column in range(len(self.headings))]
        lines = [f"| {' | '.join(cells)} |" for cells in (self.headings, rules, *self.rows)]
        return f"**{self.title}**\n\n" + "\n".join(lines) + "\n"


class Verdict(NamedTuple):
    """One claim of a source, what was measured, and whether that is what it says."""

    source: str
    claim: str
    measured: str
    outcome: str


def verdict(source: str, claim: str, measured: str, holds: Sequence[bool] | np.ndarray) -> Verdict:
    """Judge a claim by whether it held, seed by seed: it is *seen* only if it held in every one.

    By chance alone a claim about a sign holds in all of n seeds with probability 2**-n: 3 % for five.
    """
    count, total = int(np.sum(holds)), len(holds)
    if count == total:
        outcome = f"Seen ({count} of {total} seeds)"
    elif count == 0:
        outcome = f"Not seen here (0 of {total} seeds)"
    else:
        outcome = f"Undecided ({count} of {total} seeds)"
    return Verdict(source, claim, measured, outcome)


@dataclass
class Findings:
    """All that a run has to say. `pictures` maps a suffix of the file name to the figure."""

    setting: str
    tables: list[Table]
    verdicts: list[Verdict]
    pictures: dict[str, Callable[[], Figure]]
    numbers: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def draw(self, directory: Path, name: str) -> list[Path]:
        """Write the pictures as PNG files."""
        paths = []
        for suffix, picture in self.pictures.items():
            path = directory / f"experiment-{name}{suffix}.png"
            picture().savefig(path, dpi=150)
            paths.append(path)
        return paths

    def markdown(self) -> str:
        """Setting, tables and verdicts as a part of a page."""
        head = ("Verdict", "Claim", "Measured", "Source")
        rows = [(f"**{v.outcome}**", v.claim, v.measured, v.source) for v in self.verdicts]
        parts = [self.setting + "\n", *(table.markdown() for table in self.tables)]
        parts.append(Table("Verdicts", head, rows, labels=len(head)).markdown())
        parts += [f"{note}\n" for note in self.notes]
        return "\n".join(parts)


def spread(values: Sequence[float] | np.ndarray, *, digits: int = 3) -> str:
    """`0.123 ± 0.004`: mean and standard deviation over seeds, to so many significant digits of the mean."""
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    diverged = f"{len(values) - len(finite)} of {len(values)} diverged"
    if len(finite) < len(values):
        return diverged if len(finite) == 0 else f"{spread(finite, digits=digits)} ({diverged})"
    if len(values) == 1:
        return f"{values[0]:.{digits}g}"
    return f"{values.mean():.{digits}g} ± {values.std(ddof=1):.2g}"


def percent(values: Sequence[float] | np.ndarray) -> str:
    """`97.1 ± 0.4 %`."""
    return mean_std(np.asarray(values), percent=True)
