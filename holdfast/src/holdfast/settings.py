"""The Celery settings of a deployment that does not lose tasks: ``app.config_from_object("holdfast.settings")``.

Every value has its reason beside it; a value that equals Celery's default is not repeated. To change one, import all of
this module into your own settings module and overwrite the name there.

Environment: ``HOLDFAST_BROKER_URL`` and ``HOLDFAST_RESULT_URL`` (URLs joined by commas), ``HOLDFAST_SENTINEL_MASTER``,
``HOLDFAST_SENTINEL_USERNAME``, ``HOLDFAST_SENTINEL_PASSWORD`` (percent-encoded, as in a URL); optional
``HOLDFAST_QUEUES`` (``default,critical``; the first one is the default queue), ``HOLDFAST_TIME_LIMIT`` (1500 seconds),
and ``HOLDFAST_TLS_CA``, ``HOLDFAST_TLS_CERT``, ``HOLDFAST_TLS_KEY`` (:mod:`holdfast.tls`), with ``amqps://`` in the
broker's URLs.

What cannot be set here belongs in the worker's environment: ``REMAP_SIGTERM=SIGQUIT`` (a stop is a soft shutdown).
"""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import unquote, urlsplit

from holdfast import environment, redis_broker, routing, tls

_queue_names = environment.names("HOLDFAST_QUEUES", ("default", "critical"))
_time_limit = environment.seconds("HOLDFAST_TIME_LIMIT", 1500)
_broker_url = environment.urls("HOLDFAST_BROKER_URL", ("amqp", "amqps", "sentinel"))
_tls = tls.read(_broker_url)
_sentinel: dict[str, Any] = {
    "master_name": environment.required("HOLDFAST_SENTINEL_MASTER"),
    "min_other_sentinels": 1,  # a Sentinel that sees no other one may name a primary that was replaced
    "sentinel_kwargs": {  # the Sentinels' own login and limits: they inherit nothing from the results' connection
        "username": environment.decoded("HOLDFAST_SENTINEL_USERNAME"),
        "password": environment.decoded("HOLDFAST_SENTINEL_PASSWORD"),
        "socket_timeout": 1,
        "socket_connect_timeout": 1,
        **(_tls.sentinel() if _tls else {}),
    },
}

# Broker connection
broker_url = _broker_url
broker_use_ssl = _tls.amqp() if _tls else False
broker_failover_strategy = "shuffle"  # clients spread over the nodes, and a dead one is not always tried first
broker_connection_timeout = 3  # seconds; a frozen node accepts TCP and never answers the handshake
broker_heartbeat = 10  # seconds; a paused node is noticed in 20 to 25; below 5 a busy machine raises false alarms
broker_connection_max_retries = None  # a worker never gives up; by default it exits after 100 attempts
broker_connection_retry_on_startup = True  # a worker may start before the broker does
broker_channel_error_retry = True  # a channel error reconnects; by default it ends the worker (celery#6760)
broker_pool_acquire_timeout = 10  # seconds; no thread waits for ever for a connection that another one hangs on

# Publishing
broker_transport_options: dict[str, Any] = {
    "confirm_publish": True,  # a publish returns when a majority of the queue has it on disk (celery#5410)
    "socket_settings": {  # py-amqp's default of 1000 ms turns a hiccup into redelivery of everything
        getattr(socket, "TCP_USER_TIMEOUT", 18): 15_000,
        getattr(socket, "TCP_KEEPIDLE", 4): 10,  # publishers have no heartbeat: the kernel finds their dead peers
        socket.TCP_KEEPINTVL: 5,
        socket.TCP_KEEPCNT: 3,
    },
}
task_publish_retry_policy = {  # about 15 s of refused connections; the default gives up after 0.6 s
    "max_retries": 8,
    "interval_start": 0.2,
    "interval_step": 0.5,
    "interval_max": 3,
}

# Topology: provisioned on the broker, only described here
task_queues = routing.queues(_queue_names)
task_default_queue = _queue_names[0]
task_default_exchange = routing.EXCHANGE
task_default_exchange_type = "topic"  # on a direct exchange a countdown waits in a worker's memory
task_default_routing_key = task_default_queue
task_default_queue_type = "quorum"  # also for a queue that an adopting application describes by name only
task_create_missing_queues = False  # a typing error raises; by default it creates a queue on one node that nobody reads
task_routes = (routing.Router(task_default_queue),)

# Further task modules beside those that the application includes; the local stack adds the drill's
imports = environment.names("HOLDFAST_IMPORTS", ())

# Execution
task_acks_late = True  # acknowledged after the run: a dead worker's message goes back to the queue
task_reject_on_worker_lost = True  # a killed child's message too: by default it is acknowledged as failed (celery#9082)
task_acks_on_failure = False  # a final failure is rejected into the dead-letter queue, where it can be replayed
task_acks_on_timeout = False  # a run cut by the hard limit is not done: back to the queue, in the end `dead`
task_time_limit = _time_limit  # seconds; below the broker's consumer timeout, which takes a running task away
task_soft_time_limit = max(1, _time_limit * 14 // 15)  # seconds; the task's own chance to clean up or retry
worker_prefetch_multiplier = 1  # a crash costs only what was running; each return counts towards the delivery limit
worker_cancel_long_running_tasks_on_connection_loss = True  # their messages are handed out again: no two run at once
worker_deduplicate_successful_tasks = False  # True forgets the chord of a task that died between result and chord count
worker_soft_shutdown_timeout = 15  # seconds; no heartbeat is sent meanwhile, so below twice broker_heartbeat
worker_max_memory_per_child = 400_000  # KiB; a child is replaced between tasks before the kernel kills it in one
worker_proc_alive_timeout = 30  # seconds; the default of 4 kills children of a worker that starts on a busy machine
worker_disable_rate_limits = True  # a limited task waits unacknowledged in memory and burns its delivery limit
task_track_started = False  # a failed write of STARTED fails the task before it ran

worker_consumer = "holdfast.consumer:Consumer"  # dead-letters what it cannot read, waits for nothing without bound
worker_send_task_events = True  # for Flower; sent without waiting, and dropped while an alarm blocks publishers

# Messages
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]  # pickle would run code of whoever can publish

# Results
_result_url = environment.urls("HOLDFAST_RESULT_URL", ("sentinel",))
result_backend = f"holdfast.results:DurableSentinelBackend+{_result_url}"  # stored means on the replicas' disks, too
result_backend_transport_options: dict[str, Any] = {
    **_sentinel,
    "durable_patience": 120,  # seconds that a finished task waits for the store before its message goes back
}
redis_backend_use_ssl = _tls.redis() if _tls else None
redis_socket_timeout = 5  # seconds; the default of 120 outlasts every failover
redis_socket_connect_timeout = 2  # seconds; a dead address must not eat the failover time
redis_socket_keepalive = True  # the kernel finds the dead peer of a silent waiting reader (celery#4857)
redis_backend_health_check_interval = 15  # seconds; an idle connection is checked before it is used
result_expires = 24 * 3600  # seconds
result_chord_expires = 7 * 24 * 3600  # seconds; a chord survives a weekend in the dead-letter queue
result_chord_join_timeout = 30  # seconds; the default of 3 is shorter than a failover
result_extended = True  # a stored failure names its task, arguments and worker

# Beat: two of them, one lock
_result_urls = [urlsplit(url) for url in environment.split_urls(_result_url)]
beat_scheduler = "holdfast.beat:Scheduler"  # schedule and last runs live in Redis; a tick counts when a broker has it
beat_max_loop_interval = 5  # seconds
redbeat_lock_timeout = 30  # seconds; the standby takes over within 35 (by default 25 minutes: redbeat#271)
redbeat_redis_url = "redis-sentinel://"  # only says that the options below hold (without it redbeat reads broker_url)
redbeat_redis_use_ssl = redis_backend_use_ssl  # without it redbeat takes broker_use_ssl, which is RabbitMQ's
redbeat_redis_options: dict[str, Any] = {
    "sentinels": [(url.hostname, url.port or 26379) for url in _result_urls],
    "service_name": _sentinel["master_name"],
    "sentinel_kwargs": _sentinel["sentinel_kwargs"],
    "username": unquote(_result_urls[0].username or "") or None,
    "password": unquote(_result_urls[0].password or "") or None,
    "db": int(_result_urls[0].path.strip("/") or 0),
    "socket_timeout": redis_socket_timeout,
}

if broker_url.startswith("sentinel:"):
    broker_use_ssl = _tls.redis() if _tls else False
    broker_transport_options = redis_broker.transport_options(_sentinel, _time_limit)
    task_queues = redis_broker.queues(_queue_names)
