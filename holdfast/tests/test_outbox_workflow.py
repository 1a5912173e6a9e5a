"""Recording: finished messages, fixed ids, and nothing asked of broker or result store."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import QueueNotFound
from kombu.exceptions import EncodeError

from holdfast import routing
from holdfast.app import install
from holdfast.outbox.workflow import Workflow, due_in, record
from holdfast.publisher import Refused, delay

if TYPE_CHECKING:
    from celery.canvas import Signature


def make_app(*, durable: bool) -> Celery:
    """An app whose broker and result store do not exist: whoever asks them gets an error."""
    app = Celery("recording", broker="amqp://127.0.0.1:1//", backend="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.update(
        task_queues=routing.queues(("default", "critical")),
        task_default_queue="default",
        task_default_exchange=routing.EXCHANGE,
        task_default_exchange_type="topic",
        task_routes=(routing.Router("default"),),
        task_create_missing_queues=False,
        task_send_sent_event=True,  # an event beside each message, which must not be taken for one
        task_publish_retry_policy={"max_retries": 0},
        redis_retry_on_timeout=False,
    )
    if durable:
        install(app)

    @app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total", shared=False)
    def total(values: list[int]) -> int:
        return sum(values)

    app.finalize()
    return app


@pytest.fixture(params=[False, True], ids=["stock", "durable"])
def app(request: pytest.FixtureRequest) -> Celery:
    """The app, with Celery's own publishing and with ours."""
    return make_app(durable=request.param)


def sig(app: Celery, name: str, *args: Any) -> Signature[Any]:
    """A signature of a task of the app."""
    return app.tasks[name].s(*args)


def test_a_task_becomes_the_message_that_celery_would_send(app: Celery) -> None:
    workflow = record(sig(app, "add", 1, 2).set(queue="critical", priority=3))
    (message,) = workflow.messages
    assert (message.exchange, message.routing_key) == ("tasks", "critical")
    assert message.body.startswith(b"[[1, 2], {}, ")
    assert message.task_id == message.headers["id"] == workflow.task_id
    assert message.headers["task"] == workflow.task == "add"
    assert message.properties["priority"] == 3
    assert message.properties["delivery_mode"] == 2


def test_the_caller_s_signature_is_not_changed(app: Celery) -> None:
    signature = sig(app, "add", 1, 2)
    assert record(signature).task_id != record(signature).task_id


@pytest.mark.parametrize(
    ("build", "messages", "chords"),
    [
        (lambda add, _: chain(add(1, 2), add(3), add(4)), 1, 0),
        (lambda add, _: group(add(n, n) for n in range(5)), 5, 0),
        (lambda add, total: chord([add(n, n) for n in range(3)], total()), 3, 2),
        (lambda add, total: chain(group(add(n, n) for n in range(3)), total()), 3, 2),
        (lambda add, total: chain(add(1, 1), group(add(1), add(2)), total()), 1, 0),
        (lambda add, total: group(chord([add(1, 1), add(2, 2)], total()), add(1, 1)), 3, 2),
        (lambda add, total: chord([chain(add(1, 1), add(2)), group(add(1, 1), add(2, 2))], total()), 3, 2),
    ],
    ids=["chain", "group", "chord", "group in a chain", "chord in a chain", "chord in a group", "nested header"],
)
def test_every_canvas_is_recorded_whole(app: Celery, build: Any, messages: int, chords: int) -> None:
    signature = build(lambda *args: sig(app, "add", *args), lambda: sig(app, "total"))
    workflow, again = record(signature), record(signature)
    assert len(workflow.messages) == len(again.messages) == messages
    assert len(workflow.chords) == len(again.chords) == chords
    assert len({message.task_id for message in workflow.messages + again.messages}) == 2 * messages, "other ids"
    assert workflow.task_id != again.task_id


def test_the_stored_form_gives_the_same_messages_back(app: Celery) -> None:
    add, total = sig(app, "add", 1, 2), sig(app, "total")
    workflow = record(chord([add.set(countdown=60, expires=600), add.set(compression="zlib")], total))
    read = Workflow.loads(workflow.dumps())
    assert read.messages == workflow.messages
    assert read.dumps() == workflow.dumps()


def test_arguments_that_do_not_serialise_are_refused_in_the_transaction(app: Celery) -> None:
    with pytest.raises(EncodeError):
        record(sig(app, "add", 1, object()))


@pytest.mark.parametrize(
    "build",
    [
        lambda add, total: chord([add(1, 1)], total() | add(1)),
        lambda add, total: chord([add(1, 1)], group(total(), total())),
        lambda add, total: chord([add(1, 1)], group(total() | add(1), total())),
        lambda add, total: chord([chord([add(1, 1)], total()), add(2, 2)], total()),
        lambda add, total: group(add(1, 1), add(2, 2)) | total() | group(add(1), add(2)) | total(),
        lambda add, total: chord((add(n, n) for n in range(3)), group(total() for _ in range(2))),
    ],
    ids=["chain", "group", "group of chains", "chord of chords", "group, task, group, task", "generators"],
)
def test_canvases_inside_of_canvases_are_stored(app: Celery, build: Any) -> None:
    workflow = record(build(lambda *args: sig(app, "add", *args), lambda: sig(app, "total")))
    read = Workflow.loads(workflow.dumps())
    assert read.messages == workflow.messages
    assert read.dumps() == workflow.dumps()


def test_a_body_above_the_limit_is_refused_in_the_transaction(app: Celery) -> None:
    app.conf.holdfast_publish_max_bytes = 1000
    with pytest.raises(Refused, match="1000 are allowed"):
        record(chord([sig(app, "add", 1, "x" * 1000)], sig(app, "total")))


def test_what_amqp_cannot_carry_is_refused_in_the_transaction(app: Celery) -> None:
    with pytest.raises(Refused, match="one AMQP frame"):
        record(sig(app, "add", 1, 2).set(headers={"large": "x" * 200_000}))


def test_a_chord_without_a_result_store_is_refused_in_the_transaction() -> None:
    app = Celery("storeless", broker="memory://", set_as_current=False)

    @app.task(name="add", shared=False)
    def task(*_: Any) -> None:
        pass

    with pytest.raises(NotImplementedError):
        record(chord([task.s(1)], task.s()))


def test_nothing_of_celery_is_changed_by_an_import() -> None:
    code = (
        "from celery import Celery\nbefore = dict(vars(Celery))\n"
        "import holdfast.app, holdfast.outbox, holdfast.results\n"
        "assert dict(vars(Celery)) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_unknown_queue_is_refused_in_the_transaction(app: Celery) -> None:
    with pytest.raises(QueueNotFound):
        record(sig(app, "add", 1, 2).set(queue="no-such-queue"))


def test_missing_arguments_are_refused_in_the_transaction(app: Celery) -> None:
    with pytest.raises(TypeError):
        record(sig(app, "add", 1))


def test_an_empty_group_is_refused(app: Celery) -> None:
    with pytest.raises(ValueError, match="has no message to publish"):
        record(group([], app=app))


def test_an_eager_app_is_refused_before_the_task_runs(app: Celery) -> None:
    app.conf.task_always_eager = True
    with pytest.raises(ValueError, match="task_always_eager is set"):
        record(sig(app, "add", 1, object()))


def test_other_threads_publish_for_real_while_one_records(app: Celery) -> None:
    inside, go, outcome = threading.Event(), threading.Event(), []

    class Slow(dict[str, int]):
        def items(self) -> Any:
            inside.set()
            go.wait(30)
            return super().items()

    recorder = threading.Thread(target=lambda: outcome.append(record(sig(app, "total", Slow(a=1)))))
    recorder.start()
    assert inside.wait(30)
    assert type(app.backend).__name__ == "RedisBackend"
    go.set()
    recorder.join(30)
    assert len(outcome) == 1


def test_a_failed_recording_leaves_nothing_behind(app: Celery) -> None:
    with pytest.raises(EncodeError):
        record(sig(app, "add", 1, object()))
    assert type(app.backend).__name__ == "RedisBackend"


@pytest.mark.parametrize(("waited", "left"), [(0, 60), (20, 40), (59.5, 0), (3600, 0)])
def test_a_delay_counts_from_the_enqueueing_not_from_the_publish(app: Celery, waited: float, left: int) -> None:
    (message,) = record(sig(app, "add", 1, 2).set(countdown=60)).messages
    assert message.exchange == delay.EXCHANGE
    eta = datetime.fromisoformat(message.headers["eta"])
    now = eta - timedelta(seconds=60) + timedelta(seconds=waited)
    bits, _, queue = due_in(message, now).routing_key.rpartition(".")
    assert int(bits.replace(".", ""), 2) == left
    assert len(bits) == len("0.") * 28 - 1
    assert queue == "default"


def test_a_message_without_delay_is_left_alone(app: Celery) -> None:
    (message,) = record(sig(app, "add", 1, 2)).messages
    assert due_in(message, datetime.now(timezone.utc) + timedelta(days=1)) is message
