"""The same bits for every number of threads, every instruction set, every run and every process.

`make test-bits` compares the whole product of norms, layouts, dtypes and shapes; here every pair of them meets.
"""

import json
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import normkit as nk
from bits import hashes, some
from bits_cases import cut_cases, in_pairs, product
from cases import ALL_DTYPES, BY_NAME, LAYOUTS, NORMS
from layouts import exists
from subprocesses import output, python

NEEDS = {"baseline": set(), "avx2": {"avx2", "f16c"}, "avx512": {"avx512f", "avx512vl", "avx512dq", "avx512bw"}}
THREADS = (2, 3, 7)


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


@pytest.fixture(scope="module")
def found():
    """{instruction set: {threads: hashes}}, each in a process of its own, two at a time."""
    threads = ",".join(map(str, (1, *THREADS)))

    def run(isa):
        printed = output("bits.py", "--threads", threads, timeout=900, NORMKIT_ISA=isa)
        return {int(n): hashes for n, hashes in json.loads(printed).items()}

    isas = sorted(machine_isas())
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(isas, pool.map(run, isas), strict=True))


def differing(expected, found):
    """The names of `found` whose hash is another one; it may lack some of `expected`."""
    assert found
    assert found.keys() <= expected.keys()
    return [name for name in found if found[name] != expected[name]]


@pytest.mark.parametrize("isa", NEEDS)
def test_instruction_sets(expected, found, isa):
    if isa in machine_isas():
        assert found[isa][1].keys() == expected.keys()
        assert differing(expected, found[isa][1]) == []
        assert isa in output("-c", "import normkit; normkit.show_config()", NORMKIT_ISA=isa)
    else:
        check_refused(isa)


@pytest.mark.parametrize("isa", sorted(machine_isas()))
@pytest.mark.parametrize("threads", THREADS)
def test_threads(expected, found, threads, isa):
    assert differing(expected, found[isa][threads]) == []


def test_repeated_runs(expected):
    """In this process, with two threads; those above are runs of other processes."""
    with nk.num_threads(2):
        assert differing(expected, some()) == []
        assert differing(expected, some()) == []


def test_after_fork(expected):
    """In the child, whose pool is a new one, and in the parent at the same time."""
    for hashes_of in json.loads(output("bits.py", "--fork", timeout=300)):
        assert differing(expected, hashes_of) == []


def test_every_pair_of_norm_layout_and_dtype_is_compared():
    rows, dtypes = [row.name for row in NORMS], [dtype.name for dtype in ALL_DTYPES]
    with_layouts, with_dtypes, both = in_pairs([*cut_cases()])
    assert with_layouts == {(name, layout) for name in rows for layout in LAYOUTS}
    assert with_dtypes == {(name, dtype) for name in rows for dtype in dtypes}
    assert both == {(layout, d.name) for layout in LAYOUTS for d in ALL_DTYPES if exists(layout, d)}
    whole = [case for _, part in product() for case in part]
    assert len(whole) == len(set(map(str, whole)))
    assert {str(case) for case in cut_cases() if case.shape in {c.shape for c in whole}} <= set(map(str, whole))


def test_every_public_function_is_compared(expected):
    """A backward is part of its forward's case."""
    elsewhere = {"get_num_threads", "set_num_threads", "num_threads", "show_config", "show_plans"}
    public = {name for name in nk.__all__ if name.islower() and not name.startswith("__")} - elsewhere
    compared = {BY_NAME[case.norm].function for case in cut_cases()}
    compared |= {function for function in public if any(name.startswith(f"{function}-") for name in expected)}
    assert {name.removesuffix("_backward") for name in public} == compared


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
