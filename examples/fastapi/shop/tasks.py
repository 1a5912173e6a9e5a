from sqlalchemy.orm import Session

from shop.celery import app
from shop.database import Order, engine


@app.task
def send_invoice(order_id: int) -> str:
    with Session(engine) as session, session.begin():
        order = session.get_one(Order, order_id, with_for_update=True)
        if order.invoice is None:
            order.invoice = f"Invoice {order.id} for {order.email}"
        return order.invoice
