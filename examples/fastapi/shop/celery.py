from celery import Celery

import holdfast

app = holdfast.install(Celery("shop", include=["shop.tasks"]))
