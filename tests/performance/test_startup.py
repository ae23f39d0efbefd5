"""What is imported, and what is not: times depend on the machine, modules do not."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import deliveries

DATABASES = {"sqlalchemy", "sqlite3", "psycopg", "eventsourcing", "uuid_utils"}
SERVING = {"asyncio", "httpx2", "multiprocessing"}
TALKING = {"cyclopts", "rich"}
TOLD = "; import sys, json; sys.stderr.write(json.dumps(sorted(sys.modules)))"


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import deliveries", DATABASES | SERVING | TALKING | {"msgspec", "dataclasses"}),
        ("from deliveries import Delivered, Retry", DATABASES | SERVING | TALKING),
        ("from deliveries.cli import main; main(['--help'])", DATABASES | SERVING),
        ("from deliveries.cli import main; main(['worker', '--help'])", DATABASES | SERVING),
        ("from deliveries import Deliveries", {"eventsourcing", "psycopg", "httpx2"} | TALKING),
    ],
)
def test_what_is_not_imported(program: str, absent: set[str]) -> None:
    ran = subprocess.run([sys.executable, "-c", program + TOLD], capture_output=True, text=True, check=True)
    loaded = set(json.loads(ran.stderr))
    assert "deliveries" in loaded
    assert sorted(loaded & absent) == []


def test_every_name_is_at_home_where_type_checkers_are_told() -> None:
    """Three lists of the public names, in one file, that must agree."""
    tree = ast.parse(Path(deliveries.__file__).read_text())
    told = {
        name.name: f"deliveries.{name.name}" if block.module == "deliveries" else block.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for block in branch.body
        if isinstance(block, ast.ImportFrom)
        for name in block.names
    }
    assert told == deliveries._HOMES
    assert set(told) == set(deliveries.__all__)


def test_a_name_that_is_none() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        deliveries.nonsense  # noqa: B018
    assert {"Deliveries", "sqlite", "__doc__"} <= set(dir(deliveries))
