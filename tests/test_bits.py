"""The same bits for every number of threads, every instruction set and every run."""

import json
import platform
from pathlib import Path

import pytest

import normkit as nk
from bits import hashes
from subprocesses import output, python

NEEDS = {"baseline": set(), "avx2": {"avx2", "f16c"}, "avx512": {"avx512f", "avx512vl", "avx512dq", "avx512bw"}}


def machine_isas():
    if platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists():
        return {"baseline"}
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    return {isa for isa, needs in NEEDS.items() if needs <= set(flags.split())}


@pytest.fixture(scope="module")
def expected():
    """This process, its own instruction set, one thread."""
    with nk.num_threads(1):
        return hashes()


def differing(a, b):
    assert a.keys() == b.keys()
    return [name for name in a if a[name] != b[name]]


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads(expected, threads):
    with nk.num_threads(threads):
        found = hashes(large_only=True)
    assert differing({name: expected[name] for name in found}, found) == []


def test_repeated_runs(expected):
    """With two threads once more."""
    with nk.num_threads(2):
        again = hashes(large_only=True)
    assert differing({name: expected[name] for name in again}, again) == []


@pytest.mark.parametrize("isa", NEEDS)
def test_instruction_sets(expected, isa):
    if isa in machine_isas():
        found = json.loads(output("bits.py", NORMKIT_ISA=isa, NORMKIT_NUM_THREADS="2", timeout=300))
        assert differing(expected, found) == []
        assert isa in output("-c", "import normkit; normkit.show_config()", NORMKIT_ISA=isa)
    else:
        check_refused(isa)


def test_unknown_instruction_set():
    check_refused("sse9000")


def check_refused(isa):
    """At import or at the first call: an error that names the request and what the machine has."""
    program = "import normkit, numpy; normkit.batch_norm(numpy.ones((4, 3)))"
    done = python("-c", program, NORMKIT_ISA=isa)
    assert done.returncode == 1, f"not refused, or not by an exception: {done}"
    message = done.stderr.splitlines()[-1]
    assert isa in message
    assert "NORMKIT_ISA" in message
    assert all(known in message for known in machine_isas())
    assert "panic" not in done.stderr.lower()
