"""Hashes of everything the library computes, for comparing threads, instruction sets, runs and processes.

python bits.py --threads 1,2,7     prints {threads: {case: hash}} as JSON; with one thread all cases, else those that
                                   are large enough to be cut for threads
python bits.py --whole             the whole product of norms, layouts, dtypes and shapes, in parts: see `product`
python bits.py --fork              of some cases, before a fork, in the child and in the parent meanwhile
"""

import argparse
import json
import sys
import zlib

import numpy as np

import bits_rest
import checks
import normkit as nk
from bits_cases import cut_cases, product, small_cases
from cases import BY_NAME, Case
from forks import in_both

SOME = 7  # of every so many cases one, after a fork


def digest(*arrays):
    """Nobody forges results here, and a checksum takes an eighth of the time."""
    h = 0
    for a in arrays:
        h = zlib.crc32(b"none" if a is None else repr(np.shape(a)).encode(), h)
        if a is not None:
            h = zlib.crc32(checks.canonical(a), h)
    return f"{h:08x}"


def of_case(case: Case):
    row, i = BY_NAME[case.norm], case.inputs()
    running = {}
    if row.function in ("batch_norm", "batch_renorm") and not row.frozen:
        running = {"running_mean": i.running_mean.copy(), "running_var": i.running_var.copy()}
    y, cache = row.forward(i, **running)
    statistics = () if i.style is not None else (cache.rstd,) if "rms" in case.norm else (cache.mean, cache.rstd)
    return digest(y, *statistics, *row.backward(i.dy, cache), *running.values())


def hashes(cut_only=False):
    """Everything that is compared by default."""
    cases = [*cut_cases()] if cut_only else [*small_cases(), *cut_cases()]
    return of_cases(cases) | {name: digest(*arrays) for name, arrays in bits_rest.results()}


def of_cases(cases):
    return {str(case): of_case(case) for case in cases}


def some():
    return of_cases([*cut_cases()][::SOME])


def forked():
    """[before, of the child, of the parent meanwhile]"""
    nk.set_num_threads(2)
    return [some(), *in_both(some)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1", help="numbers of threads, with commas between")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--skip", type=int, default=0, help="parts of the whole product to leave out")
    parser.add_argument("--fork", action="store_true")
    args = parser.parse_args()
    if args.fork:
        json.dump(forked(), sys.stdout)
        return
    threads = [int(n) for n in args.threads.split(",")]
    if args.whole:  # a line for each part, so that who waits sees something
        for name, part in [*product()][args.skip :]:
            found = {}
            for n in threads:
                nk.set_num_threads(n)
                found[n] = of_cases(part)
            print(json.dumps([name, found]), flush=True)
        return
    found = {}
    for n in threads:
        nk.set_num_threads(n)
        found[n] = hashes(cut_only=n > 1)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
