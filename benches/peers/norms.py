"""Render the README's table of norms from the functions themselves: docstrings, signatures, and what tiny calls accept.

python benches/peers/norms.py            writes README.md
python benches/peers/norms.py --check    fails when the README says something else
"""

import argparse
import inspect
import re
import sys
from pathlib import Path

import calls
import normkit as nk
from case import Case
from cases import ALL_DTYPES, BY_NAME
from markup import line, split
from ops import OPS, Op
from record import TOP
from shapes import Shape

START, END = "<!-- norms:start -->", "<!-- norms:end -->"
HEADER = ["Function", "Formula", "Statistics shared over", "Forward", "Backward", "Layouts", "Dtypes", "Source"]
SHARED = {  # what no docstring says in so few words
    "batch_norm": "samples and positions of a channel",
    "batch_renorm": "samples and positions of a channel",
    "group_norm": "a group of channels and all positions of a sample",
    "instance_norm": "the positions of a channel of a sample",
    "adaptive_instance_norm": "the positions of a channel of a sample",
    "layer_norm": "the axes named, for each position of the others",
    "rms_norm": "the axes named, for each position of the others",
    "weight_norm": "a weight's axes but `dim`",
    "spectral_norm": "the whole weight, as a matrix",
    "scaled_weight_standardization": "a weight's axes but the first",
}
OPTIONS = ("training", "activation", "residual", "mask", "out")
TINY = Shape((6, 8))
SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}


def function(op: Op) -> str:
    return BY_NAME[op.norm].function if op.norm in BY_NAME else op.norm


def measured() -> dict[str, Op]:
    """The backward of every function (not layer) that has one, by its first row in the benches' table."""
    found: dict[str, Op] = {}
    for op in OPS.values():
        if op.backward and not op.row.is_layer:
            found.setdefault(function(op), op)
    return found


def formula(doc: str) -> str:
    """What follows `y =` or `w =`, up to a comma, a semicolon or a full stop that is in no parentheses."""
    text = re.split(r"\b[yw] = ", doc, maxsplit=1)[1]
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0 and (c in ",;\n" or text.startswith(". ", i)):
            return text[:i]
    raise ValueError(f"no end of the formula: {text}")


def source(doc: str) -> str:
    return re.search(r"References\n-+\n(.+? \d{4})", doc)[1]


def layouts(parameters: dict[str, inspect.Parameter]) -> str:
    if "axis" in parameters:
        return "channels on any axis" if parameters["axis"].default == 1 else "any axes, adjacent or not"
    return "rows on any axis" if "dim" in parameters else "rows on axis 0"


def accepted(op: Op) -> list[str]:
    """The dtypes that forward and backward take."""
    found = []
    for dtype in ALL_DTYPES:
        try:
            calls.call(op, Case(TINY, dtype.name))()
        except TypeError:
            continue
        found.append(SHORT[dtype.name])
    return sorted(found, key=list(SHORT.values()).index)


def gradients(op: Op) -> str:
    returned = calls.call(op, Case(TINY))()
    return ", ".join(getattr(returned, "_fields", ("dweight",)))


def row(name: str, op: Op) -> str:
    norm = getattr(nk, name)
    doc, parameters = inspect.getdoc(norm), inspect.signature(norm).parameters
    options = " ".join(["✓", *(f"`{option}`" for option in OPTIONS if option in parameters)])
    cells = [f"`{name}`", f"`{formula(doc)}`", SHARED[name], options, f"✓ {gradients(op)}"]
    return line([*cells, layouts(parameters), " ".join(accepted(op)), source(doc)])


def render() -> str:
    norms = measured()
    if wrong := norms.keys() ^ SHARED.keys():
        sys.exit(f"norms.py: SHARED and the benches' table differ in {', '.join(sorted(wrong))}")
    lines = [line(HEADER), line(["---"] * len(HEADER)), *(row(name, norms[name]) for name in SHARED)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", type=Path, default=TOP / "README.md")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the README says something else")
    args = parser.parse_args()
    before, inside, after = split(args.readme.read_text(), START, END)
    wanted = f"\n{render()}\n"
    if not args.check:
        args.readme.write_text(f"{before}{START}{wanted}{END}{after}")
    elif inside != wanted:
        sys.exit(f"norms.py: {args.readme} has another table of norms; run: python benches/peers/norms.py")
    print(f"{args.readme}: the table of norms is that of the code")


if __name__ == "__main__":
    main()
