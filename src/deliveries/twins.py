"""The asynchronous twins: the same acts on an AsyncSession, or off the event loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

from deliveries.core.delivery import Delivery
from deliveries.core.outcomes import Outcome
from deliveries.core.stream import Recorded
from deliveries.errors import CallerError
from deliveries.scheduling import Draft

if TYPE_CHECKING:
    from deliveries.app import Deliveries
    from deliveries.audit.doctor import Diagnosis
    from deliveries.audit.explain import Explanation
    from deliveries.audit.export import Exported
    from deliveries.audit.proof import Proof
    from deliveries.audit.seal import Seal
    from deliveries.audit.trace import Trace
    from deliveries.audit.verify import AuditReport
    from deliveries.bulk import Report
    from deliveries.processor.ledger import Summary
    from deliveries.processor.performed import Performed
    from deliveries.processor.processor import Processor
    from deliveries.replaying import Rebuilt
    from deliveries.store.evidence import Evidence
    from deliveries.where import Filter

T = TypeVar("T")
AsyncBind = AsyncSession | async_scoped_session[AsyncSession] | AsyncConnection


class AsyncTwins:
    """What `Deliveries` offers to asynchronous callers; each method is its twin without the `a`."""

    @property
    def _sync(self) -> Deliveries:
        return cast("Deliveries", self)

    async def aschedule(
        self, session: AsyncBind, channel: str, payload: Any = None, **options: Any
    ) -> Delivery:
        """`schedule` in the caller's asynchronous transaction, with any driver."""
        return await in_session(session, lambda bind: self._sync.schedule(bind, channel, payload, **options))

    async def aschedule_many(
        self, session: AsyncBind, channel: str, drafts: Sequence[Draft]
    ) -> list[Delivery]:
        """`schedule_many` in the caller's asynchronous transaction."""
        return await in_session(session, lambda bind: self._sync.schedule_many(bind, channel, drafts))

    async def aget(self, id: UUID | str, *, session: AsyncBind | None = None) -> Delivery:
        """`get`."""
        return await read_in(session, lambda bind: self._sync.get(id, session=bind))

    async def ahistory(self, id: UUID | str, *, session: AsyncBind | None = None) -> list[Recorded]:
        """`history`."""
        return await read_in(session, lambda bind: self._sync.history(id, session=bind))

    async def aexplain(self, id: UUID | str, *, session: AsyncBind | None = None) -> Explanation:
        """`explain`."""
        return await read_in(session, lambda bind: self._sync.explain(id, session=bind))

    async def afind(
        self, where: Filter | None = None, *, session: AsyncBind | None = None, **wanted: Any
    ) -> list[Delivery]:
        """`find`."""
        return await read_in(session, lambda bind: self._sync.find(where, session=bind, **wanted))

    async def apages(
        self, where: Filter | None = None, *, limit: int = 1_000, **wanted: Any
    ) -> AsyncIterator[list[Delivery]]:
        """`pages`; each page is read in a thread."""
        pages = self._sync.pages(where, limit=limit, **wanted)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page

    async def atrace(
        self, correlation_id: str, *, limit: int = 1_000, session: AsyncBind | None = None
    ) -> Trace:
        """`trace`."""
        return await read_in(
            session, lambda bind: self._sync.trace(correlation_id, limit=limit, session=bind)
        )

    async def areplay(self, id: UUID | str, *, session: AsyncBind | None = None, **moment: Any) -> Delivery:
        """`replay`."""
        return await read_in(session, lambda bind: self._sync.replay(id, session=bind, **moment))

    async def arebuild(self, id: UUID | str | None = None, *, dry_run: bool = False) -> Rebuilt:
        """`rebuild`, in a thread."""
        return await asyncio.to_thread(self._sync.rebuild, id, dry_run=dry_run)

    async def aexport(self, path: Any, **options: Any) -> Exported:
        """`export`, in a thread."""
        return await asyncio.to_thread(self._sync.export, path, **options)

    async def aseal(self, path: Any, **options: Any) -> Seal:
        """`seal`, in a thread."""
        return await asyncio.to_thread(self._sync.seal, path, **options)

    async def aagainst(self, path: Any, **options: Any) -> Proof:
        """`against`, in a thread."""
        return await asyncio.to_thread(self._sync.against, path, **options)

    async def aaudit(self, where: Filter | None = None, **options: Any) -> AuditReport:
        """`audit`, in a thread."""
        return await asyncio.to_thread(self._sync.audit, where, **options)

    async def adoctor(self, **options: Any) -> Diagnosis:
        """`doctor`, in a thread."""
        return await asyncio.to_thread(self._sync.doctor, **options)

    async def acancel(self, session: AsyncBind, id: UUID | str, **options: Any) -> Delivery:
        """`cancel`."""
        return await in_session(session, lambda bind: self._sync.cancel(bind, id, **options))

    async def asuppress(self, session: AsyncBind, id: UUID | str, **options: Any) -> Delivery:
        """`suppress`."""
        return await in_session(session, lambda bind: self._sync.suppress(bind, id, **options))

    async def areschedule(self, session: AsyncBind, id: UUID | str, **options: Any) -> Delivery:
        """`reschedule`."""
        return await in_session(session, lambda bind: self._sync.reschedule(bind, id, **options))

    async def aresolve(
        self, session: AsyncBind, id: UUID | str, outcome: Outcome, **options: Any
    ) -> Delivery:
        """`resolve`."""
        return await in_session(session, lambda bind: self._sync.resolve(bind, id, outcome, **options))

    async def atick(self) -> list[Delivery]:
        """`tick`, in a thread: payload functions never run on the caller's event loop."""
        return await asyncio.to_thread(self._sync.tick)

    async def aredrive(self, session: AsyncBind, id: UUID | str, **options: Any) -> Delivery:
        """`redrive`."""
        return await in_session(session, lambda bind: self._sync.redrive(bind, id, **options))

    async def arecord_evidence(self, session: AsyncBind, kind: str, **options: Any) -> Delivery:
        """`record_evidence`."""
        return await in_session(session, lambda bind: self._sync.record_evidence(bind, kind, **options))

    async def aevidence(self, id: UUID | str, *, session: AsyncBind | None = None) -> list[Evidence]:
        """`evidence`."""
        return await read_in(session, lambda bind: self._sync.evidence(id, session=bind))

    async def acancel_where(self, where: Filter, **options: Any) -> Report:
        """`cancel_where`, in a thread."""
        return await asyncio.to_thread(self._sync.cancel_where, where, **options)

    async def asuppress_where(self, where: Filter, **options: Any) -> Report:
        """`suppress_where`, in a thread."""
        return await asyncio.to_thread(self._sync.suppress_where, where, **options)

    async def areschedule_where(self, where: Filter, **options: Any) -> Report:
        """`reschedule_where`, in a thread."""
        return await asyncio.to_thread(self._sync.reschedule_where, where, **options)

    async def aredrive_where(self, where: Filter, **options: Any) -> Report:
        """`redrive_where`, in a thread."""
        return await asyncio.to_thread(self._sync.redrive_where, where, **options)

    async def aprune(self, older_than: float | timedelta, **options: Any) -> Report:
        """`prune`, in a thread."""
        return await asyncio.to_thread(self._sync.prune, older_than, **options)

    async def aerase(self, **options: Any) -> Report:
        """`erase`, in a thread."""
        return await asyncio.to_thread(self._sync.erase, **options)

    async def aperform(self, id: UUID | str, **options: Any) -> Performed:
        """`perform`, in a thread: adapters never run on the caller's event loop."""
        return await asyncio.to_thread(self._sync.perform, id, **options)

    async def adrain(self, queues: Mapping[str, int] | None = None, **settings: Any) -> Summary:
        """`drain`, in a thread."""
        return await asyncio.to_thread(self._sync.drain, queues, **settings)

    @asynccontextmanager
    async def running_async(
        self, queues: Mapping[str, int] | None = None, **settings: Any
    ) -> AsyncIterator[Processor]:
        """`running`: the processor has its own thread and loop, and stops without blocking ours."""
        processor = self._sync.processor(queues, **settings)
        processor.start()
        try:
            yield processor
        finally:
            processor.stop()
            await asyncio.shield(asyncio.to_thread(processor.join))

    def lifespan(
        self, asgi_app: object = None, queues: Mapping[str, int] | None = None, **settings: Any
    ) -> AbstractAsyncContextManager[None]:
        """A processor for as long as an ASGI application lives: `FastAPI(lifespan=app.lifespan)`.

        A lifespan of your own passes `queues` and `settings` on, as to `processor`.
        """
        return _lifespan(self._sync.running_async(queues, **settings))


@asynccontextmanager
async def _lifespan(running: AbstractAsyncContextManager[Processor]) -> AsyncIterator[None]:
    async with running:
        yield


async def in_session(session: AsyncBind, act: Callable[[Any], T]) -> T:
    """Run `act` on the synchronous side of the caller's session or connection."""
    if isinstance(session, async_scoped_session):
        session = session()
    if not isinstance(session, (AsyncSession, AsyncConnection)):
        raise CallerError(f"an AsyncSession or AsyncConnection is needed, not {type(session).__name__}")
    return await session.run_sync(act)


async def read_in(session: AsyncBind | None, act: Callable[[Any], T]) -> T:
    """Run `act` in the caller's transaction, or without one in a thread."""
    if session is None:
        return await asyncio.to_thread(act, None)
    return await in_session(session, act)
