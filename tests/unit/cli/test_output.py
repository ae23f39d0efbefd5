"""Whatever a row holds, a terminal sees printable characters, and a program sees the same data."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveries.cli import output
from unit.cli.commands import HOSTILE, harmless

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts)
def test_plain_text_is_printable(text: str) -> None:
    assert harmless(output.plain(text))


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S"])))
def test_plain_text_keeps_what_is_printable(text: str) -> None:
    assert output.plain(text) == text


def test_plain_text_shows_what_it_replaced() -> None:
    assert output.plain(HOSTILE) == r"[red]x[/red]\x1b[31m\x9b31m\u202e\u2028\x7f\n\t"


def test_plain_text_survives_a_lone_surrogate() -> None:
    assert output.plain("\ud800") == r"\ud800"


@given(
    st.text(
        st.characters(exclude_categories=["Cs"])
        | st.characters(codec=None, categories=["Cs"], min_codepoint=0xDC80, max_codepoint=0xDCFF)
    )
)
def test_json_is_printable_and_equal(text: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stdout(stream):
        output.data({"text": text})
    line = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert line.endswith("\n")
    assert harmless(line[:-1])
    assert json.loads(line) == {"text": text}


@given(texts)
def test_what_is_said_is_one_bounded_line(text: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        output.say(text * 20)
    line = stream.getvalue()
    assert line.endswith("\n")
    assert harmless(line[:-1])
    assert len(line) <= len("deliveries: \n") + output.MAX_LINE


def test_pages_are_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.write("[red]x[/red] :smile: [link=https://example.com]y[/link]")
    assert capsys.readouterr().out == "[red]x[/red] :smile: [link=https://example.com]y[/link]\n"


def test_long_lines_stay_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    output.write("word " * 5_000 + "end")
    assert capsys.readouterr().out.count("\n") == 1
