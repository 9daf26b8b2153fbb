"""Before anything is timed: do all contenders compute the same thing?"""

from collections.abc import Sequence

import numpy as np

from case import Case, Contender

# Of the largest value of each result; a wrong op is off by its order of magnitude. For halves some units in the last
# place of it: one rounding each, and PyTorch's of what comes between.
TOLERANCE = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}


def difference(ours: np.ndarray, reference: np.ndarray) -> float:
    """In float32, whose own rounding is far below the tolerance: in float64 this took as long as the measuring."""
    if ours.shape != reference.shape:
        return float("inf")
    ours, reference = (a.astype(np.float32, copy=False) for a in (ours, reference))
    off = float(np.abs(ours - reference).max())
    return off / max(1.0, float(np.abs(reference).max())) if np.isfinite(off) else float("inf")


def outputs(contender: Contender, case: Case) -> tuple[np.ndarray, ...]:
    """Run once with `out` full of NaN, so that a result that was not written shows."""
    case.out.fill(np.nan)
    return contender.result(contender.call())


def disagreements(contenders: Sequence[Contender], case: Case) -> dict[str, float]:
    """Largest relative difference per contender, from PyTorch where it takes part, else from the first."""
    reference = next((c for c in contenders if c.peer == "PyTorch"), contenders[0])
    expected = tuple(a.copy() for a in outputs(reference, case))
    found = {}
    for contender in contenders:
        results = outputs(contender, case)
        if len(results) != len(expected):
            found[contender.key] = float("inf")
        else:
            found[contender.key] = max(difference(a, b) for a, b in zip(results, expected, strict=True))
    case.out.fill(0)
    return found


def check(contenders: Sequence[Contender], case: Case) -> tuple[list[Contender], dict[str, float]]:
    """Those that agree, and all differences. If normkit is among those that do not, nothing may be timed."""
    found = disagreements(contenders, case)
    wrong = {c.key for c in contenders if not found[c.key] <= TOLERANCE[case.dtype]}
    if any(c.peer == "normkit" and c.key in wrong for c in contenders):
        raise SystemExit(f"normkit disagrees on {case.shape} (largest relative differences): {found}")
    return [c for c in contenders if c.key not in wrong], found
