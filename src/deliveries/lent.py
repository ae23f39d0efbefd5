"""Connections that are lent to user code: the transaction is not theirs to end."""

from __future__ import annotations

from typing import ClassVar, Self

from sqlalchemy import Connection

from deliveries.errors import CallerError


class Lent(Connection):
    """The same connection, with the same state, under other manners."""

    borrower: ClassVar[str]
    """Who gets it, as its errors call them."""
    lender: ClassVar[str]
    """Whose transaction it is."""
    refusal: ClassVar[type[CallerError]]
    """What is raised for what they must not do."""

    @classmethod
    def of(cls, connection: Connection) -> Self:
        """`connection`, lent."""
        lent = cls.__new__(cls)
        lent.__dict__ = connection.__dict__
        return lent

    def commit(self) -> None:
        raise self.refusal(f"{self.borrower} cannot commit: its transaction belongs to {self.lender}")

    def rollback(self) -> None:
        raise self.refusal(f"{self.borrower} cannot roll back: raise, and what it wrote is undone")

    def close(self) -> None:
        raise self.refusal(f"{self.borrower} cannot close the connection: it belongs to {self.lender}")

    def detach(self) -> None:
        self.close()

    def invalidate(self, exception: BaseException | None = None) -> None:
        self.close()
