"""Results in Redis behind Sentinel: every replica that could be promoted has a result on its disk."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from celery.backends.redis import SentinelBackend
from redis.backoff import NoBackoff
from redis.retry import Retry

from holdfast.results.backend import DurableBackend
from holdfast.results.confirm import Confirmation
from holdfast.results.store import SteadyConnection, SteadyTLSConnection

if TYPE_CHECKING:
    from redis.sentinel import Sentinel

LOOK = 5.0  # seconds between two questions to Sentinel how many replicas are up; a missing confirmation asks at once


class DurableSentinelBackend(DurableBackend, SentinelBackend):  # type: ignore[misc]  # Celery's backends have no stubs
    """The durable backend whose connections ask the Sentinels who is primary, and how many replicas are up."""

    unsaved = "set appendonly to yes on every Redis node, of 7.2 or newer"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.replicas = int(self._transport_options.get("durable_replicas", 0))
        self._up, self._look_at = 1, 0.0
        self._sentinel: Any = None  # a Sentinel, once there is a connection

    def _get_sentinel_instance(self, **params: Any) -> Sentinel:
        kind = SteadyTLSConnection if "connection_class" in params else SteadyConnection
        sentinel: Sentinel = super()._get_sentinel_instance(
            **params | {"retry": self.patience, "connection_class": kind}
        )
        for client in sentinel.sentinels:  # redis-py would spend seconds on each Sentinel that is away
            client.set_retry(Retry(NoBackoff(), 0))
        self._sentinel = sentinel
        return sentinel

    def confirmations(self) -> int:
        """Return how many replicas must confirm a write.

        One is not enough: a primary that was silent and comes back while Sentinel replaces it takes writes for seconds,
        and passes them to the replica that is not being promoted. A replica that Sentinel calls down cannot be
        promoted, so nothing waits for it.
        """
        if self.replicas:
            return self.replicas
        if self._sentinel is not None and monotonic() >= self._look_at:
            up = self._sentinel.discover_slaves(self._transport_options["master_name"])
            self._up = len(up) or self._up  # none: nobody answers, or the primary refuses writes anyway
            self._look_at = monotonic() + LOOK
        return self._up

    def confirmation(self) -> Confirmation:
        """Return who must confirm a write: on disk, each replica that could be promoted."""
        return Confirmation(self.confirmations())

    def unconfirmed(self) -> None:
        """Ask the Sentinels again before the next attempt."""
        self._look_at = 0.0
