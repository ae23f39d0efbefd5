"""I9: the fold is total and deterministic, here and in another process, time zone, locale, hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deliveries.core import codec
from deliveries.core.backoff import Backoff, jitter
from deliveries.core.machine import fold
from deliveries.core.stream import START, advance, replay
from deliveries.testing.lives import DETOURS, ENDINGS, Life, life
from deliveries.testing.strategies import lives, rambles

TESTS = Path(__file__).parents[2]


@given(st.one_of(lives(), rambles()))
def test_every_prefix_folds_to_a_state_of_its_length(life: Life) -> None:
    for length in range(len(life.events) + 1):
        delivery = fold(life.events[:length])
        assert (0 if delivery is None else delivery.version) == length


@given(st.one_of(lives(), rambles()))
def test_twice_gives_equal_states_and_equal_bytes(life: Life) -> None:
    once, twice = fold(life.events), fold(list(life.events))
    assert once == twice == life.delivery
    assert msgspec.json.encode(once) == msgspec.json.encode(twice)


@given(st.one_of(lives(), rambles()))
def test_events_that_went_through_bytes_fold_to_the_same(life: Life) -> None:
    bodies = [(type(event).__name__, event.schema_version, codec.encode(event)) for event in life.events]
    read = [codec.decode(*row) for row in bodies]
    assert read == life.events
    assert [codec.encode(event) for event in read] == [body for _, _, body in bodies]
    assert msgspec.json.encode(fold(read)) == msgspec.json.encode(life.delivery)


@given(st.one_of(lives(), rambles()), st.data())
def test_a_fold_may_stop_anywhere_and_go_on(life: Life, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(life.events)))
    assert fold(life.events[cut:], fold(life.events[:cut])) == life.delivery


@given(rambles())
def test_telling_a_life_again_gives_the_same_chain(life: Life) -> None:
    def chain() -> list[bytes]:
        stream, digests = START, []
        for command in life.commands:
            change = advance(stream, command)
            if change is not None:
                digests.append(change.recorded.digest)
                stream = change.stream
        return digests

    assert chain() == chain()


def account() -> str:
    """Every ending, told from its commands: stored bytes, digests, replayed states, retry times."""
    lines = []
    for ending in ENDINGS:
        told = life(ending, DETOURS, tags=("b", "a", "\u0131"), key="Ünïque")  # dotless i
        stream, history = START, []
        for command in told.commands:
            change = advance(stream, command)
            assert change is not None
            history.append(change.recorded)
            stream = change.stream
        assert replay(history) == stream
        lines += [f"{row.type} {row.body.decode()} {row.digest.hex()} {row.recorded_at}" for row in history]
        lines.append(msgspec.json.encode(stream.delivery).decode())
        lines.append(repr(stream.delivery))
        waits = [Backoff.exponential().delay(n, jitter(told.scheduled.delivery_id, n)) for n in (1, 2, 3)]
        lines.append(repr(waits))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "abroad",
    [
        {"PYTHONHASHSEED": "1", "TZ": "Pacific/Apia", "LC_ALL": "C", "PYTHONUTF8": "0"},
        {"PYTHONHASHSEED": "4242", "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "PYTHONOPTIMIZE": "1"},
    ],
    ids=["apia", "kathmandu"],
)
def test_another_process_elsewhere_tells_the_same(abroad: dict[str, str]) -> None:
    script = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('witness', sys.argv[1])\n"
        "witness = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(witness)\n"
        "sys.stdout.buffer.write(witness.account().encode())\n"
    )
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    told = subprocess.run(
        [sys.executable, "-c", script, __file__],
        env=os.environ | abroad | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.decode() == account()
