"""The look of all pictures: a slide with a title that says what was found, a subtitle with the setting, panels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from digits.plots import GREY, LOOK, SLIDE

# Okabe & Ito's palette, told apart with any colour vision; the markers differ as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "os^Dv<>P"


@contextmanager
def slide(title: str, subtitle: str, rows: int = 1, columns: int = 2) -> Iterator[tuple[Figure, np.ndarray]]:
    """A slide's figure and its (rows, columns) panels, to be drawn in the common look."""
    with rc_context({**LOOK, "legend.fontsize": 12, "axes.grid": True}):
        figure = Figure(figsize=SLIDE, layout="constrained")
        figure.get_layout_engine().set(rect=(0.01, 0.01, 0.98, 0.84), wspace=0.04, hspace=0.05)
        figure.text(0.02, 0.95, title, fontsize=16.5, fontweight="bold", va="center")
        figure.text(0.02, 0.925, subtitle, fontsize=12.5, color=GREY, va="top", linespacing=1.4)
        yield figure, figure.subplots(rows, columns, squeeze=False)


def style(index: int) -> dict[str, str]:
    """Colour and marker of the so-manieth line."""
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}


def band(axes: Axes, x: Sequence[float] | np.ndarray, runs: np.ndarray, label: str, index: int, **more: object) -> None:
    """A line for the mean over seeds of (seeds, points), in a band from the lowest to the highest."""
    look = {**style(index), **more}
    axes.fill_between(x, runs.min(axis=0), runs.max(axis=0), color=look["color"], alpha=0.16, lw=0)
    axes.plot(x, runs.mean(axis=0), label=label, **look)


def plain_numbers(axis: Axis) -> None:
    """`100` instead of `10²`."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def logarithmic(axis: Axis) -> None:
    """Marks at 1, 2 and 5 of every decade, in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain_numbers(axis)
