"""Every login of RabbitMQ can do what ``tests/access.yml`` allows it, and nothing else that is named there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ..stack import ROOT

if TYPE_CHECKING:
    from .broker import Broker

pytestmark = pytest.mark.stack

ACCESS: dict[str, Any] = yaml.safe_load((ROOT / "tests/access.yml").read_text(encoding="utf-8"))["rabbitmq"]


def test_each_user_has_its_operations_and_no_other(broker: Broker) -> None:
    wrong = [
        f"{user}: {row['what']}"
        for row in ACCESS["operations"]
        for user in ACCESS["users"]
        if broker.may(user, *row["command"].split()) is not (user in row["may"])
    ]
    assert wrong == []


def test_every_operation_has_a_user_with_whom_it_succeeds() -> None:
    """Otherwise a line with a mistake in it would count as refused."""
    assert [row["what"] for row in ACCESS["operations"] if not row["may"]] == []
