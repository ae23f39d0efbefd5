"""An explanation as a page: one content, in plain text, HTML and Markdown.

What a page says is decided once, by `parts`; each form only dresses it. Every text goes through the
form's own escape, since keys, workers, notes and evidence hold what strangers wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from deliveries.audit.explain.sayings import span, when
from deliveries.plain import as_html, as_markdown, plain

if TYPE_CHECKING:
    from deliveries.audit.explain.explanation import Explanation
    from deliveries.audit.explain.runs import Run


class Line(Struct, frozen=True):
    """A label and what is said under it; a note is somebody else's text."""

    label: str
    text: str
    note: str | None = None


class Part(Struct, frozen=True):
    """Lines under one title."""

    title: str
    lines: tuple[Line, ...]


def answers(of: Explanation) -> Part:
    """Which delivery it is, where it stands, why, by which rule, and what next."""
    one = of.delivery
    named = {"channel": one.channel, "key": one.key, "tenant": one.tenant, "correlation": one.correlation_id}
    said = named | {"status": of.sentence, "why": of.why, "rule": of.rule, "next": of.next}
    return Part("Answer", tuple(Line(label, text) for label, text in said.items() if text))


def parts(of: Explanation) -> Iterator[Part]:
    """What there is beside the answer; a part without lines is left out."""
    bounded = () if of.delivery.is_terminal else tuple(one for one in of.budgets if one.most is not None)
    now = "" if of.as_of is None else f", at {when(of.as_of)}"
    found = (
        Part("Conflicts", tuple(Line("", text) for text in of.conflicts)),
        Part("Budgets", tuple(Line("", str(one)) for one in bounded)),
        Part("Attempts", tuple(_run(one) for one in of.runs)),
        Part(
            "Timeline",
            tuple(
                Line(when(one.at), f"{one.text} ({one.took})" if one.took else one.text, one.note)
                for one in of.timeline
            ),
        ),
        Part("Evidence", tuple(Line("", text) for text in of.evidence)),
        Part(f"Beside the events{now}", tuple(Line("", text) for text in of.beside)),
    )
    yield from (part for part in found if part.lines)


def _run(run: Run) -> Line:
    ran = "" if run.ran is None else f", ran {span(run.ran)}"
    return Line(str(run.number), f"{run.outcome}; by {run.worker}, waited {span(run.waited)}{ran}")


def text(of: Explanation) -> str:
    """For a terminal or a log: labels in a column, the timeline in full, attempts left to it."""
    key = f", key {of.delivery.key}" if of.delivery.key else ""
    lines = [f"Delivery {of.delivery.id} through {of.delivery.channel!r}{key}"]
    said = (("status", of.sentence), ("why", of.why), ("rule", of.rule), ("next", of.next))
    lines += [f"  {label:<8}{words}" for label, words in said]
    for part in parts(of):
        if part.title in _INLINE:
            label = _INLINE[part.title]
            lines += [f"  {label:<10}{line.text}" for line in part.lines]
        elif part.title == "Timeline":
            lines.append("  timeline")
            for line in part.lines:
                lines.append(f"    {line.label}  {line.text}")
                lines += [f"    {'':26}  | {line.note}"] if line.note else []
        elif part.title != "Attempts":
            lines += [
                f"  {part.title[0].lower()}{part.title[1:]}",
                *(f"    {line.text}" for line in part.lines),
            ]
    return "\n".join(map(plain, lines))


_INLINE = {"Conflicts": "conflict", "Budgets": "budget", "Evidence": "evidence"}


def markdown(of: Explanation) -> str:
    """A heading, a list of answers, and a table or a list for each part."""
    lines = [f"## Delivery {of.delivery.id}", ""]
    lines += [f"- **{line.label}**: {as_markdown(line.text)}" for line in answers(of).lines]
    for part in parts(of):
        lines += ["", f"### {as_markdown(part.title)}", ""]
        if any(line.label for line in part.lines):
            lines += ["| | |", "|---|---|"]
            lines += [f"| {as_markdown(line.label)} | {_cell(line)} |" for line in part.lines]
        else:
            lines += [f"- {as_markdown(line.text)}" for line in part.lines]
    return "\n".join(lines) + "\n"


def _cell(line: Line) -> str:
    note = f" ({as_markdown(line.note)})" if line.note else ""
    return as_markdown(line.text) + note


def html(of: Explanation) -> str:
    """A whole page. Its policy forbids scripts and anything that would have to be loaded."""
    head = as_html(f"Delivery {of.delivery.id}")
    body = [f"<h1>{head}</h1>", _table(answers(of))]
    for part in parts(of):
        body += [f"<h2>{as_html(part.title)}</h2>", _table(part)]
    return _PAGE.format(title=head, status=as_html(of.status), body="\n".join(body))


def _table(part: Part) -> str:
    rows = []
    for line in part.lines:
        note = f"<p>{as_html(line.note)}</p>" if line.note else ""
        rows.append(f"<tr><th>{as_html(line.label)}</th><td>{as_html(line.text)}{note}</td></tr>")
    return "<table>\n" + "\n".join(rows) + "\n</table>"


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
h1 {{ font-size: 1.2rem }}
h2 {{ font-size: 1rem; margin-top: 1.5rem }}
table {{ border-collapse: collapse; width: 100% }}
th {{ font-weight: normal; opacity: 0.7; padding: 0.2rem 1rem 0.2rem 0; text-align: left;
  vertical-align: top; white-space: nowrap; width: 1% }}
td {{ overflow-wrap: anywhere; padding: 0.2rem 0 }}
td p {{ font-style: italic; margin: 0 }}
</style>
</head>
<body class="{status}">
{body}
</body>
</html>
"""
