"""The check of a login at the start of a worker: what it leaves behind."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from celery.backends.redis import RedisBackend
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from holdfast.logins import check_results


class Backend(RedisBackend):
    """A backend whose store answers with an error."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self.opened = False

    def get_key_for_task(self, task_id: str, *_: Any) -> bytes:
        return task_id.encode()

    @property
    def client(self) -> Any:
        return SimpleNamespace(set=self._set, connection_pool=SimpleNamespace(disconnect=self._disconnect))

    def _set(self, *_: Any, **__: Any) -> None:
        self.opened = True
        if self._error:
            raise self._error

    def _disconnect(self) -> None:
        self.opened = False


@pytest.mark.parametrize("error", [None, RedisConnectionError("gone"), NoPermissionError("no SET"), ValueError("odd")])
def test_children_inherit_no_open_connection(error: Exception | None) -> None:
    backend = Backend(error)
    app: Any = SimpleNamespace(backend=backend, conf=SimpleNamespace(task_ignore_result=False))
    with suppress(SystemExit, ValueError):
        check_results(app)
    assert not backend.opened
