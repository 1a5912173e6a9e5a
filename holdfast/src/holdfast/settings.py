"""The Celery settings of a deployment that does not lose tasks.

:func:`holdfast.install` gives them to an application as defaults below its own. Who would rather take all of them, each
variable required, writes ``app.config_from_object("holdfast.settings")``: that replaces the application's own source of
configuration.

Every value has its reason beside it; a value that equals Celery's default is not repeated. To change one, set it in the
application's own configuration. With the module form, import all of this module into your own settings module and
overwrite the name there.

Importing this module needs no environment. The first name that is asked of it reads the environment, once per process.

Environment: ``HOLDFAST_BROKER_URL`` and ``HOLDFAST_RESULT_URL`` (URLs joined by commas); for ``sentinel://`` results
``HOLDFAST_SENTINEL_MASTER``, ``HOLDFAST_SENTINEL_USERNAME``, ``HOLDFAST_SENTINEL_PASSWORD`` (percent-encoded, as in a
URL), for those of a service that is one address (``rediss://``) what must confirm them, ``HOLDFAST_RESULT_REPLICAS``
(1) and ``HOLDFAST_RESULT_FSYNC`` (``yes``); optional ``HOLDFAST_QUEUES`` (``default,critical``; the first one is the
default queue), ``HOLDFAST_TIME_LIMIT`` (1500 seconds), ``HOLDFAST_SCHEDULE_URL`` (beat's own login for its schedule;
``HOLDFAST_RESULT_URL`` when it is not set), ``HOLDFAST_AUDIT_SHARE`` (0 to 1: which part of all tasks is audited),
and ``HOLDFAST_TLS_CA``, ``HOLDFAST_TLS_CERT``, ``HOLDFAST_TLS_KEY`` (:mod:`holdfast.tls`), with ``amqps://`` in the
broker's URLs.

What cannot be set here belongs in the worker's environment: ``REMAP_SIGTERM=SIGQUIT`` (a stop is a soft shutdown).
"""

from __future__ import annotations

import os
import socket
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

from holdfast import environment, redis_broker, routing, tls

STORES = ("sentinel", "redis", "rediss")  # schemes of HOLDFAST_RESULT_URL and HOLDFAST_SCHEDULE_URL
REDIS_TIMEOUT = 5  # seconds; the default of 120 outlasts every failover


def read() -> dict[str, Any]:
    """Return all settings by name, made from the environment as it is now.

    Raises:
        ImproperlyConfigured: a variable is missing or wrong; the message says what is allowed.
    """
    return {**general(), **time_limits(), **failures(), **cluster(), **results(), **schedule()}


_once = cache(read)  # all that one process reads of this module belongs together


def __getattr__(name: str) -> Any:
    if name == "__all__":  # `import *` asks for it
        return sorted(_once())
    if not name.startswith("_") and name in _once():
        return _once()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_once()})  # Celery takes what this lists: without an environment it must not be nothing


def general() -> dict[str, Any]:
    """Return what suits every broker and every result store."""
    return {
        **_connections(),
        **_execution(),
        **_messages(),
        **_redis(),
        # beside the modules that the application includes; the local stack adds the drill's
        "imports": environment.names("HOLDFAST_IMPORTS", ()),
    }


def cluster() -> dict[str, Any]:
    """Return the settings of the brokers that ``HOLDFAST_BROKER_URL`` names: address, transport and topology.

    Raises:
        ImproperlyConfigured: as :func:`read`.
    """
    url = environment.urls("HOLDFAST_BROKER_URL", ("amqp", "amqps", "sentinel"))
    queue_names = environment.names("HOLDFAST_QUEUES", ("default", "critical"))
    files = tls.read(HOLDFAST_BROKER_URL=url)
    return {
        "broker_url": url,  # HOLDFAST_BROKER_URL, all nodes
        "broker_use_ssl": files.amqp() if files else False,  # HOLDFAST_TLS_*; the node's name is compared
        **rabbitmq(),
        **_topology(queue_names),
        **(_redis_as_broker(queue_names, files) if url.startswith("sentinel:") else {}),
    }


def _time_limit() -> int:
    return environment.seconds("HOLDFAST_TIME_LIMIT", 1500)


def _sentinel(files: tls.TLSFiles | None) -> dict[str, Any]:
    """Return how clients ask the Sentinels, which know both the results' Redis and a Redis that is the broker."""
    return {
        "master_name": environment.required("HOLDFAST_SENTINEL_MASTER"),
        "min_other_sentinels": 1,  # a Sentinel that sees no other one may name a primary that was replaced
        # the Sentinels' own login and limits: they inherit nothing from the results' connection
        "sentinel_kwargs": {
            "username": environment.decoded("HOLDFAST_SENTINEL_USERNAME"),
            "password": environment.decoded("HOLDFAST_SENTINEL_PASSWORD"),
            "socket_timeout": 1,
            "socket_connect_timeout": 1,
            **(files.sentinel() if files else {}),
        },
    }


def _connections() -> dict[str, Any]:
    """Return how clients connect to the broker, and how often they try to publish."""
    return {
        # clients spread over the nodes, and a dead one is not always tried first
        "broker_failover_strategy": "shuffle",
        "broker_connection_timeout": 3,  # seconds; a frozen node accepts TCP and never answers the handshake
        # seconds; a paused node is noticed in 20 to 25; below 5 a busy machine raises false alarms
        "broker_heartbeat": 10,
        "broker_connection_max_retries": None,  # a worker never gives up; by default it exits after 100 attempts
        "broker_connection_retry_on_startup": True,  # a worker may start before the broker does
        "broker_channel_error_retry": True,  # a channel error reconnects; by default it ends the worker (celery#6760)
        # seconds; no thread waits forever for a connection in which another thread hangs
        "broker_pool_acquire_timeout": 10,
        "task_publish_retry_policy": {  # about 15 s of refused connections; the default gives up after 0.6 s
            "max_retries": 8,
            "interval_start": 0.2,
            "interval_step": 0.5,
            "interval_max": 3,
        },
    }


def rabbitmq() -> dict[str, Any]:
    """Return what suits every RabbitMQ, the application's own too: how messages get there, and the kinds of queues."""
    return {
        # confirms, and time limits of the socket
        "broker_transport_options": {
            "confirm_publish": True,  # a publish returns when a majority of the queue has it on disk (celery#5410)
            "socket_settings": {  # py-amqp's default of 1000 ms makes a short outage redeliver everything
                getattr(socket, "TCP_USER_TIMEOUT", 18): 15_000,
                # publishers have no heartbeat: the kernel finds their dead peers
                getattr(socket, "TCP_KEEPIDLE", 4): 10,
                socket.TCP_KEEPINTVL: 5,
                socket.TCP_KEEPCNT: 3,
            },
        },
        "task_default_exchange_type": "topic",  # on a direct exchange a countdown waits in a worker's memory
        "task_default_queue_type": "quorum",  # also for a queue that an adopting application describes by name only
        "task_create_missing_queue_type": "quorum",  # also for a queue that only a route names
        "task_create_missing_queue_exchange_type": "topic",  # and a countdown for it waits in the broker, too
    }


def _topology(queue_names: tuple[str, ...]) -> dict[str, Any]:
    """Return the topology: it is provisioned on the broker, and only described here."""
    return {
        "task_queues": routing.queues(queue_names),  # HOLDFAST_QUEUES; described, never declared by clients
        "task_default_queue": queue_names[0],  # what nobody routes elsewhere
        "task_default_exchange": routing.EXCHANGE,  # the one that the delay queues and `unrouted` are bound to
        "task_default_routing_key": queue_names[0],  # a queue's key is its name
        # a misspelt name raises; by default it creates a queue on one node that no worker reads
        "task_create_missing_queues": False,
        # where the broker delivers the notices of tasks that expired; None where there is no such queue
        "holdfast_expired_queue": routing.EXPIRED,
        # a message that names its queue keeps it, so a retry goes where it came from
        "task_routes": (routing.Router(queue_names[0]),),
    }


def time_limits() -> dict[str, Any]:
    """Return how long a task may run.

    Raises:
        ImproperlyConfigured: ``HOLDFAST_TIME_LIMIT`` is wrong.
    """
    limit = _time_limit()
    return {
        # seconds; below the broker's consumer timeout, after which it redelivers a running task
        "task_time_limit": limit,
        "task_soft_time_limit": max(1, limit * 14 // 15),  # seconds; the task's own chance to clean up or retry
    }


def failures() -> dict[str, Any]:
    """Return what becomes of the message of a task that failed for good."""
    return {
        # a final failure is rejected into the dead-letter queue, where it can be replayed
        "task_acks_on_failure": False,
        "task_acks_on_timeout": False,  # a run that the hard limit ends is requeued, and finally goes to `dead`
    }


def _execution() -> dict[str, Any]:
    """Return how workers run tasks."""
    return {
        "task_acks_late": True,  # acknowledged after the run: a dead worker's message goes back to the queue
        # a killed child's message too: by default it is acknowledged as failed (celery#9082)
        "task_reject_on_worker_lost": True,
        # a crash costs only what was running; each return counts towards the delivery limit
        "worker_prefetch_multiplier": 1,
        # their messages are redelivered, so the first run must not go on
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        # True loses the chord count of a task that died between its result and the count
        "worker_deduplicate_successful_tasks": False,
        "worker_soft_shutdown_timeout": 15,  # seconds; no heartbeat is sent meanwhile, so below twice broker_heartbeat
        # KiB; a child is replaced between tasks before the kernel kills it in one
        "worker_max_memory_per_child": 400_000,
        # seconds; the default of 4 kills children of a worker that starts on a busy machine
        "worker_proc_alive_timeout": 30,
        # a rate-limited task waits unacknowledged in memory, and each restart counts towards its delivery limit
        "worker_disable_rate_limits": True,
        "task_track_started": False,  # a failed write of STARTED fails the task before it runs
        # dead-letters unreadable messages; none of its waits is unlimited
        "worker_consumer": "holdfast.consumer:Consumer",
        # for Flower; sent without waiting, and dropped while an alarm blocks publishers
        "worker_send_task_events": True,
    }


def _messages() -> dict[str, Any]:
    """Return what messages and results are written as."""
    return {
        "task_serializer": "json",  # what `accept_content` takes
        "result_serializer": "json",  # the same
        "accept_content": ["json"],  # pickle would let anyone who can publish run code
    }


def _redis() -> dict[str, Any]:
    """Return how clients talk to a Redis that stores results, and how long results stay."""
    return {
        "redis_socket_timeout": REDIS_TIMEOUT,  # a dead primary is noticed, and its successor asked for
        "redis_socket_connect_timeout": 2,  # seconds; a dead address must not delay the failover
        "redis_socket_keepalive": True,  # the kernel finds the dead peer of a silent waiting reader (celery#4857)
        "redis_backend_health_check_interval": 15,  # seconds; an idle connection is checked before it is used
        "result_expires": 24 * 3600,  # seconds
        "result_chord_expires": 7 * 24 * 3600,  # seconds; a chord survives a weekend in the dead-letter queue
        "result_chord_join_timeout": 30,  # seconds; the default of 3 is shorter than a failover
    }


def results() -> dict[str, Any]:
    """Return the result store that ``HOLDFAST_RESULT_URL`` names.

    Raises:
        ImproperlyConfigured: as :func:`read`.
    """
    url = environment.urls("HOLDFAST_RESULT_URL", STORES)
    files = _tls("HOLDFAST_RESULT_URL", url)
    at_sentinels = url.startswith("sentinel:")
    backend = "DurableSentinelBackend" if at_sentinels else "DurableRedisBackend"
    return {
        # a result counts as stored when it is on the replicas' disks, too
        "result_backend": f"holdfast.results:{backend}+{url}",
        # the Sentinels and their login, or what confirms a result; and how long a result waits for the store
        "result_backend_transport_options": {
            **(_sentinel(files) if at_sentinels else _one_address()),
            "durable_patience": 120,  # seconds that a finished task waits for the store before its message goes back
        },
        "redis_backend_use_ssl": files.redis() if files else None,  # HOLDFAST_TLS_*
        # HOLDFAST_AUDIT_SHARE: the part of all tasks of which the running audit notes how they end; 0 turns it off
        "holdfast_audit_share": environment.fraction("HOLDFAST_AUDIT_SHARE", 0.0),
        # a stored failure names its task, arguments and worker; the tables of a database may lack the columns
        "result_extended": True,
    }


def _one_address() -> dict[str, Any]:
    """Return what confirms a result where a service gives one address, and nobody tells what is behind it."""
    return {
        "durable_replicas": int(environment.choice("HOLDFAST_RESULT_REPLICAS", ("1", "0", "2", "3", "4", "5"))),
        "durable_fsync": environment.choice("HOLDFAST_RESULT_FSYNC", ("yes", "no")) == "yes",
        "durable_wait": 2,  # seconds; a service writes its file once a second
    }


def schedule() -> dict[str, Any]:
    """Return the settings of beat: two of them, one lock, in the Redis that ``HOLDFAST_SCHEDULE_URL`` names.

    Raises:
        ImproperlyConfigured: as :func:`read`.
    """
    name = environment.first_set("HOLDFAST_SCHEDULE_URL", "HOLDFAST_RESULT_URL")
    url = environment.urls(name, STORES)
    files = _tls(name, url)
    return {
        # schedule and last runs are in Redis; a tick is done when a broker has acknowledged it
        "beat_scheduler": "holdfast.beat:Scheduler",
        "beat_max_loop_interval": 5,  # seconds
        "redbeat_lock_timeout": 30,  # seconds; the standby takes over within 35 (by default 25 minutes: redbeat#271)
        # makes redbeat use the options below, or the URL of a Redis without Sentinel; else it reads broker_url
        "redbeat_redis_url": "redis-sentinel://" if url.startswith("sentinel:") else url,
        # without it redbeat uses broker_use_ssl, which is for RabbitMQ
        "redbeat_redis_use_ssl": files.redis() if files else None,
        # the Sentinels and beat's own login; the URL of a Redis without Sentinel says both
        "redbeat_redis_options": {
            **(_sentinels_of_beat(url, files) if url.startswith("sentinel:") else {}),
            "socket_timeout": REDIS_TIMEOUT,
        },
    }


def _sentinels_of_beat(url: str, files: tls.TLSFiles | None) -> dict[str, Any]:
    sentinels = [urlsplit(one) for one in environment.split_urls(url)]
    ask = _sentinel(files)
    return {
        "sentinels": [(one.hostname, one.port or 26379) for one in sentinels],
        "service_name": ask["master_name"],
        "sentinel_kwargs": ask["sentinel_kwargs"],
        "username": unquote(sentinels[0].username or "") or None,
        "password": unquote(sentinels[0].password or "") or None,
        "db": int(sentinels[0].path.strip("/") or 0),
    }


def _tls(name: str, url: str) -> tls.TLSFiles | None:
    """Return the files of ``HOLDFAST_TLS_*`` for the Redis of a variable; those of the brokers must agree, if any."""
    return tls.read(**{"HOLDFAST_BROKER_URL": os.environ.get("HOLDFAST_BROKER_URL", "").strip(), name: url})


def _redis_as_broker(queue_names: tuple[str, ...], files: tls.TLSFiles | None) -> dict[str, Any]:
    """Return what differs where Redis carries the tasks."""
    return {
        "broker_use_ssl": files.redis() if files else False,  # HOLDFAST_TLS_*
        # a visibility timeout above the time limit
        "broker_transport_options": redis_broker.transport_options(_sentinel(files), _time_limit()),
        "task_queues": redis_broker.queues(queue_names),  # lists of Redis
        "holdfast_expired_queue": None,  # a notice waits in RabbitMQ's delay queues
    }
