"""kombu's serialisation, without the cloak that it puts over a soft time limit."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from billiard.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import DecodeError, EncodeError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def limit_passes() -> Iterator[None]:
    """Let a soft time limit that strikes in the middle of kombu's serialisation end the block as what it is.

    kombu makes an ``EncodeError`` or a ``DecodeError`` of every exception (5.7, ``serialization._reraise_errors``): a
    task that has run out of time would look like one whose arguments or result cannot be serialised, for good.

    Raises:
        SoftTimeLimitExceeded: it struck in the block.
        EncodeError: what the block serialises cannot be.
        DecodeError: what the block reads is not what kombu has written.
    """
    try:
        yield
    except (EncodeError, DecodeError) as error:
        struck = error.args[0] if error.args else None
        if isinstance(struck, SoftTimeLimitExceeded):
            raise struck from None
        raise
