from celery import shared_task
from flask import current_app
from sqlalchemy.orm import Session

from shop.database import Order, engine


@shared_task
def send_invoice(order_id: int) -> str:
    with Session(engine) as session, session.begin():
        order = session.get_one(Order, order_id, with_for_update=True)
        if order.invoice is None:
            order.invoice = f"Invoice {order.id} for {order.email}"
            current_app.logger.info("%s", order.invoice)
        return order.invoice
