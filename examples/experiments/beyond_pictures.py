"""The two pictures of the experiment on *Beyond BatchNorm*."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.beyond import NETS, PLAIN, RESIDUAL, group_sizes, kinds
from experiments.beyond_results import Results
from experiments.pictures import COLORS, band, logarithmic, plain_numbers, slide, style
from experiments.residual import BATCH, group


def draw_initialization(results: Results) -> Figure:
    """Four panels: variance, cosine, rank, gradient."""
    sizes = group_sizes(results.scale.width)
    names = [group(size, results.scale.width).name for size in sizes]
    alike, steep = (results.values(PLAIN, names, measure).mean(axis=0) for measure in ("similarity", "explosion"))
    title = (
        f"From groups of 1 to {sizes[-1]}: cosine {alike[0]:.2f} to {alike[-1]:.2f}, "
        f"gradient growth {steep[0]:.1f} to {steep[-1]:.1f}"
    )
    about = "Lubana, Dick & Tanaka 2021, on digits, at initialization; title: plain networks"
    note = f"{results.scale.width} channels; line: mean of {results.seeds} seeds, band: lowest to highest"
    note += "; dashed: batch norm"
    with slide(title, f"{about}\n{note}", 2, 2) as (figure, panels):
        variance, gradient, cosine, rank = panels.flat
        for index, name in enumerate(results.shown(results.scale.width, RESIDUAL)):
            runs = np.array([s.variance for s in results.signals(RESIDUAL, name)])
            band(variance, np.arange(1, runs.shape[1] + 1), runs, name, index, markevery=3)
        for panel in (variance, gradient):
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        variance.set(yscale="log", title="(a) Residual: variance of the activations", xlabel="Block")
        for index, size in enumerate(sizes):
            runs = np.array([s.gradient / s.gradient[-1] for s in results.signals(PLAIN, names[index])])
            band(gradient, np.arange(1, runs.shape[1] + 1), runs, f"{size}", index, markevery=3)
        gradient.set(yscale="log", title="(c) Plain: gradient ÷ the last block's, by group size", xlabel="Block")
        for panel, measure, words in (
            (cosine, "similarity", "cosine of different inputs"),
            (rank, "rank", "stable rank"),
        ):
            for index, net in enumerate(NETS):
                band(panel, sizes, results.values(net, names, measure), net, index)
                level = results.values(net, [BATCH.name], measure).mean()
                panel.axhline(level, color=COLORS[index], linestyle="--", lw=1.3)
            panel.set(title=f"(b) Penultimate activations: {words}", xlabel="Group size (channels)")
            panel.set_xscale("log", base=2)
            panel.set_xticks(sizes)
            plain_numbers(panel.xaxis)
        variance.legend(fontsize=10)
        gradient.legend(ncols=2, fontsize=10)
        cosine.legend(fontsize=11)
        rank.legend(fontsize=11)
    return figure


def draw_training(results: Results) -> Figure:
    """Loss curves of both nets, and similarity beside speed."""
    trends = " and ".join(f"{results.speed_trend(net).mean():.2f} ({net})" for net in NETS)
    title = f"Rank correlation of similarity at initialization and training loss: {trends}"
    note = f"SGD, momentum 0.9, the same rate for all; {results.seeds} seeds; curves: mean over 8 steps and seeds"
    with slide(title, f"Lubana, Dick & Tanaka 2021, on digits\n{note}", 1, 3) as (figure, panels):
        for panel, net in zip(panels[0], NETS, strict=False):
            for index, name in enumerate(results.shown(results.scale.train_width, net)):
                runs = [t.losses for t in results.trainings(net, name, results.scale.rates[net][0])]
                draw_losses(panel, np.array(runs), name, index)
            panel.set(yscale="log", xlabel="Step", title=f"{net.capitalize()}: training loss")
            logarithmic(panel.yaxis)
            panel.legend(fontsize=10)
        last = panels[0, -1]
        for index, net in enumerate(NETS):
            for name, kind in kinds(results.scale.train_width, net).items():
                if kind.norm:
                    trainings = results.trainings(net, name, results.scale.rates[net][0])
                    alike = [t.before.similarity for t in trainings]
                    look = style(index)
                    label = net if name == BATCH.name else None
                    last.scatter(
                        alike, results.speed(net, name), color=look["color"], marker=look["marker"], label=label
                    )
        last.set(title="Speed by similarity", xlabel="Cosine at initialization", ylabel="Mean training loss")
        last.legend()
    return figure


def draw_losses(panel: Axes, runs: np.ndarray, name: str, index: int, window: int = 8) -> None:
    """The mean over seeds and a few steps; a diverged run ends the line."""
    windows = runs.shape[1] // min(window, runs.shape[1])
    means = runs.mean(axis=0)[: windows * (runs.shape[1] // windows)].reshape(windows, -1).mean(axis=1)
    steps = (np.arange(windows) + 0.5) * (runs.shape[1] // windows)
    panel.plot(steps, np.where(np.isfinite(means), means, np.nan), label=name, **style(index))
