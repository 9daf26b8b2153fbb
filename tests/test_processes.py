"""Threads, forks, the GIL and the environment. Whatever could hang runs in a process with a time limit."""

import os
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import normkit as nk
from bits import digest
from subprocesses import output, python

CALL = """
import numpy as np, normkit as nk
from bits import digest
x = np.random.default_rng(0).standard_normal((64, 64, 28, 28)).astype(np.float32)
def call(_=None):
    y, cache = nk.batch_norm(x)
    return digest(y, *nk.batch_norm_backward(x, cache))
"""
FORK = """
from forks import in_both
nk.set_num_threads(2)
expected = call()
assert in_both(call) == (expected, expected)
assert call() == expected
print("ok")
"""
POOL = """
import multiprocessing, warnings
if __name__ == "__main__":
    nk.set_num_threads(2)
    expected = call()
    warnings.simplefilter("ignore", DeprecationWarning)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(call, range(6)) == [expected] * 6
    assert call() == expected
    print("ok")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("program", [FORK, POOL], ids=["fork", "pool"])
def test_call_then_fork_then_call_in_both(program):
    assert output("-c", CALL + program, timeout=60).split() == ["ok"]


def test_leaves_no_thread_that_blocks_the_exit():
    assert python("-c", CALL + "nk.set_num_threads(4); call(); print('done')", timeout=60).stdout == "done\n"


def test_eight_threads_at_once():
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((16, 32, 20, 20)).astype(np.float32) + k for k in range(8)]

    def work(x):
        y, cache = nk.batch_norm(x)
        z, group_cache = nk.group_norm(y, 8)
        return digest(
            y, z, *nk.batch_norm_backward(x, cache), *nk.group_norm_backward(x, group_cache), nk.moments(x, (0, 2)).m2
        )

    expected = [work(x) for x in inputs]
    with nk.num_threads(2), ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(work, inputs)) == expected


def test_eight_threads_with_the_same_arrays_and_caches():
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((16, 32, 20, 20)).astype(np.float32) for _ in range(2))
    weight = np.ones(32, np.float32)
    caches = nk.batch_norm(x, weight, weight)[1], nk.group_norm(x, 8, weight)[1], nk.layer_norm(x)[1]
    moments = nk.moments(x, (0, 2, 3))
    work = [
        lambda: nk.batch_norm_backward(dy, caches[0]),
        lambda: nk.group_norm_backward(dy, caches[1]),
        lambda: nk.layer_norm_backward(dy, caches[2]),
        lambda: (caches[0].mean, caches[0].rstd, moments.merge(moments).m2, moments.var(1)),
        lambda: nk.batch_norm(x, weight)[:1],
    ]
    expected = [digest(*call()) for call in work]

    def turns(start):
        return all(digest(*work[i % 5]()) == expected[i % 5] for i in range(start, start + 25))

    with nk.num_threads(2), ThreadPoolExecutor(8) as pool:
        assert all(pool.map(turns, range(16)))


def test_changing_the_number_of_threads_while_others_work():
    x = np.random.default_rng(0).standard_normal((32, 64, 20, 20)).astype(np.float32)
    expected = digest(nk.batch_norm(x)[0])
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(lambda: digest(nk.batch_norm(x)[0])) for _ in range(20)]
        for n in range(1, 9):
            nk.set_num_threads(n)
            assert nk.get_num_threads() == n
        assert {future.result() for future in running} == {expected}


def test_num_threads_restores_the_number():
    nk.set_num_threads(3)
    with nk.num_threads(2):
        assert nk.get_num_threads() == 2
        with nk.num_threads(5):
            assert nk.get_num_threads() == 5
        assert nk.get_num_threads() == 2
    assert nk.get_num_threads() == 3


def test_num_threads_restores_the_number_after_an_exception():
    nk.set_num_threads(3)
    with pytest.raises(KeyError), nk.num_threads(2):
        raise KeyError
    assert nk.get_num_threads() == 3


def entered(n):
    """A block that is open."""
    block = nk.num_threads(n)
    block.__enter__()
    return block


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)])
def test_blocks_of_several_threads_that_are_left_in_any_order(order):
    """The block entered last counts; after the last one is left the number is what it was before the first."""
    nk.set_num_threads(7)
    numbers = 2, 3, 4
    blocks, still = [], dict(enumerate(numbers))
    for n in numbers:
        with ThreadPoolExecutor(1) as pool:
            blocks.append(pool.submit(entered, n).result())
        assert nk.get_num_threads() == n
    for left in order:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(blocks[left].__exit__, None, None, None).result()
        del still[left]
        assert nk.get_num_threads() == (still[max(still)] if still else 7)


def test_a_number_set_inside_a_block_ends_with_it():
    nk.set_num_threads(3)
    with nk.num_threads(2):
        nk.set_num_threads(6)
        with nk.num_threads(5):
            pass
        assert nk.get_num_threads() == 6
    assert nk.get_num_threads() == 3


def test_blocks_of_eight_threads_at_once():
    """Whatever the turns they take: the same bits, and in the end the number from before."""
    nk.set_num_threads(2)
    x = np.random.default_rng(0).standard_normal((16, 32, 20, 20)).astype(np.float32)
    expected = digest(nk.batch_norm(x)[0])

    def work(n):
        for _ in range(20):
            with nk.num_threads(n):
                assert digest(nk.batch_norm(x)[0]) == expected

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(1, 9)))
    assert nk.get_num_threads() == 2


BLOCKS_AND_FORKS = """
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
stop = threading.Event()
def work():
    while not stop.is_set():
        with nk.num_threads(2):
            pass
worker = threading.Thread(target=work)
worker.start()
for _ in range(200):
    child = os.fork()  # the other thread is inside one of its locks, now and then
    if child == 0:
        with nk.num_threads(3):
            os._exit(0 if nk.get_num_threads() == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
worker.join()
print("ok")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_enters_and_leaves_blocks():
    assert output("-c", CALL + BLOCKS_AND_FORKS, timeout=120).split() == ["ok"]


THREADS = "import normkit; print(normkit.get_num_threads())"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"NORMKIT_NUM_THREADS": "3"}, 3),
        ({"RAYON_NUM_THREADS": "5"}, 5),
        ({"NORMKIT_NUM_THREADS": "3", "RAYON_NUM_THREADS": "5"}, 3),
    ],
)
def test_environment(settings, expected):
    assert int(output("-c", THREADS, **settings)) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_is_the_default():
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert int(output("-c", one + THREADS)) == 1
    assert 1 <= int(output("-c", THREADS)) <= len(os.sched_getaffinity(0))


def test_call_after_setting_overrides_the_environment():
    program = "import normkit; normkit.set_num_threads(2); print(normkit.get_num_threads())"
    assert int(output("-c", program, NORMKIT_NUM_THREADS="7")) == 2


def test_show_config_prints_what_a_report_needs(capfd):
    with nk.num_threads(3):
        nk.show_config()
    text = capfd.readouterr().out
    assert nk.__version__ in text
    assert any(isa in text for isa in ("baseline", "avx2", "avx512"))
    assert any("thread" in line.lower() and "3" in line for line in text.splitlines())


def test_the_gil_is_released():
    """While a thread is inside a long call, this one gets to run in the middle of it.

    With the GIL held it could run only at the edges, by at most one switch interval, which is made short.
    """
    x = np.random.default_rng(0).standard_normal((64, 64, 56, 56)).astype(np.float32)
    out = np.empty_like(x)
    span = []

    def work():
        start = time.perf_counter()
        nk.group_norm(x, 8, out=out)
        span.extend((start, time.perf_counter()))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with nk.num_threads(1):
            for _ in range(20):
                span.clear()
                ticks = []
                worker = threading.Thread(target=work)
                worker.start()
                while worker.is_alive():
                    ticks.append(time.perf_counter())
                    time.sleep(0)
                worker.join()
                start, end = span
                margin = (end - start) / 4
                if any(start + margin < t < end - margin for t in ticks):
                    return
    finally:
        sys.setswitchinterval(interval)
    pytest.fail("no other Python thread ran during 20 calls")


# --- other ways to get a process, and what an import does ---

BUSY_FORK = """
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
nk.set_num_threads(2)
expected, stop = call(), threading.Event()
def work():
    while not stop.is_set():
        call()
worker = threading.Thread(target=work)
worker.start()
for _ in range(5):
    child = os.fork()  # most of the time the other thread is inside a call
    if child == 0:
        os._exit(0 if call() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
worker.join()
assert call() == expected
print("ok")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_is_inside_a_call():
    assert output("-c", CALL + BUSY_FORK, timeout=120).split() == ["ok"]


POOLS = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    expected = call()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(sys.argv[1])) as pool:
        assert list(pool.map(call, range(4))) == [expected] * 4
    print("ok")
"""


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_pools_that_do_not_fork(start, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"import sys; sys.path.insert(0, {os.getcwd()!r} + '/tests')\n" + CALL + POOLS)
    environment = {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])}
    assert output(str(program), start, timeout=120, **environment).split() == ["ok"]


IMPORT = """
import os, sys
import numpy
before = len(os.listdir("/proc/self/task")), set(sys.modules)
import normkit
threads, modules = len(os.listdir("/proc/self/task")), set(sys.modules) - before[1]
foreign = {m.split(".")[0] for m in modules} - set(sys.stdlib_module_names) - {"normkit", "numpy"}
print(threads - before[0], sorted(foreign))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_an_import_starts_no_thread_and_needs_only_numpy():
    assert output("-c", IMPORT) == "0 []\n"


def test_an_import_in_a_thread():
    program = (
        "import threading\nt = threading.Thread(target=lambda: exec(code))\nt.start(); t.join(); call(); print('ok')"
    )
    assert output("-c", f"code = {CALL!r}\n" + "exec(code)\n" + program, timeout=60) == "ok\n"


FLOATING_POINT_MODE = """
import ctypes
import numpy as np
fegetenv = ctypes.CDLL("libm.so.6").fegetenv
def mxcsr():
    environment = (ctypes.c_uint32 * 8)()  # x87's state, then MXCSR; the low six bits are flags of past operations
    fegetenv(environment)
    return environment[7] & ~0x3F
before = mxcsr()
import normkit as nk
x = np.full((64, 64, 28, 28), 5e-324)
y, cache = nk.batch_norm(x + np.random.default_rng(0).standard_normal(x.shape))
nk.batch_norm_backward(x, cache)
assert mxcsr() == before
assert nk.moments(x, None).mean == 5e-324  # no subnormal was flushed to zero
print("ok")
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="MXCSR is x86's")
def test_row_26_the_floating_point_mode_is_as_before():
    assert output("-c", FLOATING_POINT_MODE, timeout=60) == "ok\n"


SUBINTERPRETER = """
import normkit
try:
    import _interpreters as interpreters
except ImportError:  # before Python 3.13
    import _xxsubinterpreters as interpreters
code = "import normkit; print(normkit.get_num_threads() >= 1)"
run = getattr(interpreters, "exec", interpreters.run_string)
other = interpreters.create()
try:
    failed = run(other, code)
except interpreters.RunFailedError as error:
    failed = error
if failed:
    print("refused" if "ImportError" in str(failed) else failed)
"""


def test_a_subinterpreter_is_refused_or_works():
    assert output("-c", SUBINTERPRETER, timeout=60) in ("refused\n", "True\n")


WITHOUT_GIL = """
import sys, warnings
warnings.simplefilter("error")  # an extension that does not declare itself is a RuntimeWarning, and turns the GIL on
import numpy
before = sys._is_gil_enabled()
import normkit
print(before, sys._is_gil_enabled())
"""


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_an_import_leaves_free_threaded_python_without_a_gil():
    assert output("-c", WITHOUT_GIL) == "False False\n"
