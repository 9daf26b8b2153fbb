"""Every example of the documentation runs and prints what it says."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import normkit as nk

README = Path(__file__).parents[1] / "README.md"
PUBLIC = {name: getattr(nk, name) for name in nk.__all__ if not name.startswith("__")}
MODULES = ["normkit.convert", "normkit.compat.cs231n", "normkit.compat.darknet"]
for module in map(importlib.import_module, MODULES):
    PUBLIC |= {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
PUBLIC = {name: o for name, o in PUBLIC.items() if callable(o)}  # tables of constants have no docstring
USED = [name for name, o in PUBLIC.items() if not name.endswith(("Cache", "Gradients"))]


def documented():
    """The package, its public names and their public attributes, native ones, too."""
    yield "normkit", nk.__doc__
    for name, o in PUBLIC.items():
        yield name, o.__doc__
        if inspect.isclass(o):
            for attribute, value in inspect.getmembers(o):
                if not attribute.startswith("_") and getattr(value, "__doc__", None):
                    yield f"{name}.{attribute}", value.__doc__


EXAMPLES = {
    name: test
    for name, text in documented()
    if text and (test := doctest.DocTestParser().get_doctest(text, {}, name, None, 0)).examples
}
ON_RANKS = {"SyncBatchNorm"}  # starts MPI: in test_distributed.py, under mpiexec


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in ON_RANKS])
def test_examples(name):
    report = []
    threads = nk.get_num_threads()
    failed, tried = doctest.DocTestRunner(verbose=False).run(EXAMPLES[name], out=report.append)
    nk.set_num_threads(threads)
    assert tried
    assert not failed, "".join(report)


@pytest.mark.parametrize("name", USED)
def test_everything_public_has_an_example(name):
    assert name in EXAMPLES


def test_readme(tmp_path, monkeypatch):
    """Its ```python blocks, in order, as one program."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    program = "\n".join(blocks)
    if ">>>" in program:
        test = doctest.DocTestParser().get_doctest(program, {}, "README.md", None, 0)
        report = []
        assert not doctest.DocTestRunner(verbose=False).run(test, out=report.append).failed, "".join(report)
    else:
        exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
