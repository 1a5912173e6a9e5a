"""Somebody's application as two set-ups of the drill: with its own settings, and with what the doctor proposes.

The drill's tasks run under its settings, in the drill's own Python: what decides about a loss is in the settings, not
in the code of the tasks. Names of queues, addresses and classes of the application stay out, because its servers do.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kombu import compression
from kombu.exceptions import SerializerNotInstalled
from kombu.serialization import registry

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
PLACES = {  # options that say where the servers are and who asks them
    "credential_provider", "global_keyprefix", "master_name", "password", "predefined_queues", "queue_name_prefix",
    "sentinel_kwargs", "sentinels", "ssl", "username",
}  # fmt: skip
OPTIONS = ("broker_transport_options", "result_backend_transport_options")  # the settings that have them
WRITTEN = ("task_serializer", "result_serializer")
PACKED = ("task_compression", "result_compression")
READ = ("accept_content", "result_accept_content")


@dataclass(frozen=True)
class Yours:
    """What was found in an application.

    Attributes:
        celery: its release of Celery.
        broker: ``amqp`` or ``redis``.
        quorum: one of its queues is a quorum queue.
        settings: those that it or all of its tasks set and that decide about a loss, by Celery's names; no address, no
            password.
        answers: the doctor's values for those of them that it objects to; of a dictionary only what changes.
        lines: the same as the application would write it.
        addresses: how it spells its own settings that lead to servers.
        queues: the same of those that describe queues.
        results: the kind of its result store; empty if it stores none.
        layered: it has called ``holdfast.install`` already.
        notes: what the runs do not do as the application does.
    """

    celery: str
    broker: str
    quorum: bool
    settings: dict[str, Any]
    answers: dict[str, Any]
    lines: list[str]
    addresses: list[str]
    queues: list[str]
    results: str
    layered: bool
    notes: list[str] = field(default_factory=list)

    @property
    def before(self) -> Mutant:
        """The set-up with its own settings, on servers as Celery sets them up, or with the layer if it has it."""
        if self.layered:
            return replace(REDIS_BROKER if self.broker == "redis" else self.after, settings=self.settings)
        base = replace(REDIS_BROKER, stock=True, layer=frozenset()) if self.broker == "redis" else STOCK
        return replace(base, removes="its own settings", settings=self.settings, quorum=self.quorum)

    @property
    def after(self) -> Mutant:
        """The set-up with the library and the doctor's values, on RabbitMQ with Holdfast's topology."""
        answers = _kept(self.answers)
        parts = {name: (self.settings.get(name) or {}) | value for name, value in answers.items() if name in OPTIONS}
        kept = self.settings | answers | parts
        if self.broker == "redis":
            kept.pop("broker_transport_options", None)  # they are those of another broker
        return replace(CONTROL, removes="nothing: the doctor's changes are in it", settings=kept, own=True)

    @property
    def changes(self) -> list[str]:
        """The lines of the application that change."""
        rabbitmq = " (RabbitMQ in place of Redis)" if self.broker == "redis" else ""
        servers = (
            f"remove {', '.join(self.addresses)}: HOLDFAST_BROKER_URL{rabbitmq} and HOLDFAST_RESULT_URL name servers"
        )
        queues = f"remove {', '.join(self.queues)}: HOLDFAST_QUEUES names the queues"
        layer = [] if self.layered else ["import holdfast", "holdfast.install(app)"]
        removed = [f"# {line}" for line, names in ((servers, self.addresses), (queues, self.queues)) if names]
        return [*layer, *removed, *self.lines]

    @property
    def uses_redis(self) -> bool:
        """Whether a fault of Redis can take anything from it."""
        return "redis" in {self.broker, self.results}


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in settings.items() if name.startswith(KEPT) and name not in LEFT}
    for name in OPTIONS:
        if isinstance(kept.get(name), dict):
            kept[name] = {key: value for key, value in kept[name].items() if key not in PLACES}
    return kept


def _known(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings without forms of messages that the drill's Python does not know, and a note on each."""
    unknown = {name: settings[name] for name in (*WRITTEN, *PACKED) if not _knows(name, settings.get(name))}
    notes = [
        f"{name} is {form}, which only the application knows: the runs have Celery's." for name, form in unknown.items()
    ]
    kept = {name: value for name, value in settings.items() if name not in unknown}
    for name in READ:
        forms = kept.get(name)
        if isinstance(forms, list):
            kept[name] = [form for form in forms if "/" in form or form in registry.name_to_type]
            if notes and not {"json", "application/json"} & set(forms):
                kept[name].append("json")
    return kept, notes


def _knows(name: str, form: str | None) -> bool:
    try:
        if form and name in WRITTEN:
            registry.dumps("", serializer=form)
        elif form:
            compression.get_encoder(form)
    except (SerializerNotInstalled, KeyError):
        return False
    return True


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
            [str(Path(python).absolute()) if os.sep in python else python, "-", app],  # not the file behind a link
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
    settings, notes = _known(_kept(found.settings))
    if found.results != "redis":  # as if it stored none: what another store loses no fault here can show
        settings["task_ignore_result"] = True
        notes.append(f"Results do not count: the application stores {_stored(found.results)}.")
    return replace(found, settings=settings, notes=notes)


def _stored(results: str) -> str:
    return f"them in {results}, which no fault breaks" if results else "none"


def set_ups(variables: Mapping[str, str]) -> dict[str, Mutant]:
    """Return the set-ups of the application whose file the environment names, none without one."""
    if FILE not in variables:
        return {}
    found = Yours(**json.loads(Path(variables[FILE]).read_text(encoding="utf-8")))
    return {"yours": found.before, "changed": found.after}
