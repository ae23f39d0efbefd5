"""A caller in a process of its own, who writes debts down and ends as it is told.

    python caller_process.py '{"url": ..., "end": "killed", "keys": ["k"], "savepoint": false}'

It says "ready" when it runs, waits for a line on stdin, schedules one delivery for each key in one
transaction, says "scheduled" and how many it created, and ends:

`commit`, `rollback`; `killed`: waits, to be killed with the transaction open; `committed`: commits,
then waits; `returned`: the program is over, its session still open; `exit`: `sys.exit` beneath it;
`gone`: without any clean-up; `raised`: an exception that nobody catches.
"""

from __future__ import annotations

import json
import os
import sys

from sqlalchemy.orm import Session

from deliveries import Deliveries, Delivery


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def wait() -> None:
    if not sys.stdin.readline():
        os._exit(1)  # whoever started us is gone


def main(url: str, end: str, keys: list[str], savepoint: bool = False) -> None:
    app = Deliveries(url)
    app.adapter("email")(lambda delivery, attempt: None)
    say("ready")
    wait()
    session = Session(app.engine)
    if savepoint:
        session.begin_nested()
    made: list[Delivery] = [app.schedule(session, "email", {"of": key}, key=key) for key in keys]
    say(f"scheduled {sum(delivery.created for delivery in made)}")
    match end:
        case "commit" | "committed":
            session.commit()
            say("committed")
        case "rollback":
            session.rollback()
            say("rolled back")
        case "exit":
            sys.exit(0)
        case "gone":
            os._exit(0)
        case "raised":
            raise RuntimeError
    if end in ("killed", "committed"):
        wait()
    if end in ("commit", "rollback"):
        app.close()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
