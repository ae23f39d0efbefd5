"""Pages as programs: what a page's Python prints is what the page shows.

All blocks of one page run in order, in one namespace, in a process of its own and in an empty
directory. They keep their line numbers, so that a traceback points into the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "guide").glob("*.md")),
]
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))
EVERYTHING = [*PAGES, *DECISIONS, *EXAMPLES, ROOT / "CHANGELOG.md"]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks of one language."""
    return [block for kind, block in _BLOCK.findall(text) if kind == language]


def program(text: str) -> str:
    """The page with everything but its Python emptied."""
    lines = [""] * (text.count("\n") + 1)
    for found in _BLOCK.finditer(text):
        if found[1] == "python":
            first = text.count("\n", 0, found.start(2))
            code = found[2].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines)


def run(page: Path, directory: Path) -> str:
    """What the page's program prints. Fails with its traceback where it does not end well."""
    script = directory / page.name
    script.write_text(program(page.read_text()))
    work = directory / "work"
    work.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "DELIVERIES_URL"}
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(
        command, cwd=work, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def matches(shown: str, printed: str) -> bool:
    """Whether `printed` is `shown`, in which `...` stands for anything within a line."""
    pattern = "[^\n]*".join(re.escape(part) for part in shown.split("..."))
    return re.fullmatch(pattern, printed) is not None
