"""Results in a service of one address: what must confirm them, and what happens when the server cannot."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from holdfast.results.confirm import Confirmation, advice
from holdfast.results.endpoint import DurableRedisBackend
from holdfast.results.sentinel import DurableSentinelBackend
from holdfast.results.store import transient


@pytest.mark.parametrize(
    ("needed", "answers", "missing"),
    [
        (Confirmation(1), [b"OK", 1, [1, 1]], None),
        (Confirmation(1), [b"OK", 1, [1, 0]], "confirmed by 0 of 1 replicas"),
        (Confirmation(1), [b"OK", 1, [0, 1]], "confirmed by 1 of 1 replicas"),
        (Confirmation(0), [b"OK", 0, [1, 0]], None),
        (Confirmation(0), [b"OK", 0, [0, 0]], "confirmed by 0 of 0 replicas"),
        (Confirmation(2, fsync=False), [b"OK", 2], None),
        (Confirmation(2, fsync=False), [b"OK", 1], "confirmed by 1 of 2 replicas"),
        (Confirmation(0, fsync=False), [b"OK", 0], None),
    ],
)
def test_what_is_missing_is_read_from_the_answers(
    needed: Confirmation, answers: list[Any], missing: str | None
) -> None:
    assert needed.missing(answers) == missing


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("Command # 3 (WAITAOF 1 1 1000) of pipeline caused error: unknown command 'WAITAOF'"),
        ResponseError(
            "Command # 3 (WAITAOF 1 1 1000) of pipeline caused error: WAITAOF cannot be used when numlocal is set but "
            "appendonly is disabled."
        ),
    ],
)
def test_a_server_that_can_never_confirm_is_no_outage(error: RedisError) -> None:
    assert not transient(error)
    assert "HOLDFAST_RESULT_FSYNC=no" in advice(error, DurableRedisBackend.unsaved)
    behind_sentinel = advice(error, DurableSentinelBackend.unsaved)
    assert "appendonly" in behind_sentinel
    assert "HOLDFAST_RESULT_FSYNC" not in behind_sentinel, "which is not for results behind Sentinel"


def test_a_server_without_any_confirmation_is_named() -> None:
    error = ResponseError("Command # 2 (WAIT 1 1000) of pipeline caused error: unknown command 'WAIT'")
    assert "need Redis or Valkey" in advice(error, DurableRedisBackend.unsaved)


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("Command # 1 (SET k v) of pipeline caused error: unknown command 'SET'"),
        NoPermissionError(
            "Command # 3 (WAITAOF 1 1 1000) of pipeline caused error: User app has no permissions to run 'waitaof'"
        ),
    ],
)
def test_another_refusal_is_not_taken_for_it(error: RedisError) -> None:
    assert advice(error, DurableRedisBackend.unsaved) == ""
