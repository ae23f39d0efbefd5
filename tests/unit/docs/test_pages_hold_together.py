"""Links lead somewhere, decisions have their form, and what a page names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unit.docs.pages import DECISIONS, EVERYTHING, ROOT, name_of

SECTIONS = ["Context", "Decision", "Alternatives", "Consequences", "Confirmation"]
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, without punctuation, hyphens for blanks."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", EVERYTHING, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", DECISIONS, ids=name_of)
def test_a_decision_has_its_form(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert lines[0].startswith(f"# {page.name[:4]}: ")
    assert re.fullmatch(r"Status: (Accepted|Superseded by \d{4}), \d{4}-\d\d-\d\d", lines[2])
    assert [line[3:] for line in lines if line.startswith("## ")] == SECTIONS
    assert len(lines) <= 60


@pytest.mark.parametrize("page", DECISIONS, ids=name_of)
def test_a_decision_names_tests_that_exist(page: Path) -> None:
    named = TEST.findall(page.read_text().partition("## Confirmation")[2])
    assert named
    for path, test in named:
        assert (ROOT / path).is_file(), path
        assert f"def {test or 'test_'}" in (ROOT / path).read_text() or "TestCase" in (ROOT / path).read_text()


def test_decisions_are_numbered_without_a_hole() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(len(DECISIONS)))


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in EVERYTHING:
        assert set(re.findall(r"^make (\w+)|`make (\w+)`", page.read_text(), re.MULTILINE)) <= {
            pair for target in targets for pair in ((target, ""), ("", target))
        }, name_of(page)


def test_folders_of_the_readme_exist() -> None:
    table = (ROOT / "README.md").read_text().split("## Where things are")[1]
    named = re.findall(r"`((?:src|tests|docs|benchmarks)[\w/]*)`", table)
    assert len(named) > 8
    for folder in named:
        assert (ROOT / folder).is_dir(), folder
