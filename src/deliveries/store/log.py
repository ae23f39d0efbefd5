"""The event log as an `eventsourcing` application: to read, to subscribe to, to project from.

Nothing but the store decides how it works. The library would merge `os.environ` into every
application, so that a stray CIPHER_KEY or PERSISTENCE_MODULE would send it to another database or
make every event unreadable; here no environment is looked at.

Events are decoded through our closed registry. The library's own mapper imports whatever a row
names as its topic; here an event of an unknown type, or one that cannot be decoded, becomes an
`UnreadableDeliveryEvent`, so that no single row can run code or end a subscription.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from uuid import UUID

from eventsourcing import persistence as es
from eventsourcing.application import Application, Repository
from eventsourcing.utils import Environment, EnvType
from msgspec import Struct

from deliveries.core import codec
from deliveries.core.delivery import Delivery
from deliveries.core.events import Event
from deliveries.core.stream import step
from deliveries.errors import UnreadableEvent
from deliveries.store.recorder import ChainedEvent, ChainedNotification, DeliveryRecorder
from deliveries.store.store import Store

if TYPE_CHECKING:
    from eventsourcing.projection import ApplicationSubscription


class Envelope(Struct, frozen=True, kw_only=True):
    """What a row says of any event, readable or not."""

    originator_id: UUID
    """The delivery."""
    originator_version: int
    """Place in its stream; starts at 1."""
    timestamp: datetime
    """When it was recorded, UTC."""
    type: str
    """The event's public name; what `topics` filters by."""
    schema_version: int
    digest: bytes


class DeliveryEvent(Envelope, frozen=True, kw_only=True):
    """One event of one delivery."""

    event: Event

    def read(self) -> Event:
        """The event."""
        return self.event


class UnreadableDeliveryEvent(Envelope, frozen=True, kw_only=True):
    """An event of an unknown type or version, or with a broken body."""

    body: bytes
    """As stored."""
    reason: str

    def read(self) -> NoReturn:
        """Raises: UnreadableEvent."""
        raise UnreadableEvent(self.reason)


LogEvent = DeliveryEvent | UnreadableDeliveryEvent


def project_delivery(delivery: Delivery | None, domain_events: Iterable[LogEvent]) -> Delivery | None:
    """The delivery that its events amount to, without contents: the projector of our repository.

    Raises: CorruptHistory where an event is unreadable, out of place, or forbidden by the table.
    """
    for entry in domain_events:
        delivery = step(delivery, entry.originator_id, entry.originator_version, entry.read)
    return delivery


class DeliveryMapper(es.Mapper[UUID]):
    """Rows to envelopes. There is no way back: deliveries are written through `Deliveries`."""

    def __init__(self) -> None:
        super().__init__(es.JSONTranscoder())

    def to_domain_event(self, stored_event: es.StoredEvent) -> Any:
        assert isinstance(stored_event, (ChainedEvent, ChainedNotification))
        assert isinstance(stored_event.originator_id, UUID)
        envelope: dict[str, Any] = {
            "originator_id": stored_event.originator_id,
            "originator_version": stored_event.originator_version,
            "timestamp": stored_event.recorded_at,
            "type": stored_event.topic,
            "schema_version": stored_event.schema_version,
            "digest": stored_event.digest,
        }
        try:
            event = codec.decode(stored_event.topic, stored_event.schema_version, stored_event.state)
        except UnreadableEvent as error:
            return UnreadableDeliveryEvent(body=stored_event.state, reason=str(error), **envelope)
        return DeliveryEvent(event=event, **envelope)

    def to_stored_event(self, domain_event: Any) -> NoReturn:
        raise es.ProgrammingError("the event log is read only: deliveries are written through Deliveries")


class DeliveryFactory(es.InfrastructureFactory[es.TrackingRecorder]):
    """One recorder for every purpose, and nothing that an environment could change."""

    def __init__(self, env: Environment, recorder: DeliveryRecorder) -> None:
        super().__init__(env)
        self._recorder = recorder

    def mapper(self, transcoder: Any = None, mapper_class: Any = None) -> Any:
        return DeliveryMapper()

    def aggregate_recorder(self, purpose: str = "events") -> DeliveryRecorder:
        if purpose != "events":
            raise es.NotSupportedError(f"deliveries are folded from all their events: no {purpose}")
        return self._recorder

    def application_recorder(self) -> DeliveryRecorder:
        return self._recorder

    def tracking_recorder(self, tracking_recorder_class: Any = None) -> DeliveryRecorder:
        return self._recorder

    def process_recorder(self) -> DeliveryRecorder:
        return self._recorder


class DeliveryRepository(Repository[UUID]):
    """Folds deliveries; `projector_func` is `project_delivery` unless told otherwise."""

    def get(self, aggregate_id: UUID, *, projector_func: Any = project_delivery, **options: Any) -> Any:
        return super().get(aggregate_id, projector_func=projector_func, **options)


class DeliveryLog(Application[UUID]):
    """All events of all deliveries of one store. Made by `log_class`, which binds the store.

    Subscriptions and projections get `DeliveryEvent`, or `UnreadableDeliveryEvent` in its place.
    `name` stands before positions in the tables of projections, so it never changes.
    """

    name = "DeliveryLog"
    log_section_size = 1_000
    bound: ClassVar[DeliveryRecorder]
    """The recorder, one for all instances, so that one `wake` reaches every subscription."""

    def wake(self) -> None:
        """Let subscriptions look for new events now. Call it after a commit."""
        self.bound.wake()

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> ApplicationSubscription[UUID]:
        """Pairs of event and `Tracking`, above position `gt`, of types `topics`; waits for more.

        Use it in a `with` block; its `stop()` ends the iteration from any thread.
        """
        from eventsourcing.projection import ApplicationSubscription

        return ApplicationSubscription(self, gt, topics)

    def get_delivery(self, delivery_id: UUID, version: int | None = None) -> Delivery:
        """The delivery, without contents, as its events tell it; at `version` if given.

        Raises: CorruptHistory, and `eventsourcing`'s AggregateNotFoundError.
        """
        delivery = self.repository.get(delivery_id, version=version, projector_func=project_delivery)
        assert isinstance(delivery, Delivery)
        return delivery

    # -- how the library builds an application -------------------------------------------------

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:
        """An empty one, `env` unread: a runner passes what was meant for its projection."""
        return Environment(name)

    def construct_factory(self, env: Environment) -> DeliveryFactory:
        return DeliveryFactory(env, self.bound)

    def construct_transcoder(self) -> es.Transcoder:
        return es.JSONTranscoder()

    def construct_repository(self) -> DeliveryRepository:
        return DeliveryRepository(self.events)


def log_class(store: Store) -> type[DeliveryLog]:
    """The log of `store` as a class, since `eventsourcing`'s runners make the instance themselves."""
    namespace = {
        "__doc__": DeliveryLog.__doc__,
        "__module__": DeliveryLog.__module__,
        "name": DeliveryLog.name,
        "bound": DeliveryRecorder(store),
    }
    return type(DeliveryLog.__name__, (DeliveryLog,), namespace)
