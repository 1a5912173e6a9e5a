"""The receiver's log is evidence: complete, durable, and counted by key."""

from __future__ import annotations

from http.client import HTTPConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from webhooks.receiver import Behaviour, Log, Receiver

if TYPE_CHECKING:
    from pathlib import Path


def test_it_counts_requests_and_different_keys(server: Receiver, url: str) -> None:
    for key in ("a", "b", "a"):
        assert httpx.post(url, json={}, headers={"Idempotency-Key": key}).status_code == 200
    counts = httpx.get(url.replace("/hook", "/counts?path=/hook")).json()
    assert counts == {"requests": 3, "accepted": 3, "unique": 2, "duplicates": 1, "refused": 0}
    assert server.log.counts("/other")["requests"] == 0


def test_the_log_survives_a_restart_and_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first = Log(path)
    first.add({"path": "/hook", "key": "a", "status": 200})
    first.close()
    with path.open("a") as file:
        file.write('{"path": "/ho')
    second = Log(path)
    second.add({"path": "/hook", "key": "b", "status": 200})
    second.close()
    third = Log(path)
    assert [entry["key"] for entry in third.select(None)] == ["a", "b"]
    third.close()


def test_it_can_be_told_to_fail_by_http(url: str) -> None:
    control = url.replace("/hook", "/control")
    answer = httpx.post(control, json={"path": "/hook", "fail_next": 2, "status": 502})
    assert answer.json() == {"path": "/hook", "fail_next": 2, "status": 502, "delay": 0.0}
    assert [httpx.post(url, json={}).status_code for _ in range(3)] == [502, 502, 200]
    assert httpx.post(url.replace("/hook", "/other"), json={}).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"fail": 1}', b'{"status": 42}', b'{"delay": -1}'])
def test_a_wrong_order_is_refused_with_what_is_allowed(url: str, body: bytes) -> None:
    answer = httpx.post(url.replace("/hook", "/control"), content=body)
    assert answer.status_code == 400
    assert "fail_next" in answer.json()["allowed"]


def test_a_path_can_stand_for_a_status(url: str) -> None:
    assert httpx.post(url.replace("/hook", "/status/418"), json={}).status_code == 418


def test_a_body_that_is_too_long_is_refused(url: str, server: Receiver) -> None:
    connection = HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port, timeout=30)
    connection.putrequest("POST", "/hook")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    assert server.log.counts(None)["requests"] == 0


def test_an_unknown_address_says_what_there_is(url: str) -> None:
    assert "/counts" in httpx.get(url).json()["error"]


def test_failing_for_ever_ends_by_order(server: Receiver) -> None:
    server.control("/hook", Behaviour(fail_next=-1))
    assert [server.answer("/hook")[0] for _ in range(3)] == [503, 503, 503]
    server.control("/hook", Behaviour())
    assert server.answer("/hook")[0] == 200


@pytest.mark.usefixtures("server")
def test_it_shows_what_alertmanager_has_posted(url: str) -> None:
    base = url.removesuffix("/hook")
    alert = {
        "status": "firing",
        "labels": {"alertname": "BrokerDown", "instance": "rabbit1"},
        "annotations": {"summary": "rabbit1 does not answer."},
    }
    httpx.post(f"{base}/alerts", json={"version": "4", "alerts": [alert, alert | {"status": "resolved"}]})
    httpx.post(f"{base}/alerts", json=["of another kind"])
    httpx.post(url, json={"alerts": [alert]})

    shown = httpx.get(f"{base}/alerts").json()
    assert [(found["status"], found["alertname"], found["summary"]) for found in shown] == [
        ("firing", "BrokerDown", "rabbit1 does not answer."),
        ("resolved", "BrokerDown", "rabbit1 does not answer."),
    ]
