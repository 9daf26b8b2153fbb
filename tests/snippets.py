"""The Python of a page: which blocks there are, what they need, what they say they print.

A block is fenced as ```python. A comment before it says what it takes: `<!-- needs: torch -->` a module,
`<!-- ranks: 3 -->` MPI. All others of a page are one program. A line with `print` ends in a comment that says what it
prints.
"""

import doctest
import io
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"(?:^<!-- (needs|ranks): (\S+) -->\n)?^(```+)([^\n]*)\n(.*?)^\3$", re.M | re.S)
SAYS = re.compile(r"\bprint\(.*\)  # (.*)$", re.M)
# Languages of fences that nobody takes for Python to run.
OTHERS = ("", "sh", "bash", "console", "text", "toml", "c", "rust", "dockerfile")


@dataclass(frozen=True)
class Block:
    """One fenced block of Python."""

    code: str
    needs: str | None = None
    ranks: int = 0


def blocks(text):
    """Those of a page, in order. Python that hides behind another word is an error."""
    found = []
    for what, value, _, language, code in FENCE.findall(text):
        if language == "python":
            found.append(Block(code, value if what == "needs" else None, int(value) if what == "ranks" else 0))
        elif not language.startswith("{") and language not in OTHERS:
            raise ValueError(f"a block of {language!r} would not be run: write ```python")
    return found


def expected(code):
    """What the code's comments say that it prints; every `print` must say it."""
    said = SAYS.findall(code)
    silent = [line for line in code.splitlines() if re.match(r"\s*print\(", line) and not SAYS.search(line)]
    if silent:
        raise ValueError(f"what does this print? {silent[0].strip()}")
    return "".join(f"{line}\n" for line in said)


def check_output(code, printed, what):
    """The comments are what was printed; `...` stands for anything."""
    wanted = expected(code)
    same = doctest.OutputChecker().check_output(wanted, printed, doctest.ELLIPSIS)
    assert same, f"{what} says that it prints\n{wanted}but it prints\n{printed}"


def run(code, what, namespace):
    """Run a program and hold it to what it says that it prints; with prompts, as a doctest."""
    if ">>>" in code:
        report = []
        test = doctest.DocTestParser().get_doctest(code, namespace, what, None, 0)
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
        failed = runner.run(test, out=report.append, clear_globs=False).failed
        namespace.update(test.globs)
        assert not failed, "".join(report)
        return
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, what, "exec"), namespace)
    check_output(code, printed.getvalue(), what)
