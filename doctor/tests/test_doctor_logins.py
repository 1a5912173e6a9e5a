"""Rules on logins where the server is too old to tell; on real servers: tests/stack/alone/test_doctor_alone.py."""

from __future__ import annotations

from typing import ClassVar

from redis.exceptions import ResponseError

import celery_doctor.logins  # noqa: F401 - adds its rules
from celery_doctor import State
from celery_doctor.redis import Store
from celery_doctor.rules import redis_rules

RULES = ("HF910", "HF911")


class BeforeSeven:
    """A client of a Redis that knows no ACL DRYRUN."""

    class connection_pool:  # noqa: N801 - as redis-py names it
        connection_kwargs: ClassVar = {"username": "app", "password": "secret"}

    def execute_command(self, *words: str) -> str:
        raise ResponseError(f"unknown subcommand '{words[1]}'")

    def acl_getuser(self, _: str) -> None:
        raise ResponseError("unknown command 'ACL'")


def test_what_an_old_redis_cannot_tell_about_a_login_is_said_and_is_no_error() -> None:
    store = Store("result store", BeforeSeven)
    found = {one.rule.number: one for one in redis_rules.examine(store, lambda rule: rule.number in RULES)}
    assert {one.state for one in found.values()} == {State.SKIPPED}
    assert "unknown subcommand 'DRYRUN'" in found["HF910"].found
