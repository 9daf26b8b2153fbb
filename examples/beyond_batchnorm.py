"""What norms do to deep networks, at initialization and in training: `make experiment-beyond`.

Measures the claims of Lubana, Dick & Tanaka 2021, Beyond BatchNorm (NeurIPS), on residual and on plain networks, for no
norm, batch norm, group norm of every group size (1 is instance norm, the width is layer norm), weight norm and scaled
weight standardization.
"""

import sys
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from scipy.stats import spearmanr

from experiments import beyond
from experiments.beyond import FULL, NETS, PLAIN, QUICK, REMEDY, RESIDUAL, Scale, Training, group_sizes, kinds
from experiments.command import Settings, progress, run
from experiments.findings import Findings, Table, Verdict, spread, verdict
from experiments.parallel import each
from experiments.pictures import COLORS, band, plain_numbers, slide, style
from experiments.propagation import Growth, Signal, growth
from experiments.residual import BATCH, NONE, group

SOURCE = "Lubana et al. 2021"


def experiment(console: Console, settings: Settings) -> Findings:
    """All probes and trainings, one job each."""
    scale, seeds = (QUICK if settings.quick else FULL), range(settings.seeds)
    jobs = [(beyond.initial, net, name, seed, scale) for net in NETS for name in kinds(scale.width) for seed in seeds]
    jobs += [
        (beyond.trained, net, name, rate, seed, scale)
        for net in NETS
        for rate in scale.rates[net]
        for name in kinds(scale.train_width)
        if rate == scale.rates[net][0] or kinds(scale.train_width)[name].group_size is not None
        for seed in seeds
    ]
    done: dict[tuple[object, ...], Signal | Training] = {}
    with progress(console, total=len(jobs)) as on_run:
        for index, result in each(jobs):
            function, *rest, _ = jobs[index]
            done[(function.__name__, *rest)] = result
            line = "" if function is beyond.initial else f"{' '.join(map(str, rest))}  {result.losses[-1]:.3f}"
            on_run(line and f"trained: {line}")
    return Results(done, scale, settings.seeds).findings()


class Results(NamedTuple):
    """All results by job, and what is to be said about them."""

    done: dict[tuple[object, ...], Signal | Training]
    scale: Scale
    seeds: int

    def signals(self, net: str, name: str) -> list[Signal]:
        """A kind of network as initialized, by seed."""
        return [self.done["initial", net, name, seed] for seed in range(self.seeds)]

    def trainings(self, net: str, name: str, rate: float) -> list[Training]:
        """A kind of network in training, by seed."""
        return [self.done["trained", net, name, rate, seed] for seed in range(self.seeds)]

    def growths(self, net: str, name: str) -> list[Growth]:
        """How the variance grows with depth, by seed."""
        return [growth(signal.variance) for signal in self.signals(net, name)]

    def values(self, net: str, names: list[str], measure: str) -> np.ndarray:
        """(seeds, kinds) of a number of the initialized networks; `explosion` is that of the gradient."""

        def value(signal: Signal) -> float:
            return explosion(signal) if measure == "explosion" else getattr(signal, measure)

        return np.array([[value(s) for s in self.signals(net, name)] for name in names]).T

    def speed(self, net: str, name: str) -> np.ndarray:
        """(seeds,): mean training loss over all steps; the lower, the faster. Infinite where it diverged."""
        return np.array([t.losses.mean() for t in self.trainings(net, name, self.scale.rates[net][0])])

    def final(self, net: str, name: str, rate: float) -> np.ndarray:
        """(seeds,): mean training loss over the last quarter of the steps."""
        last = max(1, self.scale.steps // 4)
        return np.array([t.losses[-last:].mean() for t in self.trainings(net, name, rate)])

    def findings(self) -> Findings:
        """Tables, verdicts and pictures."""
        scale = self.scale
        setting = (
            f"scikit-learn digits, 3x3 convolutions. At initialization: {scale.width} channels, "
            f"{scale.depth[RESIDUAL]} residual blocks (two convolutions each) or {scale.depth[PLAIN]} plain ones, "
            f"{scale.batch} images. In training: {scale.train_width} channels, {scale.train_depth[RESIDUAL]} and "
            f"{scale.train_depth[PLAIN]} blocks, {scale.steps} steps of SGD with momentum 0.9, batch 32. "
            f"{self.seeds} seeds (weights, images, order of data), mean ± deviation."
        )
        notes = (
            [f"Left out, as this normkit does not have them: {', '.join(missing)}."]
            if (missing := beyond.left_out())
            else []
        )
        pictures = {"-initialization": self.draw_initialization, "-training": self.draw_training}
        tables = [self.variance_table(), self.probe_table(), self.training_table()]
        verdicts = [*self.verdicts_on_variance(), *self.verdicts_on_similarity(), *self.verdicts_on_gradients()]
        return Findings(setting, tables, verdicts, pictures, self.numbers(), notes)

    def variance_table(self) -> Table:
        """Claim (a)."""
        rows = []
        for name in kinds(self.scale.width):
            variance = np.array([s.variance for s in self.signals(RESIDUAL, name)])
            grown = self.growths(RESIDUAL, name)
            ends = (spread(variance[:, i]) for i in (0, len(variance[0]) // 2 - 1, -1))
            fits = (spread([getattr(g, field) for g in grown]) for field in Growth._fields)
            rows.append((name, *ends, *fits))
        heads = ("First block", "Middle", "Last", "Last ÷ middle", "R² of a line", "R² of an exponential")
        return Table("(a) Residual, at initialization: variance of the activations", ("Norm", *heads), rows)

    def probe_table(self) -> Table:
        """Claims (b) and (c), at initialization."""
        names = list(kinds(self.scale.width))
        measures = {"similarity": "Cosine", "rank": "Stable rank", "explosion": "Gradient, first ÷ last block"}
        columns = [spread_columns(self.values(net, names, measure)) for measure in measures for net in NETS]
        heads = [f"{head}, {net}" for head in measures.values() for net in NETS]
        rows = [(name, *(column[i] for column in columns)) for i, name in enumerate(names)]
        return Table(
            "(b), (c) At initialization: penultimate activations of different inputs, gradients", ("Norm", *heads), rows
        )

    def training_table(self) -> Table:
        """Claim (b), in training."""
        columns = [(net, rate) for net in NETS for rate in self.scale.rates[net]]
        heads = [f"{'Mean loss' if i == 0 else 'Last loss'}, {net}, rate {rate:g}" for net, i, rate in self.rates()]
        rows = []
        for name, kind in kinds(self.scale.train_width).items():
            cells = []
            for net, rate in columns:
                if rate == self.scale.rates[net][0]:
                    cells.append(spread(self.speed(net, name)))
                else:
                    cells.append(spread(self.final(net, name, rate)) if kind.group_size else "")
            after = [t.after for t in self.trainings(RESIDUAL, name, self.scale.rates[RESIDUAL][0])]
            cells.append(spread([np.nan if s is None else s.similarity for s in after]))
            cells.append(spread([np.nan if s is None else s.variance[-1] for s in after]))
            rows.append((name, *cells))
        heads += ["Cosine after training, residual", "Variance of the last block after training, residual"]
        return Table(f"In training: loss over {self.scale.steps} steps", ("Norm", *heads), rows)

    def rates(self) -> list[tuple[str, int, float]]:
        """Network, position and value of every learning rate."""
        return [(net, i, rate) for net in NETS for i, rate in enumerate(self.scale.rates[net])]

    def verdicts_on_variance(self) -> list[Verdict]:
        """Claim (a)."""
        linear = [name for name, kind in kinds(self.scale.width).items() if kind.norm]
        exponential = [name for name, kind in kinds(self.scale.width).items() if not kind.norm and name != REMEDY]

        def judge(names: list[str], claim: str, rule: str, holds: object) -> Verdict:
            grown = {name: self.growths(RESIDUAL, name) for name in names}
            factors = [g.factor for by_seed in grown.values() for g in by_seed]
            measured = f"variance of the last block ÷ the middle one: {min(factors):.3g} to {max(factors):.3g}; {rule}"
            seeds = [all(holds(grown[name][seed]) for name in names) for seed in range(self.seeds)]
            return verdict(SOURCE, claim, measured, seeds)

        found = [
            judge(
                linear,
                f"(a) Residual: with a norm of the activations the variance grows linearly with depth "
                f"({', '.join(linear)})",
                "a line gives 2; judged, for every norm: at most 2.5, and a line fits better than an exponential",
                lambda g: g.factor <= 2.5 and g.linear_fit > g.exponential_fit,
            ),
            judge(
                exponential,
                f"(a) ... exponentially with a norm of the weights or none ({', '.join(exponential)})",
                "judged, for each: more than 4, and an exponential fits better than a line",
                lambda g: g.factor > 4 and g.exponential_fit > g.linear_fit,
            ),
        ]
        if REMEDY in kinds(self.scale.width):
            claim = "(a) ... which an explicit remedy cures (weight norm with its branches scaled by 1 / √depth)"
            found.append(judge([REMEDY], claim, "judged: at most 2.5", lambda g: g.factor <= 2.5))
        return found

    def verdicts_on_similarity(self) -> list[Verdict]:
        """Claim (b)."""
        sizes = group_sizes(self.scale.width)
        names = [group(size, self.scale.width).name for size in sizes]
        found = []
        for net in NETS:
            for measure, words, sign in (("similarity", "the more alike", 1), ("rank", "of the lower rank", -1)):
                measured = self.values(net, names, measure)
                trend = sign * correlations(np.tile(sizes, (self.seeds, 1)), measured)
                found.append(
                    verdict(
                        SOURCE,
                        f"(b) {net.capitalize()}: the larger the groups, {words} the activations of different inputs",
                        f"{'cosine' if sign > 0 else 'stable rank'} from {spread(measured[:, 0])} (instance norm) to "
                        f"{spread(measured[:, -1])} (layer norm); rank correlation {spread(sign * trend)}; "
                        f"judged: beyond {0.9 * sign:g}",
                        trend >= 0.9,
                    )
                )
        for net in NETS:
            norms = [name for name, kind in kinds(self.scale.train_width).items() if kind.norm]
            rate = self.scale.rates[net][0]
            alike = np.array([[t.before.similarity for t in self.trainings(net, name, rate)] for name in norms]).T
            speed = np.array([self.speed(net, name) for name in norms]).T
            trend = correlations(alike, speed)
            found.append(
                verdict(
                    SOURCE,
                    f"(b) {net.capitalize()}: the more alike at initialization, the slower the training",
                    f"rank correlation of cosine and mean training loss over {len(norms)} norms: {spread(trend)}; "
                    "judged: at least 0.6",
                    trend >= 0.6,
                )
            )
        return found

    def verdicts_on_gradients(self) -> list[Verdict]:
        """Claim (c)."""
        sizes = group_sizes(self.scale.width)
        names = [group(size, self.scale.width).name for size in sizes]
        found = []
        for net in (PLAIN, RESIDUAL):
            ratio = self.values(net, names, "explosion")
            found.append(
                verdict(
                    SOURCE,
                    f"(c) {net.capitalize()}: under instance norm the gradient explodes towards the first layers",
                    f"first ÷ last block: {spread(ratio[:, 0])}; layer norm {spread(ratio[:, -1])}; "
                    "judged: more than 10",
                    ratio[:, 0] > 10,
                )
            )
            trend = correlations(np.tile(sizes, (self.seeds, 1)), ratio)
            found.append(
                verdict(
                    SOURCE,
                    f"(c) {net.capitalize()}: larger groups are calmer",
                    f"rank correlation of group size and that ratio: {spread(trend)}; judged: at most -0.9",
                    trend <= -0.9,
                )
            )
        bold = self.scale.rates[PLAIN][-1]
        first, last = (
            self.final(PLAIN, group(s, self.scale.train_width).name, bold) for s in (1, self.scale.train_width)
        )
        found.append(
            verdict(
                SOURCE,
                f"(c) Plain: therefore instance norm trains less stably than layer norm (at the large rate {bold:g})",
                f"training loss in the end: {spread(first)} and {spread(last)}; chance is {np.log(10):.2f}; judged: "
                "instance norm's is the higher",
                first > last,
            )
        )
        return found

    def draw_initialization(self) -> Figure:
        """Four panels: variance, cosine, rank, gradient."""
        sizes = group_sizes(self.scale.width)
        names = [group(size, self.scale.width).name for size in sizes]
        title = "At initialization: norms of the activations tame the variance; group size trades rank for gradient"
        note = f"{self.scale.width} channels; line: mean of {self.seeds} seeds, band: lowest to highest"
        note += "; dashed: batch norm"
        with slide(title, f"Lubana, Dick & Tanaka 2021, on digits\n{note}", 2, 2) as (figure, panels):
            variance, gradient, cosine, rank = panels.flat
            for index, name in enumerate(self.shown(self.scale.width)):
                runs = np.array([s.variance for s in self.signals(RESIDUAL, name)])
                band(variance, np.arange(1, runs.shape[1] + 1), runs, name, index, markevery=3)
            variance.set(yscale="log", title="(a) Residual: variance of the activations", xlabel="Block")
            for index, size in enumerate(sizes):
                runs = np.array([s.gradient / s.gradient[-1] for s in self.signals(PLAIN, names[index])])
                band(gradient, np.arange(1, runs.shape[1] + 1), runs, f"{size}", index, markevery=3)
            gradient.set(yscale="log", title="(c) Plain: gradient ÷ the last block's, by group size", xlabel="Block")
            for panel, measure, words in ((cosine, "similarity", "cosine of different inputs"), (rank, "rank", "rank")):
                for index, net in enumerate(NETS):
                    band(panel, sizes, self.values(net, names, measure), net, index)
                    level = self.values(net, [BATCH.name], measure).mean()
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

    def draw_training(self) -> Figure:
        """Loss curves of both nets, and similarity beside speed."""
        title = "In training: the more alike the activations at initialization, the slower the start?"
        note = f"SGD, momentum 0.9, the same rate for all; {self.seeds} seeds; curves: mean over 8 steps and seeds"
        with slide(title, f"Lubana, Dick & Tanaka 2021, on digits\n{note}", 1, 3) as (figure, panels):
            for panel, net in zip(panels[0], NETS, strict=False):
                for index, name in enumerate(self.shown(self.scale.train_width)):
                    runs = [t.losses for t in self.trainings(net, name, self.scale.rates[net][0])]
                    draw_losses(panel, np.array(runs), name, index)
                panel.set(yscale="log", xlabel="Step", title=f"{net.capitalize()}: training loss")
                plain_numbers(panel.yaxis)
                panel.legend(fontsize=10)
            last = panels[0, -1]
            for index, net in enumerate(NETS):
                for name, kind in kinds(self.scale.train_width).items():
                    if kind.norm:
                        trainings = self.trainings(net, name, self.scale.rates[net][0])
                        alike = [t.before.similarity for t in trainings]
                        look = style(index)
                        label = net if name == BATCH.name else None
                        last.scatter(
                            alike, self.speed(net, name), color=look["color"], marker=look["marker"], label=label
                        )
            last.set(title="Speed by similarity", xlabel="Cosine at initialization", ylabel="Mean training loss")
            last.legend()
        return figure

    def shown(self, width: int) -> list[str]:
        """The kinds that get a line of their own."""
        middle = group(4, width).name
        sizes = [group(1, width).name, middle, group(width, width).name]
        others = [name for name, kind in kinds(width).items() if not kind.norm and name != NONE.name]
        return [NONE.name, BATCH.name, *sizes, *others]

    def numbers(self) -> dict[str, object]:
        """Everything, by the job's name."""

        def plain(value: object) -> object:
            if isinstance(value, np.ndarray):
                return value.tolist()
            return {k: plain(v) for k, v in value._asdict().items()} if hasattr(value, "_asdict") else value

        return {" | ".join(map(str, key)): plain(result) for key, result in self.done.items()}


def explosion(signal: Signal) -> float:
    """The gradient's norm at the first block over that at the last."""
    return float(signal.gradient[0] / signal.gradient[-1])


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of (seeds, n) and (seeds, n), seed by seed."""
    return np.array([spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)])


def spread_columns(values: np.ndarray) -> list[str]:
    """`spread` of every column of (seeds, n)."""
    return [spread(column) for column in values.T]


def draw_losses(panel: Axes, runs: np.ndarray, name: str, index: int, window: int = 8) -> None:
    """The mean over seeds and a few steps; a diverged run ends the line."""
    windows = runs.shape[1] // min(window, runs.shape[1])
    means = runs.mean(axis=0)[: windows * (runs.shape[1] // windows)].reshape(windows, -1).mean(axis=1)
    steps = (np.arange(windows) + 0.5) * (runs.shape[1] // windows)
    panel.plot(steps, np.where(np.isfinite(means), means, np.nan), label=name, **style(index))


if __name__ == "__main__":
    sys.exit(run("beyond", __doc__, 5, experiment))
