"""Signatures of the Standard Webhooks form over id, timestamp and body, with two keys while one is rotated."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from standardwebhooks import Webhook, WebhookVerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def sign(keys: Sequence[str], message_id: str, body: bytes) -> dict[str, str]:
    """Return the headers of a signed request; a receiver that knows one of the keys accepts it.

    Args:
        keys: ``whsec_`` and base64; without any the request is not signed.
        message_id: the same for every attempt to deliver.
        body: exactly what is sent.
    """
    if not keys:
        return {}
    time = datetime.now(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(time.timestamp())),
        "webhook-signature": " ".join(Webhook(key).sign(message_id, time, body.decode()) for key in keys),
    }


def verified(keys: Sequence[str], headers: Mapping[str, str], body: bytes) -> bool:
    """Tell whether one of the keys has signed the request, less than five minutes ago.

    Args:
        keys: as for :func:`sign`; without any every request counts as verified.
        headers: of the request.
        body: exactly what came.
    """
    return not keys or any(_matches(key, headers, body) for key in keys)


def _matches(key: str, headers: Mapping[str, str], body: bytes) -> bool:
    try:
        Webhook(key).verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError):  # ValueError: a header or a body of another shape
        return False
    return True
