from flask import Blueprint, request
from sqlalchemy.orm import Session

from holdfast import outbox
from shop.database import Order, engine
from shop.tasks import send_invoice

bp = Blueprint("orders", __name__)


@bp.post("/orders")
def create_order() -> tuple[dict[str, int], int]:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        order = Order(email=request.form["email"])
        session.add(order)
        session.flush()  # the order gets its id
        outbox.enqueue(session, send_invoice.s(order.id))
    return {"order": order.id}, 202


@bp.get("/orders/<int:order_id>")
def show_order(order_id: int) -> dict[str, str | None]:
    with Session(engine) as session:
        return {"invoice": session.get_one(Order, order_id).invoice}
