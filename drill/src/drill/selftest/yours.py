"""Somebody's application as two set-ups of the drill: with its own settings, and with what the doctor proposes.

The drill's tasks run under its settings, in the drill's own Python: what decides about a loss is in the settings, not
in the code of the tasks. Names of queues, addresses and classes of the application stay out, because its servers do.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import celery_doctor
from drill.selftest.mutants import CONTROL, REDIS_BROKER, STOCK, Mutant
from drill.targets import TargetError

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "DRILL_APPLICATION"  # names the file from which a process of a run reads what was found
READER = Path(__file__).with_name("read_application.py")
KEPT = ("accept_content", "broker_", "redis_", "result_", "task_", "worker_")  # what the kept settings begin with
LEFT = (  # but these are not: places, classes of the application, and limits that the drill's tasks do not fit
    "broker_login_method", "broker_read_url", "broker_transport", "broker_url", "broker_use_ssl", "broker_write_url",
    "redis_backend_credential_provider", "redis_backend_use_ssl", "redis_db", "redis_host", "redis_password",
    "redis_port", "redis_username", "result_backend", "result_exchange", "task_always_eager", "task_annotations",
    "task_cls", "task_create_missing_queues", "task_default_exchange", "task_default_queue", "task_default_rate_limit",
    "task_default_routing_key", "task_inherit_parent_priority", "task_queues", "task_routes", "task_soft_time_limit",
    "task_time_limit", "worker_agent", "worker_autoscaler", "worker_concurrency", "worker_consumer", "worker_pool",
    "worker_state_db", "worker_timer",
)  # fmt: skip
PLACES = {  # options that say where the servers are, by setting
    "broker_transport_options": (
        "global_keyprefix",
        "master_name",
        "queue_name_prefix",
        "sentinel_kwargs",
        "sentinels",
    ),
    "result_backend_transport_options": ("global_keyprefix", "master_name", "sentinel_kwargs", "sentinels"),
}


@dataclass(frozen=True)
class Yours:
    """What was found in an application.

    Attributes:
        celery: its release of Celery.
        broker: ``amqp`` or ``redis``.
        quorum: one of its queues is a quorum queue.
        settings: those that it sets itself and that decide about a loss, by Celery's names; no address, no password.
        answers: the doctor's values for those of them that it objects to.
        names: how the application spells their names.
    """

    celery: str
    broker: str
    quorum: bool
    settings: dict[str, Any]
    answers: dict[str, Any]
    names: dict[str, str]

    @property
    def before(self) -> Mutant:
        """The set-up with its own settings, on servers as Celery sets them up."""
        base = replace(REDIS_BROKER, stock=True, layer=frozenset()) if self.broker == "redis" else STOCK
        return replace(base, removes="its own settings", settings=self.settings, quorum=self.quorum)

    @property
    def after(self) -> Mutant:
        """The set-up with the library and the doctor's values, on RabbitMQ with Holdfast's topology."""
        kept = self.settings | _kept(self.answers)
        if self.broker == "redis":
            kept.pop("broker_transport_options", None)  # they are those of another broker
        return replace(CONTROL, removes="nothing: the doctor's changes are in it", settings=kept, own=True)

    @property
    def changes(self) -> list[str]:
        """The lines of the application that change."""
        broker = ["HOLDFAST_BROKER_URL=amqp://...  # RabbitMQ in place of Redis"] if self.broker == "redis" else []
        answers = [f"{self.names[name]} = {value!r}" for name, value in sorted(self.answers.items())]
        return [*broker, "import holdfast", "holdfast.install(app)", *answers]


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in settings.items() if name.startswith(KEPT) and name not in LEFT}
    for name, places in PLACES.items():
        if isinstance(kept.get(name), dict):
            kept[name] = {key: value for key, value in kept[name].items() if key not in places}
    return kept


def read(app: str, python: str, folder: Path) -> Yours:
    """Import an application with its own Python, as its workers do, and return what was found.

    Args:
        app: as for ``celery -A``.
        python: the Python that has what the application needs.
        folder: where its workers start.

    Raises:
        TargetError: it cannot be imported, or its broker is neither RabbitMQ nor Redis.
    """
    doctor = str(Path(celery_doctor.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (doctor, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [python, "-", app],
            input=READER.read_text(encoding="utf-8"),
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": path},
            check=False,
        )
    except OSError as error:
        raise TargetError(f"{error}. Name the Python of your application: --python ../shop/.venv/bin/python") from error
    if done.returncode:
        said = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
        raise TargetError(f"{said}. Allowed is what `celery -A {app} report` can load with {python} in {folder}.")
    found = Yours(**json.loads(done.stdout))
    if found.broker not in {"amqp", "redis"}:
        raise TargetError(
            f"The broker of {app} is {found.broker}. The drill can break RabbitMQ and Redis; celery-doctor says what "
            "is known of others."
        )
    if found.settings.get("task_always_eager"):
        raise TargetError(f"{app} sets task_always_eager: no task reaches a broker. Read its settings of production.")
    return replace(found, settings=_kept(found.settings))


def set_ups(variables: Mapping[str, str]) -> dict[str, Mutant]:
    """Return the set-ups of the application whose file the environment names, none without one."""
    if FILE not in variables:
        return {}
    found = Yours(**json.loads(Path(variables[FILE]).read_text(encoding="utf-8")))
    return {"yours": found.before, "changed": found.after}
