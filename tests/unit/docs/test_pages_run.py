"""Every Python block of every page runs, and prints what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.docs.pages import PAGES, ROOT, blocks, matches, name_of, program, run

WITH_PYTHON = [page for page in PAGES if blocks(page.read_text(), "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    does_what_it_says(page, tmp_path)


def does_what_it_says(page: Path, folder: Path, url: str | None = None) -> None:
    shown = "".join(blocks(page.read_text(), "text"))
    printed = run(page, folder, url)
    assert matches(shown, printed), f"{name_of(page)} shows\n{shown}\nbut prints\n{printed}"


def test_the_page_for_readers_of_oban_is_true_of_postgresql_too(
    empty_postgresql_url: str, tmp_path: Path
) -> None:
    does_what_it_says(ROOT / "docs" / "oban.md", tmp_path, empty_postgresql_url)


def test_the_pages_with_code_are_these() -> None:
    names = {name_of(page) for page in WITH_PYTHON}
    guide = {"docs/guide.md", "docs/guide/embed.md", "docs/guide/adapters.md", "docs/oban.md"}
    assert guide | {"README.md", "docs/webhooks.md", "docs/email.md", "docs/operations.md"} <= names


def test_code_keeps_its_lines() -> None:
    page = "# Title\n\n```python\na = 1\n```\n\ntext\n\n```sh\nrm\n```\n\n```python\nb = 2\n```\n"
    code = program(page).split("\n")
    assert {number: line for number, line in enumerate(code, start=1) if line} == {4: "a = 1", 14: "b = 2"}


def test_a_harness_that_has_gone_blind_would_fail_here(tmp_path: Path) -> None:
    """Known bad: a page that raises, and one that prints something else."""
    page = tmp_path / "page.md"
    page.write_text("```python\nraise SystemExit('no')\n```\n")
    with pytest.raises(AssertionError, match="no"):
        run(page, tmp_path)
    assert not matches("one ...\ntwo\n", "one 1\nthree\n")
    assert not matches("one ...\n", "one 1\nand more\n")
    assert matches("one ...\ntwo\n", "one 1\ntwo\n")
