from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession

from holdfast import aio
from shop.database import Order, async_engine
from shop.tasks import send_invoice

api = FastAPI()


async def get_session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(async_engine, expire_on_commit=False) as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]


@api.post("/orders", status_code=202)
async def create_order(email: str, session: SessionDep) -> dict[str, int]:
    order = Order(email=email)
    session.add(order)
    await session.flush()  # the order gets its id
    await aio.enqueue(session, send_invoice.s(order.id))
    await session.commit()
    return {"order": order.id}


@api.get("/orders/{order_id}")
async def show_order(order_id: int, session: SessionDep) -> dict[str, str | None]:
    order = await session.get(Order, order_id)
    if not order:
        raise HTTPException(status_code=404, detail="Order not found")
    return {"invoice": order.invoice}
