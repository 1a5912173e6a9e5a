"""Rules on the way from the broker through the worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery_doctor.rules import Severity
from celery_doctor.rules import settings_rules as rule
from celery_doctor.subject import as_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_doctor.subject import Subject


def names(found: Iterable[str]) -> str:
    """Name the first three and say how many more there are."""
    every = sorted(found)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")


@rule(
    "HF201-acks-late",
    Severity.FATAL,
    loss="a task is acknowledged before it runs: lost when the worker, its host or a child dies",
    fix="task_acks_late = True (and no acks_late=False on a task)",
    sets={"task_acks_late": "True"},
    see="celery#2236",
)
def acks_late(subject: Subject) -> str | None:
    early = [task.name for task in subject.tasks if not task.acks_late]
    if not subject.get("task_acks_late") and (early or not subject.tasks):
        return "task_acks_late is off"
    return f"acks_late is off for {names(early)}" if early else None


@rule(
    "HF202-worker-lost",
    Severity.FATAL,
    loss="a task whose process is killed (out of memory, segmentation fault) is acknowledged as failed",
    sets={"task_reject_on_worker_lost": "True"},
    see="celery#9082",
)
def worker_lost(subject: Subject) -> str | None:
    settings = ("task_reject_on_worker_lost", "task_retry_on_worker_lost")
    if not any(subject.get(name) for name in settings):
        lost = [task.name for task in subject.tasks if not _kept(task)]
        return f"neither {' nor '.join(settings)} is on" if lost or not subject.tasks else None
    off = [task.name for task in subject.tasks if not _kept(task)]
    return f"reject_on_worker_lost is off for {names(off)}" if off else None


def _kept(task: Any) -> bool:
    return bool(getattr(task, "reject_on_worker_lost", None) or getattr(task, "retry_on_worker_lost", None))


@rule(
    "HF203-acks-on-failure",
    Severity.WARNING,
    loss="a task that fails permanently is gone from the broker; nobody can replay it",
    fix="task_acks_on_failure = False, with a dead-letter exchange on the queue",
)
def acks_on_failure(subject: Subject) -> str | None:
    own = subject.get("task_acks_on_failure")
    value = subject.get("task_acks_on_failure_or_timeout") if own is None else own
    return "failed tasks are acknowledged" if subject.amqp and value else None


@rule(
    "HF204-prefetch",
    Severity.WARNING,
    loss="a crash returns every prefetched message and counts against the delivery limit of each; long tasks hold them",
    sets={"worker_prefetch_multiplier": "1"},
)
def prefetch(subject: Subject) -> str | None:
    value = subject.number("worker_prefetch_multiplier", 4)
    if value == 1:
        return None
    return f"worker_prefetch_multiplier is {value:g}" + (" (without limit)" if not value else "")


@rule(
    "HF205-time-limit",
    Severity.WARNING,
    loss="a task that hangs occupies its process forever; the broker redelivers its message and it runs twice",
    fix="task_time_limit = 1500, above the longest task and below the consumer timeout of the queue",
    sets={"task_time_limit": "1500"},
    see="celery#6760",
)
def time_limit(subject: Subject) -> str | None:
    if subject.number("task_time_limit") is None and not (subject.tasks and all(t.time_limit for t in subject.tasks)):
        return "tasks without a hard time limit"
    return None


@rule(
    "HF206-soft-limit-order",
    Severity.WARNING,
    loss="the soft limit never applies: a task is killed without the chance to clean up or retry",
    fix="task_soft_time_limit below task_time_limit",
)
def soft_limit_order(subject: Subject) -> list[str]:
    general = (subject.number("task_soft_time_limit"), subject.number("task_time_limit"))
    found = [f"soft limit {general[0]:g} s, hard limit {general[1]:g} s"] if _never_soft(*general) else []
    for task in subject.tasks:
        own = [
            as_number(getattr(task, name, None), f"{name} of {task.name}") for name in ("soft_time_limit", "time_limit")
        ]
        if tuple(own) != general and _never_soft(*own):
            found.append(f"{task.name}: soft limit {own[0]:g} s, hard limit {own[1]:g} s")
    return found


@rule(
    "HF227-inherited-soft-limit",
    Severity.WARNING,
    loss="a task that may run for longer than others is interrupted by the soft limit of all",
    fix="soft_time_limit on the task, below its time_limit",
)
def inherited_soft_limit(subject: Subject) -> list[str]:
    soft, hard = subject.number("task_soft_time_limit"), subject.number("task_time_limit")
    return [
        f"{task.name}: time_limit {task.time_limit:g} s of its own, soft limit {soft:g} s of the application"
        for task in subject.tasks
        if soft and hard and task.time_limit and task.soft_time_limit == soft and task.time_limit > hard
    ]


def _never_soft(soft: float | None, hard: float | None) -> bool:
    return bool(soft and hard and soft >= hard)


@rule(
    "HF207-channel-errors",
    Severity.WARNING,
    loss="a worker exits on a channel error: locked control queue after a partition, consumer timeout, missing queue",
    sets={"broker_channel_error_retry": "True"},
    see="celery#6760",
)
def channel_errors(subject: Subject) -> str | None:
    off = subject.amqp and not subject.get("broker_channel_error_retry")
    return "broker_channel_error_retry is off" if off else None


@rule(
    "HF208-gives-up",
    Severity.WARNING,
    loss="a worker that cannot reach the broker exits after that many attempts and no longer consumes",
    sets={"broker_connection_retry": "True", "broker_connection_max_retries": "None"},
)
def gives_up(subject: Subject) -> str | None:
    limit = subject.number("broker_connection_max_retries")
    if not subject.get("broker_connection_retry"):
        return "broker_connection_retry is off"
    return f"broker_connection_max_retries is {limit:g}" if limit else None


@rule(
    "HF212-heartbeat",
    Severity.WARNING,
    loss="a frozen broker or a dead worker host is detected late; its tasks wait meanwhile",
    sets={"broker_heartbeat": "10"},
    see="celery#3430",
)
def heartbeat(subject: Subject) -> str | None:
    value = subject.number("broker_heartbeat")
    if not subject.amqp or (value and value <= 60):
        return None
    return f"broker_heartbeat is {value:g} s" if value else "broker_heartbeat is off"


@rule(
    "HF213-track-started",
    Severity.WARNING,
    loss="a short outage of Redis when a task starts fails the task before it runs, and its message is acknowledged",
    sets={"task_track_started": "False"},
    fix="task_track_started = False, or the result backend of holdfast.results",
)
def track_started(subject: Subject) -> str | None:
    on = subject.get("task_track_started") and subject.redis_results
    return "task_track_started is on" if on and not _reads_are_retried(subject) else None


@rule(
    "HF214-deduplication",
    Severity.WARNING,
    loss="a short outage of Redis at a redelivery fails the task before it runs, and its message is acknowledged",
    sets={"result_backend_always_retry": "True", "result_backend_max_retries": "60"},
    fix="result_backend_always_retry = True, or the result backend of holdfast.results",
)
def deduplication(subject: Subject) -> str | None:
    on = subject.get("worker_deduplicate_successful_tasks")
    unsafe = on and not _reads_are_retried(subject)
    return "worker_deduplicate_successful_tasks is on without retried reads" if unsafe else None


def _reads_are_retried(subject: Subject) -> bool:
    return bool(subject.durable_results or subject.get("result_backend_always_retry"))


@rule(
    "HF215-rate-limits",
    Severity.WARNING,
    loss="limited tasks wait in the worker's memory, unacknowledged, and each restart counts against their limit",
    fix="worker_disable_rate_limits = True, and limit in the task or with a queue of its own",
)
def rate_limits(subject: Subject) -> str | None:
    limited = [task.name for task in subject.tasks if task.rate_limit]
    return f"rate limits on {names(limited)}" if limited and not subject.get("worker_disable_rate_limits") else None


@rule(
    "HF226-rate-limits-off",
    Severity.WARNING,
    loss="the task runs as often as it is called, whatever its rate limit says",
    fix="limit in the task or with a queue of its own; or worker_disable_rate_limits = False, with what HF215 says",
)
def rate_limits_off(subject: Subject) -> str | None:
    limited = [task.name for task in subject.tasks if task.rate_limit]
    off = limited and subject.get("worker_disable_rate_limits")
    return f"worker_disable_rate_limits is on, and {names(limited)} has a rate limit" if off else None


@rule(
    "HF216-running-twins",
    Severity.WARNING,
    loss="after a lost connection a task goes on while its message is already with another worker: both run",
    sets={"worker_cancel_long_running_tasks_on_connection_loss": "True"},
    see="celery#8541",
)
def running_twins(subject: Subject) -> str | None:
    late = subject.get("task_acks_late") or any(task.acks_late for task in subject.tasks)
    cancels = subject.get("worker_cancel_long_running_tasks_on_connection_loss")
    return "tasks go on after their connection is lost" if late and not cancels else None


@rule(
    "HF217-exclusive-control-queue",
    Severity.WARNING,
    loss="after a partition the broker refuses the worker its control queue (405) and the worker exits",
    sets={"control_queue_exclusive": "False", "control_queue_durable": "True", "control_queue_expires": "60"},
)
def exclusive_control_queue(subject: Subject) -> str | None:
    if not subject.amqp or subject.durable_control or not subject.get("worker_enable_remote_control"):
        return None
    return "control_queue_exclusive is on" if subject.get("control_queue_exclusive") else None


@rule(
    "HF218-hard-stop",
    Severity.WARNING,
    loss="a stop waits for every task; those that the supervisor then kills start again, or are lost (HF201)",
    sets={"worker_soft_shutdown_timeout": "15"},
    fix="worker_soft_shutdown_timeout = 15, with REMAP_SIGTERM=SIGQUIT in the worker's environment",
)
def hard_stop(subject: Subject) -> str | None:
    return None if subject.number("worker_soft_shutdown_timeout") else "worker_soft_shutdown_timeout is 0"


@rule(
    "HF219-stop-outlasts-heartbeat",
    Severity.WARNING,
    loss="no heartbeat is sent during the soft shutdown: the broker cuts the worker off and its tasks run twice",
    fix="worker_soft_shutdown_timeout below twice broker_heartbeat",
)
def stop_outlasts_heartbeat(subject: Subject) -> str | None:
    stop, beat = subject.number("worker_soft_shutdown_timeout") or 0, subject.number("broker_heartbeat") or 0
    return f"soft shutdown {stop:g} s, heartbeat {beat:g} s" if subject.amqp and beat and stop >= 2 * beat else None


DANGEROUS = {"pickle", "application/x-python-serialize", "yaml", "application/x-yaml"}  # content that can run code


def _accepted(subject: Subject) -> list[str]:
    accepted = subject.get("accept_content") or ()
    return [accepted] if isinstance(accepted, str) else list(map(str, accepted))


def _written_dangerously(subject: Subject) -> list[str]:
    """Say what of an application is written in content that can run code: without it that could not be read."""
    found = {name: subject.get(name) for name in ("task_serializer", "result_serializer")}
    own = {f"serializer of {task.name}": getattr(task, "serializer", None) for task in subject.tasks}
    found |= {name: value for name, value in own.items() if value != found["task_serializer"]}
    return [f"{name} is {value}" for name, value in found.items() if value in DANGEROUS]


def _accept_the_rest(subject: Subject) -> dict[str, str]:
    rest = [content for content in _accepted(subject) if content not in DANGEROUS] or ["json"]
    return {} if _written_dangerously(subject) else {"accept_content": json.dumps(rest)}


@rule(
    "HF220-pickle",
    Severity.WARNING,
    loss="whoever can publish can run any code in the workers",
    fix='accept_content = ["json"], once task_serializer and result_serializer are "json" and no older message waits',
    sets={"accept_content": '["json"]'},
    answer=_accept_the_rest,
)
def pickle(subject: Subject) -> str | None:
    dangerous = sorted(DANGEROUS & set(_accepted(subject)))
    said = [f"accept_content has {', '.join(dangerous)}", *_written_dangerously(subject)]
    return "; ".join(said) if dangerous else None


@rule(
    "HF221-undecodable",
    Severity.WARNING,
    loss="a message that cannot be decoded is acknowledged, so no dead-letter queue ever sees it",
    fix="holdfast.install(app)",
)
def undecodable(subject: Subject) -> str | None:
    return None if subject.durable_consumer or not subject.amqp else f"the consumer is {subject.get('worker_consumer')}"


@rule(
    "HF222-retry-drops",
    Severity.WARNING,
    loss="self.retry() whose publish fails rejects the original message: the task is gone or dead-lettered",
    fix="holdfast.install(app), or a base class whose retry puts the original back",
)
def retry_drops(subject: Subject) -> str | None:
    if subject.durable_publisher and subject.durable_consumer:
        return None
    stock = [task.name for task in subject.tasks if str(type(task).retry.__module__).startswith("celery.")]
    return f"stock retry in {names(stock)}" if subject.amqp and stock else None


UNLIMITED = {  # limits that a pool does not keep, although Celery accepts them
    "threads": ("time_limit", "soft_time_limit"),
    "solo": ("time_limit", "soft_time_limit"),
    "eventlet": ("time_limit", "soft_time_limit"),
    "gevent": ("soft_time_limit",),
}
POOL_CLASSES = {
    "celery.concurrency.thread.TaskPool": "threads",
    "celery.concurrency.solo.TaskPool": "solo",
    "celery.concurrency.eventlet.TaskPool": "eventlet",
    "celery.concurrency.gevent.TaskPool": "gevent",
}


@rule(
    "HF223-limits-without-effect",
    Severity.WARNING,
    loss="the limit does nothing in this pool: a task that hangs is never stopped",
    fix='worker_pool = "prefork" for tasks with limits, or a timeout inside the task (of its HTTP or database client)',
)
def limits_without_effect(subject: Subject) -> str | None:
    return ignored_limits(subject, str(subject.get("worker_pool") or "prefork"))


def ignored_limits(subject: Subject, pool: str) -> str | None:
    """Say which time limits of an application a pool ignores, None when it keeps all that are set.

    Args:
        subject: the application.
        pool: as for ``celery worker --pool``; a class's path counts by its name.
    """
    pool = POOL_CLASSES.get(pool.replace(":", "."), pool)
    limits = UNLIMITED.get(pool, ())
    found = [f"task_{limit}" for limit in limits if subject.get(f"task_{limit}")]
    found += [f"{limit} of {task.name}" for limit in limits for task in subject.tasks
              if getattr(task, limit, None) and not subject.get(f"task_{limit}")]  # fmt: skip
    return f"the pool is {pool}, which ignores {names(found)}" if found else None
