"""The number of threads follows the quota of CPU time that a cgroup gives: containers have one and all CPUs to see.

Version 1 and 2 on files of our own, mounted where only the child sees them; and a real quota, where one can be set.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from subprocesses import output

THREADS = "import normkit; print(normkit.get_num_threads())"
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
PERIOD = 100_000

# The file system in which Python runs: its mounts are this process's alone, and end with it.
INSIDE = """
import os, subprocess, sys
def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)
mount("--make-rprivate", "/")
mount("--bind", FOLDER + "/sys", "/sys/fs/cgroup")
mount("--bind", FOLDER + "/self", f"/proc/{os.getpid()}/cgroup")
os.execv(sys.executable, [sys.executable, "-c", PROGRAM])
"""


def can_mount():
    """Whether this process may have mounts of its own."""
    if os.name != "posix" or not shutil.which("unshare") or not Path("/sys/fs/cgroup").is_dir():
        return False
    program = ["unshare", "--mount", "mount", "--make-rprivate", "/"]
    return subprocess.run(program, capture_output=True, check=False).returncode == 0


def threads_where(folder, files, membership, **settings):
    """What a process has that finds these files in /sys/fs/cgroup, and is in these groups."""
    for name, text in files.items():
        path = folder / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "self").write_text(membership)
    names = f"FOLDER, PROGRAM = {str(folder)!r}, {THREADS!r}"
    inner = f"import os; os.execvp('unshare', ['unshare', '--mount', {sys.executable!r}, '-c', {names + INSIDE!r}])"
    return int(output("-c", inner, **settings))


def version_1(quota):
    files = {"cpu/job/cpu.cfs_quota_us": f"{quota}\n", "cpu/job/cpu.cfs_period_us": f"{PERIOD}\n"}
    return files, "4:memory:/elsewhere\n1:cpu,cpuacct:/job\n"


def version_2(quota):
    text = "max" if quota < 0 else quota
    return {"job/cgroup.controllers": "cpu\n", "job/cpu.max": f"{text} {PERIOD}\n"}, "0::/job\n"


@pytest.mark.skipif(not can_mount(), reason="no mounts of our own: needs root and unshare")
@pytest.mark.parametrize("version", [version_1, version_2])
@pytest.mark.parametrize(
    ("cpus", "expected"),
    [(0.5, 1), (1, 1), (1.9, 1), (2, 2), (CPUS + 5, CPUS), (None, CPUS)],
    ids=str,
)
def test_quota(version, cpus, expected, tmp_path):
    """Whole CPUs, at least one, at most those of the affinity; no quota is -1, or max."""
    quota = -1 if cpus is None else int(cpus * PERIOD)
    assert threads_where(tmp_path, *version(quota)) == min(expected, CPUS)


@pytest.mark.skipif(not can_mount(), reason="no mounts of our own: needs root and unshare")
def test_what_is_set_counts_more(tmp_path):
    assert threads_where(tmp_path, *version_2(PERIOD), NORMKIT_NUM_THREADS="5") == 5


def a_group():
    """A new group of the hierarchy that has quotas, and where its quota is written; None where there is none."""
    name = f"normkit-test-{os.getpid()}"
    for top, file, text in (
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", f"{PERIOD}"),
        ("/sys/fs/cgroup", "cpu.max", f"{PERIOD} {PERIOD}"),
    ):
        group = Path(top) / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(text)
        except OSError:
            group.rmdir()
            continue
        return group
    return None


@pytest.mark.skipif(CPUS < 2, reason="a quota changes nothing on one CPU")
def test_a_real_quota_of_one_cpu():
    group = a_group()
    if group is None:
        pytest.skip("no cgroup with quotas can be made")
    join = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"  # 0: whoever writes
    try:
        assert int(output("-c", join + THREADS)) == 1
    finally:
        group.rmdir()
    assert int(output("-c", THREADS)) > 1
