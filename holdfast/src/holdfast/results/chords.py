"""Chords and chains in the durable backend: counted for good, sent once, and failed where they cannot go on."""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from celery._state import get_current_task
from celery.backends.redis import CHORD_PART_RETURN_LUA, RedisBackend
from celery.canvas import maybe_signature
from celery.exceptions import ChordError
from celery.states import SUCCESS
from celery.utils.log import get_logger
from kombu.exceptions import EncodeError
from redis.exceptions import RedisError

from holdfast.request import PutBack, unavailable
from holdfast.results.refusal import ResultRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

logger = get_logger(__name__)


class _BodyNotSent(BaseException):
    """Passes the ``except Exception`` in which Celery fails a chord whose body it could not publish."""


def _send_body(body: Any, *args: Any) -> Any:
    try:
        return type(body).delay(body, *args)
    except Exception as error:
        if not unavailable(error):
            raise
        raise _BodyNotSent from error


class ChordBackend(RedisBackend):  # type: ignore[misc]  # Celery's backends have no stubs
    """The part of the backend that counts the members of chords and fails what cannot go on."""

    def _store(self, what: str) -> AbstractContextManager[None]:
        """Turn a store that stays away into :class:`PutBack`, and a refusal into :class:`ResultRefused`."""
        raise NotImplementedError

    def _durable(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Run commands and return their answers once they are confirmed."""
        raise NotImplementedError

    def on_chord_part_return(self, request: Any, state: str, result: Any, *args: Any, **kwargs: Any) -> None:
        """Count a finished member of a chord, and send the body after the last one.

        Raises:
            PutBack: the part could not be counted for good, or no broker took the body.
            ResultRefused: a part that succeeded can never be counted; it is counted as failed next.
        """
        body: Any = maybe_signature(request.chord, app=self.app)
        request.chord = body
        if body is not None:
            body.delay = partial(_send_body, body)
        try:
            with self._store(f"chord part {request.id}"):
                super().on_chord_part_return(request, state, result, *args, **kwargs)
        except _BodyNotSent as error:
            raise PutBack(f"the chord's body was not accepted: {error.__cause__}") from error.__cause__
        except EncodeError as refused:
            if state == SUCCESS:
                raise
            logger.error("Chord %s fails: %s", request.group, refused)  # noqa: TRY400 - the reason says all
            self.chord_error_from_stack(body, ChordError(f"part {request.id} can never be counted: {refused}"))

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Note how many members a chord waits for, for good: one whose size is lost with a primary never ends.

        Inside a task a store that stays away puts the task's message back.
        """
        with self._inside_task(f"size of chord {group_id}"):
            super().set_chord_size(group_id, chord_size)

    def _set_chord_key(self, key: bytes, value: Any) -> None:
        """Note what a chord must know of its members."""
        seconds = self.chord_expires
        with self._inside_task(f"note {key!r} of a chord"):
            self._durable(("SET", key, value, "EX", seconds) if seconds else ("SET", key, value))

    def _inside_task(self, what: str) -> AbstractContextManager[None]:
        return self._store(what) if get_current_task() else nullcontext()

    @property
    def _chord_part_return_script(self) -> Callable[..., tuple[int, Any, Any, bool]]:
        """Count a finished chord member, durably and with any number of attempts.

        The claim on the chord's body belongs to whoever holds the token, so an attempt whose answer was lost does not
        leave the chord claimed by nobody (celery#3363).
        """

        def count_part(*, keys: list[bytes], args: list[Any], client: object) -> tuple[int, Any, Any, bool]:  # noqa: ARG001 - redis-py calls it so
            token = str(args[-1]).encode()
            part, holder = self._durable(("EVAL", CHORD_PART_RETURN_LUA, len(keys), *keys, *args), ("GET", keys[-1]))
            ready, difference, size, _ = part
            return ready, difference, size, holder == token

        return count_part

    @property
    def _chord_cleanup_script(self) -> Callable[..., Any]:
        """Forget a chord whose body was sent; of one whose body was not, only the claim."""

        def clean(*, keys: list[bytes], args: list[Any], client: Any) -> Any:
            if not isinstance(sys.exc_info()[1], _BodyNotSent):
                return super(ChordBackend, self)._chord_cleanup_script(keys=keys, args=args, client=client)
            with suppress(RedisError, OSError):  # it expires
                client.delete(keys[0])
            return True

        return clean

    def _fail_chain(self, chain: Any, exc: BaseException, *args: Any, **kwargs: Any) -> None:
        """Fail the steps that follow a failed task, and the tasks inside of steps that are groups or chains.

        Stock Celery records the failure under the id of a group, which nobody waits for: ``get()`` on the result of
        ``a | failing | group(b, c)`` waits for ever (celery#6437). A task whose result alone was refused has sent what
        follows it already.
        """
        if not isinstance(exc, ResultRefused):
            super()._fail_chain(list(_every_step(chain)), exc, *args, **kwargs)


def _every_step(steps: Any) -> Iterator[Any]:
    for step in steps if isinstance(steps, (list, tuple)) else ():
        yield step
        yield from _every_step(_inner(step))


def _inner(step: Any) -> Iterable[Any]:
    """Return the steps inside of a step; the body of a chord itself is found by Celery."""
    kwargs = step.get("kwargs") or {}
    if step.get("subtask_type") == "chord":
        return _inner(kwargs.get("body") or {})
    return list(kwargs.get("tasks") or ()) if step.get("subtask_type") in {"group", "chain"} else ()
