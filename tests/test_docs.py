"""Every example of the documentation runs and prints what it says."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import mpi
import normkit as nk
import snippets
from normkit import _gradients as gradients

PAGES = {page: snippets.blocks(page.read_text()) for page in snippets.PAGES}
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


def page_id(page):
    return str(page.relative_to(snippets.ROOT))


RUNS = [(page, need) for page in PAGES for need in sorted({b.needs or "" for b in PAGES[page] if not b.ranks})]
ON_MPI = [(page, i) for page, of in PAGES.items() for i, block in enumerate(of) if block.ranks]


@pytest.mark.parametrize(("page", "need"), RUNS, ids=lambda v: page_id(v) if isinstance(v, Path) else v or "plain")
def test_pages(page, need, tmp_path, monkeypatch):
    """The ```python blocks of a page, in order, as one program; those that need a module too, where it is installed."""
    if need:
        pytest.importorskip(need)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for i, block in enumerate(PAGES[page]):
        if not block.ranks and block.needs in (None, need):
            snippets.run(block.code, f"{page_id(page)}, block {i + 1}", namespace)


@pytest.mark.parametrize(("page", "i"), ON_MPI, ids=lambda v: page_id(v) if isinstance(v, Path) else str(v))
def test_pages_on_ranks(page, i, tmp_path):
    block = PAGES[page][i]
    program = tmp_path / "page.py"
    program.write_text(block.code)
    snippets.check_output(block.code, mpi.output(block.ranks, program), f"{page_id(page)}, block {i + 1}")


def test_pages_are_found():
    """So that no page is left out in silence, and none of these tests passes on nothing."""
    assert {"README.md", "docs/tutorial.md", "docs/how-to/fold.md"} <= {page_id(page) for page in PAGES}
    for name in ("docs/tutorial.md", "README.md", "docs/distributed.md"):
        assert PAGES[snippets.ROOT / name]


def test_a_page_that_lies_is_found_out():
    for code in (
        "print(1 + 1)  # 3\n",
        ">>> 1 + 1\n3\n",
        "print(2)  # 2\nprint(3)\n",
        "print(1)  # 1\nprint(2)  # 1\n",
    ):
        with pytest.raises((AssertionError, ValueError)):
            snippets.run(code, "page", {})
    with pytest.raises(ValueError, match="would not be run"):
        snippets.blocks("```py\n1 / 0\n```\n")
    (first, second) = snippets.blocks("<!-- needs: torch -->\n```python\na\n```\n\n```python\nb\n```\n")
    assert (first.needs, second.needs) == ("torch", None)


def test_pages_link_to_pages():
    """The site has the pages below docs/ and no others: `make docs` would fail, which takes what builds it."""
    pages, links = {page.resolve() for page in (snippets.ROOT / "docs").rglob("*.md")}, 0
    for page in pages:
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+\.md)", page.read_text()):
            assert (page.parent / link).resolve() in pages, f"{page}: {link}"
            links += 1
    assert links > 10


DOCUMENTED = re.compile(r"^\.\. (?:auto\w+|py:\w+):: ([\w.]+)$", re.M)


def test_the_reference_has_every_public_name():
    pages = (snippets.ROOT / "docs" / "reference").glob("*.md")
    documented = [name for page in pages for name in DOCUMENTED.findall(page.read_text())]
    assert len(documented) == len(set(documented))
    public = {f"normkit.{name}" for name in nk.__all__}
    for module in map(importlib.import_module, MODULES):
        public |= {f"{module.__name__}.{name}" for name in module.__all__}
    public |= {f"{gradients.__name__}.{name}" for name in vars(gradients) if name.endswith("Gradients")}
    assert set(documented) - set(MODULES) == public
