"""Results in Redis behind Sentinel that survive a failover: stored means on the disk of each node that could take over.

Choose it with ``result_backend = "holdfast.results:DurableSentinelBackend+sentinel://...;sentinel://..."``. Optional
keys of ``result_backend_transport_options``: ``durable_replicas`` (how many must confirm; by default all that Sentinel
calls up, at least one), ``durable_wait`` (seconds for one confirmation, 1.0), ``durable_patience`` (seconds that a
running task waits for the store, 120; below the broker's consumer timeout). The setting ``holdfast_result_max_bytes``
limits the size of one result.
"""

from __future__ import annotations

from holdfast.results.backend import DurableSentinelBackend
from holdfast.results.refusal import ResultRefused
from holdfast.results.store import NotReplicated, Patience, SteadyConnection, SteadyTLSConnection, reason, transient
from holdfast.results.waiting import get

__all__ = [
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
