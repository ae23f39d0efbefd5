"""Where adapters run: sync ones in threads, async ones on one event loop in a thread of its own.

Whatever an adapter does, its call comes back through `done`, once: returned, raised (a
`BaseException` too) or abandoned. The processor's own thread never runs user code.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from types import CoroutineType
from typing import Any

from deliveries.core.notes import type_name
from deliveries.processor.call import Call
from deliveries.processor.threads import Threads

_log = logging.getLogger("deliveries")


class Executor:
    """Runs calls. `done(call)` is called from the thread that ran it."""

    def __init__(self, done: Callable[[Call], None]) -> None:
        self._gate = threading.Lock()  # a call is entered or withdrawn, never both
        self._done = done
        self._threads = Threads(self._run, self._over)
        self._loop = _Loop(self._run_async, self._over)

    def submit(self, calls: Sequence[Call]) -> None:
        """Start these calls; they begin in this order."""
        if waiting := [call for call in calls if call.is_async]:
            self._loop.submit(waiting)
        if blocking := [call for call in calls if not call.is_async]:
            self._threads.submit(blocking)

    def withdraw(self, call: Call) -> bool:
        """Keep `call` from being entered; False where it was entered already."""
        with self._gate:
            call.withdrawn = not call.entered
            return call.withdrawn

    def abandon(self) -> None:
        """Cancel what runs on the event loop. A thread cannot be cancelled."""
        self._loop.cancel_all()

    def close(self) -> None:
        """Stop the loop and the idle threads; waits for neither calls nor threads that are stuck."""
        self._threads.close()
        self._loop.close()

    def _enter(self, call: Call) -> bool:
        with self._gate:
            return call.enter()

    def _over(self, call: Call) -> None:
        """The call is over once it is known what was said, which is the adapter's own time."""
        if call.entered and not call.gave_up:
            call.read()
        self._done(call)

    def _run(self, call: Call) -> None:
        if not self._enter(call):
            return
        try:
            call.value = call.function(call.delivery, call.attempt)
            if issubclass(type(call.value), CoroutineType):  # an async adapter that does not look like one
                call.value = asyncio.run(asyncio.wait_for(call.value, call.timeout))  # type: ignore[arg-type]
        except BaseException as error:
            call.error = error

    async def _run_async(self, call: Call) -> None:
        if not self._enter(call):
            return
        scope = asyncio.timeout(call.timeout)
        try:
            async with scope:
                call.value = await call.function(call.delivery, call.attempt)
                if issubclass(type(call.value), CoroutineType):  # an `await` was forgotten: it has not run
                    call.value = await call.value  # type: ignore[misc]  # a coroutine
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                call.gave_up = True
            else:
                call.error = error  # the adapter's own doing
        except BaseException as error:
            if issubclass(type(error), TimeoutError) and scope.expired():  # never asking its `__class__`
                call.time_out()
                call.error = error
            else:
                call.error = error


class _Loop:
    """One event loop in a daemon thread, started with the first call."""

    def __init__(self, run: Callable[[Call], Any], done: Callable[[Call], None]) -> None:
        self._run, self._done = run, done
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def submit(self, calls: Sequence[Call]) -> None:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._serve, name="deliveries-loop", daemon=True)
            self._thread.start()
        self._loop.call_soon_threadsafe(self._start, calls)

    def cancel_all(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._tasks])

    def close(self) -> None:
        """Ask the loop to end: cancel, let generators finish, close. A blocked loop is left behind."""
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            self._closing = True
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(timeout=2.0)

    def _serve(self) -> None:
        loop = self._loop
        assert loop is not None
        asyncio.set_event_loop(loop)
        try:
            while not self._closing:
                self._run_loop(loop)
        finally:
            for task in self._tasks:
                task.cancel()
            if left := list(self._tasks):
                loop.run_until_complete(asyncio.wait(left, timeout=1.0))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    @staticmethod
    def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
        """Until it is stopped: by us, or by an adapter, whose neighbours must go on."""
        try:
            loop.run_forever()
        except BaseException as error:  # SystemExit or KeyboardInterrupt in a task that an adapter left
            _log.error("something that an adapter left on the event loop raised %s", type_name(error))

    def _start(self, calls: Sequence[Call]) -> None:
        assert self._loop is not None
        for call in calls:
            task = self._loop.create_task(self._call(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _call(self, call: Call) -> None:
        await self._run(call)
        self._done(call)
