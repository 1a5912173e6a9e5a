"""The canvases of Celery's documentation, sent three ways: by ``delay``, through the outbox, and into an inbox."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
from canvases import CANVASES, Canvas
from sqlalchemy import create_engine

from holdfast import inbox, outbox

from ..servers import OwnRig
from ..stack import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..servers import Servers

pytestmark = pytest.mark.stack

Ends = tuple[dict[str, Any], list[str]]


@contextmanager
def relay(rig: OwnRig, url: str) -> Iterator[None]:
    """Run ``holdfast relay`` until the end of the block."""
    command = [sys.executable, "-c", "from holdfast.cli import main; main()", "relay", "-A", "scratch"]
    with (rig.folder / "relay.log").open("w") as log:
        child = subprocess.Popen(
            [*command, "--metrics", "127.0.0.1:0", "--poll", "0.1"],
            env=rig.environment(HOLDFAST_OUTBOX_URL=url),
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        child.kill()
        child.wait()
        print((rig.folder / "relay.log").read_text()[-4000:])


@pytest.fixture(scope="module", params=["delay", "outbox", "inbox"])
def ends(request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    """How every canvas ended that was sent one way, and what the callbacks said."""
    rig = OwnRig(cast("Any", None), tmp_path_factory.mktemp("canvases"), servers=servers)
    url = f"sqlite:///{rig.folder}/database.sqlite3"
    engine = create_engine(url)
    outbox.metadata.create_all(engine)
    inbox.metadata.create_all(engine)
    way = str(request.param)
    store = url if way == "inbox" else ""
    rig.declare()
    try:
        with rig.worker(concurrency=2, HOLDFAST_IMPORTS="canvas_tasks", CANVAS_INBOX=store), relay(rig, url):
            code = f"from canvas_tasks import answers\nanswers({way!r}, {url!r}, 300)"
            found = json.loads(rig.call(code, seconds=400, CANVAS_INBOX=store).splitlines()[-1])
            wait_until(lambda: len(rig.lines("said")) >= len(SAID), "every callback", 60)
        yield found, [line[1] for line in rig.lines("said")]
        rig.nothing_refused()
    finally:
        rig.remove()
        servers.redis.flushall()
        engine.dispose()


SAID = [canvas.said for canvas in CANVASES.values() if canvas.said]


@pytest.mark.parametrize(("name", "canvas"), CANVASES.items(), ids=str)
def test_a_canvas_gives_the_right_answer(ends: Ends, name: str, canvas: Canvas) -> None:
    end = ends[0][name]
    if canvas.error:
        assert end.get("error") == canvas.error, end
    else:
        assert end == {"answer": canvas.answer}


def test_each_callback_ran_once(ends: Ends) -> None:
    assert sorted(ends[1]) == sorted(SAID)
