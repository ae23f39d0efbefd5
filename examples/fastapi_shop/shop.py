"""The shop: a FastAPI application with a worker in its own process. If you read one file, read this.

    uvicorn --factory examples.fastapi_shop.shop:create

Its environment names a database (`SHOP_DATABASE`, such as sqlite+aiosqlite:///shop.db), where its
partner gets webhooks (`SHOP_PARTNER`), and the port of a mail server (`SHOP_SMTP_PORT`).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from deliveries import Backoff, Deliveries, sqlite
from deliveries.adapters.email import Smtp
from deliveries.adapters.webhook import Webhook

QUEUES = {"web": 20, "mail": 5}
"""Calls at a time: the partner bears more than the mail server."""

WORKER: dict[str, Any] = {"lease": 2.0, "sweep_every": 0.5}
"""Short, so that the story takes seconds. For yours leave it out: 30 and 5 seconds."""


class Base(DeclarativeBase):
    """The shop's own tables."""


class Order(Base):
    """One order. The customer's program makes up the reference, so that it may ask twice."""

    __tablename__ = "orders"
    reference: Mapped[str] = mapped_column(primary_key=True)
    item: Mapped[str]
    email: Mapped[str]


class NewOrder(BaseModel):
    """What customers send."""

    reference: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    item: Annotated[str, Field(min_length=1, max_length=80)]
    email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254)]


def create() -> FastAPI:
    """The web application."""
    engine = create_async_engine(os.environ["SHOP_DATABASE"])
    if engine.dialect.name == "sqlite":
        sqlite.configure(engine)
    app = effects(engine, os.environ["SHOP_PARTNER"], int(os.environ["SHOP_SMTP_PORT"]))

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        app.create_schema()
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with app.lifespan(api, QUEUES, **WORKER):  # a worker, for as long as requests are served
            yield
        app.close()
        await engine.dispose()

    api = FastAPI(title="A shop", lifespan=lifespan)

    @api.put("/orders/{reference}")
    async def put(reference: str, order: NewOrder) -> dict[str, str]:
        """Take an order. Whoever got no answer says it again."""
        if reference != order.reference:
            raise HTTPException(422, "two references")
        async with AsyncSession(engine) as session, session.begin():
            if await session.get(Order, reference) is None:
                await place(app, session, order)
        return {"reference": reference}

    @api.get("/orders/{reference}")
    async def get(reference: str) -> dict[str, Any]:
        """What became of what an order owes."""
        owed = [*await app.afind(key=f"{reference}:partner"), *await app.afind(key=f"{reference}:mail")]
        if not owed:
            raise HTTPException(404, "no such order")
        return {one.channel: (await app.aexplain(one.id)).why for one in owed}

    return api


def effects(engine: AsyncEngine, partner: str, smtp_port: int) -> Deliveries:
    """What the shop owes to the outside world, and how it is paid."""
    app, soon = Deliveries(engine), Backoff.linear(0.2, cap=60)
    app.adapter("partner", queue="web", timeout=10.0, backoff=soon)(Webhook(partner))
    smtp = Smtp("127.0.0.1", smtp_port, sender="The Shop <shop@shop.example>", tls="none")
    app.adapter("mail", queue="mail", timeout=10.0, backoff=soon)(smtp)
    return app


async def place(app: Deliveries, session: AsyncSession, order: NewOrder) -> None:
    """The order, its webhook and its mail, in the caller's transaction: all three, or none."""
    session.add(Order(**order.model_dump()))
    hook = {"order": order.reference, "item": order.item}
    mail = {"subject": f"Your order {order.reference}", "text": f"We are packing: {order.item}.\n"}
    await app.aschedule(session, "partner", hook, key=f"{order.reference}:partner")
    await app.aschedule(session, "mail", mail, recipient=order.email, key=f"{order.reference}:mail")
    if order.item == "unicorn":
        raise HTTPException(409, "sold out")  # takes all three along
