"""Results in a Redis or Valkey that is one address, behind which a service keeps its nodes and replaces the primary."""

from __future__ import annotations

from typing import Any

from holdfast.results.backend import DurableBackend
from holdfast.results.confirm import Confirmation


class DurableRedisBackend(DurableBackend):
    """The durable backend of one address.

    Nobody tells how many replicas could be promoted, so ``durable_replicas`` does (1), and ``durable_fsync`` whether
    they confirm by their disks (True) or, where the service keeps no append-only file, by their memory. A write whose
    confirmation the server cannot give does not count as stored. With no replica and no fsync the answer of the primary
    is all: what it took last is lost when the service replaces it.
    """

    unsaved = (
        "a server without an append-only file, or without WAITAOF, needs HOLDFAST_RESULT_FSYNC=no, and then a result "
        "is lost when all its nodes stop at once"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self._transport_options
        self._needed = Confirmation(int(options.get("durable_replicas", 1)), bool(options.get("durable_fsync", True)))

    def _get_pool(self, **params: Any) -> Any:
        return super()._get_pool(**params | {"retry": self.patience})  # each attempt asks the name service again

    def confirmation(self) -> Confirmation:
        """Return who must confirm a write: as many replicas as the settings say."""
        return self._needed
