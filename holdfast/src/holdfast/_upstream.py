"""Upstream internals in one ledger: every private name and every overridden method of a package that is not ours.

Their maintainers may change these without notice. ``tests/test_upstream.py`` compares the ledger with the installed
packages, so an upgrade that moves one fails there first and by name, and with the code, so that no use is missing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ATTRIBUTE = "attribute"
"""The shape of what is no method, property or class, or is written in C."""


@dataclass(frozen=True)
class Use:
    """What one module of the library needs of one upstream class.

    Attributes:
        of: ``module:Class``, or a module.
        by: the module of the library.
        why: what it is needed for.
        until: when it can go.
        names: its shape by name: the parameters of a method (``=`` where there is a default), ``property``, ``class``
            or :data:`ATTRIBUTE`.
    """

    of: str
    by: str
    why: str
    until: str
    names: Mapping[str, str]


def _bootstep(by: str) -> tuple[Use, Use]:
    """Return what a module with a step of the worker's blueprint needs."""
    why, until = "a step of the worker's blueprint", "never: bootsteps are Celery's way to extend a worker"
    return (
        Use("celery.bootsteps:Step", by, why, until, {"__init__": "(self, parent, **kwargs)"}),
        Use("celery.bootsteps:StartStopStep", by, why, until, dict.fromkeys(("start", "stop"), "(self, parent)")),
    )


LEDGER = (
    Use(
        "celery.beat:Scheduler",
        by="holdfast.beat",
        why="makes an entry of a line of beat_schedule, as Celery does",
        until="redbeat writes many entries in one round trip and refuses a bad one alone",
        names={
            "_maybe_entry": "(self, name, entry)",
        },
    ),
    Use(
        "redbeat.schedulers:RedBeatScheduler",
        by="holdfast.beat",
        why="a tick counts when a broker has it, and only the holder of the lock sends",
        until="redbeat publishes before it notes a tick, and survives a lost lock (redbeat#163)",
        names={
            "Entry": "class",
            "__init__": "(self, app, lock_key=, lock_timeout=, **kwargs)",
            "setup_schedule": "(self)",
            "update_from_dict": "(self, dict_)",
            "tick": "(self, min=, **kwargs)",
        },
    ),
    Use(
        "celery.beat",
        by="holdfast.beat",
        why="arguments that are made at each tick, as Celery's beat makes them",
        until="Celery names them in public",
        names={
            "_evaluate_entry_args": "(entry_args)",
            "_evaluate_entry_kwargs": "(entry_kwargs)",
        },
    ),
    Use(
        "redbeat.schedulers:RedBeatSchedulerEntry",
        by="holdfast.schedule.entry",
        why="definitions that JSON cannot hold, times in UTC, many entries in one round trip",
        until="redbeat encodes every schedule, and Celery every hour (celery#10107)",
        names={
            "__init__": "(self, name=, task=, schedule=, args=, kwargs=, enabled=, options=, **clsargs)",
            "save": "(self)",
            "score": "property",
        },
    ),
    Use(
        "celery.schedules:BaseSchedule",
        by="holdfast.schedule.rows",
        why="the schedule of a row that runs once",
        until="Celery has a schedule of one instant",
        names={
            "__init__": "(self, nowfun=, app=)",
            "remaining_estimate": "(self, last_run_at)",
            "is_due": "(self, last_run_at)",
        },
    ),
    Use(
        "celery.schedules:crontab",
        by="holdfast.schedule.rows",
        why="the schedule of a row that has a time zone of its own",
        until="Celery's crontab takes a time zone",
        names={
            "__init__": "(self, minute=, hour=, day_of_week=, day_of_month=, month_of_year=, **kwargs)",
        },
    ),
    Use(
        "celery.worker.consumer.consumer:Consumer",
        by="holdfast.consumer",
        why="what cannot be read is dead-lettered, no wait is endless, a node is left for the next",
        until="Celery dead-letters what it cannot read, and survives a channel error (celery#6760)",
        names={
            "Blueprint": "class",
            "__init__": (
                "(self, on_task_request, init_callback=, hostname=, pool=, app=, timer=, controller=, hub=, "
                "amqheartbeat=, worker_options=, disable_rate_limits=, initial_prefetch_count=, "
                "prefetch_multiplier=, **kwargs)"
            ),
            "connect": "(self)",
            "connection_for_read": "(self, heartbeat=)",
            "update_strategies": "(self)",
            "on_connection_error_after_connected": "(self, exc)",
            "cancel_task_queue": "(self, queue)",
            "add_task_queue": "(self, queue, exchange=, exchange_type=, routing_key=, **options)",
            "create_task_handler": "(self, promise=)",
            "on_decode_error": "(self, message, exc)",
            "on_unknown_task": "(self, body, message, exc)",
            "on_invalid_task": "(self, body, message, exc)",
        },
    ),
    Use(
        "kombu.messaging:Consumer",
        by="holdfast.consumer",
        why="the queue that a message came from, by its consumer tag",
        until="kombu tells the queue of a delivery",
        names={
            "_active_tags": ATTRIBUTE,
        },
    ),
    Use(
        "celery.events.dispatcher:EventDispatcher",
        by="holdfast.events",
        why="events leave on a connection of their own, without a confirm",
        until="Celery sends events without the settings of tasks",
        names={
            "__init__": (
                "(self, connection=, hostname=, enabled=, channel=, buffer_while_offline=, app=, serializer=, "
                "groups=, delivery_mode=, buffer_group=, buffer_limit=, on_send_buffered=)"
            ),
            "_publish": "(self, event, producer, routing_key, retry=, retry_policy=, utcoffset=)",
        },
    ),
    Use(
        "celery.worker.consumer.events:Events",
        by="holdfast.events",
        why="makes the dispatcher without a connection that could hang the worker",
        until="Celery connects the dispatcher when it has something to send",
        names={
            "start": "(self, c)",
            "shutdown": "(self, c)",
            "_close": "(self, c)",
        },
    ),
    Use(
        "kombu.pidbox:Mailbox",
        by="holdfast.events",
        why="a new queue per connection, replies that never stall the main loop",
        until="kombu names the queue of a mailbox anew for each connection",
        names={
            "get_queue": "(self, hostname)",
            "_publish_reply": "(self, reply, exchange, routing_key, ticket, channel=, producer=, **opts)",
        },
    ),
    Use(
        "celery.app.control:Control",
        by="holdfast.events",
        why="takes the mailbox above, and sends nothing where control is off",
        until="the mailbox is chosen by a setting, and so is a control that sends nothing",
        names={
            "Mailbox": "class",
            "broadcast": (
                "(self, command, arguments=, destination=, connection=, reply=, timeout=, limit=, callback=, "
                "channel=, pattern=, matcher=, **extra_kwargs)"
            ),
        },
    ),
    Use(
        "celery",
        by="holdfast.django.application",
        why="tells the project's application from the one that Celery makes up",
        until="Celery says whether an application was made by the project",
        names={
            "_state": ATTRIBUTE,
        },
    ),
    *_bootstep("holdfast.expired"),
    Use(
        "kombu.messaging:Consumer",
        by="holdfast.expired",
        why="decodes a message of the second consumer as the first one does",
        until="kombu takes a tag and a callback in public",
        names={
            "_receive_callback": "(self, message)",
        },
    ),
    *_bootstep("holdfast.heartbeat"),
    Use(
        "amqp.abstract_channel:AbstractChannel",
        by="holdfast.heartbeat",
        why="takes the answers of declare and bind without waiting for them",
        until="py-amqp sends a passive declare with nowait and an answer",
        names={
            "_callbacks": ATTRIBUTE,
        },
    ),
    Use(
        "celery.exceptions:Reject",
        by="holdfast.request",
        why="a return that does not count towards the delivery limit",
        until="Celery can nack instead of reject",
        names={
            "__init__": "(self, reason=, requeue=)",
        },
    ),
    Use(
        "celery.worker.request:Request",
        by="holdfast.request",
        why="every way out settles the message once; a store that is away puts it back",
        until="a failed write neither ends the worker nor loses the task (celery#9239, celery#9596)",
        names={
            "__init__": (
                "(self, message, on_ack=, hostname=, eventer=, app=, connection_errors=, request_dict=, task=, "
                "on_reject=, body=, headers=, decoded=, utc=, maybe_make_aware=, maybe_iso8601=, **opts)"
            ),
            "on_failure": "(self, exc_info, send_failed_event=, return_ok=)",
            "on_timeout": "(self, soft, timeout)",
            "store_errors": "property",
            "maybe_expire": "(self)",
            "_announce_revoked": "(self, reason, terminated, signum, expired)",
            "_success_was_stored": "(self)",
            "_already_revoked": ATTRIBUTE,
            "_context": "property",
        },
    ),
    Use(
        "celery.worker.request:Request",
        by="holdfast.metrics.request",
        why="counts each way out of a message once",
        until="Celery sends a signal for each way out",
        names={
            "on_accepted": "(self, pid, time_accepted)",
            "reject": "(self, requeue=)",
            "on_failure": "(self, exc_info, send_failed_event=, return_ok=)",
            "on_timeout": "(self, soft, timeout)",
            "_success_was_stored": "(self)",
            "_announce_cancelled": "(self, emit_retry=)",
        },
    ),
    *_bootstep("holdfast.notices"),
    Use(
        "amqp.channel:Channel",
        by="holdfast.publisher.link",
        why="a closed channel stays closed: its tags would begin again",
        until="py-amqp lets the owner decide whether a channel is opened again",
        names={
            "_on_close": "(self, reply_code, reply_text, class_id, method_id)",
        },
    ),
    Use(
        "threading:RLock",
        by="holdfast.publisher.guard",
        why="asks whether this thread was interrupted while it held the lock",
        until="threading has a public name for it; threading.Condition asks the same",
        names={
            "_is_owned": ATTRIBUTE,
        },
    ),
    Use(
        "amqp.basic_message:Message",
        by="holdfast.publisher.message",
        why="encodes properties before anything is written to a shared connection",
        until="py-amqp encodes a message in public",
        names={
            "_serialize_properties": "(self)",
        },
    ),
    Use(
        "kombu.messaging:Producer",
        by="holdfast.publisher.message",
        why="the message that kombu would send, without sending it",
        until="kombu builds a message in public",
        names={
            "_delivery_details": "(self, exchange, delivery_mode=, maybe_delivery_mode=, Exchange=)",
            "_prepare": "(self, body, serializer=, content_type=, content_encoding=, compression=, headers=)",
        },
    ),
    Use(
        "celery.app.base:Celery",
        by="holdfast.publisher.detach",
        why="publishing does not depend on the result store",
        until="Celery subscribes to a result in get() alone",
        names={
            "_get_backend": "(self)",
            "_backend_cache": ATTRIBUTE,
            "_local": ATTRIBUTE,
        },
    ),
    Use(
        "celery.app.amqp:AMQP",
        by="holdfast.publisher.durable_amqp",
        why="where every task message of an application passes",
        until="Celery confirms by tag, within a deadline, on whichever node answers (celery#5410, celery#9149)",
        names={
            "__init__": "(self, app)",
            "producer_pool": "property",
            "_create_task_sender": "(self)",
            "_retry_publish": "(self, publish, *args, **kwargs)",
            "_producer_pool": ATTRIBUTE,
        },
    ),
    Use(
        "celery.app.task:Task",
        by="holdfast.publisher.template",
        why="tells whether somebody has replaced what Celery publishes with",
        until="Celery publishes many tasks fast and confirmed (celery#9887)",
        names={
            "_get_exec_options": "(self)",
            "_get_app": "(cls)",
            "_dump_pydantic_arguments": ATTRIBUTE,
        },
    ),
    Use(
        "amqp.channel:Channel",
        by="holdfast.publisher.transport",
        why="a confirm counts for the message whose tag it carries",
        until="py-amqp matches confirms by delivery tag (celery#5410)",
        names={
            "basic_publish_confirm": "(self, *args, **kwargs)",
            "_basic_publish": (
                "(self, msg, exchange=, routing_key=, mandatory=, immediate=, timeout=, confirm_timeout=, argsig=)"
            ),
            "_confirm_selected": ATTRIBUTE,
        },
    ),
    Use(
        "amqp.abstract_channel:AbstractChannel",
        by="holdfast.publisher.transport",
        why="no wait for an answer is endless",
        until="py-amqp has a limit for every wait (celery#2312, celery#975)",
        names={
            "wait": "(self, method, callback=, timeout=, returns_tuple=)",
        },
    ),
    Use(
        "kombu.transport.pyamqp:Connection",
        by="holdfast.publisher.transport",
        why="makes the channels above",
        until="py-amqp has a limit for every wait (celery#2312, celery#975)",
        names={
            "Channel": "class",
        },
    ),
    Use(
        "amqp.connection:Connection",
        by="holdfast.publisher.transport",
        why="no wait for an answer is endless",
        until="py-amqp has a limit for every wait (celery#2312, celery#975)",
        names={
            "__init__": (
                "(self, host=, userid=, password=, login_method=, login_response=, authentication=, "
                "virtual_host=, locale=, client_properties=, ssl=, connect_timeout=, channel_max=, frame_max=, "
                "heartbeat=, on_open=, on_blocked=, on_unblocked=, confirm_publish=, on_tune_ok=, read_timeout=, "
                "write_timeout=, socket_settings=, frame_handler=, frame_writer=, **kwargs)"
            ),
            "connect": "(self, callback=)",
            "blocking_read": "(self, timeout=)",
            "collect": "(self)",
            "Transport": (
                "(self, host, connect_timeout, ssl=, read_timeout=, write_timeout=, socket_settings=, **kwargs)"
            ),
        },
    ),
    Use(
        "amqp.transport:_AbstractTransport",
        by="holdfast.publisher.transport",
        why="neither the handshake's limit on every read nor a farewell without one",
        until="py-amqp resets the socket's limit after the handshake",
        names={
            "_setup_transport": "(self)",
            "_shutdown_transport": "(self)",
        },
    ),
    Use(
        "kombu.transport.pyamqp:Transport",
        by="holdfast.publisher.transport",
        why="makes the connections above, and compares each node's own address",
        until="kombu keeps TLS options of one node to that node",
        names={
            "Connection": "class",
            "establish_connection": "(self)",
        },
    ),
    Use(
        "kombu.transport",
        by="holdfast.publisher.transport",
        why="lets kombu take these classes for amqp and amqps",
        until="kombu has a public way to replace a transport",
        names={
            "_transport_cache": ATTRIBUTE,
        },
    ),
    Use(
        "celery.backends.redis:RedisBackend",
        by="holdfast.results.backend",
        why="a result is stored when the replicas' disks have it",
        until="Celery waits for the replicas' disks before it calls a result stored",
        names={
            "__init__": "(self, host=, port=, db=, password=, max_connections=, url=, connection_pool=, **kwargs)",
            "_transport_options": "property",
            "on_task_call": "(self, producer, task_id)",
            "set": "(self, key, value, expires=, **retry_policy)",
            "ensure": "(self, fun, args, **policy)",
        },
    ),
    Use(
        "celery.backends.redis:RedisBackend",
        by="holdfast.results.endpoint",
        why="a result is stored when the replicas of a service have it",
        until="Celery waits for the replicas before it calls a result stored",
        names={
            "__init__": "(self, host=, port=, db=, password=, max_connections=, url=, connection_pool=, **kwargs)",
            "_get_pool": "(self, **params)",
            "_transport_options": "property",
        },
    ),
    Use(
        "celery.backends.redis:SentinelBackend",
        by="holdfast.results.sentinel",
        why="asks Sentinel again before each attempt",
        until="redis-py asks Sentinel on each reconnect",
        names={
            "__init__": "(self, *args, **kwargs)",
            "_get_sentinel_instance": "(self, **params)",
            "_transport_options": "property",
        },
    ),
    Use(
        "celery.backends.base:Backend",
        by="holdfast.results.backend",
        why="asks Sentinel again before each attempt",
        until="redis-py asks Sentinel on each reconnect",
        names={
            "store_result": "(self, task_id, result, state, traceback=, request=, **kwargs)",
            "_get_result_meta": "(self, result, state, traceback, request, format_date=, encode=)",
        },
    ),
    Use(
        "celery.backends.base:BaseKeyValueStoreBackend",
        by="holdfast.results.backend",
        why="asks Sentinel again before each attempt",
        until="redis-py asks Sentinel on each reconnect",
        names={
            "_store_result": "(self, task_id, result, state, traceback=, request=, **kwargs)",
            "_get_task_meta_for": "(self, task_id)",
            "_set_with_state": "(self, key, value, state)",
        },
    ),
    Use(
        "celery.backends.redis:RedisBackend",
        by="holdfast.results.chords",
        why="members of a chord are counted for good, and the body is sent once",
        until="a chord is claimed and its body sent in one step (celery#3363)",
        names={
            "on_chord_part_return": "(self, request, state, result, propagate=, **kwargs)",
            "set_chord_size": "(self, group_id, chord_size)",
            "_set_chord_key": "(self, key, value)",
            "_chord_part_return_script": "property",
            "_chord_cleanup_script": "property",
        },
    ),
    Use(
        "celery.backends.base:Backend",
        by="holdfast.results.chords",
        why="what follows a failed task fails, groups included",
        until="Celery fails the members of a group that follows a failed task (celery#6437)",
        names={
            "_fail_chain": "(self, chain, exc, traceback=, store_result=, state=)",
        },
    ),
    Use(
        "redis.retry:Retry",
        by="holdfast.results.store",
        why="a deadline instead of a count",
        until="redis-py has a policy with a deadline",
        names={
            "__init__": "(self, backoff, retries, supported_errors=)",
            "call_with_retry": "(self, do, fail, is_retryable=, with_failure_count=)",
        },
    ),
    Use(
        "redis.connection:AbstractConnection",
        by="holdfast.results.store",
        why="a repeated command asks Sentinel who the primary is",
        until="redis-py asks Sentinel on each reconnect",
        names={
            "_sock": ATTRIBUTE,
            "send_packed_command": "(self, command, check_health=)",
        },
    ),
    Use(
        "celery.local:Proxy",
        by="holdfast.startup",
        why="tells whether two names mean one application",
        until="Celery compares proxies by what they stand for",
        names={
            "_get_current_object": "(self)",
        },
    ),
    Use(
        "opentelemetry.instrumentation.celery:CeleryInstrumentor",
        by="holdfast.tracing",
        why="ends the span of a publish that a receiver of a signal broke",
        until="the instrumentation ends its span when a publish raises",
        names={
            "_trace_after_publish": "(*args, **kwargs)",
        },
    ),
)
