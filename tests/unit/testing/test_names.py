"""What the kit offers by name."""

from __future__ import annotations

import inspect

import pytest

from deliveries import testing

NAMES = """
    AdapterCall AdapterContract Crash DeliveryMachine Fate Kit PolicyContract Receiver Script VirtualClock
    check_terminal_idempotency commands deliveries_in given histories payloads terminal_deliveries under_test
"""


def test_the_names_are_these() -> None:
    assert testing.__all__ == sorted(NAMES.split()) == dir(testing)


@pytest.mark.parametrize("name", NAMES.split())
def test_each_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(testing, name)
    assert inspect.getdoc(value)
    for member, method in vars(value).items() if inspect.isclass(value) else ():
        if inspect.isfunction(method) and not member.startswith("_"):
            assert inspect.getdoc(method), f"{name}.{member}"


def test_another_name_is_none() -> None:
    with pytest.raises(AttributeError, match="no attribute 'histories_of'"):
        testing.histories_of  # noqa: B018
