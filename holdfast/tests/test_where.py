"""What the places that know a task mean together, and that one of them never hides another."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any

import click
import pytest

from holdfast.where import Story, show, tell

THEN = datetime(2026, 11, 29, tzinfo=timezone.utc)
ROW: dict[str, Any] = {"id": 7, "created_at": THEN, "parked_at": None, "error": "no answer"}
ACTIVE = {"worker": "w@host", "state": "active", "since": THEN}
LETTER = {"in": "dead", "reason": "rejected"}


def ended(state: str = "SUCCESS") -> dict[str, Any]:
    return {"state": state, "ended": "2026-11-29T00:00:00"}


@pytest.mark.parametrize(
    ("places", "meaning"),
    [
        ({"outbox": ROW}, "waits in the outbox since 2026"),
        ({"outbox": ROW | {"parked_at": THEN}}, r"no answer.*holdfast outbox release 7"),
        ({"workers": ACTIVE}, "active on w@host since 2026"),
        ({"workers": ACTIVE | {"state": "reserved", "since": None}}, "reserved on w@host$"),
        ({"workers": ACTIVE, "result": ended("RETRY")}, "active on w@host"),
        ({"dead": LETTER}, r"queue dead \(rejected\).*holdfast dead -A APP --queue dead replay --task-id task-1"),
        ({"unrouted": LETTER | {"in": "unrouted"}}, "holdfast dead -A APP --queue unrouted replay"),
        ({"dead": LETTER, "result": ended("FAILURE")}, "queue dead"),
        ({"result": ended()}, "ended with SUCCESS at 2026-11-29T00:00:00"),
        ({"result": ended("REVOKED") | {"ended": None}}, "ended with REVOKED$"),
        ({"result": ended("RETRY")}, "its last stored state is RETRY"),
        ({}, "not found: it waits in a queue"),
    ],
)
def test_what_can_still_change_comes_first(places: dict[str, Any], meaning: str) -> None:
    story = Story("task-1", places, {})
    assert re.search(meaning, story.meaning), story.meaning
    assert story.found == bool(places)


def test_a_place_that_fails_hides_no_other() -> None:
    def refused() -> None:
        raise click.ClickException("the broker refuses this login\nfound: and more")

    def silent() -> None:
        raise TimeoutError

    story = tell("task-1", {"workers": silent, "result": ended, "dead": refused, "unrouted": lambda: None})
    assert story.places == {"result": ended(), "unrouted": None}
    assert story.silent == {"workers": "TimeoutError", "dead": "the broker refuses this login"}
    assert story.meaning.startswith("ended")
    for line in ("dead      could not be asked: the broker", "unrouted  not there", "result    state=SUCCESS"):
        assert line in show(story)


def test_a_login_that_may_not_ask_is_told_which_one_may() -> None:
    def refused() -> None:
        raise click.ClickException("Queue.declare: (403) ACCESS_REFUSED - read access to queue 'dead'\nfound: more")

    story = tell("task-1", {"result": lambda: None, "dead": refused})
    assert story.silent == {"dead": "the broker refuses this login"}
    assert "HOLDFAST_OPERATOR_URL" in show(story)
    assert "HOLDFAST_OPERATOR_URL" not in show(tell("task-1", {"result": lambda: None}))


def test_not_found_is_not_said_for_sure_while_a_place_is_silent() -> None:
    assert "not every place could be asked: dead" in Story("task-1", {"result": None}, {"dead": "away"}).meaning
