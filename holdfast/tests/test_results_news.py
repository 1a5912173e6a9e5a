"""News of a result reaches who waits, and nobody waits for the news."""

from __future__ import annotations

import os
import select
import socket
import socketserver
import threading
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from redis import Redis

from holdfast.results.news import News

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Primary(socketserver.ThreadingTCPServer):
    """Answers commands in RESP, and keeps what is published."""

    daemon_threads = True

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.connections: list[socket.socket] = []
        self.answer: bytes | None = b":1\r\n"
        super().__init__(("127.0.0.1", 0), Handler)

    def client(self) -> Any:
        """Return a client that asks for no other protocol."""
        return Redis(port=self.server_address[1], protocol=2, socket_timeout=5)


class Handler(socketserver.StreamRequestHandler):
    """Serves one connection."""

    server: Primary

    def handle(self) -> None:
        """Read command after command."""
        self.server.connections.append(self.connection)
        while line := self.rfile.readline():
            words = [self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))]
            if words[0] == b"PUBLISH":
                self.server.heard.append(words[2])
                if self.server.answer:
                    self.wfile.write(self.server.answer)
            else:
                self.wfile.write(b"+OK\r\n")


@contextmanager
def serving() -> Iterator[Primary]:
    """Serve as a primary."""
    with Primary() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait, with a generous deadline."""
    until = monotonic() + 20
    while not condition():
        assert monotonic() < until
        sleep(0.01)


@pytest.mark.parametrize("answer", [b":1\r\n", b"-NOPERM no permissions\r\n", None], ids=["taken", "refused", "frozen"])
def test_news_are_sent_whatever_the_server_answers(answer: bytes | None) -> None:
    with serving() as primary:
        primary.answer = answer
        client, news = primary.client(), News()
        for n in range(3):
            news.tell(client, ("channel", f"{n}a"), ("channel", f"{n}b"))
            wait_for(lambda n=n: len(primary.heard) == 2 * n + 2)  # type: ignore[misc]  # a default binds n
        assert primary.heard == [b"0a", b"0b", b"1a", b"1b", b"2a", b"2b"]
        assert len(primary.connections) == 1
        assert client.set("x", 1) is True, "answers to news never get to another command"


def test_news_after_the_connection_was_cut_take_another_one() -> None:
    with serving() as primary:
        client, news = primary.client(), News()
        news.tell(client, ("channel", "before"))
        wait_for(lambda: primary.heard == [b"before"])
        primary.connections[0].shutdown(socket.SHUT_RDWR)
        primary.connections[0].close()
        wait_for(lambda: _closed(news))
        news.tell(client, ("channel", "after"))
        wait_for(lambda: primary.heard == [b"before", b"after"])


def _closed(news: News) -> bool:
    """Tell whether the end of the connection has arrived here."""
    poller = select.poll()
    poller.register(news._idle[0]._connection._sock, select.POLLRDHUP)
    return bool(poller.poll(0))


def test_nobody_listening_and_no_primary_is_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    News().tell(Redis(port=port), ("channel", "lost"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_threads_and_forked_children_have_connections_of_their_own() -> None:
    with serving() as primary:
        client, news = primary.client(), News()
        news.tell(client, ("channel", "parent"))
        child = os.fork()
        if not child:
            news.tell(client, ("channel", "child"))
            os._exit(0)
        os.waitpid(child, 0)
        thread = threading.Thread(target=news.tell, args=(client, ("channel", "thread")))
        thread.start()
        thread.join()
        news.tell(client, ("channel", "again"))
        wait_for(lambda: len(primary.heard) == 4)
        assert sorted(primary.heard) == [b"again", b"child", b"parent", b"thread"]
        assert len(primary.connections) == 2, "the thread's turn came while nobody else published"


def test_however_many_threads_publish_the_pool_is_left_alone() -> None:
    with serving() as primary:
        client, news = primary.client(), News()
        client.connection_pool.max_connections = 1
        for n in range(150):  # a worker whose tasks are greenlets has a new one for each task
            thread = threading.Thread(target=news.tell, args=(client, ("channel", str(n))))
            thread.start()
            thread.join()
        wait_for(lambda: len(primary.heard) == 150)
        assert client.set("x", 1) is True
        assert len(primary.connections) == 2


def test_threads_that_publish_at_the_same_time_have_a_connection_each() -> None:
    with serving() as primary:
        client, news = primary.client(), News()

        def publish(name: str) -> None:
            for n in range(200):
                news.tell(client, ("channel", f"{name}{n}"))

        threads = [threading.Thread(target=publish, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_for(lambda: len(primary.heard) == 800)
        assert sorted(primary.heard) == sorted(f"{name}{n}".encode() for name in "abcd" for n in range(200))
        assert len(primary.connections) <= 4


def test_a_primary_that_does_not_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.results.news.SILENCE", 0.0)
    with serving() as frozen, serving() as promoted:
        frozen.answer = None
        client, news = frozen.client(), News()
        news.tell(client, ("channel", "before"))
        wait_for(lambda: frozen.heard == [b"before"])
        client.connection_pool.connection_kwargs["port"] = promoted.server_address[1]
        news.tell(client, ("channel", "after"))
        wait_for(lambda: promoted.heard == [b"after"])
        assert frozen.heard == [b"before"]


def test_news_follow_the_results_to_another_primary() -> None:
    with serving() as demoted, serving() as promoted:
        client, news = demoted.client(), News()
        news.tell(client, ("channel", "before"))
        wait_for(lambda: demoted.heard == [b"before"])
        client.connection_pool.connection_kwargs["port"] = promoted.server_address[1]
        news.tell(client, ("channel", "still"))  # the control: the old one answers, so nothing is noticed
        wait_for(lambda: demoted.heard == [b"before", b"still"])
        news.forget()
        news.tell(client, ("channel", "after"))
        wait_for(lambda: promoted.heard == [b"after"])


def test_a_server_that_says_more_than_it_was_asked_holds_nobody_up() -> None:
    client = MagicMock()
    client.connection_pool.connection_kwargs = {}
    connection = client.connection_pool.connection_class.return_value
    connection.can_read.return_value = True
    News().tell(client, ("channel", "lost"))
    assert connection.disconnect.called
    assert not connection.read_response.called
