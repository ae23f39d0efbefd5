"""The demo, as a stranger runs it; and its proof, which must be able to fail."""

from __future__ import annotations

import dataclasses
import io
import os
import random
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from rich.console import Console

from deliveries import Deliveries
from deliveries.cli.demo import LEAST, run
from deliveries.cli.demo_proof import Books, Proof, Request, prove
from deliveries.cli.demo_receiver import Habit
from deliveries.core import events as e

SECONDS = 120.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RULES = e.Rules(
    max_attempts=10, max_interruptions=5, max_snoozes=0, on_unknown="retry", timeout=10.0, retry_in=1.0
)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "deliveries", "demo", *words]


# -- the whole of it ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    path = tmp_path_factory.mktemp("demo") / "kept.db"
    done = subprocess.run(
        command("--deliveries", "80", "--keep", str(path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    return done, path


def test_the_proof_holds(played: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, _ = played
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The proof holds." in done.stdout
    assert re.search(r"ok +every committed delivery was received +80 of 80\n", done.stdout)
    assert re.search(r"ok +none that was rolled back was received +0 of 4\n", done.stdout)


def test_it_says_nothing_beside(played: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, path = played
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert len(done.stdout.splitlines()) <= 60
    assert os.listdir(path.parent) == [path.name]


def test_what_it_counted_is_in_the_database(
    played: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, path = played
    app = Deliveries(f"sqlite:///{path}")
    kinds = [event.type for found in app.find(limit=1_000) for event in app.history(found.id)]
    app.close()
    names = ("Scheduled", "Attempted", "Failed", "Interrupted", "Succeeded", "Cancelled")
    row = re.search(r"^in all (.*)$", done.stdout, re.MULTILINE)
    assert row is not None
    assert row[1].split() == [str(kinds.count(name)) for name in names]
    assert kinds.count("Interrupted") > 0, "the kill hit nothing"


def test_it_shows_an_attempt_that_the_kill_cut_off(
    played: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = played
    killed = re.search(r"^kill -9 (\d+): that worker is gone", done.stdout, re.MULTILINE)
    other = re.search(r"^worker (\d+) takes over", done.stdout, re.MULTILINE)
    assert killed is not None
    assert other is not None
    told = done.stdout.partition("Why did the receiver get this one twice?")[2]
    assert re.search(
        rf"attempt (\d+) started by \S+:{killed[1]}:\S+ .*\n.* attempt \1 was never reported", told
    )
    assert re.search(rf"started by \S+:{other[1]}:\S+ .*\n.* succeeded \(ran", told)


def test_ctrl_c_leaves_no_process_behind() -> None:
    with subprocess.Popen(command(), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if found := re.match(r"worker (\d+) takes over", line):
                break
        else:
            pytest.fail("no second worker was started")
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 130
    assert "Stopped" in rest
    with pytest.raises(ProcessLookupError):
        os.kill(int(found[1]), 0)


def test_a_worker_does_not_outlive_the_demo(sqlite_url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "deliveries.cli.demo_worker", sqlite_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        assert f":{worker.pid}:" in worker.stdout.readline()
        rest = worker.communicate(timeout=SECONDS)  # closes its standard input
    assert rest == ("", "")
    assert worker.returncode == 0


def test_it_does_not_touch_a_file_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "precious.db"
    path.write_text("precious")
    console = Console(file=io.StringIO(), width=200)
    assert run(console, keep=path) == 1
    assert "exists already" in console.file.getvalue()  # type: ignore[attr-defined] - a StringIO
    assert path.read_text() == "precious"


@pytest.mark.parametrize("deliveries", [0, LEAST - 1, 10_001])
def test_numbers_out_of_range_are_refused(deliveries: int) -> None:
    console = Console(file=io.StringIO())
    assert run(console, deliveries=deliveries) == 1


@pytest.mark.parametrize("orders", [LEAST, 80, 1_000])
def test_every_habit_is_met(orders: int) -> None:
    dealt = Habit.deal(orders, random.Random(1))
    assert len(dealt) == orders
    assert set(dealt) == set(Habit)


# -- the proof ---------------------------------------------------------------------------------
#
# Four webhooks, told by one letter each: `a` went well, `b` was refused once, `c` was accepted by a
# worker that was then killed, `d` was refused for good. `z` was rolled back.


def scheduled(order: int) -> e.Event:
    return e.Scheduled(
        delivery_id=UUID(int=order), channel="webhook", queue="webhook", scheduled_at=NOW, payload_digest=""
    )


def attempted(attempt: int, worker: str = "alive") -> e.Event:
    return e.Attempted(attempt=attempt, worker=worker, rules=RULES)


HONEST = Books(
    requests=(
        Request("a", 1, 1, 200),
        Request("b", 1, 2, 500),
        Request("b", 2, 2, 200),
        Request("c", 1, 3, 200),
        Request("d", 1, 4, 410),
        Request("c", 2, 3, 200),
    ),
    streams={
        "a": [scheduled(1), attempted(1), e.Succeeded(attempt=1)],
        "b": [
            scheduled(2),
            attempted(1),
            e.Failed(attempt=1, due_at=NOW),
            attempted(2),
            e.Succeeded(attempt=2),
        ],
        "c": [
            scheduled(3),
            attempted(1, "dead"),
            e.Interrupted(attempt=1, due_at=NOW),
            attempted(2),
            e.Succeeded(attempt=2),
        ],
        "d": [scheduled(4), attempted(1), e.Cancelled(cause="permanent_failure", attempt=1)],
    },
    committed={"a": 1, "b": 2, "c": 3, "d": 4},
    undone={"z": 5},
    killed={"dead"},
)


def broken(proof: Proof) -> list[str]:
    """Claims that do not hold, by what was found first, without the key."""
    return [claim.findings[0].partition(": ")[2] for claim in proof.claims if not claim.holds]


def logged(*requests: Request) -> Books:
    return dataclasses.replace(HONEST, requests=(*HONEST.requests, *requests))


def without(key: str) -> Books:
    return dataclasses.replace(HONEST, requests=[one for one in HONEST.requests if one.key != key])


def with_stream(key: str, *events: e.Event) -> Books:
    return dataclasses.replace(HONEST, streams={**HONEST.streams, key: events})


def test_honest_books_agree() -> None:
    proof = prove(HONEST)
    assert broken(proof) == []
    assert proof.holds
    assert proof.repeated == ("c",)
    assert (proof.effects, proof.acceptances) == (3, 4)


def test_a_delivery_that_was_never_received() -> None:
    assert broken(prove(without("d"))) == ["never received"]


def test_a_success_that_the_receiver_does_not_know() -> None:
    assert broken(prove(without("a"))) == ["never received", "ended otherwise"]


def test_a_committed_delivery_that_is_not_in_the_database() -> None:
    kept = {key: stream for key, stream in HONEST.streams.items() if key != "d"}
    assert "never received" in broken(prove(dataclasses.replace(HONEST, streams=kept)))


def test_a_rolled_back_delivery_that_was_received() -> None:
    assert broken(prove(logged(Request("z", 1, 5, 200)))) == [
        "rolled back, and there all the same",
        "called without a record of its own",
    ]


def test_a_rolled_back_delivery_that_was_refused_was_sent_all_the_same() -> None:
    assert "rolled back, and there all the same" in broken(prove(logged(Request("z", 1, 5, 500))))


def test_a_rolled_back_delivery_that_is_in_the_database() -> None:
    books = with_stream("z", scheduled(5), attempted(1), e.Cancelled(cause="permanent_failure", attempt=1))
    assert broken(prove(books)) == ["rolled back, and there all the same"]


def test_a_key_that_nobody_owes() -> None:
    assert "owed by nobody" in broken(prove(logged(Request("?", 1, 6, 200))))


def test_a_repetition_without_a_kill() -> None:
    again = e.Failed(attempt=1, due_at=NOW)
    books = dataclasses.replace(
        with_stream("a", scheduled(1), attempted(1), again, attempted(2), e.Succeeded(attempt=2)),
        requests=(*HONEST.requests, Request("a", 2, 1, 200)),
    )
    assert broken(prove(books)) == ["repeated without a kill"]


def test_a_repetition_after_a_crash_of_a_worker_that_nobody_killed() -> None:
    assert broken(prove(dataclasses.replace(HONEST, killed={"another"}))) == ["repeated without a kill"]


def test_a_repetition_after_an_attempt_that_was_given_back_unentered() -> None:
    stream = list(HONEST.streams["c"])
    stream[2] = e.Interrupted(attempt=1, due_at=NOW, cause="given_back")
    assert broken(prove(with_stream("c", *stream))) == ["repeated without a kill"]


def test_a_repetition_under_the_same_attempt() -> None:
    found = broken(prove(logged(Request("a", 1, 1, 200))))
    assert found == ["called without a record of its own", "repeated without a kill"]


def test_a_repetition_under_another_key() -> None:
    assert "order with more than one key" in broken(prove(logged(Request("b", 3, 1, 500))))


def test_an_attempt_that_was_never_written_down() -> None:
    assert broken(prove(logged(Request("d", 2, 4, 410)))) == ["called without a record of its own"]


def test_an_acceptance_that_was_recorded_as_a_failure() -> None:
    exhausted = e.Exhausted(cause="attempts", attempt=1)
    assert broken(prove(with_stream("a", scheduled(1), attempted(1), exhausted))) == ["ended otherwise"]


def test_a_delivery_that_has_not_ended() -> None:
    assert "ended otherwise" in broken(prove(with_stream("d", scheduled(4), attempted(1))))
