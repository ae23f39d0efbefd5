"""Ourselves beside other queues: the commands of a bench that measures them all alike.

    python benchmarks/peer.py setup URL | tx URL N | bulk URL N | lat URL RATE SECONDS | worker URL OPTIONS

The bench puts its `harness` on the path: it times, and `tick` counts calls of the no-op job. What is
used is the public API with its defaults: durable commits, the whole history, a lease for each attempt.
"""

import contextlib
import signal
import sys
import threading

import psycopg
from harness import main, once, open_loop, repeat, tick
from sqlalchemy import text

from deliveries import Deliveries, Draft

ORDER = "INSERT INTO biz (v) VALUES (%s)"
LEFT = "SELECT count(*) FROM deliveries WHERE status IN ('pending', 'attempting', 'held')"


def application(url):
    app = Deliveries(url)
    app.create_schema()  # as in the README, when a program starts

    @app.adapter("noop")
    def noop(delivery, attempt):
        tick(delivery.payload or 0.0)

    return app


def setup(url):
    app = application(url)
    with app.engine.begin() as connection:
        connection.execute(text("CREATE TABLE biz (id bigserial PRIMARY KEY, v text)"))
    app.close()


async def tx(url, n):
    app, connection = application(url), psycopg.connect(url)

    def order():
        with connection.transaction():
            connection.execute(ORDER, ("x" * 100,))
            app.schedule(connection, "noop")

    await repeat(order, n)
    app.close()


async def bulk(url, n):
    app, connection = application(url), psycopg.connect(url)

    def schedule():
        with connection.transaction():
            app.schedule_many(connection, "noop", [Draft() for _ in range(n)])

    await once(schedule, n)
    app.close()


async def lat(url, rate, seconds):
    app = application(url)

    def schedule(sent):
        with app.engine.begin() as connection:
            app.schedule(connection, "noop", sent)

    await open_loop(schedule, rate, seconds)
    app.close()


def worker(url, options):
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    app = application(url)
    slots = options.get("concurrency", 1_000)
    with contextlib.ExitStack() as running:
        for _ in range(options.get("processors", 2)):  # while one waits for the database, the other decides
            running.enter_context(app.running({"noop": slots}))
        while not stop.wait(0.2):
            pass
    app.close()


if __name__ == "__main__":
    main(sys.modules[__name__])
