"""The durable backend: what it waits for, for how long, and what it says when the store stays away."""

from __future__ import annotations

import json
import socketserver
import threading
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, states
from celery.exceptions import BackendGetMetaError
from celery.exceptions import TimeoutError as ResultTimeout
from celery.result import ResultSet
from kombu.exceptions import DecodeError, EncodeError
from redis.exceptions import (
    BusyLoadingError,
    DataError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    TimeoutError as RedisTimeout,
)
from redis.sentinel import MasterNotFoundError, SentinelConnectionPool, SentinelManagedConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

from redis import Redis

from holdfast import results
from holdfast.request import PutBack
from holdfast.results import (
    DurableSentinelBackend,
    NotReplicated,
    Patience,
    ResultRefused,
    SteadyConnection,
    transient,
)
from holdfast.results import backend as backend_module


@pytest.fixture
def app() -> Celery:
    url = "sentinel://app:secret@127.0.0.1:1/0;sentinel://app:secret@127.0.0.1:2/0"  # nobody listens there
    store = f"holdfast.results:DurableSentinelBackend+{url}"
    app = Celery("unit", broker="memory://", backend=store, set_as_current=False)
    app.conf.result_backend_transport_options = {"master_name": "results", "durable_patience": 0.2}
    return app


@pytest.fixture
def backend(app: Celery, monkeypatch: pytest.MonkeyPatch) -> DurableSentinelBackend:
    monkeypatch.setattr(backend_module, "SHORT", 0.1)
    backend = app.backend
    assert isinstance(backend, DurableSentinelBackend)
    return backend


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("reset"),
        RedisTimeout("slow"),
        MasterNotFoundError("no primary"),
        BusyLoadingError("loading"),
        ReadOnlyError("demoted"),
        OutOfMemoryError("full"),
        MasterDownError("down"),
        NotReplicated("0 of 1"),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        ResponseError("Command # 1 (SET k v) of pipeline caused error: NOREPLICAS Not enough good replicas to write."),
        ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        ResponseError("UNBLOCKED force unblock from blocking operation"),
        ConnectionRefusedError(),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:40],
)
def test_what_a_failover_ends_is_waited_for(error: Exception) -> None:
    assert transient(error)


@pytest.mark.parametrize(
    "error", [ResponseError("WRONGTYPE"), NoPermissionError("no"), DataError("no"), KeyError("NOREPLICAS")], ids=repr
)
def test_what_stays_wrong_is_not_waited_for(error: Exception) -> None:
    assert not transient(error)


def test_patience_tries_again_until_it_works() -> None:
    errors = iter([RedisConnectionError("1"), ResponseError("NOREPLICAS")])
    closed: list[Exception] = []

    def do() -> str:
        for error in errors:
            raise error
        return "done"

    assert Patience(5, 5).call_with_retry(do, closed.append) == "done"
    assert len(closed) == 2  # the connection is closed before each new attempt


def test_patience_ends_at_its_deadline_and_never_hides_another_error() -> None:
    def away() -> None:
        raise RedisConnectionError("away")

    def wrong() -> None:
        raise ResponseError("WRONGTYPE")

    start = monotonic()
    with pytest.raises(RedisConnectionError):
        Patience(60, 0.3).call_with_retry(away, lambda _: None)
    assert monotonic() - start < 30, "that of a task is longer"
    with pytest.raises(ResponseError):
        Patience(9, 9).call_with_retry(wrong, lambda _: None)


def test_several_urls_and_the_login_arrive(backend: DurableSentinelBackend) -> None:
    assert [host["port"] for host in backend.connparams["hosts"]] == [1, 2]
    assert (backend.connparams["username"], backend.connparams["password"]) == ("app", "secret")
    assert "secret" not in backend.as_uri()


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
def test_a_final_state_that_cannot_be_stored_puts_the_message_back(backend: DurableSentinelBackend, state: str) -> None:
    with pytest.raises(PutBack, match=f"{state} of task id cannot be stored"):
        backend.store_result("id", ValueError("x") if state != "SUCCESS" else 1, state)


@pytest.mark.parametrize("state", ["STARTED", "RETRY", "PROGRESS"])
def test_a_passing_state_that_cannot_be_stored_is_only_missing(backend: DurableSentinelBackend, state: str) -> None:
    assert backend.store_result("id", {"done": 1}, state) == {"done": 1}


def test_the_main_process_does_not_wait_again_for_a_store_that_was_away(
    backend: DurableSentinelBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    wait = Patience.call_with_retry

    def counted(patience: Patience, *call: Any, **options: Any) -> Any:
        asked.append(patience)
        return wait(patience, *call, **options)

    monkeypatch.setattr(Patience, "call_with_retry", counted)
    with pytest.raises(PutBack):
        backend.store_result("one", 1, "SUCCESS")
    assert asked, "the control: the first one waited"
    asked.clear()
    for number in range(20):
        with pytest.raises(PutBack, match="a moment ago"):
            backend.mark_as_revoked(f"id{number}", "expired")
    assert asked == []


def test_a_time_limit_that_hits_while_storing_is_not_a_failed_task(
    backend: DurableSentinelBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_args: Any) -> None:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(backend, "_durable", cut)
    with pytest.raises(PutBack, match="SoftTimeLimitExceeded"):
        backend.store_result("id", 1, "SUCCESS")


def test_a_time_limit_that_hits_while_a_result_is_serialised_is_not_a_failed_task(
    backend: DurableSentinelBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(error: Exception, *_args: Any) -> None:
        raise EncodeError(error) from error  # as kombu does with whatever an encoder raises

    monkeypatch.setattr(backend, "encode", partial(cut, TypeError("a set")))
    with pytest.raises(EncodeError, match="a set"):  # the control: it can never be stored
        backend.store_result("id", 1, "SUCCESS")
    monkeypatch.setattr(backend, "encode", partial(cut, SoftTimeLimitExceeded()))
    with pytest.raises(PutBack, match="SoftTimeLimitExceeded"):
        backend.store_result("id", 1, "SUCCESS")


def test_a_time_limit_that_hits_while_a_state_is_read_is_not_a_failed_task(
    backend: DurableSentinelBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(error: Exception, *_args: Any) -> None:
        raise DecodeError(error) from error  # as kombu does

    monkeypatch.setattr(backend, "_durable", lambda *_: [None])  # a state is there
    monkeypatch.setattr(backend, "get", lambda _key: b"state")
    monkeypatch.setattr(backend, "decode", partial(cut, ValueError("no JSON")))
    with pytest.raises(ResultRefused, match="no JSON"):  # the control: it will never be a state
        backend.store_result("id", 1, "SUCCESS")
    monkeypatch.setattr(backend, "decode", partial(cut, SoftTimeLimitExceeded()))
    with pytest.raises(PutBack, match="SoftTimeLimitExceeded"):
        backend.store_result("id", 1, "SUCCESS")


def test_a_primary_that_is_given_up_gets_no_news(
    backend: DurableSentinelBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[bool] = []
    monkeypatch.setattr(backend._news, "forget", lambda: left.append(True))
    with pytest.raises(RedisConnectionError):
        backend._durable(("SET", "key", b"value"))
    assert left


def test_a_state_that_cannot_be_read_is_an_error_that_celery_knows(backend: DurableSentinelBackend) -> None:
    with pytest.raises(BackendGetMetaError, match="the result store cannot be read"):
        backend.get_task_meta("id")


def test_publishing_does_not_ask_the_store(
    app: Celery, backend: DurableSentinelBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(Patience, "call_with_retry", lambda *_, **__: asked.append(_))
    backend.on_task_call(None, "id")
    app.task(name="t", shared=False)(transient).delay("x")
    assert asked == []
    backend.client.get("id")
    assert asked, "the control: whoever asks comes by here"


@pytest.mark.usefixtures("backend")
def test_get_ends_at_its_deadline_and_says_why(app: Celery) -> None:
    start = monotonic()
    with pytest.raises(ResultTimeout, match="no result of task id before the deadline: the store said"):
        results.get(app.AsyncResult("id"), 0.5)
    assert monotonic() - start < 20


# what a task can raise that a store could raise as well
TROUBLES = [TimeoutError, ConnectionError, FileNotFoundError, RedisTimeout, BackendGetMetaError]


@pytest.fixture
def in_memory() -> Celery:
    """An app whose results are in this process."""
    return Celery("results", broker="memory://", backend="cache+memory://", set_as_current=False)


@pytest.mark.parametrize("kind", TROUBLES)
def test_an_error_of_the_task_is_no_trouble_with_the_store(in_memory: Celery, kind: type[Exception]) -> None:
    store = in_memory.backend.store_result
    store("failed", kind("the supplier does not answer"), "FAILURE")
    store("good", 42, "SUCCESS")
    result, good = in_memory.AsyncResult("failed"), in_memory.AsyncResult("good")
    with pytest.raises(kind, match="the supplier does not answer"):
        results.get(result, 20)
    with pytest.raises(kind, match="the supplier does not answer"):
        results.get(ResultSet([good, in_memory.AsyncResult("failed")], app=in_memory), 20)
    kept = results.get(ResultSet([good, in_memory.AsyncResult("failed")], app=in_memory), 20, propagate=False)
    assert kept[0] == 42
    assert isinstance(kept[1], kind)


def test_the_first_error_of_a_chain_is_raised(in_memory: Celery) -> None:
    store = in_memory.backend.store_result
    store("member", ConnectionError("first"), "FAILURE")
    store("last", ValueError("second"), "FAILURE")
    inner: Any = in_memory.GroupResult("inner", [in_memory.AsyncResult("member")])  # the stubs know no nested group
    header = in_memory.GroupResult("header", [in_memory.AsyncResult("waits"), inner])
    with pytest.raises(ConnectionError, match="first"):
        results.get(in_memory.AsyncResult("last", parent=header), 20)
    assert isinstance(results.get(in_memory.AsyncResult("last", parent=header), 20, propagate=False), ValueError)


class _Handler(socketserver.StreamRequestHandler):
    """Answers GET with 1 and anything else with OK; of a frozen server, nothing."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                self.rfile.readline()
                words.append(self.rfile.readline().strip())
            if not vars(self.server)["frozen"]:
                self.wfile.write(b"$1\r\n1\r\n" if words[0] == b"GET" else b"+OK\r\n")


@contextmanager
def primary() -> Iterator[socketserver.TCPServer]:
    """Serve as a primary."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        vars(server)["frozen"] = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("kind", "leaves"), [(SteadyConnection, True), (SentinelManagedConnection, False)])
def test_a_repeated_command_goes_to_the_new_primary(kind: type, leaves: bool) -> None:
    """redis-py alone stays with the frozen one: when that ends, the connection classes of the layer can go."""
    with primary() as old, primary() as new:
        known = [old]

        class Sentinels:
            def discover_master(self, _name: str) -> Any:
                return known[0].server_address

        pool = SentinelConnectionPool(
            "results", Sentinels(), connection_class=kind, protocol=2, socket_timeout=0.3, retry=Patience(2, 2)
        )
        client = Redis(connection_pool=pool)
        assert client.get("x") == b"1"
        vars(old)["frozen"] = True
        known[0] = new
        if leaves:
            assert client.get("x") == b"1"
        else:
            with pytest.raises(RedisTimeout):
                client.get("x")


class _Sentinels:
    """What a backend asks for the replicas."""

    def __init__(self) -> None:
        self.up = [("10.0.0.2", 6379), ("10.0.0.3", 6379)]
        self.asked = 0

    def discover_slaves(self, name: str) -> list[tuple[str, int]]:
        assert name == "results"
        self.asked += 1
        return self.up


def test_every_replica_that_could_be_promoted_must_confirm(backend: DurableSentinelBackend) -> None:
    sentinels: Any = _Sentinels()
    backend._sentinel = sentinels
    assert [backend.confirmations(), backend.confirmations()] == [2, 2]
    assert sentinels.asked == 1, "not at every write"
    backend._look_at, sentinels.up = 0.0, sentinels.up[:1]
    assert backend.confirmations() == 1
    backend._look_at, sentinels.up = 0.0, []
    assert backend.confirmations() == 1, "who knows of no replica does not promise without one"


def test_a_fixed_number_of_confirmations_asks_nobody(app: Celery) -> None:
    app.conf.result_backend_transport_options["durable_replicas"] = 1
    backend: Any = app.backend
    backend._sentinel = None
    assert backend.confirmations() == 1


class _Store:
    """What a primary holds, and what a backend sends to it for good."""

    def __init__(self, backend: Any, monkeypatch: pytest.MonkeyPatch, present: bytes | None) -> None:
        self.present, self.sent, self.announced = present, list[tuple[Any, ...]](), 0
        monkeypatch.setattr(backend, "_durable", self.durable)
        monkeypatch.setattr(backend, "get", lambda _key: self.present)
        monkeypatch.setattr(backend._news, "tell", self.tell)

    def tell(self, _client: Any, *values: Any) -> None:
        self.announced += len(values)

    def durable(self, *commands: tuple[Any, ...]) -> list[Any]:
        (command,) = commands
        self.sent.append(command)
        if "NX" in command and self.present is not None:
            return [None]
        self.present = command[2]
        return [True]


def test_a_result_is_written_by_one_command_where_nothing_is_stored(
    backend: DurableSentinelBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _Store(backend, monkeypatch, None)
    backend.store_result("t", 42, states.SUCCESS)
    assert [command[0] for command in store.sent] == ["SET"]
    assert store.sent[0][-1] == "NX"
    assert store.announced == 1


@pytest.mark.parametrize(("stored", "kept"), [("SUCCESS", True), ("RETRY", False), ("FAILURE", False)])
def test_what_is_stored_already_is_written_again_unless_it_is_no_success(
    stored: str, kept: bool, backend: DurableSentinelBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a confirmation that is missing: the write that found a value has confirmed nothing."""
    before = json.dumps({"status": stored, "result": "first"}).encode()
    store = _Store(backend, monkeypatch, before)
    backend.store_result("t", ValueError("late"), states.FAILURE)
    conditional, final = store.sent
    assert conditional[-1] == "NX"
    assert "NX" not in final
    assert (final[2] == before) is kept
    assert store.announced == 1
