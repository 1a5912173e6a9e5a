"""Tasks of Django's, from 6.0 on."""

from __future__ import annotations

from django.tasks import TaskContext, task


@task
def double(number: int) -> dict[str, int]:
    """Double a number."""
    return {"doubled": 2 * number}


@task(takes_context=True, queue_name="mail")
async def attempt(context: TaskContext, *, fail: bool = False) -> int:
    """Say which attempt it is, or fail."""
    if fail:
        raise LookupError("as asked")
    return context.attempt
