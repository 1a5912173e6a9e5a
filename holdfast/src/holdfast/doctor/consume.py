"""Rules on the way from the broker through the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.doctor.rules import Severity, rule

if TYPE_CHECKING:
    from holdfast.doctor.subject import Subject


def _names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@rule(
    "HF201-acks-late",
    Severity.FATAL,
    loss="a task is acknowledged before it runs: lost when the worker, its host or a child dies",
    fix="task_acks_late = True (and no acks_late=False on a task)",
    see="celery#2236",
)
def acks_late(subject: Subject) -> str | None:
    if not subject.get("task_acks_late") and not (subject.tasks and all(task.acks_late for task in subject.tasks)):
        return "task_acks_late is off"
    early = subject.tasks_with("acks_late", False)
    return f"acks_late is off for {_names(early)}" if early else None


@rule(
    "HF202-worker-lost",
    Severity.FATAL,
    loss="a task whose process is killed (out of memory, segmentation fault) is acknowledged as failed",
    fix="task_reject_on_worker_lost = True",
    see="celery#9082",
)
def worker_lost(subject: Subject) -> str | None:
    kept = subject.get("task_reject_on_worker_lost") or subject.get("task_retry_on_worker_lost")
    return None if kept else "neither task_reject_on_worker_lost nor task_retry_on_worker_lost is on"


@rule(
    "HF203-acks-on-failure",
    Severity.WARNING,
    loss="a task that fails for good is gone from the broker; nobody can replay it",
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
    fix="worker_prefetch_multiplier = 1",
)
def prefetch(subject: Subject) -> str | None:
    value = subject.get("worker_prefetch_multiplier")
    return None if value == 1 else f"worker_prefetch_multiplier is {value}" + (" (without limit)" if not value else "")


@rule(
    "HF205-time-limit",
    Severity.WARNING,
    loss="a task that hangs keeps its process for ever; the broker takes its message away and it runs twice",
    fix="task_time_limit = 1500, below the consumer timeout of the queue",
    see="celery#6760",
)
def time_limit(subject: Subject) -> str | None:
    if subject.get("task_time_limit") is None and not (subject.tasks and all(t.time_limit for t in subject.tasks)):
        return "tasks without a hard time limit"
    return None


@rule(
    "HF206-soft-limit-order",
    Severity.WARNING,
    loss="the soft limit never comes: a task is killed without the chance to clean up or retry",
    fix="task_soft_time_limit below task_time_limit",
)
def soft_limit_order(subject: Subject) -> str | None:
    soft, hard = subject.get("task_soft_time_limit"), subject.get("task_time_limit")
    return f"soft limit {soft} s, hard limit {hard} s" if soft and hard and soft >= hard else None


@rule(
    "HF207-channel-errors",
    Severity.WARNING,
    loss="a worker exits on a channel error: locked control queue after a partition, consumer timeout, missing queue",
    fix="broker_channel_error_retry = True",
    see="celery#6760",
)
def channel_errors(subject: Subject) -> str | None:
    return (
        None if not subject.amqp or subject.get("broker_channel_error_retry") else "broker_channel_error_retry is off"
    )


@rule(
    "HF208-gives-up",
    Severity.WARNING,
    loss="a worker that cannot reach the broker exits after that many attempts and consumes nothing any more",
    fix="broker_connection_max_retries = None",
)
def gives_up(subject: Subject) -> str | None:
    limit = subject.get("broker_connection_max_retries")
    if not subject.get("broker_connection_retry"):
        return "broker_connection_retry is off"
    return None if limit in (None, 0) else f"broker_connection_max_retries is {limit}"


@rule(
    "HF209-quorum-queues",
    Severity.FATAL,
    loss="a classic queue lives on one node: unreachable while that is down, lost with its disk",
    fix='Queue(..., queue_arguments={"x-queue-type": "quorum"}), or holdfast.routing.queues(...)',
)
def quorum_queues(subject: Subject) -> str | None:
    if not subject.amqp:
        return None
    default = subject.get("task_default_queue_type")
    classic = sorted(
        name for name, queue in subject.queues.items()
        if (queue.queue_arguments or {}).get("x-queue-type", default) not in ("quorum", "stream")
    )  # fmt: skip
    return f"not quorum queues: {_names(classic)}" if classic else None


@rule(
    "HF210-direct-exchange",
    Severity.WARNING,
    loss="a countdown or delayed retry waits in a worker's memory: it blocks the worker and counts against the limit",
    fix='task_default_exchange_type = "topic" and a topic exchange for every queue',
    see="celery#9960",
)
def direct_exchange(subject: Subject) -> str | None:
    direct = sorted(name for name, queue in subject.queues.items() if queue.exchange.type == "direct")
    return f"on a direct exchange: {_names(direct)}" if subject.amqp and direct else None


@rule(
    "HF211-delay-queue-type",
    Severity.FATAL,
    loss="delayed tasks wait in classic queues: lost with one node, and dropped when their target is missing",
    fix='broker_native_delayed_delivery_queue_type = "quorum"',
)
def delay_queue_type(subject: Subject) -> str | None:
    kind = subject.get("broker_native_delayed_delivery_queue_type")
    return f"the delay queues are {kind}" if subject.amqp and kind != "quorum" else None


@rule(
    "HF212-heartbeat",
    Severity.WARNING,
    loss="a frozen broker or a dead worker host is noticed late; its tasks wait meanwhile",
    fix="broker_heartbeat = 10",
    see="celery#3430",
)
def heartbeat(subject: Subject) -> str | None:
    value = subject.get("broker_heartbeat")
    if not subject.amqp or (value and value <= 60):
        return None
    return f"broker_heartbeat is {value} s" if value else "broker_heartbeat is off"


@rule(
    "HF213-track-started",
    Severity.WARNING,
    loss="a blip of Redis when a task starts fails it before it has run, and its message is acknowledged",
    fix="task_track_started = False, or the result backend of holdfast.results",
)
def track_started(subject: Subject) -> str | None:
    safe = subject.durable_results or subject.get("result_backend_always_retry")
    return (
        "task_track_started is on" if subject.get("task_track_started") and subject.redis_results and not safe else None
    )


@rule(
    "HF214-deduplication",
    Severity.WARNING,
    loss="a blip of Redis when a task is redelivered fails it without a run, and its message is acknowledged",
    fix="result_backend_always_retry = True, or the result backend of holdfast.results",
)
def deduplication(subject: Subject) -> str | None:
    safe = subject.durable_results or subject.get("result_backend_always_retry")
    on = subject.get("worker_deduplicate_successful_tasks")
    return "worker_deduplicate_successful_tasks without retried reads" if on and not safe else None


@rule(
    "HF215-rate-limits",
    Severity.WARNING,
    loss="limited tasks wait in the worker's memory, unacknowledged, and each restart counts against their limit",
    fix="worker_disable_rate_limits = True, and limit in the task or with a queue of its own",
)
def rate_limits(subject: Subject) -> str | None:
    limited = sorted(task.name for task in subject.tasks if task.rate_limit)
    return f"rate limits on {_names(limited)}" if limited and not subject.get("worker_disable_rate_limits") else None


@rule(
    "HF216-running-twins",
    Severity.WARNING,
    loss="after a lost connection a task goes on while its message is already with another worker: both run",
    fix="worker_cancel_long_running_tasks_on_connection_loss = True",
    see="celery#8541",
)
def running_twins(subject: Subject) -> str | None:
    cancels = subject.get("worker_cancel_long_running_tasks_on_connection_loss")
    return "tasks go on after their connection is lost" if subject.get("task_acks_late") and not cancels else None


@rule(
    "HF217-exclusive-control-queue",
    Severity.WARNING,
    loss="after a partition the broker refuses the worker its control queue (405) and the worker exits",
    fix="control_queue_exclusive = False, control_queue_durable = True, control_queue_expires = 60",
)
def exclusive_control_queue(subject: Subject) -> str | None:
    if not subject.amqp or subject.durable_control or not subject.get("worker_enable_remote_control"):
        return None
    return "control_queue_exclusive is on" if subject.get("control_queue_exclusive") else None


@rule(
    "HF218-hard-stop",
    Severity.WARNING,
    loss="a stop waits for every task, and what the supervisor then kills runs again from the start",
    fix="worker_soft_shutdown_timeout = 15, with REMAP_SIGTERM=SIGQUIT in the worker's environment",
)
def hard_stop(subject: Subject) -> str | None:
    return None if subject.get("worker_soft_shutdown_timeout") else "worker_soft_shutdown_timeout is 0"


@rule(
    "HF219-stop-outlasts-heartbeat",
    Severity.WARNING,
    loss="no heartbeat is sent during the soft shutdown: the broker cuts the worker off and its tasks run twice",
    fix="worker_soft_shutdown_timeout below twice broker_heartbeat",
)
def stop_outlasts_heartbeat(subject: Subject) -> str | None:
    stop, beat = subject.get("worker_soft_shutdown_timeout") or 0, subject.get("broker_heartbeat") or 0
    return f"soft shutdown {stop:g} s, heartbeat {beat:g} s" if subject.amqp and beat and stop >= 2 * beat else None


@rule(
    "HF220-pickle",
    Severity.WARNING,
    loss="whoever can publish can run any code in the workers",
    fix='accept_content = ["json"]',
)
def pickle(subject: Subject) -> str | None:
    dangerous = {"pickle", "application/x-python-serialize", "yaml"} & set(
        map(str, subject.get("accept_content") or ())
    )
    return f"accept_content has {', '.join(sorted(dangerous))}" if dangerous else None


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

    def is_stock(task: Any) -> bool:
        return str(type(task).retry.__module__).startswith("celery.")

    stock = sorted(task.name for task in subject.tasks if is_stock(task))
    return f"stock retry in {_names(stock)}" if subject.amqp and stock else None
