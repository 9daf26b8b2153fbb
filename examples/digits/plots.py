"""The demo's two pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from digits.training import Trained

# Blue and vermilion of Okabe & Ito's palette, told apart with any colour vision; the markers differ as well.
STYLES = ({"color": "#0072B2", "marker": "o"}, {"color": "#D55E00", "marker": "s"})
BAR_COLORS = ("#0072B2", "#56B4E9", "#D55E00")
GREY = "#555555"
PANELS = (
    ("train_loss", "Training loss"),
    ("test_loss", "Test loss"),
    ("train_accuracy", "Training accuracy"),
    ("test_accuracy", "Test accuracy"),
)
SLIDE = (13.33, 7.5)  # inches: a 16:9 slide
MARGINS = {"left": 0.065, "bottom": 0.085, "top": 0.765, "hspace": 0.26, "wspace": 0.08}
LOOK = {
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "legend.fontsize": 14,
    "legend.frameon": False,
    "lines.linewidth": 2.2,
    "lines.markersize": 5.5,
}


def plot_mlp(results: Sequence[Trained], title: str, subtitle: str, path: Path) -> None:
    """Four panels: loss and accuracy, train and test."""
    with rc_context(LOOK):
        figure = Figure(figsize=SLIDE)
        axes = figure.subplots(2, 2, sharex="all", sharey="row", gridspec_kw={**MARGINS, "right": 0.98})
        _draw_curves(axes, results)
        _head(figure, axes[0, 0], title, subtitle)
        figure.savefig(path, dpi=150)


def plot_convnet(
    results: Sequence[Trained], times: dict[str, np.ndarray], title: str, subtitle: str, path: Path
) -> None:
    """The same four panels, and beside them the inference times."""
    with rc_context(LOOK):
        figure = Figure(figsize=SLIDE)
        axes = figure.subplots(2, 2, sharex="all", sharey="row", gridspec_kw={**MARGINS, "right": 0.67})
        _draw_curves(axes, results)
        _draw_times(figure.subplots(gridspec_kw={**MARGINS, "left": 0.73, "right": 0.98}), times)
        _head(figure, axes[0, 0], title, subtitle)
        figure.savefig(path, dpi=150)


def _head(figure: Figure, first: Axes, title: str, subtitle: str) -> None:
    """Title, subtitle and one legend for all panels, from the left edge."""
    figure.text(0.02, 0.95, title, fontsize=16.5, fontweight="bold", va="center")
    figure.text(0.02, 0.925, subtitle, fontsize=12.5, color=GREY, va="top")
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(0.012, 0.835), ncols=2, borderpad=0)


def _draw_curves(panels: np.ndarray, results: Sequence[Trained]) -> None:
    """One metric per panel: a line for the mean over seeds in a band from the lowest to the highest."""
    for axes, (metric, title) in zip(panels.flat, PANELS, strict=True):
        for result, style in zip(results, STYLES, strict=True):
            curves = result.curves(metric)
            epochs = np.arange(1, curves.shape[1] + 1)
            axes.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=style["color"], alpha=0.16, lw=0)
            axes.plot(epochs, curves.mean(axis=0), label=result.name, **style)
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if metric.endswith("accuracy"):
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        else:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
    for axes in panels[-1]:
        axes.set_xlabel("Epoch")


def _draw_times(axes: Axes, times: dict[str, np.ndarray]) -> None:
    """Median time of each network, with a line from the lower to the upper quartile."""
    for position, (values, color) in enumerate(zip(times.values(), BAR_COLORS, strict=True)):
        lower, median, upper = np.percentile(values, (25, 50, 75))
        axes.bar(position, median, color=color, width=0.62)
        axes.errorbar(position, median, [[median - lower], [upper - median]], color="black", capsize=5, lw=1.5)
        axes.annotate(f"{median:.2f} ms", (position, upper), (0, 7), textcoords="offset points", ha="center")
    axes.set_title("Inference, ms per batch")
    axes.set_xticks(range(len(times)), [name.replace(", ", ",\n") for name in times], fontsize=12)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.1)
