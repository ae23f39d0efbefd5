"""The verbs by name, and what becomes of a verb: its exit code, and one line where it failed."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from cyclopts import App, CycloptsError, Parameter

from deliveries.cli import (
    audit,
    demonstration,
    doctor,
    exporting,
    keeping,
    operating,
    performing,
    queues,
    reading,
    recurring,
    replaying,
    setup,
    stats,
    suppressions,
    tail,
    writing,
)
from deliveries.cli.failures import judge
from deliveries.cli.options import Common
from deliveries.cli.output import say, text_console

HELP = "Debts to the outside world, in your own database: what is owed, what became of it, and why."

EPILOGUE = """\
A database is named by --url or DELIVERIES_URL, an application by --app or DELIVERIES_APP.

With --json, stdout has nothing but JSON: one document a line; list prints one line per delivery.

Exit codes:
0: done.
1: something is wrong with what was found: no such delivery, a conflict, a silent database, ...
2: the command line is wrong.
128 + n: stopped early by signal n."""

VERBS: tuple[Callable[..., int], ...] = (
    reading.list_,
    reading.show,
    reading.explain,
    reading.trace,
    doctor.doctor,
    audit.audit,
    replaying.replay,
    replaying.diff,
    replaying.rebuild,
    exporting.export,
    exporting.view,
    writing.schedule,
    operating.cancel,
    operating.suppress,
    operating.reschedule,
    operating.resolve,
    operating.redrive,
    keeping.prune,
    keeping.erase,
    performing.worker,
    performing.drain,
    recurring.periodic,
    tail.tail,
    stats.stats,
    demonstration.demo,
)


def application() -> App:
    """The verbs, and the help that is made from their docstrings."""
    app = App(
        name="deliveries",
        help=HELP,
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version=_version,
        default_parameter=Parameter(negative=(), show_default=False),
    )
    for verb in VERBS:
        app.command(verb, name=verb.__name__.rstrip("_"), help_epilogue="")
    schema = App(name="db", help="Create the tables, or print the SQL that does.", help_epilogue="")
    schema.command(setup.upgrade)
    schema.command(setup.sql)
    app.command(schema)
    evidence = App(name="evidence", help="What is known of effects beside their events.", help_epilogue="")
    evidence.command(keeping.add)
    evidence.command(keeping.list_, name="list")
    app.command(evidence)
    ops = App(
        name="queues", help="Pause, resume, scale and limit queues, for all processors.", help_epilogue=""
    )
    for verb in queues.VERBS:
        ops.command(verb, name=verb.__name__.rstrip("_"), help_epilogue="")
    app.command(ops)
    closed = App(name="suppressions", help="Who must not get anything any more.", help_epilogue="")
    closed.command(suppressions.add)
    closed.command(suppressions.remove)
    closed.command(suppressions.list_, name="list")
    app.command(closed)
    return app


def _version() -> str:
    from importlib import metadata

    return metadata.version("deliveries")


def run(argv: Sequence[str]) -> int:
    """Parse, run the verb, and turn whatever it raises into an exit code and one line on stderr."""
    try:
        verb, bound, _ = application().parse_args(
            list(argv), console=text_console(), print_error=False, exit_on_error=False
        )
    except CycloptsError as error:
        say(f"{error} (see --help)")
        return 2
    debug = any(isinstance(value, Common) and value.debug for value in bound.arguments.values())
    try:
        code = verb(*bound.args, **bound.kwargs)
        sys.stdout.flush()
    except BrokenPipeError:
        return _nobody_reads()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, line = judge(error)
        say(line)
    return int(code or 0)


def _nobody_reads() -> int:
    """`deliveries list | head -1`: end as a program that SIGPIPE ended, and without a word.

    Python flushes stdout once more at exit, so it must lead somewhere.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
