"""Running a program in a fresh interpreter with another environment."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SETTINGS = ("NORMKIT_ISA", "NORMKIT_NUM_THREADS", "RAYON_NUM_THREADS")
# With any of these glibc no longer adapts to what is allocated.
MALLOC = ("GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_")


def environment(**settings):
    """This one's without settings of normkit, or of glibc's malloc, but `settings`.

    Unbuffered, Python loses the rest of a long write to a pipe that a stop signal interrupts.
    """
    return {k: v for k, v in os.environ.items() if k not in (*SETTINGS, *MALLOC, "PYTHONUNBUFFERED")} | settings


def python(*arguments, timeout=120, **settings):
    """Run `python *arguments` in tests/; none of normkit's settings but `settings`. A hang is a failure."""
    how = {"cwd": HERE, "env": environment(**settings), "capture_output": True, "text": True, "timeout": timeout}
    return subprocess.run([sys.executable, *arguments], **how)


def output(*arguments, **settings):
    done = python(*arguments, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout
