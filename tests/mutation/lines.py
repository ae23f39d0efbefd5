"""Which lines a mutant changes, so that only tests which execute one of them are asked.

In a file that mutmut has mutated, each function stands beside its mutants, all as long as itself but
for the change. What runs while no mutant does is the one that ends in `_orig`.
"""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

ORIGINAL = "__mutmut_orig"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def changed(path: Path) -> dict[str, set[int]]:
    """Mutant -> lines, from 1, of the statements of its original that it changes."""
    source = path.read_text()
    text = source.splitlines()
    functions = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)}
    found = {}
    for name, node in functions.items():
        original = functions.get(name.partition("__mutmut_")[0] + ORIGINAL)
        if original is None or node is original or not name.rpartition("__mutmut_")[2].isdigit():
            continue
        touched = _touched(_body(text, original), _body(text, node), original.body[0].lineno)
        statements = [set(range(first, last + 1)) for first, last in _statements(original)]
        found[name] = {line for lines in statements if lines & touched for line in lines}
    return found


def _body(text: list[str], node: Function) -> list[str]:
    return text[node.body[0].lineno - 1 : node.end_lineno]


def _touched(before: list[str], after: list[str], first: int) -> set[int]:
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return {
        first + line
        for tag, start, end, _, _ in matcher.get_opcodes()
        if tag != "equal"
        for line in range(start, max(end, start + 1))
    }


def _statements(function: Function) -> list[tuple[int, int]]:
    """First and last line of each statement; of one that holds others, of its head."""
    spans = []
    for node in ast.walk(function):
        if isinstance(node, (ast.stmt, ast.ExceptHandler)) and node is not function:
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
            spans.append((node.lineno, last or node.lineno))
    return spans
