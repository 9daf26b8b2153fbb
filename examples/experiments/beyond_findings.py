"""What the experiment on *Beyond BatchNorm* found: tables, and a verdict on each of the paper's claims."""

from functools import partial

import numpy as np

from experiments import beyond
from experiments.beyond import NETS, PLAIN, REMEDY, RESIDUAL, group_sizes, kinds
from experiments.beyond_pictures import draw_initialization, draw_training
from experiments.beyond_results import Results, correlations
from experiments.findings import Findings, Table, Verdict, spread, verdict
from experiments.propagation import Growth
from experiments.residual import group

SOURCE = "Lubana et al. 2021"


def findings(results: Results) -> Findings:
    """Tables, verdicts and pictures."""
    scale = results.scale
    setting = (
        f"scikit-learn digits, 3x3 convolutions. At initialization: {scale.width} channels, "
        f"{scale.depth[RESIDUAL]} residual blocks (two convolutions each) or {scale.depth[PLAIN]} plain ones, "
        f"{scale.batch} images. In training: {scale.train_width} channels, {scale.train_depth[RESIDUAL]} and "
        f"{scale.train_depth[PLAIN]} blocks, {scale.steps} steps of SGD with momentum 0.9, batch 32. "
        f"{results.seeds} seeds (weights, images, order of data), mean ± deviation."
    )
    notes = (
        [f"Left out, as this normkit does not have them: {', '.join(missing)}."]
        if (missing := beyond.left_out())
        else []
    )
    pictures = {
        "-initialization": partial(draw_initialization, results),
        "-training": partial(draw_training, results),
    }
    tables = [variance_table(results), probe_table(results), training_table(results)]
    verdicts = [*verdicts_on_variance(results), *verdicts_on_similarity(results), *verdicts_on_gradients(results)]
    return Findings(setting, tables, verdicts, pictures, results.numbers(), notes)


def variance_table(results: Results) -> Table:
    """Claim (a)."""
    rows = []
    for name in kinds(results.scale.width):
        variance = np.array([s.variance for s in results.signals(RESIDUAL, name)])
        grown = results.growths(RESIDUAL, name)
        ends = (spread(variance[:, i]) for i in (0, len(variance[0]) // 2 - 1, -1))
        fits = (spread([getattr(g, field) for g in grown]) for field in Growth._fields)
        rows.append((name, *ends, *fits))
    heads = ("First block", "Middle", "Last", "Last ÷ middle", "R² of a line", "R² of an exponential")
    return Table("(a) Residual, at initialization: variance of the activations", ("Norm", *heads), rows)


def probe_table(results: Results) -> Table:
    """Claims (b) and (c), at initialization."""
    names = list(kinds(results.scale.width))
    measures = {"similarity": "Cosine", "rank": "Stable rank", "explosion": "Gradient, first ÷ last block"}
    columns = []
    for measure in measures:
        for net in NETS:
            present = list(kinds(results.scale.width, net))
            columns.append(dict(zip(present, spread_columns(results.values(net, present, measure)), strict=True)))
    heads = [f"{head}, {net}" for head in measures.values() for net in NETS]
    rows = [(name, *(column.get(name, "") for column in columns)) for name in names]
    return Table(
        "(b), (c) At initialization: penultimate activations of different inputs, gradients", ("Norm", *heads), rows
    )


def training_table(results: Results) -> Table:
    """Claim (b), in training."""
    columns = [(net, rate) for net in NETS for rate in results.scale.rates[net]]
    heads = [f"{'Mean loss' if i == 0 else 'Last loss'}, {net}, rate {rate:g}" for net, i, rate in results.rates()]
    rows = []
    for name, kind in kinds(results.scale.train_width).items():
        cells = []
        for net, rate in columns:
            if name not in kinds(results.scale.train_width, net):
                cells.append("")
            elif rate == results.scale.rates[net][0]:
                cells.append(spread(results.speed(net, name)))
            else:
                cells.append(spread(results.final(net, name, rate)) if kind.group_size else "")
        after = [t.after for t in results.trainings(RESIDUAL, name, results.scale.rates[RESIDUAL][0])]
        cells.append(spread([np.nan if s is None else s.similarity for s in after]))
        cells.append(spread([np.nan if s is None else s.variance[-1] for s in after]))
        rows.append((name, *cells))
    heads += ["Cosine after training, residual", "Variance of the last block after training, residual"]
    return Table(f"In training: loss over {results.scale.steps} steps", ("Norm", *heads), rows)


def verdicts_on_variance(results: Results) -> list[Verdict]:
    """Claim (a)."""
    linear = [name for name, kind in kinds(results.scale.width).items() if kind.norm]
    exponential = [name for name, kind in kinds(results.scale.width).items() if not kind.norm and name != REMEDY]

    def judge(names: list[str], claim: str, rule: str, holds: object) -> Verdict:
        grown = {name: results.growths(RESIDUAL, name) for name in names}
        factors = [g.factor for by_seed in grown.values() for g in by_seed]
        measured = f"variance of the last block ÷ the middle one: {min(factors):.3g} to {max(factors):.3g}; {rule}"
        seeds = [all(holds(grown[name][seed]) for name in names) for seed in range(results.seeds)]
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
    if REMEDY in kinds(results.scale.width):
        claim = "(a) ... which an explicit remedy cures (weight norm with its branches scaled by 1 / √depth)"
        found.append(judge([REMEDY], claim, "judged: at most 2.5", lambda g: g.factor <= 2.5))
    return found


def verdicts_on_similarity(results: Results) -> list[Verdict]:
    """Claim (b)."""
    sizes = group_sizes(results.scale.width)
    names = [group(size, results.scale.width).name for size in sizes]
    found = []
    for net in NETS:
        for measure, words, sign in (("similarity", "the more alike", 1), ("rank", "of the lower rank", -1)):
            measured = results.values(net, names, measure)
            trend = sign * correlations(np.tile(sizes, (results.seeds, 1)), measured)
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
        trend = results.speed_trend(net)
        found.append(
            verdict(
                SOURCE,
                f"(b) {net.capitalize()}: the more alike at initialization, the slower the training",
                f"rank correlation of cosine and mean training loss over the norms: {spread(trend)}; "
                "judged: at least 0.6",
                trend >= 0.6,
            )
        )
    return found


def verdicts_on_gradients(results: Results) -> list[Verdict]:
    """Claim (c)."""
    sizes = group_sizes(results.scale.width)
    names = [group(size, results.scale.width).name for size in sizes]
    found = []
    for net in (PLAIN, RESIDUAL):
        ratio = results.values(net, names, "explosion")
        found.append(
            verdict(
                SOURCE,
                f"(c) {net.capitalize()}: under instance norm the gradient explodes towards the first layers",
                f"first ÷ last block: {spread(ratio[:, 0])}; layer norm {spread(ratio[:, -1])}; judged: more than 10",
                ratio[:, 0] > 10,
            )
        )
        trend = correlations(np.tile(sizes, (results.seeds, 1)), ratio)
        found.append(
            verdict(
                SOURCE,
                f"(c) {net.capitalize()}: larger groups are calmer",
                f"rank correlation of group size and that ratio: {spread(trend)}; judged: at most -0.9",
                trend <= -0.9,
            )
        )
    bold = results.scale.rates[PLAIN][-1]
    first, last = (
        results.final(PLAIN, group(s, results.scale.train_width).name, bold) for s in (1, results.scale.train_width)
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


def spread_columns(values: np.ndarray) -> list[str]:
    """`spread` of every column of (seeds, n)."""
    return [spread(column) for column in values.T]
