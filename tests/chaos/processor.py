"""A processor process: performs until SIGTERM.

python processor.py '{"url": ..., "directory": ...}'
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # while it still starts, it has nothing to finish

from chaos.shop import QUEUES, SETTINGS, Trace, application  # noqa: E402 - after the line above


def main(url: str, directory: str) -> None:
    app = application(url, Trace(directory))
    processor = app.processor(QUEUES, **SETTINGS)

    def stop(signum: int, frame: Any) -> None:
        processor.stop()

    signal.signal(signal.SIGTERM, stop)
    processor.start()
    while processor.is_alive:
        processor.join(0.1)  # a signal is handled between two joins
    app.close()
    sys.exit(0 if processor.error is None else 1)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
