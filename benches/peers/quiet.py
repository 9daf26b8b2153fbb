"""How much of the machine other processes took meanwhile. A busy core costs contenders that wait at barriers (OpenMP)
ten times and more, the others half: such ratios are worth nothing, so the share is recorded with each cell.
"""

import os
import time
from pathlib import Path

BUSY = 0.05  # share of all CPUs, from which on a cell counts as disturbed


def used() -> float | None:
    """CPU seconds used on the whole machine since it started (Linux; elsewhere None)."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Others:
    """Between its making and `share()`: the part of all CPU time that went to other processes, 0 to 1."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), used(), time.process_time()

    def share(self) -> float | None:
        wall, total, own = time.perf_counter() - self.start[0], used(), time.process_time() - self.start[2]
        if total is None or self.start[1] is None or not wall:
            return None
        return round(max(0.0, (total - self.start[1] - own) / (wall * (os.cpu_count() or 1))), 3)


def now(seconds: float = 1.0) -> float | None:
    others = Others()
    time.sleep(seconds)
    return others.share()
