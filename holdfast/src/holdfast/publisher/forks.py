"""A process that is forked while threads publish: its child does not wait for locks of threads that it does not have.

kombu's cached properties, such as ``app.amqp`` and ``app.AsyncResult``, take a lock at each access. When another thread
holds one in the moment of a fork, the child waits for it at its first publish, for ever.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from kombu.utils.objects import cached_property

_known: set[Any] = set()


def free_locks(*kinds: type) -> None:
    """Let the cached properties of classes have new locks in every child of this process.

    Args:
        kinds: the classes; those that they inherit from are included.
    """
    for kind in kinds:
        for base in kind.__mro__:
            _known.update(one for one in vars(base).values() if isinstance(one, cached_property))


def _free() -> None:
    for one in _known:
        one.lock = threading.RLock()


os.register_at_fork(after_in_child=_free)
