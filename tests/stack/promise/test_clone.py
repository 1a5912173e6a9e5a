"""`docker compose up` in a fresh clone, and nothing before it: a second stack, beside the running one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]

PROJECT = "holdfast-clone"
NET = os.environ.get("HOLDFAST_CLONE_NET", "172.30.74")
ADDRESS = "127.0.0.74"
NOBODY = 65534
# A program on the laptop: it may reach nothing but the ports that the stack opens for it.
LAPTOP = f"""
import sys
from celery import Celery
import holdfast

def only_published_ports(event, arguments):
    if event == "socket.connect" and arguments[1][0] != "{ADDRESS}":
        raise SystemExit(f"connects to {{arguments[1]}}")

sys.addaudithook(only_published_ports)
app = Celery()
app.config_from_object("holdfast.settings")
holdfast.install(app)
sent = app.send_task("webhooks.tasks.sweep", queue="default")
print(sent.id)
"""


@dataclass(frozen=True)
class Clone:
    """What a clone of this checkout holds, in a folder whose name has a space.

    Attributes:
        folder: the checkout.
        user: arguments of a process that is not root's but may ask the engine; empty if this one is not root's either.
        broker: what carries the tasks, rabbitmq or redis.
    """

    folder: Path
    user: dict[str, Any]
    broker: str = "rabbitmq"

    def run(self, *command: str, seconds: float = 900) -> str:
        """Run a command in the clone with the settings of a second stack."""
        mine = {"COMPOSE_PROJECT_NAME": PROJECT, "HOLDFAST_NET": NET, "HOLDFAST_ADDRESS": ADDRESS}
        shell = {"HOME": str(self.folder), "PWD": str(self.folder)}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | shell | mine | {"BROKER": self.broker},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            **self.user,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def compose(self, *arguments: str) -> str:
        """Run Docker Compose as a user would."""
        return self.run("docker", "compose", *arguments)

    def up(self) -> None:
        """Start the stack; the limit is for a machine that another stack keeps busy."""
        self.compose("up", "--detach", "--wait", "--wait-timeout", "600")

    def births(self) -> dict[str, str]:
        """Return when each service was started last; init runs at every `up`."""
        ids = self.compose("ps", "--quiet").split()
        found = json.loads(self.run("docker", "inspect", *ids))
        names = {one["Config"]["Labels"]["com.docker.compose.service"]: one["State"]["StartedAt"] for one in found}
        return {name: born for name, born in names.items() if name != "init"}

    def made(self) -> dict[str, Any]:
        """Return what the stack tells about its logins."""
        answer: dict[str, Any] = json.loads(self.compose("run", "--rm", "--no-TTY", "passwords", "--json"))
        return answer

    def deliver(self, number: int) -> None:
        """Send deliveries, and wait until the receiver has counted each of them."""
        path = f"/clone/{uuid.uuid4().hex[:8]}"
        lines = [json.dumps({"url": f"http://{NET}.72:8025{path}", "payload": {"n": n}}) for n in range(number)]
        (self.folder / "deliveries.jsonl").write_text("\n".join(lines))
        self.run("sh", "-c", "docker compose exec -T receiver webhooks send-many --wait 120 - <deliveries.jsonl")
        counts = self.compose(
            "exec", "-T", "receiver", "python", "-c",
            f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:8025/counts?path={path}').read().decode())",
        )  # fmt: skip
        assert json.loads(counts)["unique"] == number

    def left(self) -> list[str]:
        """Return every container, volume and network of the project."""
        mine = ("--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}")
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [one for kind in kinds for one in self.run("docker", *kind, *mine).split()]


@pytest.fixture(scope="module")
def clone() -> Iterator[Clone]:
    """What `git clone` of this state would hold: tracked files, and new ones that are not ignored."""
    group = Path("/var/run/docker.sock").stat().st_gid
    user = {"user": NOBODY, "group": group, "extra_groups": []} if os.geteuid() == 0 else {}
    above = Path(tempfile.mkdtemp(prefix="a clone "))
    above.chmod(0o755)
    clone = Clone(above / "hold fast", user)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (clone.folder / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # of something that runs beside, and gone meanwhile
                shutil.copy(ROOT / name, clone.folder / name)
    if user:
        for path in (clone.folder, *clone.folder.rglob("*")):
            os.chown(path, NOBODY, group)
    yield clone
    subprocess.run(
        ["docker", "compose", "--project-name", PROJECT, "down", "--volumes", "--remove-orphans", "--timeout", "5"],
        check=False, capture_output=True, timeout=300,
    )  # fmt: skip
    shutil.rmtree(above)


def test_compose_up_delivers_and_keeps_its_secrets_and_leaves_nothing(clone: Clone) -> None:
    """One stack for all of it: it takes a minute or two to start."""
    assert not (clone.folder / ".env").exists()
    clone.up()
    clone.deliver(20)

    made = clone.made()
    inspected = clone.run("docker", "inspect", *clone.compose("ps", "--all", "--quiet").split())
    assert "HOLDFAST_NET" in inspected, "this is the place where an environment would be seen"
    assert [name for name, secret in made["passwords"].items() if secret in inspected] == []
    assert not [name for name in made["files"] if name.startswith("flower/") and "app" in name]
    assert {path.name for path in (clone.folder / "build").iterdir()} == {"ledger", "drill"}
    for folder in ("build", "build/ledger", "build/drill/scrape"):
        assert (clone.folder / folder).stat().st_uid == clone.folder.stat().st_uid

    # again: nothing is changed
    born = clone.births()
    clone.up()
    assert clone.births() == born
    assert clone.made() == made

    # a program on the laptop publishes, and the stack runs its task
    laptop = dict(
        line.split("=", 1) for line in clone.compose("run", "--rm", "-T", "passwords", "--laptop").splitlines()
    )
    program = [sys.executable, "-c", LAPTOP]
    sent = subprocess.run(program, env=os.environ | laptop, capture_output=True, text=True, timeout=180, check=False)
    assert sent.returncode == 0, sent.stderr
    # waits for it, and reads it where the results are
    read = "timeout 180 docker compose exec -T receiver celery -A webhooks.app result"
    clone.run(*read.split(), sent.stdout.strip())

    # a changed template is in force after the next `up`, and passwords and data are the same
    for node in (1, 2, 3):
        path = clone.folder / f"compose/config/secret/redis/redis{node}.conf"
        text = path.read_text()
        assert "maxmemory 256mb" in text
        path.write_text(text.replace("maxmemory 256mb", "maxmemory 250mb"))
    clone.up()
    assert clone.made()["passwords"] == made["passwords"]
    for node in (1, 2, 3):
        assert "maxmemory 250mb" in clone.compose("exec", "-T", f"redis{node}", "cat", "/data/redis.conf")
    clone.deliver(5)

    # stopped and started again
    clone.compose("down")
    clone.up()
    clone.deliver(5)

    # in a folder that was moved: the containers of the old one know files that are no more
    clone = replace(clone, folder=clone.folder.rename(clone.folder.with_name("moved")))
    clone.compose("stop")
    clone.up()
    clone.deliver(5)

    assert clone.left()
    clone.compose("down", "--volumes")
    assert clone.left() == []

    # from nothing, with Redis as the broker
    clone = replace(clone, broker="redis")
    clone.up()
    clone.deliver(5)
    assert not {"rabbit1", "rabbit2", "rabbit3"} & set(clone.births())
    clone.compose("down", "--volumes")
    assert clone.left() == []
