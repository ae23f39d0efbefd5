"""Pages of explanations: what strangers wrote is shown in each form, and obeyed in none."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from msgspec import structs

from deliveries.audit.explain import Explanation, explain
from deliveries.core import events as e
from deliveries.core.codec import GENESIS
from deliveries.plain import as_html, as_markdown, plain
from deliveries.store.evidence import Evidence
from deliveries.testing.examples import ID, NOTE, at, attempted, rules, scheduled
from support.records import record

HOSTILE = [
    "[red]x[/red]\x1b[31m\x9b31m\u202e\u2028\x7f\n\t",
    "<script>alert(1)</script>",
    "</title></style></td><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "&lt;b&gt;&#60;b&#62;",
    "**bold** _em_ ~~gone~~ `code` ``` fence",
    "[click](javascript:alert(1)) ![i](http://evil.example/p.png)",
    "http://evil.example https://evil.example www.evil.example mailto:a@b.example a@b.example",
    "<http://evil.example> <a@b.example> @everyone #1",
    "| cell | cell |\n|---|---|\n# heading\n- item\n1. one\n> quote\n    code\n---",
    "a\\|b\\\\*c*",
    "$x$ {{ 7*7 }} {% raw %} ${HOME} %(a)s {0} {title}",
    "[^1] [ref]: http://evil.example :smile: [ ] [x]",
]


def hostile(text: str) -> Explanation:
    """An explanation in which everything that can be somebody else's words is `text`."""
    told = (
        scheduled(channel=text, queue=text, key=text, tenant=text, correlation_id=text, causation_id=text),
        e.Attempted(attempt=1, worker=text, rules=rules()),
        e.Failed(attempt=1, due_at=at(60), error_type=text, note=NOTE.digest),
        e.Rescheduled(due_at=at(90), cause="operator", actor=text),
        attempted(2),
        e.Cancelled(cause=text, attempt=2, actor=text, outcome_unknown=True),
    )
    body = json.dumps({"at": text, "told": text}).encode()
    evidence = Evidence(
        delivery_id=ID,
        sequence=1,
        kind=text,
        recorded_at=at(0),
        body=body,
        digest=GENESIS,
        told=json.dumps(text),
    )
    found = explain([structs.replace(one, note=text) for one in record(*told)], at(0), [evidence])
    return structs.replace(found, beside=(text,), conflicts=(text, *found.conflicts))


class Page(HTMLParser):
    """The tags and the text of a page, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text += data


def squeezed(text: str) -> str:
    """Without blanks, which forms may fold."""
    return re.sub(r"\s+", "", text)


# -- plain text --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_obeys_nothing(text: str) -> None:
    told = str(hostile(text))
    assert all(line.isprintable() for line in told.split("\n"))
    assert plain(text) in told


# -- HTML --------------------------------------------------------------------------------------

TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "table", "tr", "th", "td", "p"}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_browser_obeys_nothing(text: str) -> None:
    harmless, found = Page(hostile("word").to_html()), Page(hostile(text).to_html())
    assert found.tags == harmless.tags
    assert found.attributes == harmless.attributes
    assert set(found.tags) == TAGS
    assert plain(text) in found.text


def test_the_page_loads_nothing_and_forbids_scripts() -> None:
    page = hostile("word").to_html()
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page
    assert not re.search(r"<script|src=|href=|url\(|@import", page)
    names = {name for name, _ in Page(page).attributes}
    assert names == {"lang", "charset", "http-equiv", "content", "class"}


@given(st.text())
def test_any_text_survives_html(text: str) -> None:
    found = Page(f"<p>{as_html(text)}</p>")
    assert (found.tags, found.text) == (["p"], plain(text))


# -- Markdown ----------------------------------------------------------------------------------

GITHUB = MarkdownIt("gfm-like", {"html": True})
COMMONMARK = MarkdownIt("commonmark")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("reader", [GITHUB, COMMONMARK], ids=["github", "commonmark"])
def test_a_reader_of_markdown_obeys_nothing(text: str, reader: MarkdownIt) -> None:
    harmless, found = (
        Page(reader.render(hostile("word").to_markdown())),
        Page(reader.render(hostile(text).to_markdown())),
    )
    assert found.tags == harmless.tags
    assert found.attributes == harmless.attributes
    assert squeezed(plain(text)) in squeezed(found.text)


@given(st.text(st.sampled_from("\\`*_{}[]()<>#+-.!|~&:;/@$^=\"'w a1\n\t\x1b\u202e")))
def test_any_text_survives_markdown(text: str) -> None:
    for reader in (GITHUB, COMMONMARK):
        found = Page(reader.render(f"said: {as_markdown(text)} end"))
        assert found.tags == ["p"]
        assert squeezed(found.text) == squeezed(f"said: {plain(text)} end")


def test_nobody_is_mentioned_and_no_address_becomes_a_link() -> None:
    """GitHub looks for these after Markdown was read, so that no escape of Markdown's own would do."""
    told = as_markdown("@everyone, a@b.example, www.evil.example, http://evil.example, mailto:a")
    assert not re.search(r"@|www\.|http://|mailto:", told)


def test_markdown_tells_the_same_as_the_text() -> None:
    found = hostile("word")
    text = squeezed(Page(GITHUB.render(found.to_markdown())).text)
    for line in (found.sentence, found.why, found.rule, found.next, *found.evidence, *found.conflicts):
        assert squeezed(line) in text
    for entry in found.timeline:
        assert squeezed(entry.text) in text
