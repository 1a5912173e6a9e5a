"""Publisher confirms as pure bookkeeping: which message does an ack, a nack or a return belong to.

py-amqp takes the next ack for the ack of the message it waits for, whatever its delivery tag says, so a late ack
confirms the wrong message. Here only the tag decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable


class OutOfOrderError(Exception):
    """The broker settled a message that was not waiting: the channel can no longer be trusted."""


T = TypeVar("T")


class Confirms(Generic[T]):
    """The messages of one channel that wait for their answer, in the order in which they were published."""

    def __init__(self) -> None:
        self._last = 0
        self._oldest = 1
        self._waiting: dict[int, tuple[Hashable, T]] = {}
        self._returned: set[int] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def publish(self, item: T, key: Hashable = None) -> int:
        """Note that a message was handed to the channel.

        Args:
            item: what to give back once the message is settled.
            key: what a ``basic.return`` of this message can be recognised by: it carries no delivery tag.

        Returns:
            The delivery tag that the broker counts for it.
        """
        self._last += 1
        self._waiting[self._last] = (key, item)
        return self._last

    def settle(self, tag: int, *, multiple: bool) -> list[tuple[T, bool]]:
        """Take an ack or a nack.

        Args:
            tag: the delivery tag of the answer; 0 with ``multiple`` means all.
            multiple: True when the answer covers every waiting message up to the tag.

        Returns:
            Each settled item, with True when the broker had returned it as unroutable.

        Raises:
            OutOfOrderError: the tag was never published, or (without ``multiple``) was settled before.
        """
        if multiple and tag == 0:
            tag = self._last
        if tag > self._last or (not multiple and tag not in self._waiting):
            raise OutOfOrderError(f"answer for delivery tag {tag}, published up to {self._last}, {len(self)} waiting")
        if not multiple:
            return [self._take(tag)]
        covered = [self._take(t) for t in range(self._oldest, tag + 1) if t in self._waiting]
        self._oldest = max(self._oldest, tag + 1)
        return covered

    def unroutable(self, key: Hashable) -> None:
        """Take a ``basic.return``, which comes before the ack of the same message.

        Args:
            key: as given to :meth:`publish`; the oldest waiting message with this key is meant.

        Raises:
            OutOfOrderError: no such message waits.
        """
        for tag, (candidate, _) in self._waiting.items():
            if candidate == key and tag not in self._returned:
                self._returned.add(tag)
                return
        raise OutOfOrderError(f"return of {key!r}, which is not waiting")

    def abandon(self) -> list[T]:
        """Forget everything, for a channel that is given up.

        Returns:
            The items that were still waiting, oldest first.
        """
        items = [item for _, item in self._waiting.values()]
        self._waiting.clear()
        self._returned.clear()
        return items

    def _take(self, tag: int) -> tuple[T, bool]:
        _, item = self._waiting.pop(tag)
        returned = tag in self._returned
        self._returned.discard(tag)
        return item, returned
