"""What the partner and the mailboxes have, held against the shop's orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .shop import Order


def findings(
    orders: Iterable[Order],
    promised: Iterable[str],
    partner: Mapping[str, str],
    mails: Mapping[str, list[str]],
) -> list[str]:
    """What speaks against "every order has its webhook and its mail, once"; nothing if it holds.

    `promised`: the references that customers were told are taken. `partner`: its orders, by key.
    `mails`: the subjects that each address sees.
    """
    known = {order.reference: order for order in orders}
    taken, found = Counter(partner.values()), []
    found += [f"{reference} was promised, and is gone" for reference in promised if reference not in known]
    for reference, order in known.items():
        subjects = Counter(mails.get(order.email, []))
        for what, times in (("webhook", taken[reference]), ("mail", subjects[f"Your order {reference}"])):
            if times != 1:
                found.append(f"{reference}: {times} times its {what}")
    found += [f"the partner has {reference}, and nobody ordered it" for reference in taken.keys() - known]
    owed = {(order.email, f"Your order {order.reference}") for order in known.values()}
    got = {(address, subject) for address, subjects in mails.items() for subject in subjects}
    return found + [f"{address} got {subject!r} unasked" for address, subject in sorted(got - owed)]
