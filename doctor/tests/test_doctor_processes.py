"""How workers are started and stopped: one judgement on supervisor, systemd and compose files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_doctor import State, compose, process_rules, supervisor, systemd
from celery_doctor.command import find
from celery_doctor.subject import Subject

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS: dict[str, Any] = {"worker_soft_shutdown_timeout": 15, "broker_url": "amqp://", "task_time_limit": 60}
COMMAND = "celery -A shop worker -Q default"
SUPERVISOR = """[program:default]
command = {command}
environment = REMAP_SIGTERM="SIGQUIT"
stopasgroup = false
killasgroup = true
stopwaitsecs = 35
autorestart = true
"""
SYSTEMD = """[Unit]
Description=Workers
[Service]
Type=simple
Environment=REMAP_SIGTERM=SIGQUIT
ExecStart=/opt/shop/bin/{command}
KillMode=mixed
TimeoutStopSec=35
Restart=always
"""
COMPOSE = """services:
  worker:
    image: shop
    command: {command}
    environment:
      REMAP_SIGTERM: SIGQUIT
    stop_grace_period: 35s
    restart: unless-stopped
"""
READERS = {
    "supervisor": (supervisor.read, SUPERVISOR, "shop.conf"),
    "systemd": (systemd.read, SYSTEMD, "shop.service"),
    "compose": (compose.read, COMPOSE, "compose.yaml"),
}


class Patient:
    """Writes files and returns what the rules say of them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        app = Celery("shop", set_as_current=False)
        app.conf.update(SETTINGS | settings)
        self.subject = Subject(app)

    def findings(self, keeper: str, text: str, name: str = "") -> dict[str, str]:
        reader, _, usual = READERS[keeper]
        file = self.folder / (name or usual)
        file.write_text(text, encoding="utf-8")
        found = process_rules.examine(reader(file, self.subject))
        return {one.rule.number: one.found if one.state is State.FOUND else one.state.value for one in found}

    def judge(self, keeper: str, command: str, *changes: tuple[str, str]) -> set[str]:
        text = READERS[keeper][1].replace("{command}", command)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return set(self.findings(keeper, text))


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    """A sound application without files yet."""
    return Patient(tmp_path)


@pytest.mark.parametrize("keeper", READERS)
def test_a_sound_file_passes(patient: Patient, keeper: str) -> None:
    assert patient.judge(keeper, COMMAND) == set()


CHANGES = [
    ("supervisor", ("stopasgroup = false", "stopasgroup = true"), {"HF601"}),
    ("supervisor", ("stopasgroup = false\nkillasgroup = true", "stopasgroup = true"), {"HF601"}),  # it implies the kill
    ("supervisor", ("killasgroup = true", ""), {"HF602"}),
    ("supervisor", ("stopwaitsecs = 35", "stopwaitsecs = 20"), {"HF603"}),
    ("supervisor", ("stopwaitsecs = 35", ""), {"HF603"}),
    ("supervisor", ('environment = REMAP_SIGTERM="SIGQUIT"', ""), {"HF604"}),
    ("supervisor", ("SIGQUIT", "SIGINT"), {"HF604"}),
    ("supervisor", ('environment = REMAP_SIGTERM="SIGQUIT"', "stopsignal = QUIT"), set()),
    ("supervisor", ('environment = REMAP_SIGTERM="SIGQUIT"', "stopsignal = SIGQUIT"), set()),
    ("supervisor", ('environment = REMAP_SIGTERM="SIGQUIT"', "stopsignal = 3"), set()),
    ("supervisor", ("autorestart = true", "stopsignal = KILL"), {"HF605"}),
    ("supervisor", ("autorestart = true", "stopsignal = 9"), {"HF605"}),
    ("supervisor", ("autorestart = true", "stopsignal = HUP"), {"HF605"}),
    ("supervisor", ("autorestart = true", "stopsignal = INT"), {"HF606"}),
    ("supervisor", ("autorestart = true", "autorestart = false"), {"HF607"}),
    ("supervisor", ("autorestart = true", "autostart = false"), {"HF607"}),
    ("supervisor", ("autorestart = true", "autorestart = unexpected"), set()),
    ("supervisor", ("[program:default]", "[fcgi-program:default]"), set()),
    ("supervisor", ("stopasgroup = false", "stopasgroup = true  # a comment"), {"HF601"}),
    ("systemd", ("KillMode=mixed", "KillMode=control-group"), {"HF601"}),
    ("systemd", ("KillMode=mixed", ""), {"HF601"}),
    ("systemd", ("KillMode=mixed", "KillMode=process"), {"HF602"}),
    ("systemd", ("KillMode=mixed", "KillMode=mixed\nSendSIGKILL=no"), {"HF602"}),
    ("systemd", ("TimeoutStopSec=35", "TimeoutStopSec=20s"), {"HF603"}),
    ("systemd", ("TimeoutStopSec=35", ""), set()),  # the default is 90 s
    ("systemd", ("TimeoutStopSec=35", "TimeoutStopSec=5min 20s"), set()),
    ("systemd", ("TimeoutStopSec=35", "TimeoutStopSec=infinity"), set()),
    ("systemd", ("TimeoutStopSec=35", "TimeoutStopSec=0"), set()),
    ("systemd", ("Environment=REMAP_SIGTERM=SIGQUIT", ""), {"HF604"}),
    ("systemd", ("Environment=REMAP_SIGTERM=SIGQUIT", "KillSignal=SIGQUIT"), set()),
    ("systemd", ("Restart=always", "Restart=always\nKillSignal=SIGKILL"), {"HF605"}),
    ("systemd", ("Restart=always", "Restart=always\nKillSignal=SIGINT"), {"HF606"}),
    ("systemd", ("Restart=always", ""), {"HF607"}),
    ("systemd", ("Restart=always", "Restart=on-success"), {"HF607"}),
    ("systemd", ("Restart=always", "Restart=on-failure"), set()),
    ("compose", ("stop_grace_period: 35s", "stop_grace_period: 20s"), {"HF603"}),
    ("compose", ("stop_grace_period: 35s", ""), {"HF603"}),  # the default is 10 s
    ("compose", ("stop_grace_period: 35s", "stop_grace_period: 1m30s"), set()),
    ("compose", ("environment:\n      REMAP_SIGTERM: SIGQUIT", ""), {"HF604"}),
    ("compose", ("environment:\n      REMAP_SIGTERM: SIGQUIT", "environment: [REMAP_SIGTERM=SIGQUIT]"), set()),
    ("compose", ("environment:\n      REMAP_SIGTERM: SIGQUIT", "stop_signal: SIGQUIT"), set()),
    ("compose", ("image: shop", "image: shop\n    stop_signal: SIGKILL"), {"HF605"}),
    ("compose", ("image: shop", "image: shop\n    stop_signal: SIGINT"), {"HF606"}),
    ("compose", ("restart: unless-stopped", ""), {"HF607"}),
    ("compose", ("restart: unless-stopped", "restart: no"), {"HF607"}),
    ("compose", ("restart: unless-stopped", "deploy: {restart_policy: {condition: none}}"), {"HF607"}),
    ("compose", ("restart: unless-stopped", "deploy: {restart_policy: {condition: any}}"), set()),
]


@pytest.mark.parametrize(("keeper", "change", "expected"), CHANGES)
def test_each_fact_is_judged(patient: Patient, keeper: str, change: tuple[str, str], expected: set[str]) -> None:
    assert patient.judge(keeper, COMMAND, change) == expected


COMMANDS = [
    ("bash -c 'source venv/bin/activate && celery -A shop worker'", {"HF609"}),
    ("bash -c 'source venv/bin/activate && exec celery -A shop worker'", set()),
    ("bash -lc 'cd /srv; exec celery -A shop worker'", set()),
    ("/bin/sh -c 'celery -A shop worker 2>&1 | tee log'", {"HF609"}),
    ("/bin/sh -c 'exec celery -A shop worker 2>&1 | tee log'", {"HF609"}),
    ("/bin/bash -c 'celery -A shop worker'", {"HF609"}),
    ("su shop -c 'celery -A shop worker'", {"HF609"}),
    ("su celery -c 'exec celery -A shop worker'", set()),
    ("python -m celery -A shop worker", set()),
    ("newrelic-admin run-program celery -A shop worker", set()),
    ("dumb-init -- celery -A shop worker", set()),
    ("gosu celery celery -A shop worker", set()),
    ("nice -n 10 /srv/venv/bin/celery --app=shop worker", set()),
    ("env DEBUG=1 celery -A shop worker", set()),
    ("python manage.py celery worker", set()),
    ("celery worker -A shop", set()),
    ("celery -A worker worker", set()),
    ("celery -A shop worker --pool threads", {"HF612"}),
    ("celery -A shop worker -P solo", {"HF612"}),
    ("celery -A shop worker -Pgevent --soft-time-limit 5", {"HF612"}),
    ("celery -A shop worker -P prefork --time-limit 5", set()),
    ("celery -A shop worker --autoscale=10,3", {"HF613"}),
    ("celery -A shop worker --purge", {"HF615"}),
    ("celery -A shop worker --detach", {"HF610"}),
    ("celery -A shop worker -D", {"HF610"}),
    ("celery multi start w1 w2 -A shop", {"HF610"}),
    ("celery -A shop worker -B", set()),
]


@pytest.mark.parametrize("keeper", READERS)
@pytest.mark.parametrize(("command", "expected"), COMMANDS)
def test_celery_is_found_behind_wrappers_and_shells(
    patient: Patient, keeper: str, command: str, expected: set[str]
) -> None:
    changes = [("/opt/shop/bin/", "")] if keeper == "systemd" else []
    assert patient.judge(keeper, command, *changes) == expected


OTHERS = [
    "rq worker",
    "celery -A worker flower",
    "dramatiq worker",
    "supervisorctl restart worker",
    "sudo -u celery rq worker",
    "celery-exporter --broker-url amqp://worker",
    "/opt/celery/bin/rq worker --log /var/log/celery.log",
]


@pytest.mark.parametrize("keeper", READERS)
@pytest.mark.parametrize("command", OTHERS)
def test_what_is_no_celery_worker_is_left_alone(patient: Patient, keeper: str, command: str) -> None:
    text = READERS[keeper][1].replace("{command}", command).replace("REMAP_SIGTERM", "OTHER")
    assert patient.findings(keeper, text.replace("/opt/shop/bin/", "")) == {}


@pytest.mark.parametrize("command", ["celery -A worker beat", "celery -A shop beat -s worker"])
@pytest.mark.parametrize("keeper", READERS)
def test_a_beat_is_no_worker(patient: Patient, keeper: str, command: str) -> None:
    text = READERS[keeper][1].replace("{command}", command).replace("REMAP_SIGTERM", "OTHER")
    assert set(patient.findings(keeper, text)) == set()


def test_beats_are_counted_over_all_programs(tmp_path: Path) -> None:
    schedule = {"beat_schedule": {"tick": {"task": "t", "schedule": 1.0}}}
    two = [("autorestart = true", "autorestart = true\nnumprocs = 2")]
    assert Patient(tmp_path, **schedule).judge("supervisor", COMMAND + " -B", *two) == {"HF608"}
    locked = Patient(tmp_path, **schedule, beat_scheduler="holdfast.beat:Scheduler")
    assert locked.judge("supervisor", COMMAND + " -B", *two) == set()
    beside = SUPERVISOR.replace("{command}", COMMAND + " -B") + "[program:beat]\ncommand = celery -A shop beat\n"
    assert "HF608" in Patient(tmp_path, **schedule).findings("supervisor", beside)
    replicas = [("restart: unless-stopped", "restart: always\n    deploy: {replicas: 2}")]
    assert Patient(tmp_path, **schedule).judge("compose", COMMAND + " -EB", *replicas) == {"HF608"}


def test_a_scheduler_on_the_command_line_is_seen(patient: Patient) -> None:
    command = "celery -A shop beat -S django_celery_beat.schedulers:DatabaseScheduler"
    assert patient.judge("supervisor", command) == {"HF614"}


def test_expansions_of_supervisor(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = ("stopwaitsecs = 35", "stopwaitsecs = %(ENV_WAIT)s")
    program = "%(ENV_VENV)s/bin/celery -A shop worker -n %(program_name)s@%%h"
    assert patient.judge("supervisor", program, wait) == {"HF603"}  # could not judge this one, and says so
    text = SUPERVISOR.replace("{command}", program).replace(*wait)
    assert patient.findings("supervisor", text) == {"HF603": "could not judge"}
    monkeypatch.setenv("WAIT", "35")
    assert patient.findings("supervisor", text) == {}
    monkeypatch.setenv("WAIT", "5")
    assert "is killed after 5 s" in patient.findings("supervisor", text)["HF603"]


def test_the_environment_of_supervisord_reaches_its_programs(patient: Patient) -> None:
    own = SUPERVISOR.replace("{command}", COMMAND).replace('environment = REMAP_SIGTERM="SIGQUIT"', "")
    general = '[supervisord]\nenvironment = A="1",REMAP_SIGTERM="SIGQUIT"\n'
    assert patient.findings("supervisor", general + own) == {}
    assert set(patient.findings("supervisor", own + "environment = REMAP_SIGTERM=%(ENV_NOT_SET)s")) == {"HF604"}


def test_included_files_are_read(patient: Patient) -> None:
    (patient.folder / "conf.d").mkdir()
    text = SUPERVISOR.replace("{command}", COMMAND).replace("killasgroup = true", "")
    (patient.folder / "conf.d/worker.ini").write_text(text, encoding="utf-8")
    assert set(patient.findings("supervisor", "[include]\nfiles = other/*.ini conf.d/*.ini\n")) == {"HF602"}


def test_scripts_are_read_where_they_are_there_and_said_to_be_hidden_where_not(patient: Patient) -> None:
    script = patient.folder / "start.sh"
    script.write_text("#!/bin/sh\nset -e\nexport REMAP_SIGTERM=SIGQUIT\nexec celery -A shop worker\n", encoding="utf-8")
    assert patient.judge("supervisor", f"{script}", ('environment = REMAP_SIGTERM="SIGQUIT"', "")) == set()
    assert patient.judge("supervisor", "bash start.sh") == set()
    script.write_text("#!/bin/sh\ncelery -A shop worker\n", encoding="utf-8")
    assert patient.judge("supervisor", "./start.sh") == {"HF609"}
    hidden = SUPERVISOR.replace("{command}", "/opt/start-celery")
    assert patient.findings("supervisor", hidden)["HF611"] == "could not judge"


def test_variables_on_the_way_to_the_worker(patient: Patient) -> None:
    without = ('environment = REMAP_SIGTERM="SIGQUIT"', "")
    for command in (
        "env REMAP_SIGTERM=SIGQUIT celery -A shop worker",
        "bash -c 'REMAP_SIGTERM=SIGQUIT exec celery -A shop worker'",
        "bash -c 'export REMAP_SIGTERM=SIGQUIT; exec celery -A shop worker'",
    ):
        assert patient.judge("supervisor", command, without) == set(), command


UNIT_OF_CELERYS_DOCUMENTATION = """[Service]
Type=forking
User=celery
EnvironmentFile={folder}/celery.env
ExecStart=/bin/sh -c '${CELERY_BIN} -A $CELERY_APP multi start $CELERYD_NODES \\
    --pidfile=${CELERYD_PID_FILE} --loglevel="${CELERYD_LOG_LEVEL}" $CELERYD_OPTS'
ExecStop=/bin/sh -c '${CELERY_BIN} multi stopwait $CELERYD_NODES --pidfile=${CELERYD_PID_FILE}'
Restart=always
"""


def test_the_unit_of_celerys_documentation(patient: Patient) -> None:
    unit = UNIT_OF_CELERYS_DOCUMENTATION.replace("{folder}", str(patient.folder))
    assert patient.findings("systemd", unit)["HF604"] == "could not judge"  # its environment is not readable here
    environment = "CELERY_BIN=/opt/bin/celery\nCELERY_APP=shop\nCELERYD_OPTS=--autoscale=8,2\n"
    (patient.folder / "celery.env").write_text(environment, encoding="utf-8")
    assert set(patient.findings("systemd", unit)) == {"HF604", "HF609", "HF613"}
    without_wait = unit.replace("stopwait", "stop")
    assert "HF601" in patient.findings("systemd", without_wait)


def test_drop_ins_and_templates_of_systemd(patient: Patient) -> None:
    folder = patient.folder / "shop@.service.d"
    folder.mkdir()
    (folder / "10.conf").write_text("[Service]\nKillMode=control-group\nTimeoutStopSec=1\n", encoding="utf-8")
    unit = SYSTEMD.replace("{command}", COMMAND + " -B")
    assert set(patient.findings("systemd", unit, "shop@.service")) == {"HF601", "HF603", "HF608"}


ANCHORED = """x-worker: &worker
  image: shop
  restart: always
  stop_grace_period: ${GRACE:-20s}
services:
  critical: {<<: *worker, command: [celery, -A, shop, worker], environment: [REMAP_SIGTERM=SIGQUIT]}
  derived:
    extends: critical
    command: !override celery -A shop worker -c $CORES
    stop_grace_period: 90s
  web: {image: nginx}
"""


def test_anchors_extends_and_variables_of_compose(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    found = patient.findings("compose", ANCHORED)
    assert found == {"HF603": "service critical of compose.yaml is killed after 20 s, its soft shutdown takes 15 s"}
    monkeypatch.setenv("GRACE", "60s")
    assert patient.findings("compose", ANCHORED) == {}
    unset = ANCHORED.replace("${GRACE:-20s}", "${NOT_SET}")
    assert patient.findings("compose", unset) == {"HF603": "could not judge"}


@pytest.mark.parametrize(
    ("keeper", "text"),
    [
        ("supervisor", "command = without a section\n"),
        ("systemd", "[Unit]\nDescription=no service\n"),
        ("compose", "services: [\n"),
        ("compose", "version: 2\n"),
    ],
)
def test_files_of_another_kind_are_refused(patient: Patient, keeper: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|has no"):
        patient.findings(keeper, text)


def test_one_value_that_cannot_be_read_hides_no_other(patient: Patient) -> None:
    changes = [("stopwaitsecs = 35", "stopwaitsecs = long"), ("stopasgroup = false", "stopasgroup = perhaps")]
    text = SUPERVISOR.replace("{command}", COMMAND + " --purge")
    for change in changes:
        text = text.replace(*change)
    found = patient.findings("supervisor", text)
    assert {number for number, what in found.items() if what == "could not judge"} == {"HF601", "HF603"}
    assert "HF615" in found


def test_options_are_read_as_celery_reads_them() -> None:
    command = find(
        [
            "celery",
            "-Ashop",
            "--broker",
            "redis://",
            "worker",
            "-Ofair",
            "-c4",
            "-BE",
            "-Q",
            "a,b",
            "-n",
            "w@%h",
            "--pool=threads",
        ]
    )[0]
    assert command.program == "worker"
    assert command.options == {
        "app": "shop", "broker": "redis://", "optimization": "fair", "concurrency": "4", "beat": "",
        "task-events": "", "queues": "a,b", "hostname": "w@%h", "pool": "threads",
    }  # fmt: skip
