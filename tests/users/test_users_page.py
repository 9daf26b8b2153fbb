"""docs/users.md, its table and the tests are in step: every row has a test, every link leads somewhere."""

import re
import shutil
from dataclasses import replace

import page
import pytest
from rows import ROWS

LINK = re.compile(r"\]\((\S+?)(?: \"(\S+)::(\S+)\")?\)")


def test_all_thirty_one_rows_are_there():
    assert sorted(ROWS) == list(range(1, 32))


def test_the_page_is_what_the_table_and_the_tests_say():
    assert page.split(page.PAGE.read_text())[1] == f"\n{page.render()}\n"


def test_every_link_leads_to_a_test_or_a_bench():
    inside = page.split(page.PAGE.read_text())[1]
    found = [match for match in LINK.findall(inside) if not match[0].startswith("https://github.com/")]
    assert len(found) >= len(ROWS)
    for target, _, name in found:
        path = (page.PAGE.parent / target).resolve()
        assert path.is_file(), target
        assert not name or re.search(rf"^def {name}\(", path.read_text(), re.M), f"{target}::{name}"


@pytest.fixture
def copied(tmp_path):
    """The tests' files alone, to be broken."""
    for path in page.TESTS.rglob("test_*.py"):
        to = tmp_path / path.relative_to(page.TESTS)
        to.parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(path, to)
    assert page.render(tmp_path) == page.render()
    return tmp_path


def test_a_row_without_a_test_is_an_error(copied):
    for path in copied.rglob("test_*.py"):
        path.write_text(re.sub(r"def test_(.*)row_24_", r"def test_\1row_24", path.read_text()))
    page.tests_of.cache_clear()
    with pytest.raises(page.MissingError, match=r"without a test .* \[24\]"):
        page.render(copied)


def test_a_test_of_no_row_is_an_error(copied):
    (copied / "test_more.py").write_text("def test_row_32_of_another_table():\n    pass\n")
    with pytest.raises(page.MissingError, match=r"\[32\], which are no rows"):
        page.render(copied)


@pytest.mark.parametrize(
    "change",
    [{"also": ("test_fold.py::test_nothing",)}, {"also": ("no.py::test_x",)}, {"bench": ("layer_nrm",)}],
    ids=str,
)
def test_a_link_to_nothing_is_an_error(change):
    with pytest.raises(page.MissingError, match=r"does not exist|is not in"):
        page.render(rows=ROWS | {4: replace(ROWS[4], **change)})
