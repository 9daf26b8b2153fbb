"""What no result tells: an intrinsic behind a call costs a factor of forty, a sum that lives in memory up to 1.4."""

import platform
import re
import shutil
import subprocess

import pytest

from normkit import _normkit

INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")
ARITHMETIC = re.compile(r"^v(add|sub|mul)p[sd]$")
CONVERSION = re.compile(r"^v(cvtph2ps|cvtps2ph|pmovzxwd|pmovdw)$")  # `half` has some of eight elements as functions
LONGEST = 12  # instructions of an intrinsic that became a function: load, operate, store, return


def functions(listing: str) -> list[list[tuple[str, str]]]:
    """The code after each return or padding up to the next return."""
    found, current = [], []
    for line in listing.splitlines():
        match = INSTRUCTION.match(line)
        if not match or match[2].startswith(("nop", "int3", "cs", "data16", "xchg")):
            continue
        current.append((match[2], match[3]))
        if match[2].startswith("ret"):
            found.append(current)
            current = []
    return found


def is_vector_operation(name: str, args: str) -> bool:
    """Whether no kernel calls a function for it."""
    if CONVERSION.match(name):
        return "zmm" in args
    return bool(ARITHMETIC.match(name)) and ("ymm" in args or "zmm" in args)


def wrappers(listing: str) -> list[list[tuple[str, str]]]:
    """Functions that are one vector operation on memory."""
    return [
        code
        for code in functions(listing)
        if len(code) <= LONGEST
        and any(is_vector_operation(name, args) for name, args in code)
        and not any(name.startswith("j") for name, _ in code)
    ]


@pytest.mark.parametrize("operation", ["vaddps (%rdx),%zmm0,%zmm0", "vcvtph2ps (%rdx),%zmm0"])
def test_the_check_sees_a_wrapper(operation):
    listing = f"""
    10: vmovaps (%rsi),%zmm0
    16: {operation}
    1c: vmovaps %zmm0,(%rdi)
    22: vzeroupper
    25: ret
    """
    assert len(wrappers(listing)) == 1


SLOT = re.compile(r"^(-?0x[0-9a-f]+)?\(%rsp\)$")
OPERAND = re.compile(r"(?:[^,()]|\([^)]*\))+")


def sums_in_memory(listing: str) -> list[str]:
    """Where a register of the widest kind is read from the stack, added to and written back: a sum in a loop in which
    something is called, however seldom."""
    found, at, added = [], {}, set()  # registers: where they were read from; which of them were added to
    for line in listing.splitlines():
        match = INSTRUCTION.match(line)
        if not match:
            continue
        address, name, args = match.groups()
        if name.startswith(("j", "call", "ret")):
            at, added = {}, set()
            continue
        operands = OPERAND.findall(args) or [""]
        source, target = operands[0], operands[-1].removeprefix("%")
        if name in ("vmovaps", "vmovapd") and SLOT.match(source) and target.startswith("zmm"):
            at[target] = source
            added.discard(target)
        elif name in ("vaddps", "vaddpd") and target in at and f"%{target}," in args:
            added.add(target)
        elif name in ("vmovaps", "vmovapd") and source.startswith("%zmm") and SLOT.match(operands[-1]):
            register = source.removeprefix("%")
            if register in added and at[register] == operands[-1]:
                found.append(address)
            at.pop(register, None)
            added.discard(register)
        else:
            at.pop(target, None)
            added.discard(target)
    return found


@pytest.fixture(scope="module")
def listing() -> str:
    objdump = shutil.which("objdump")
    assert objdump, "objdump (binutils) is needed, as for linking Rust"
    command = [objdump, "--disassemble", "--no-show-raw-insn", _normkit.__file__]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "zmm" in listing, "the AVX-512 kernels are not in this build"
    return listing


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows x86-64 instructions")
def test_no_intrinsic_became_a_call(listing):
    assert wrappers(listing) == []


def test_the_check_sees_a_sum_in_memory():
    of_loop = """
    10: vmovaps 0x200(%rsp),%zmm7
    18: vaddps %zmm5,%zmm7,%zmm7
    1e: vmovaps %zmm7,0x200(%rsp)
    """
    assert sums_in_memory(of_loop) == ["1e"]
    assert sums_in_memory(of_loop.replace("vmovaps %zmm7,0x200", "vmovaps %zmm7,0x240")) == []
    assert sums_in_memory(of_loop.replace("18: vadd", "14: jmp 18\n    18: vadd")) == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows x86-64 instructions")
def test_no_sum_lives_in_memory(listing):
    assert sums_in_memory(listing) == []
