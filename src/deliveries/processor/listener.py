"""Hearing the hints of other processes: LISTEN on a connection of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

CHANNEL = "deliveries"
QUEUES = "queues"
"""The payload that says what is wanted of queues changed."""

_log = logging.getLogger("deliveries")


class Listener(threading.Thread):
    """Calls `hinted` at every NOTIFY, on a connection of its own. Reconnects for ever."""

    def __init__(self, engine: Engine, hinted: Callable[[str], None], url: str | None = None) -> None:
        super().__init__(name="deliveries-listen", daemon=True)
        self._engine, self._hinted, self._url = engine, hinted, url
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End within a second."""
        self._stopping.set()
        self.join(timeout=3.0)

    def run(self) -> None:
        warned = False
        while not self._stopping.is_set():
            try:
                with contextlib.closing(self._connect()) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._hinted(QUEUES)  # what came before we listened
                    while not self._stopping.is_set():
                        for heard in connection.notifies(timeout=0.5):
                            self._hinted(heard.payload)
            except Exception as error:
                level = logging.DEBUG if warned else logging.WARNING
                _log.log(level, "cannot listen for notifications, polling instead: %s", error)
                warned = True
                self._stopping.wait(1.0)

    def _connect(self) -> Any:
        import psycopg

        if self._url is not None:
            return psycopg.connect(self._url, autocommit=True)
        arguments, options = self._engine.dialect.create_connect_args(self._engine.url)
        return psycopg.connect(*arguments, **{**options, "autocommit": True})
