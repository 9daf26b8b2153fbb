"""Write the table of `docs/safety.md`: what is unsafe in the sources, by file.

python docs/unsafe_table.py            writes docs/safety.md
python docs/unsafe_table.py --check    fails when docs/safety.md says something else
"""

import argparse
import re
import sys
from pathlib import Path

TOP = Path(__file__).parents[1]
PAGE = TOP / "docs" / "safety.md"
START, END = "<!-- unsafe:start -->", "<!-- unsafe:end -->"
KINDS = {"blocks": r"\bunsafe\s*\{", "functions": r"\bunsafe fn\b(?!\()", "impls": r"\bunsafe impl\b"}
BOUNDS = {  # what the blocks of a file rest on
    "normkit/src/memory.rs": "as the caller vouches",
    "normkit/src/norms/mechanics.rs": "positions of a mask lie in it",
    "normkit/src/parallel.rs": "a worker with a seat outlives no call; parts of a slice are disjoint",
    "normkit/src/pass/application.rs": "tasks have different cells",
    "normkit/src/pass/lines.rs": "tasks have different lines",
    "normkit/src/pass/runs.rs": "tasks have different samples (parts of them) or different runs",
    "normkit/src/pass/weighted.rs": "each line is one task's",
    "normkit/src/pass/mod.rs": "tasks have different cells, partial results and chunks",
    "normkit/src/simd/avx2.rs": "the token proves the instruction, the caller the memory; `n` lanes of a tail",
    "normkit/src/simd/avx512.rs": "the token proves the instruction, the caller the memory; `n` lanes of a tail",
    "normkit/src/simd/baseline.rs": "the caller proves the memory; `n` lanes of a tail",
    "normkit/src/simd/behind.rs": "so many elements are left of the row that waits",
    "normkit/src/simd/both.rs": "a vector of a row ends within it",
    "normkit/src/simd/halves.rs": "`i + n` is within both slices; a half has two bytes",
    "normkit/src/simd/isa.rs": "the processor was asked for the features",
    "normkit/src/simd/lines.rs": "`i + n` is within the run of each line; accumulators are set when a line is begun",
    "normkit/src/simd/loops.rs": "`i + n` is within the row of a tile; a streamed store begins a line or a register",
    "normkit/src/simd/mod.rs": "declarations of the above; an array is read once all of it is written",
    "normkit/src/simd/stored.rs": "as the caller vouches: each block hands a pointer on",
    "normkit/src/simd/tile.rs": "an element is within its rectangle, a rectangle within its array",
    "normkit/src/tensor.rs": "shape and strides stay in the memory, which callers of `from_raw` vouch for",
    "normkit/src/view.rs": "a grid reaches the elements of its array and no others",
    "normkit/src/weights/fold.rs": "runs of different output channels are disjoint",
    "normkit-python/src/allocation.rs": "the memory is as long as shape and strides reach; a new array owns it",
    "normkit-python/src/arrays.rs": "NumPy's shape, strides and flags",
    "normkit-python/src/epilogue.rs": "NumPy's shape and strides of a mask, whose elements are bytes",
    "normkit-python/src/parameters.rs": "NumPy's shape, strides and flags: as many elements that far apart",
    "normkit-python/src/fold.rs": "contiguous arrays, the new ones nobody else's",
}
CALLS = "an output was checked to be writeable and apart, and is one call's"


def counts(text: str) -> list[int]:
    """How often each kind is in the code, comments left out."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))
    return [len(re.findall(pattern, code)) for pattern in KINDS.values()]


def table() -> str:
    """The table, with a row for each file that has any."""
    rows, total = [], [0, 0, 0]
    for path in sorted((TOP / "rust").glob("*/src/**/*.rs")):
        found = counts(path.read_text())
        if any(found):
            name = path.relative_to(TOP / "rust").as_posix()
            bound = BOUNDS.get(name) or (CALLS if name.startswith("normkit-python/") else None)
            if bound is None:
                sys.exit(f"{name} has unsafe code: say in docs/unsafe_table.py what it rests on")
            total = [a + b for a, b in zip(total, found, strict=True)]
            rows.append([f"`{name}`", *map(str, found), bound])
    rows.append(["**all**", *(f"**{n}**" for n in total), ""])
    head = ["File", *KINDS, "What they rest on"]
    lines = [head, ["---", *["---:"] * 3, "---"], *rows]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in lines)


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    page = PAGE.read_text()
    before, rest = page.split(START)
    after = rest.split(END)[1]
    new = f"{before}{START}\n{table()}\n{END}{after}"
    if check and new != page:
        sys.exit("docs/safety.md is stale: python docs/unsafe_table.py")
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
