from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from orders.models import Order
from orders.tasks import send_invoice


@csrf_exempt
def create_order(request: HttpRequest) -> JsonResponse:
    with transaction.atomic():
        order = Order.objects.create(email=request.POST["email"])
        send_invoice.delay_on_commit(order.pk)
    return JsonResponse({"order": order.pk}, status=202)


def show_order(request: HttpRequest, order_id: int) -> JsonResponse:
    return JsonResponse({"invoice": Order.objects.get(pk=order_id).invoice})
