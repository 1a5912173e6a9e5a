"""Deliveries are signed so that any implementation of Standard Webhooks can verify them, and forgeries are refused."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from celery.exceptions import ImproperlyConfigured
from standardwebhooks import Webhook

from webhooks import config, signature

KEYS = ["whsec_" + b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3)]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOKS_SIGNING_KEYS", KEYS[0])


def statuses(url: str, *attempts: dict[str, str]) -> list[int]:
    return [httpx.post(url, content=b'{"n":1}', headers=headers).status_code for headers in attempts]


def test_a_receiver_with_either_key_accepts_what_two_keys_sign() -> None:
    headers = signature.sign(KEYS[:2], "id-1", b"{}")
    assert [signature.verified([key], headers, b"{}") for key in KEYS] == [True, True, False]


def test_a_forged_changed_or_old_delivery_is_refused(url: str) -> None:
    good = signature.sign([KEYS[0]], "id-1", b'{"n":1}')
    old = datetime.now(UTC) - timedelta(minutes=6)
    stale = {
        "webhook-id": "id-1",
        "webhook-timestamp": str(int(old.timestamp())),
        "webhook-signature": Webhook(KEYS[0]).sign("id-1", old, '{"n":1}'),
    }
    answers = statuses(
        url,
        good,
        {},
        signature.sign([KEYS[2]], "id-1", b'{"n":1}'),
        signature.sign([KEYS[0]], "id-1", b'{"n":2}'),
        good | {"webhook-id": "id-2"},
        good | {"webhook-signature": "nonsense"},
        good | {"webhook-signature": "v1,%%%"},
        stale,
    )
    assert answers == [200] + [401] * 7


@pytest.mark.parametrize("path", ["/alerts", "/heartbeat"])
def test_alertmanager_signs_nothing_and_is_heard_all_the_same(url: str, path: str) -> None:
    assert statuses(url.replace("/hook", path), {}) == [200]


@pytest.mark.parametrize("value", ["password", "whsec_c2hvcnQ=", "whsec_%%%", f"{KEYS[0]},x"])
def test_a_weak_or_wrong_key_is_named_without_showing_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOKS_SIGNING_KEYS", value)
    with pytest.raises(ImproperlyConfigured, match="WEBHOOKS_SIGNING_KEYS") as caught:
        config.load()
    assert value not in str(caught.value)
