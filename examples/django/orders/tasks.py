from celery import shared_task
from django.db import transaction

from orders.models import Order


@shared_task
def send_invoice(order_id: int) -> str:
    with transaction.atomic():
        order = Order.objects.select_for_update().get(pk=order_id)
        if not order.invoice:
            order.invoice = f"Invoice {order.pk} for {order.email}"
            order.save()
        return order.invoice
