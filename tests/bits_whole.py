"""Compare the bits of the whole product: norms, layouts, dtypes, shapes, threads, instruction sets. `make test-bits`.

One process for each instruction set of the machine, side by side; a part (dtype, shape) is compared when all have it.
"""

import argparse
import json
import subprocess
import sys

from rich.console import Console
from rich.progress import track

from bits_cases import product
from subprocesses import HERE, environment
from test_bits import THREADS, machine_isas


def start(isa: str, threads: str, skip: int) -> subprocess.Popen:
    command = [sys.executable, "bits.py", "--whole", "--threads", threads, "--skip", str(skip)]
    return subprocess.Popen(command, cwd=HERE, env=environment(NORMKIT_ISA=isa), stdout=subprocess.PIPE, text=True)


def compare(isas: list[str], threads: str, skip: int) -> tuple[int, list[str]]:
    """(hashes compared, the names of those that differ from the first instruction set's with one thread)."""
    running = {isa: start(isa, threads, skip) for isa in isas}
    console, count, wrong = Console(), 0, []
    for name, part in track([*product()][skip:], "bits", console=console):
        expected = None
        for isa, process in running.items():
            line = process.stdout.readline()
            if not line:
                sys.exit(f"bits_whole.py: {isa} ended before {name}")
            printed, found = json.loads(line)
            assert printed == name
            for n, hashes in found.items():
                expected = expected or hashes
                assert hashes.keys() == expected.keys() == set(map(str, part))
                count += len(hashes)
                wrong += [f"{case} {isa} {n} threads" for case in hashes if hashes[case] != expected[case]]
        console.print(f"{name}: {count} results so far, {len(wrong)} differ", highlight=False)
    for process in running.values():
        process.wait()
    return count, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default=",".join(map(str, (1, *THREADS))))
    parser.add_argument("--skip", type=int, default=0, help="parts that are not compared: to go on where one stopped")
    args = parser.parse_args()
    isas = sorted(machine_isas())
    count, wrong = compare(isas, args.threads, args.skip)
    print(f"{count} results on {', '.join(isas)} with {args.threads} threads: {len(wrong)} differ")
    for name in wrong:
        print(f"  {name}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
