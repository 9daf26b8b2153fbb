"""Write docs/users.md: each pain of `rows.py` with links to the tests that carry its number.

python tests/users/page.py            writes the page
python tests/users/page.py --check    fails when the page says something else
"""

import argparse
import ast
import re
import sys
from functools import cache
from pathlib import Path

from rows import REPOSITORIES, ROWS, Row

TOP = Path(__file__).resolve().parents[2]
TESTS, PAGE = TOP / "tests", TOP / "docs" / "users.md"
START, END = "<!-- users:start -->", "<!-- users:end -->"
OF_A_ROW = re.compile(r"test_(?:.*_)?row_(\d\d)_")


class MissingError(Exception):
    """A row without a test, or a link to nothing."""


@cache
def tests_of(path: Path) -> dict[str, int]:
    """The test functions of a file, each with its line."""
    body = ast.parse(path.read_text()).body
    return {n.name: n.lineno for n in body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}


def by_row(folder: Path) -> dict[int, list[tuple[Path, str]]]:
    """All tests that carry a row's number in their name."""
    found: dict[int, list[tuple[Path, str]]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        for name in tests_of(path):
            if number := OF_A_ROW.match(name):
                found.setdefault(int(number[1]), []).append((path, name))
    return found


def benches(path: Path) -> set[str]:
    """Names of the rows of the benches' table, without importing it: its modules have names that ours have, too."""
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    named = [n for n in calls if getattr(n.func, "id", "") in ("Row", "replace")]
    strings = [n.args[0] for n in named if n.args] + [k.value for n in named for k in n.keywords if k.arg == "name"]
    return {n.value for n in strings if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def resolved(test: str, folder: Path) -> tuple[Path, str]:
    """`file.py::test` as it lies in `folder`."""
    file, name = test.split("::")
    for path in folder.rglob(file):
        if name in tests_of(path):
            return path, name
    raise MissingError(f"rows.py names {test}, which does not exist")


def link(path: Path, name: str, folder: Path) -> str:
    label = name.removeprefix("test_")
    return f'[{label}](../tests/{path.relative_to(folder)} "{path.name}::{name}")'


def threads(seen: str) -> str:
    """`numpy#22956` as a link."""
    found = []
    for thread in seen.split():
        repository, number = thread.split("#")
        found.append(f"[{thread}](https://github.com/{REPOSITORIES[repository]}/issues/{number})")
    return ", ".join(found)


def line(number: int, row: Row, numbered: list[tuple[Path, str]], folder: Path) -> str:
    tests = [f"**{link(path, name, folder)}**" for path, name in numbered]
    tests += [link(*resolved(test, folder), folder) for test in row.also]
    measured = benches(TOP / "benches" / "peers" / "ops.py")
    for bench in row.bench:
        if bench not in measured:
            raise MissingError(f"rows.py names the bench {bench}, which is not in benches/peers/ops.py")
        tests.append(f"bench: [{bench}](../benches/peers/ops.py)")
    return f"| {number} | {row.pain} | {threads(row.seen)} | {row.does} | {'<br>'.join(tests)} |"


def render(folder: Path = TESTS, rows: dict[int, Row] = ROWS) -> str:
    found = by_row(folder)
    if unknown := sorted(found.keys() - rows.keys()):
        raise MissingError(f"tests carry the numbers {unknown}, which are no rows")
    if untested := sorted(rows.keys() - found.keys()):
        raise MissingError(f"rows without a test that carries their number: {untested}")
    header = "| # | Pain | Seen at | What normkit does | Tests |\n| ---: | --- | --- | --- | --- |"
    return "\n".join([header, *(line(number, row, found[number], folder) for number, row in sorted(rows.items()))])


def split(text: str) -> tuple[str, str, str]:
    if text.count(START) != 1 or text.count(END) != 1:
        raise MissingError(f"expected one {START} and one {END}")
    before, rest = text.split(START)
    inside, after = rest.split(END)
    return before, inside, after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the page says something else")
    args = parser.parse_args()
    try:
        before, inside, after = split(PAGE.read_text())
        wanted = f"\n{render()}\n"
    except MissingError as error:
        sys.exit(f"page.py: {error}")
    if not args.check:
        PAGE.write_text(f"{before}{START}{wanted}{END}{after}")
    elif inside != wanted:
        sys.exit(f"page.py: {PAGE} says something else than rows.py and the tests; run: python tests/users/page.py")
    print(f"{PAGE}: in step with the tests")


if __name__ == "__main__":
    main()
