"""Which database, which application: the options that verbs have in common."""

from __future__ import annotations

import importlib
import operator
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Group, Parameter

from deliveries.cli.failures import UsageError
from deliveries.errors import StoreError

if TYPE_CHECKING:
    from sqlalchemy import URL

    from deliveries.app import Deliveries


_COMMON = Group("Common", sort_key=1)


@Parameter(name="*", group=_COMMON)
@dataclass(frozen=True, kw_only=True)
class Common:
    """What every verb takes."""

    debug: bool = False
    """Show the traceback of an error."""


@Parameter(name="*", group=_COMMON)
@dataclass(frozen=True, kw_only=True)
class Database(Common):
    """What every verb takes that works on a database."""

    app: str | None = None
    """The application, as module:object; the current directory is searched first. [env: DELIVERIES_APP]"""
    url: str | None = None
    """The database, such as sqlite:///deliveries.db. [env: DELIVERIES_URL]"""

    @contextmanager
    def opened(self, *, channels: bool = False, create: bool = False) -> Iterator[Deliveries]:
        """The application, or one of our own for the URL; its connections are closed at the end.

        `channels`: the verb needs the registered adapters, so a URL alone will not do. `create`: a
        SQLite file may be missing; else it is an error, since merely looking would make an empty one.

        Raises: UsageError, StoreError.
        """
        from deliveries.app import Deliveries

        name, url = self._chosen(channels)
        if channels and name is None:
            raise UsageError(
                "this needs the channels of an application: give --app module:object, or set DELIVERIES_APP"
            )
        if name is None and url is None:
            raise UsageError("no database: give --url or --app, or set DELIVERIES_URL or DELIVERIES_APP")
        app = Deliveries(_parsable(url)) if name is None else load(name)
        if name is not None and url is not None:
            _agree(app, Deliveries(_parsable(url)))
        if channels and not app.channels:
            raise UsageError(f"{name} has no channels: no adapter is registered once it is imported")
        if not create:
            _is_there(app.engine.url)
        try:
            yield app
        finally:
            app.close()

    def _chosen(self, channels: bool) -> tuple[str | None, str | None]:
        """Application and URL. An option beats the environment's variable of the other one."""
        name, url = self.app, self.url
        if self.url is None or channels:
            name = name or os.environ.get("DELIVERIES_APP") or None
        if self.app is None:
            url = url or os.environ.get("DELIVERIES_URL") or None
        return name, url


def load(reference: str) -> Deliveries:
    """The application that `module:object` names. Raises: UsageError."""
    from deliveries.app import Deliveries

    module, _, path = reference.partition(":")
    if not module or not path:
        raise UsageError(f"--app {reference!r}: module:object is needed, such as shop.effects:app")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = operator.attrgetter(path)(importlib.import_module(module))
    except (Exception, SystemExit) as error:
        raise UsageError(f"--app {reference!r}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Deliveries):
        raise UsageError(f"--app {reference!r}: a Deliveries is needed, not {type(found).__name__}")
    return found


def _parsable(url: str | None) -> str | None:
    """`url`, if SQLAlchemy can parse it. Raises: UsageError, without the text, which holds a password."""
    from sqlalchemy import make_url

    try:
        if url is not None:
            make_url(url)
    except Exception as error:
        raise UsageError("the database URL cannot be parsed; example: sqlite:///deliveries.db") from error
    return url


def _agree(app: Deliveries, other: Deliveries) -> None:
    ours, theirs = app.engine.url, other.engine.url
    if _place(ours) != _place(theirs):
        raise UsageError(
            f"the application's database is {ours!s}, the URL names {theirs!s}: give one of the two"
        )


def _place(url: URL) -> tuple[object, ...]:
    """What tells one database from another; roles, passwords and drivers do not."""
    if url.get_backend_name() == "sqlite":
        return "sqlite", Path(url.database or "").resolve()
    host = url.query.get("host") or url.host or "localhost"
    return url.get_backend_name(), host, url.port or url.query.get("port") or 5432, url.database


def _is_there(url: URL) -> None:
    path = url.database if url.get_backend_name() == "sqlite" else None
    if path and path != ":memory:" and not path.startswith("file:") and not Path(path).exists():
        raise StoreError(f"there is no file {path}; `deliveries db upgrade` makes one")
