"""The testing kit: an application under test, contract suites, strategies and a state machine.

With pytest there is nothing to import: ask for the fixture `deliveries_kit`. Elsewhere say
`with under_test(app) as kit:`. What needs Hypothesis or pytest imports it when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deliveries.testing.clock import VirtualClock as VirtualClock
    from deliveries.testing.contract import AdapterContract as AdapterContract
    from deliveries.testing.contract import Receiver as Receiver
    from deliveries.testing.idempotency import check_terminal_idempotency as check_terminal_idempotency
    from deliveries.testing.kit import Kit as Kit
    from deliveries.testing.kit import under_test as under_test
    from deliveries.testing.machine import DeliveryMachine as DeliveryMachine
    from deliveries.testing.performing import AdapterCall as AdapterCall
    from deliveries.testing.performing import Crash as Crash
    from deliveries.testing.policy_contract import PolicyContract as PolicyContract
    from deliveries.testing.scripts import Fate as Fate
    from deliveries.testing.scripts import Script as Script
    from deliveries.testing.stories import given as given
    from deliveries.testing.strategies import commands as commands
    from deliveries.testing.strategies import deliveries_in as deliveries_in
    from deliveries.testing.strategies import histories as histories
    from deliveries.testing.strategies import payloads as payloads
    from deliveries.testing.strategies import terminal_deliveries as terminal_deliveries

_HOMES = {
    "AdapterCall": "performing",
    "AdapterContract": "contract",
    "Crash": "performing",
    "DeliveryMachine": "machine",
    "Fate": "scripts",
    "Kit": "kit",
    "PolicyContract": "policy_contract",
    "Receiver": "contract",
    "Script": "scripts",
    "VirtualClock": "clock",
    "check_terminal_idempotency": "idempotency",
    "commands": "strategies",
    "deliveries_in": "strategies",
    "given": "stories",
    "histories": "strategies",
    "payloads": "strategies",
    "terminal_deliveries": "strategies",
    "under_test": "kit",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - mypy and readers have the list above


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
