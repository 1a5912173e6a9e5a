"""The bytes on the wire are those that py-amqp would write, and a stored message can be read back."""

from __future__ import annotations

from typing import Any

import amqp
import pytest
from amqp import spec
from amqp.method_framing import frame_writer
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st

from holdfast.publisher.errors import Refused
from holdfast.publisher.message import Message

FRAME_MAX = 4096
names = st.text(max_size=60)
tables = st.dictionaries(
    st.text(min_size=1, max_size=20),
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(max_size=50) | st.lists(st.text(max_size=5)),
    max_size=6,
)


class _Recorder:
    """What py-amqp writes to."""

    frame_max = FRAME_MAX
    bytes_sent = 0

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)


def message(body: bytes = b"[]", **changes: Any) -> Message:
    values: dict[str, Any] = {
        "exchange": "tasks",
        "routing_key": "default",
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {"id": "1", "task": "add"},
        "properties": {"correlation_id": "1", "priority": 0, "delivery_mode": 2, "reply_to": ""},
    }
    return Message(body=body, **(values | changes))


@given(exchange=names, key=names, headers=tables, body=st.binary(max_size=3 * FRAME_MAX))
def test_frames_equal_those_of_py_amqp(exchange: str, key: str, headers: dict[str, Any], body: bytes) -> None:
    ours = message(body, exchange=exchange, routing_key=key, headers=headers)
    recorder = _Recorder()
    theirs = amqp.Message(
        body,
        content_type=ours.content_type,
        content_encoding=ours.content_encoding,
        application_headers=headers,
        **ours.properties,
    )
    write = frame_writer(recorder, recorder)
    write(1, 1, spec.Basic.Publish, dumps("Bssbb", (0, exchange, key, True, False)), theirs)
    assert ours.encode().frames(FRAME_MAX) == recorder.written


@given(headers=tables, body=st.binary(max_size=50))
def test_a_stored_message_reads_as_it_was_written(headers: dict[str, Any], body: bytes) -> None:
    original = message(body, headers=headers)
    assert Message.decode(original.encode()) == original


def test_task_id_is_the_correlation_id() -> None:
    assert message().task_id == "1"
    assert message(properties={}).task_id is None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"routing_key": "k" * 300}, "at most 255 bytes, this one has 300"),
        ({"exchange": "x" * 256}, "at most 255 bytes, this one has 256"),
        ({"headers": {"a": object()}}, "object"),
        ({"headers": {"a": "x" * 140_000}}, "131052 are allowed"),
    ],
)
def test_what_amqp_cannot_carry_is_refused_before_it_reaches_a_connection(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(Refused, match=found) as caught:
        message(**changes).encode()
    assert caught.value.task_id == "1"
    assert not caught.value.maybe_published
