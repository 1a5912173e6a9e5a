"""Results in Redis that survive a failover: stored means confirmed by each node that could take over.

Choose it with ``result_backend = "holdfast.results:DurableSentinelBackend+sentinel://...;sentinel://..."``, or with
``"holdfast.results:DurableRedisBackend+rediss://..."`` where a service gives one address and no Sentinel. Optional keys
of ``result_backend_transport_options``: ``durable_replicas`` (how many must confirm; behind Sentinel by default all
that it calls up, at least one; of one address 1), ``durable_fsync`` (of one address: whether they confirm by their
disks, True), ``durable_wait`` (seconds for one confirmation, 1.0), ``durable_patience`` (seconds that a running task
waits for the store, 120; below the broker's consumer timeout). The setting ``holdfast_result_max_bytes`` limits the
size of one result.
"""

from __future__ import annotations

from holdfast.results.confirm import NotReplicated
from holdfast.results.endpoint import DurableRedisBackend
from holdfast.results.refusal import ResultRefused
from holdfast.results.sentinel import DurableSentinelBackend
from holdfast.results.store import Patience, SteadyConnection, SteadyTLSConnection, reason, transient
from holdfast.results.waiting import get

__all__ = [
    "DurableRedisBackend",
    "DurableSentinelBackend",
    "NotReplicated",
    "Patience",
    "ResultRefused",
    "SteadyConnection",
    "SteadyTLSConnection",
    "get",
    "reason",
    "transient",
]
