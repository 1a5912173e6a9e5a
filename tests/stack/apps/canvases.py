"""The canvases of Celery's documentation, with what they have to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import chain, chord, group

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Canvas:
    """A canvas and its end.

    Attributes:
        build: makes the signature from the tasks of ``canvas_tasks``.
        answer: what its result is.
        error: instead, the name of the exception that ``get`` raises.
        said: what its callbacks and errbacks write into the ledger.
    """

    build: Callable[[Any], Any]
    answer: Any = None
    error: str | None = None
    said: str | None = None


def _replaced(t: Any) -> Any:
    return chain(t.add.s(1, 1), t.becomes_chain.s(), t.mul.s(10))


def _stamped(t: Any) -> Any:
    signature = chain(t.add.s(1, 1), t.stamps.s())
    signature.stamp(monitor="canvas")
    return signature


CANVASES = {
    "a task": Canvas(lambda t: t.add.s(2, 2), 4),
    "a partial": Canvas(lambda t: t.add.s(2).clone((1,)), 3),
    "options": Canvas(lambda t: t.add.s(2, 2).set(countdown=1, priority=3, expires=300), 4),
    "a header of its own": Canvas(lambda t: t.header.s("colour").set(headers={"colour": "blue"}), "blue"),
    "an immutable link": Canvas(lambda t: t.add.s(2, 2).set(link=t.say.si("link")), 4, said="link"),
    "a link that gets the result": Canvas(lambda t: t.mul.s(6, 7).set(link=t.say.s()), 42, said="42"),
    "an errback": Canvas(lambda t: t.fail.s("alone").on_error(t.errback.s()), error="ValueError", said="error-alone"),
    "a chain": Canvas(lambda t: chain(t.add.s(4, 4), t.mul.s(8), t.mul.s(10)), 640),
    "an immutable chain": Canvas(lambda t: t.add.si(2, 2) | t.add.si(4, 4) | t.add.si(8, 8), 16),
    "a chain of chains": Canvas(lambda t: chain(chain(t.add.s(1, 1), t.mul.s(2)), chain(t.mul.s(3), t.add.s(1))), 13),
    "a chain with a delay": Canvas(lambda t: t.add.s(1, 1) | t.add.s(2).set(countdown=1, expires=300), 4),
    "a chain that fails": Canvas(lambda t: t.add.s(1, 1) | t.fail.s() | t.add.s(1), error="ValueError"),
    "a chain that fails before a group": Canvas(
        lambda t: t.add.s(1, 1) | t.fail.s() | group(t.add.s(1), t.add.s(1)), error="ValueError"
    ),
    "a chain that fails before a group of chains": Canvas(
        lambda t: t.add.s(1, 1) | t.fail.s() | group(t.add.s(1) | t.add.s(1), t.add.s(1)), error="ValueError"
    ),
    "a group": Canvas(lambda t: group([t.add.s(2, 2), t.add.s(4, 4)]), [4, 8]),
    "a group from a generator": Canvas(lambda t: group(t.add.s(n, n) for n in range(10)), [2 * n for n in range(10)]),
    "a group of chains": Canvas(lambda t: group(t.add.s(n, n) | t.mul.s(10) for n in range(3)), [0, 20, 40]),
    "a group in a group": Canvas(lambda t: group(t.add.s(1, 1), group(t.add.s(2, 2), t.add.s(3, 3))), [2, 4, 6]),
    "a task, then a group": Canvas(lambda t: t.add.s(4, 4) | group(t.add.s(n) for n in range(3)), [8, 9, 10]),
    "a group, then a group": Canvas(
        lambda t: group(t.add.s(1, 1), t.add.s(2, 2)) | group(t.xsum.s(), t.xsum.s()), [6, 6]
    ),
    "a chord": Canvas(lambda t: chord([t.add.s(n, n) for n in range(10)], t.xsum.s()), 90),
    "a chord from a generator": Canvas(lambda t: chord((t.add.s(n, n) for n in range(10)), t.xsum.s()), 90),
    "a chord with an immutable body": Canvas(lambda t: chord([t.add.s(1, 1), t.add.s(2, 2)], t.add.si(5, 5)), 10),
    "a chord of one": Canvas(lambda t: chord([t.add.s(1, 1)], t.xsum.s()), 2),
    "a group, then a task": Canvas(lambda t: group(t.add.s(n, n) for n in range(10)) | t.xsum.s(), 90),
    "group, task, group, task": Canvas(
        lambda t: group(t.add.s(1, 1), t.add.s(2, 2)) | t.xsum.s() | group(t.mul.s(2), t.mul.s(3)) | t.xsum.s(), 30
    ),
    "task, group, task, task": Canvas(
        lambda t: t.add.s(1, 1) | group(t.add.s(n) for n in range(3)) | t.xsum.s() | t.mul.s(2), 18
    ),
    "a chord with a chain as body": Canvas(
        lambda t: chord([t.add.s(1, 1), t.add.s(2, 2)], t.xsum.s() | t.mul.s(2) | t.add.s(1)), 13
    ),
    "a chord with a group as body": Canvas(
        lambda t: chord([t.add.s(1, 1), t.add.s(2, 2)], group(t.xsum.s(), t.xsum.s())), [6, 6]
    ),
    "a chord with a group of chains as body": Canvas(
        lambda t: chord([t.add.s(1, 1), t.add.s(2, 2)], group(t.xsum.s() | t.mul.s(2), t.xsum.s() | t.mul.s(3))),
        [12, 18],
    ),
    "a chord with a chord as body": Canvas(
        lambda t: chord([t.add.s(1, 1), t.add.s(2, 2)], chord([t.xsum.s(), t.xsum.s()], t.xsum.s())), 12
    ),
    "a chord of chains": Canvas(lambda t: chord([t.add.s(n, n) | t.mul.s(10) for n in range(3)], t.xsum.s()), 60),
    "a chord of chords": Canvas(
        lambda t: chord([chord([t.add.s(n, n), t.add.s(n, 1)], t.xsum.s()) for n in range(3)], t.xsum.s()), 12
    ),
    "a chord of groups": Canvas(lambda t: chord([group(t.add.s(1, 1), t.add.s(2, 2)), t.add.s(3, 3)], t.flat.s()), 12),
    "a chord that fails": Canvas(lambda t: chord([t.add.s(1, 1), t.fail.s("part")], t.xsum.s()), error="ValueError"),
    "a chord that fails, with an errback": Canvas(
        lambda t: chord([t.add.s(1, 1), t.fail.s("part")], t.xsum.s().on_error(t.errback.s())),
        error="ValueError",
        said="error-chord",
    ),
    "map": Canvas(lambda t: t.xsum.map([[1, 2], [3, 4]]), [3, 7]),
    "starmap": Canvas(lambda t: t.add.starmap(list(zip(range(5), range(5), strict=True))), [0, 2, 4, 6, 8]),
    "starmap from an iterator": Canvas(lambda t: t.add.starmap(zip(range(3), range(3), strict=True)), [0, 2, 4]),
    "chunks": Canvas(
        lambda t: t.add.chunks(list(zip(range(6), range(6), strict=True)), 3).group(), [[0, 2, 4], [6, 8, 10]]
    ),
    "chunks from an iterator": Canvas(
        lambda t: t.add.chunks(zip(range(4), range(4), strict=True), 2).group(), [[0, 2], [4, 6]]
    ),
    "skewed chunks": Canvas(
        lambda t: t.add.chunks(list(zip(range(4), range(4), strict=True)), 2).group().skew(start=1, stop=3),
        [[0, 2], [4, 6]],
    ),
    "a task that replaces itself by a chain": Canvas(_replaced, 60),
    "a task that replaces itself by a chord": Canvas(lambda t: t.becomes_chord.s(2) | t.add.s(1), 7),
    "a stamp": Canvas(_stamped, "canvas"),
}
