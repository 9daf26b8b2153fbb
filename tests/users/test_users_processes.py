"""Rows of USERS.md about the process: forks, threads, instruction sets, the floating-point mode, the GIL."""

import platform
import sys

import numpy as np
import pytest

import checks
import normkit as nk
from subprocesses import output, python

F32, F64 = np.float32, np.float64
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_row_08_a_forked_child_works():
    program = (
        "import os, warnings, numpy as np, normkit as nk\nnk.set_num_threads(2)\n"
        "x = np.ones((64, 64, 30, 30), np.float32)\nnk.batch_norm(x)\nwarnings.simplefilter('ignore')\n"
        "child = os.fork()\nnk.batch_norm(x)\n"
        "if child == 0: os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert output("-c", program, timeout=60) == "7\n"


def test_row_09_the_thread_count_can_change():
    for n in (1, 4, 2):
        nk.set_num_threads(n)
        assert nk.get_num_threads() == n
        nk.batch_norm(np.ones((64, 64, 30, 30), F32))


@LINUX
def test_row_09_small_arrays_stay_serial():
    """No thread is started for them, nor by the import; there are for a large one."""
    program = """
import os, numpy as np, normkit as nk
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
small, large = (np.ones((n, 64, 8, 8), np.float32) for n in (2, 256))
for x in (small, large):
    nk.group_norm_backward(x, nk.group_norm(x, 8)[1])
    nk.batch_norm_backward(x, nk.batch_norm(x)[1])
    print(threads() - before)
"""
    assert output("-c", program, NORMKIT_NUM_THREADS="4", OPENBLAS_NUM_THREADS="1").split() == ["0", "3"]


def test_row_11_the_result_does_not_depend_on_the_thread_count():
    """test_bits.py has all norms, shapes and layouts."""
    x = np.random.default_rng(0).standard_normal((64, 64, 28, 28)).astype(F32)
    with nk.num_threads(1):
        expected = nk.batch_norm(x)[0]
    for n in range(2, 9):
        with nk.num_threads(n):
            assert checks.same_bits(nk.batch_norm(x)[0], expected)


def test_row_18_a_baseline_build_inside():
    program = "import numpy as np, normkit as nk; nk.show_config(); print(nk.batch_norm(np.eye(3))[0].sum())"
    assert "baseline" in output("-c", program, NORMKIT_ISA="baseline")


@pytest.mark.parametrize("isa", ["avx1024", ""])
def test_row_18_what_the_machine_lacks_is_an_error_not_a_signal(isa):
    """test_bits.py runs every instruction set that the machine has."""
    done = python("-c", "import numpy as np, normkit as nk; nk.batch_norm(np.eye(3)); print('ran')", NORMKIT_ISA=isa)
    if isa:
        assert (done.returncode, done.stdout) == (1, "")
        assert isa in done.stderr
    else:  # empty: as if not set
        assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr


def test_row_26_floating_point_mode_is_not_touched():
    """Neither by the import nor by a call, on any thread: subnormals survive arithmetic afterwards."""
    program = """
import threading
import numpy as np
import normkit as nk
def check():
    assert np.array([5e-324])[0] * 1.0 == 5e-324 != 0.0
    assert (np.full(64, 1e-310) / 2 != 0).all() and (np.full(64, 1e-40, np.float32) / 2 != 0).all()
check()
nk.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((64, 64, 30, 30)).astype(np.float32)
nk.batch_norm_backward(x, nk.batch_norm(x)[1])
check()
thread = threading.Thread(target=lambda: (nk.group_norm(x, 8), check()))
thread.start()
thread.join()
print("ok")
"""
    assert output("-c", program) == "ok\n"


@pytest.mark.skipif(platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc", reason="reads MXCSR by glibc")
def test_row_26_control_register_is_as_it_was():
    """MXCSR itself but for its sticky flags: rounding, masks, flush-to-zero, denormals-are-zero; on any thread."""
    program = """
import ctypes, threading
import numpy as np
libm = ctypes.CDLL("libm.so.6")
def control():
    fenv = ctypes.create_string_buffer(64)
    assert libm.fegetenv(fenv) == 0
    return int.from_bytes(fenv.raw[28:32], "little") & 0xFFC0
before = control()
assert before == 0x1F80  # as a process starts: all masked, to nearest, no flushing
import normkit as nk
found = [control()]
x = np.random.default_rng(0).standard_normal((64, 64, 30, 30)).astype(np.float32)
def call():
    for a in (x, x[:1], x.astype(np.float16)):
        nk.batch_norm_backward(a, nk.batch_norm(a, activation="silu")[1])
        nk.layer_norm_backward(a, nk.layer_norm(a)[1])
    found.append(control())
for n in (1, 3):
    nk.set_num_threads(n)
    call()
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
print(found == [before] * 5)
"""
    assert output("-c", program) == "True\n"


def test_row_26_the_smallest_numbers_pass_through():
    for dtype in (F32, F64):
        tiny = np.finfo(dtype).smallest_subnormal
        x = np.full((2, 3), tiny, dtype)
        y = nk.batch_norm_inference(x, np.zeros(3), np.ones(3), eps=0.0)
        assert (y == tiny).all()
        y = nk.batch_norm(np.zeros((2, 3), dtype), None, np.full(3, tiny, dtype))[0]
        assert (y == tiny).all()


def test_row_28_called_from_many_threads():
    """test_processes.py shows that the GIL is released."""
    program = """
import numpy as np, normkit as nk
from concurrent.futures import ThreadPoolExecutor
x = np.random.default_rng(0).standard_normal((32, 32, 30, 30)).astype(np.float32)
expected = nk.batch_norm(x)[0]
with ThreadPoolExecutor(8) as pool:
    print(all((y == expected).all() for y, _ in pool.map(nk.batch_norm, [x] * 40)))
"""
    assert output("-c", program, NORMKIT_NUM_THREADS="3", timeout=60) == "True\n"
