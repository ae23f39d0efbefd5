"""Webhooks by the included adapter: one processor, a receiver on this machine that takes its time.

    python benchmarks/webhooks.py [--stores sqlite,postgresql] [--waits 5,200] [--concurrency 10,100,1000]

Prints webhooks a second, beside what the waiting alone would allow; our CPU for each, database work
included and the receiver's not; and our resident memory after each third, which should stand still.
An attempt that failed did not connect within the adapter's `connect_timeout`: too many at a time for
one core. The receiver is a process of its own, answers 200 after --waits milliseconds, and ends with us.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import database
from deliveries import Deliveries, Draft
from deliveries.adapters.webhook import Webhook

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
PARTS = 3


class Receiver(asyncio.Protocol):
    """Answers each POST on a connection that stays open. It knows only what our adapter sends."""

    wait = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            length = 0
            for line in self.buffer[:end].lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            asyncio.get_running_loop().call_later(self.wait, self.answer)

    def answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(ANSWER)


async def receive(wait: float) -> None:
    """Serve until whoever started us closes our stdin."""
    Receiver.wait = wait
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Receiver, "127.0.0.1", 0, backlog=2_048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


@contextmanager
def receiver(milliseconds: float) -> Iterator[str]:
    """Its URL."""
    command = [sys.executable, __file__, "receive", str(milliseconds / 1e3)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/hook"
        finally:
            process.stdin.close()
            process.kill()


def resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(app: Deliveries, url: str, wait: float, concurrency: int, seconds: float, most: int) -> str:
    """Perform about `seconds` worth, at most `most`."""
    bound = concurrency / wait * 1e3
    n = max(PARTS * concurrency, min(most, int(bound * seconds))) // PARTS
    done, failed, spent, cpu, memory = 0, 0, 0.0, 0.0, []
    for _ in range(PARTS):
        with app.engine.begin() as connection:
            app.schedule_many(connection, "web", [Draft({"order": i}, recipient=url) for i in range(n)])
        started, busy = time.perf_counter(), time.process_time()
        summary = app.drain({"web": concurrency})
        spent, cpu = spent + time.perf_counter() - started, cpu + time.process_time() - busy
        done, failed = done + summary.succeeded, failed + summary.retrying
        memory.append(f"{resident():.0f}")
    if not done:
        return f"{wait:>6g} ms {concurrency:>6,} at a time: none of {failed:,} attempts succeeded"
    return (
        f"{wait:>6g} ms {concurrency:>6,} at a time {done / spent:>9,.0f}/s of {bound:>9,.0f}"
        f"{cpu / done * 1e3:>8.2f} ms CPU each   memory {' '.join(memory)} MiB"
        + (f"   {failed:,} attempts failed" if failed else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stores", default="sqlite,postgresql")
    parser.add_argument("--waits", default="5,200", help="milliseconds")
    parser.add_argument("--concurrency", default="10,100,1000")
    parser.add_argument("--seconds", type=float, default=10.0, help="worth of work in one measurement")
    parser.add_argument("-n", type=int, default=9_000, help="webhooks in one measurement, at most")
    parser.add_argument("--url", help="a PostgreSQL URL; its role may create databases")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deliveries-webhooks-") as folder:
        for store in options.stores.split(","):
            print(f"\n{store}", flush=True)
            with database(store, Path(folder), options.url) as url:
                app = Deliveries(url)
                app.create_schema()
                app.adapter("web")(Webhook())
                for wait in map(float, options.waits.split(",")):
                    with receiver(wait) as target:
                        for concurrency in map(int, options.concurrency.split(",")):
                            found = measure(app, target, wait, concurrency, options.seconds, options.n)
                            print(f"  {found}", flush=True)
                app.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["receive"]:
        asyncio.run(receive(float(sys.argv[2])))
    else:
        main()
