"""The command `deliveries`: one noun, few verbs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

_EXTRA = ("cyclopts", "rich")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (None: the process's) and return its exit code.

    0 done; 1 something is wrong with what was found; 2 the command line is; 128 + n after signal n.
    """
    if any(find_spec(name) is None for name in _EXTRA):
        sys.stderr.write("deliveries: the command line is an extra: pip install 'deliveries[cli]'\n")
        return 2
    from deliveries.cli.app import run

    return run(sys.argv[1:] if argv is None else argv)
