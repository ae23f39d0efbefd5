"""The gateway's books held against the shop's: two parties that do not know each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deliveries import Delivery

from .shop import Order


def findings(
    orders: Sequence[Order], deliveries: Mapping[str, Delivery], payments: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What speaks against "no customer charged twice, no charge forgotten"; nothing if it holds.

    `deliveries`: those of the orders, by the order's id. `payments`: as the gateway states them.
    """
    charges: dict[str, list[tuple[str, int]]] = {}
    for paid in payments:
        if paid["state"] != "declined":
            charges.setdefault(paid["reference"], []).append((paid["customer"], paid["cents"]))
    found = []
    for order in orders:
        made, delivery = charges.pop(order.id, []), deliveries.get(order.id)
        if len(made) > 1:
            found.append(f"{order.customer} was charged {len(made)} times for {order.id}")
        if set(made) - {(order.customer, order.cents)}:
            found.append(f"{order.id}: another customer or another amount was charged")
        if delivery is None:
            found.append(f"{order.id}: its charge is forgotten")
        elif not delivery.is_terminal:
            found.append(f"{order.id}: its charge is {delivery.status}, not settled")
        elif (delivery.status == "succeeded") != bool(made):
            found.append(f"{order.id}: {delivery.status} in our books, {len(made)} charges in theirs")
    return found + [f"{reference} was charged, and nobody ordered it" for reference in charges]
