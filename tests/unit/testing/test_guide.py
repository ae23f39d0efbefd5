"""The guide's page is a test module, and its tests pass."""

from __future__ import annotations

import pytest

from unit.docs.pages import ROOT, blocks, program

pytest_plugins = ["pytester"]

PAGE = ROOT / "docs" / "guide" / "test.md"


def test_the_tests_of_the_page_pass(pytester: pytest.Pytester) -> None:
    text = PAGE.read_text()
    pytester.makepyfile(test_page=program(text))
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    outcomes = result.parseoutcomes()
    assert outcomes.keys() == {"passed", "skipped"}
    tests = "".join(blocks(text, "python")).count("def test_")
    assert outcomes["passed"] >= tests + 8
    assert not (pytester.path / "shop.db").exists()
