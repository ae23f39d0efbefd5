"""The example with a web server: killed while it serves, and nothing that it owes is lost."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from deliveries import Deliveries
from unit.docs.pages import blocks, matches

ROOT = Path(__file__).parents[2]
README = ROOT / "examples" / "fastapi_shop" / "README.md"
SECONDS = 120.0


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def app(empty_url: str) -> Iterator[Deliveries]:
    with closing(Deliveries(empty_url)) as app:
        yield app


def test_no_webhook_and_no_mail_is_lost_when_the_shop_is_killed(empty_url: str, app: Deliveries) -> None:
    command = [sys.executable, "-W", "error", "-m", "examples.fastapi_shop.story", "--url", empty_url]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    (shown,) = blocks(README.read_text(), "text")
    assert matches(shown, told.stdout), told.stdout

    owed = app.find(limit=1_000)
    assert len(owed) == 64
    assert {one.status for one in owed} == {"succeeded"}
    assert sum(one.interruptions for one in owed) > 0  # the kill came in the middle of something
    found = re.search(r"^(\d+) requests to the partner", told.stdout, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > 32


class Row:
    """As much of an order as the proof looks at."""

    def __init__(self, reference: str, email: str = "ann@tea.example") -> None:
        self.reference, self.email = reference, email


MAIL = {"ann@tea.example": ["Your order a"]}


@pytest.mark.parametrize(
    ("orders", "promised", "partner", "mails", "found"),
    [
        (["a"], ["a"], {"k": "a"}, MAIL, []),
        (["a"], [], {"k": "a"}, MAIL, []),
        ([], [], {}, {}, []),
        ([], ["a"], {}, {}, ["a was promised, and is gone"]),
        (["a"], ["a"], {}, MAIL, ["a: 0 times its webhook"]),
        (["a"], ["a"], {"k": "a", "l": "a"}, MAIL, ["a: 2 times its webhook"]),
        (["a"], ["a"], {"k": "a"}, {}, ["a: 0 times its mail"]),
        (["a"], ["a"], {"k": "a"}, {"ann@tea.example": ["Your order a"] * 2}, ["a: 2 times its mail"]),
        (["a"], ["a"], {"k": "a", "l": "b"}, MAIL, ["the partner has b, and nobody ordered it"]),
        (
            ["a"],
            ["a"],
            {"k": "a"},
            {**MAIL, "bob@tea.example": ["Your order a"]},
            ["bob@tea.example got 'Your order a' unasked"],
        ),
    ],
)
def test_what_the_proof_finds(
    orders: list[str], promised: list[str], partner: dict[str, str], mails: Any, found: list[str]
) -> None:
    from examples.fastapi_shop.proof import findings

    assert findings([Row(one) for one in orders], promised, partner, mails) == found  # type: ignore[misc]
