"""What can be in store for a delivery: every channel, and every turn that its attempts can take."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from crash.shop import CHANNELS, HASTE, Order


class Plot(Struct, frozen=True, kw_only=True):
    """How one delivery is scheduled; `options` are those of `schedule`, durations in seconds."""

    name: str
    channel: str
    order: Order
    options: dict[str, Any]


TURNS: dict[str, tuple[Order, dict[str, Any]]] = {
    "plain": (Order(), {}),
    "retried": (Order(answers=(503, 200)), {}),
    "slow": (Order(hold=0.4), {}),
    "single": (Order(), {"max_attempts": 1}),
    "hopeless": (Order(answers=(503,)), {"max_attempts": 2}),
    "cancelled": (Order(cancel=True), {}),
    "cancelled in vain": (Order(cancel=True, answers=(503,)), {}),
    "snoozed": (Order(says="snooze"), {}),
    "bounced": (Order(says="bounce"), {}),
}
HASTY_TURNS: dict[str, tuple[Order, dict[str, Any]]] = {
    "late": (Order(hold=2 * HASTE), {}),
    "late and shy": (Order(hold=2 * HASTE, shy=1), {}),
    "late and single": (Order(hold=2 * HASTE), {"max_attempts": 1}),
    "late and cancelled": (Order(hold=2 * HASTE, cancel=True), {}),
}


def _plots() -> dict[str, Plot]:
    plots = [
        Plot(name=f"{channel} {turn}", channel=channel, order=order, options=options)
        for channel in CHANNELS
        for turn, (order, options) in (HASTY_TURNS if "hasty" in channel else TURNS).items()
    ]
    late = Plot(
        name="past its deadline",
        channel="keyed-sync",
        order=Order(),
        options={"delay": 60.0, "expires_in": 0.3},
    )
    return {plot.name: plot for plot in (*plots, late)}


PLOTS = _plots()
