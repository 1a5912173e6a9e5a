"""How long a publish may take and how its attempts are spaced."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from typing_extensions import Self

if TYPE_CHECKING:
    from collections.abc import Mapping


class Limits(NamedTuple):
    """When one attempt has to end, as ``time.monotonic()`` values.

    Attributes:
        until: the end of waiting for a node that is silent.
        end: the end of the whole publish, also for a node that said that it is blocked: another one would be, too.
    """

    until: float
    end: float


@dataclass(frozen=True, slots=True)
class Policy:
    """Each value can be set in the Celery configuration as ``holdfast_publish_<name>``. Times are seconds.

    Attributes:
        deadline: a publish ends after this long, whatever happens.
        attempt: how long one node may take to answer before the next one is asked. Shorter than an election of a
            queue leader costs duplicates, longer costs time when a node is frozen.
        connect: limit for each step of opening a connection.
        backoff: first pause after a failed attempt; it doubles up to ``backoff_max``, with jitter.
        max_bytes: larger bodies are refused here; RabbitMQ would close the channel and with it everything in flight.
    """

    deadline: float = 20.0
    attempt: float = 5.0
    connect: float = 3.0
    backoff: float = 0.05
    backoff_max: float = 1.0
    max_bytes: int = 16 * 1024 * 1024  # RabbitMQ's own default since 4.0 (max_message_size)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Read the policy of an app.

        Args:
            settings: the Celery configuration.

        Raises:
            ValueError: a value is not a positive number.
        """
        return cls(**{f.name: cls.value(settings, f.name) for f in fields(cls)})

    @classmethod
    def value(cls, settings: Mapping[str, Any], name: str) -> Any:
        """Return one value, which costs a sixth of reading all.

        Args:
            settings: the Celery configuration.
            name: of the attribute.

        Raises:
            ValueError: it is not a positive number.
        """
        value = settings.get(f"holdfast_publish_{name}")
        if value is None:
            return cls.__dataclass_fields__[name].default
        if not (isinstance(value, int | float) and value > 0):
            raise ValueError(
                f"holdfast_publish_{name} is {value!r}; set a number above 0, or leave it out for the default"
            )
        return value

    def pause(self, attempt: int) -> float:
        """Return how long to wait after the given attempt (0 for the first), in seconds."""
        return min(self.backoff_max, self.backoff * 2.0**attempt) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    def reserve(self, deadline: float) -> float:
        """Return how many seconds before its deadline a publish makes no new attempt.

        An attempt that the deadline cuts off would turn a clear refusal into an unknown outcome.
        """
        return min(self.backoff_max, deadline / 4)

    def limits(self, end: float) -> Limits:
        """Return the limits of an attempt that starts now and belongs to a publish that ends at ``end``."""
        return Limits(min(end, monotonic() + self.attempt), end)
