"""What norms do to deep networks, at initialization and in training: `make experiment-beyond`.

Measures the claims of Lubana, Dick & Tanaka 2021, Beyond BatchNorm (NeurIPS), on residual and on plain networks, for no
norm, batch norm, group norm of every group size (1 is instance norm, the width is layer norm), weight norm and scaled
weight standardization.
"""

import sys

from rich.console import Console

from experiments import beyond
from experiments.beyond import FULL, NETS, QUICK, Training, kinds
from experiments.beyond_findings import findings
from experiments.beyond_results import Results
from experiments.command import Settings, progress, run
from experiments.findings import Findings
from experiments.parallel import each
from experiments.propagation import Signal


def experiment(console: Console, settings: Settings) -> Findings:
    """All probes and trainings, one job each."""
    scale, seeds = (QUICK if settings.quick else FULL), range(settings.seeds)
    jobs = [
        (beyond.initial, net, name, seed, scale) for net in NETS for name in kinds(scale.width, net) for seed in seeds
    ]
    jobs += [
        (beyond.trained, net, name, rate, seed, scale)
        for net in NETS
        for rate in scale.rates[net]
        for name, kind in kinds(scale.train_width, net).items()
        if rate == scale.rates[net][0] or kind.group_size is not None
        for seed in seeds
    ]
    done: dict[tuple[object, ...], Signal | Training] = {}
    with progress(console, total=len(jobs)) as on_run:
        for index, result in each(jobs):
            function, *rest, _ = jobs[index]
            done[(function.__name__, *rest)] = result
            line = "" if function is beyond.initial else f"{' '.join(map(str, rest))}  {result.losses[-1]:.3f}"
            on_run(line and f"trained: {line}")
    return findings(Results(done, scale, settings.seeds))


if __name__ == "__main__":
    sys.exit(run("beyond", __doc__, 5, experiment))
