"""Who is called when something is due: one who is idle, or all; of each crew that does the same work."""

from __future__ import annotations

from sqlalchemy import create_engine

from deliveries.processor.wakeup import QUEUES, Wakeup


class Worker:
    def __init__(self, is_idle: bool = True) -> None:
        self.is_idle = is_idle
        self.hints = 0

    def hint(self) -> None:
        self.hints += 1


def hints(*workers: Worker) -> list[int]:
    return [worker.hints for worker in workers]


def test_one_who_is_idle_is_enough() -> None:
    wakeup, busy, idle, another = Wakeup(create_engine("sqlite://")), Worker(False), Worker(), Worker()
    with wakeup.on_call(busy, ["mail"]), wakeup.on_call(idle, ["mail"]), wakeup.on_call(another, ["mail"]):
        wakeup.heard()
        assert hints(busy, idle, another) == [0, 1, 0]


def test_all_are_told_where_nobody_is_idle() -> None:
    wakeup, one, other = Wakeup(create_engine("sqlite://")), Worker(False), Worker(False)
    with wakeup.on_call(one, ["mail"]), wakeup.on_call(other, ["mail"]):
        wakeup.heard()
        assert hints(one, other) == [1, 1]


def test_all_are_told_that_a_queue_has_changed() -> None:
    wakeup, one, other = Wakeup(create_engine("sqlite://")), Worker(), Worker()
    with wakeup.on_call(one, ["mail"]), wakeup.on_call(other, ["mail"]):
        wakeup.heard(QUEUES)
        assert hints(one, other) == [1, 1]


def test_who_does_other_work_is_told_too() -> None:
    wakeup, mail, both = Wakeup(create_engine("sqlite://")), Worker(), Worker()
    with wakeup.on_call(mail, ["mail"]), wakeup.on_call(both, ["fax", "mail"]):
        wakeup.heard()
        assert hints(mail, both) == [1, 1]
        assert wakeup.pass_on(["mail", "fax"])
        assert hints(mail, both) == [1, 2]


def test_who_leaves_hands_on_what_it_was_called_for() -> None:
    wakeup, one, other = Wakeup(create_engine("sqlite://")), Worker(), Worker()
    with wakeup.on_call(other, ["mail"]):
        with wakeup.on_call(one, ["mail"]):
            pass
        assert hints(one, other) == [0, 1]
        wakeup.heard()
        assert hints(one, other) == [0, 2]
    assert not wakeup.pass_on(["mail"])
