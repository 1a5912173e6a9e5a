"""What verify says of a service of others that differs from the design: a finding with the next step, and no change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NODES = [{"name": f"rabbit@{name}", "running": True} for name in ("a", "b", "c")]
FINE: dict[str, Any] = {"/api/overview": {"rabbitmq_version": "4.3.5"}, "/api/nodes": NODES}
OTHER_TYPE = [{"name": "default", "durable": True, "auto_delete": False, "arguments": {"x-queue-type": "classic"}}]
HERE = {"ansible_connection": "local", "ansible_become": False,
        "ansible_python_interpreter": "{{ ansible_playbook_python }}"}  # fmt: skip


@contextmanager
def service(answers: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """A management API with these documents and no others; yields its address, and what was written to it."""
    written: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def _write(self) -> None:
            written.append(self.path)
            self.send_response(204)
            self.end_headers()

        do_PUT = do_POST = do_DELETE = _write  # noqa: N815 - the server's names

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", written
        server.shutdown()


def looked(folder: Path, url: str, role: tuple[str, str], ca_file: str = "none.pem") -> tuple[str, Path]:
    """Let the first host of ``app`` run a part of a role; return what was said, and where the checks are."""
    inventory = Path(shutil.copytree(ROOT / "ansible/inventories/example", folder / "inventory"))
    hosts = yaml.safe_load((inventory / "hosts.yml").read_text())
    hosts["all"]["children"]["rabbitmq"] = {}
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    (folder / "none.pem").touch()
    external = {"urls": ["amqps://mq.example.com"], "api": url, "user": "owner", "ca_file": str(folder / ca_file)}
    (inventory / "group_vars/all/services.yml").write_text(
        yaml.safe_dump({"rabbitmq_external": external, "rabbitmq_external_password": "x"})
    )
    name, part = role
    report = {"content": "{{ verify_services | to_json }}", "dest": str(folder / "checks.json"), "mode": "0600"}
    plays = [{
        "hosts": "app[0]", "gather_facts": False, "vars": HERE,
        "tasks": [
            {"ansible.builtin.include_role": {"name": "holdfast.stack.shared", "public": True}},
            {"ansible.builtin.include_role": {"name": f"holdfast.stack.{name}", "tasks_from": part, "public": True}},
            {"ansible.builtin.copy": report, "changed_when": False, "when": name == "verify"},
        ],
    }]  # fmt: skip
    (folder / "play.yml").write_text(yaml.safe_dump(plays))
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", inventory, folder / "play.yml"],
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg")},
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout + done.stderr, folder / "checks.json"


def test_what_differs_is_a_finding_and_no_change(tmp_path: Path) -> None:
    with service(FINE) as (url, written):
        said, report = looked(tmp_path, url, ("verify", "services"))
        assert "changed=0" in said, said
        assert written == []
    checks = {one["check"]: one for one in json.loads(report.read_text())}
    assert checks["running nodes of the service"]["ok"]
    found = checks["queues, policies and users of the service"]
    assert not found["ok"]
    assert {"queue default", "policy tasks"} <= set(found["found"])
    assert "run site" in found["next"]


def test_site_changes_it(tmp_path: Path) -> None:
    """The control: the same service, and the role as site runs it."""
    with service(FINE) as (url, written):
        said, _ = looked(tmp_path, url, ("rabbitmq", "external"))
        assert "changed=1" in said, said
        assert written != []


@pytest.mark.parametrize(
    ("answers", "found", "next_step"),
    [
        (FINE | {"/api/queues/holdfast": OTHER_TYPE}, "queue default with arguments", "classic-to-quorum.md"),
        ({}, "no answer from http://", "correct api and ca_file"),
    ],
)
def test_what_is_refused_is_a_finding_and_leaves_no_host_out(
    tmp_path: Path, answers: dict[str, Any], found: str, next_step: str
) -> None:
    with service(answers) as (url, written):
        said, report = looked(tmp_path, url if answers else "http://127.0.0.1:1", ("verify", "services"))
        assert "failed=0" in said, said
        assert written == []
    checks = [one for one in json.loads(report.read_text()) if not one["ok"]]
    assert len(checks) == 1
    assert found in checks[0]["found"]
    assert next_step in checks[0]["next"]


def test_a_service_that_cannot_be_asked_is_a_finding(tmp_path: Path) -> None:
    with service(FINE) as (url, _):
        said, report = looked(tmp_path, url, ("verify", "services"), ca_file="missing.pem")
    assert "failed=0" in said, said
    (check,) = json.loads(report.read_text())
    assert not check["ok"]
    assert "missing.pem" in str(check["found"])
