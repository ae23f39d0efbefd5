"""Links lead somewhere, decisions have their form, and what a page names exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from deliveries.cli.app import application
from unit.docs.pages import DECISIONS, EVERYTHING, PAGES, ROOT, blocks, name_of

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
        assert not test or f"def {test}(" in (ROOT / path).read_text(), test


def test_decisions_are_numbered_without_a_hole() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(len(DECISIONS)))


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in EVERYTHING:
        named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
        assert set(named) <= targets, name_of(page)


def test_folders_of_the_readme_exist() -> None:
    table = (ROOT / "README.md").read_text().split("## Where things are")[1]
    named = re.findall(r"`((?:src|tests|docs|benchmarks|examples)[\w/]*)`", table)
    assert len(named) > 8
    for folder in named:
        assert (ROOT / folder).is_dir(), folder


COMMANDS = [
    (name_of(page), line)
    for page in PAGES
    for block in blocks(page.read_text(), "sh")
    for line in block.splitlines()
    if line.startswith("deliveries ")
]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=str)
def test_commands_are_understood(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index(">")] if ">" in words else words
    application().parse_args(words, print_error=False, exit_on_error=False)


def test_verbs_in_the_text_exist() -> None:
    verbs = {*application()} | {"db upgrade", "db sql"}
    for page in EVERYTHING:
        for named in re.findall(r"`deliveries ((?:db )?[a-z]+)", prose(page)):
            assert named in verbs, name_of(page)
