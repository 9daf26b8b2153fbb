"""Timing that compares: interleaved, rotated, each contender warmed in its turn."""

import gc
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import pages
from case import Contender

SETTLE = 0.003  # s: the last contender's threads stop spinning (OpenMP's would hold a core of the next one)
SETTLED = 64  # page faults: below, a call has found its memory again
WAKE = 0.01  # s: sleeping cores wake (a virtual machine takes 5 ms), and the last-level cache comes to hold what it can
BURST = 0.01  # s: the calls that count last at least this long


@dataclass(frozen=True)
class Sample:
    """Times of one contender, in milliseconds."""

    median: float
    min: float
    q25: float
    q75: float
    n: int
    faults: float  # median page faults of a call


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def timed(call) -> tuple[float, int]:
    """Milliseconds and page faults of one call. What it returns is dropped inside: freeing belongs to allocating."""
    faults, start = page_faults(), time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) * 1e-6, page_faults() - faults


def turn(contender: Contender, calls: int) -> list[tuple[float, int]]:
    """Settle, calls that do not count until its threads are awake, then the calls that do."""
    time.sleep(SETTLE)
    awake = time.perf_counter() + WAKE
    contender.call()
    while time.perf_counter() < awake:
        contender.call()
    return [timed(contender.call) for _ in range(calls)]


def calibrate(contender: Contender) -> int:
    """How many calls a turn needs. With kept pages, calls first until malloc's few places for the result are warm."""
    for _ in range(12 if contender.reuse_pages else 0):
        if all(timed(contender.call)[1] < SETTLED for _ in range(3)):
            break
    return max(1, min(50, int(BURST * 1e3 / min(turn(contender, 2))[0])))


def measure(contenders: Sequence[Contender], budget: float, rounds: int | None, least: int) -> dict[str, Sample]:
    """Round robin over the contenders until the budget (seconds) is spent, or for exactly `rounds` rounds.

    Each round starts with another contender. At least `least` rounds.
    """
    times: dict[str, list[tuple[float, int]]] = {c.key: [] for c in contenders}
    gc.collect()
    gc.disable()
    if any(c.reuse_pages for c in contenders):
        pages.kept()
    try:
        calls = {c.key: calibrate(c) for c in contenders}
        end, done = time.perf_counter() + budget, 0
        while done < rounds if rounds else (done < least or time.perf_counter() < end):
            first = done % len(contenders)
            for contender in (*contenders[first:], *contenders[:first]):
                times[contender.key] += turn(contender, calls[contender.key])
            done += 1
    finally:
        pages.settled()
        gc.enable()
    return {key: sample(values) for key, values in times.items()}


def sample(values: list[tuple[float, int]]) -> Sample:
    times, faults = zip(*values, strict=True)
    q25, median, q75 = np.percentile(times, (25, 50, 75))
    return Sample(*(round(float(v), 6) for v in (median, min(times), q25, q75)), len(times), float(np.median(faults)))
