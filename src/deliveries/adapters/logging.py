"""A log line in place of an effect: for development, and for a channel that leads nowhere yet.

app.adapter("sms")(Log())
"""

from __future__ import annotations

import logging

from deliveries.core.delivery import Attempt, Delivery
from deliveries.errors import InvalidAdapter, shown


class Log:
    """An adapter that logs each attempt, and succeeds.

    Args:
        logger: The name of the logger.
        level: Of the record, as in `logging`.
        contents: Log recipient and payload too. They are then in your logs for as long as those
            last, beyond the reach of any erasure; so it is off unless asked for.

    Raises:
        InvalidAdapter: the level is no number.
    """

    effect = "natural"

    def __init__(
        self, logger: str = "deliveries.sent", *, level: int = logging.INFO, contents: bool = False
    ) -> None:
        if isinstance(level, bool) or not isinstance(level, int):
            raise InvalidAdapter(f"level must be a number such as logging.INFO, not {shown(level)}")
        self._logger, self._level, self._contents = logging.getLogger(logger), level, contents

    def __call__(self, delivery: Delivery, attempt: Attempt) -> None:
        """One attempt."""
        line, told = "%s through %s, attempt %d", [delivery.id, delivery.channel, attempt.number]
        if self._contents:  # as `repr`, so that no line break can make a second record
            line, told = f"{line}, to %r: %r", [*told, delivery.recipient, delivery.payload]
        self._logger.log(self._level, line, *told)
