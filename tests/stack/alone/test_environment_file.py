"""``app.env`` as the templates make it means the same to everything that loads such a file, whatever the passwords."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from holdfast.environment import read_file

from ..stack import ROOT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORDS = {
    "RABBITMQ_APP_PASSWORD": "p%41ss#word",
    "REDIS_APP_PASSWORD": "p@s/w:x;y,z 'q\"",
    "SENTINEL_APP_PASSWORD": "$HOME`id`\\~!&|<>(){}*?",
    "POSTGRES_PASSWORD": " pässwörd ~:~",
}
IMAGE = "debian:trixie-slim"
LAB = {"HOLDFAST_LAB": "holdfast-env-lab", "HOLDFAST_LAB_NET": "172.30.94"}


@pytest.fixture(scope="module")
def app_env(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the local stack, filled with passwords that have every special character."""
    folder = tmp_path_factory.mktemp("environment")
    templates = folder / "templates"
    templates.mkdir()
    (templates / "app.env").write_text((ROOT / "compose/config/secret/app.env").read_text())
    (folder / "filled/passwords").mkdir(parents=True)
    for name, password in PASSWORDS.items():
        (folder / "filled/passwords" / name).write_text(password + "\n")
    call(str(ROOT / "scripts/secrets"), "--templates", str(templates), "--to", str(folder / "filled"))
    return folder / "filled/app.env"


def call(*command: str, text: str | None = None, environment: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(
        command, input=text, env=environment, check=False, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(printed: str, app_env: Path) -> None:
    """Compare what ``env -0`` printed with the file as this project reads it."""
    expected = read_file(app_env)
    assert len(expected) > 8
    found = dict(line.split("=", 1) for line in printed.split("\0") if line)
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_loads_it(app_env: Path, shell: str) -> None:
    check(call("env", "-i", "PATH=/usr/bin:/bin", shell, "-euc", f"set -a; . {app_env}; env -0"), app_env)


def test_a_shell_fails_on_the_form_with_semicolons(app_env: Path, tmp_path: Path) -> None:
    """The control: what the check is there to notice."""
    other = tmp_path / "app.env"
    other.write_text(app_env.read_text().replace(",", ";"))
    done = subprocess.run(["sh", "-c", f"set -a; . {other}; env -0"], check=False, capture_output=True, text=True)
    with pytest.raises(AssertionError):
        check(done.stdout, other)


@pytest.mark.stack
def test_docker_loads_it(app_env: Path) -> None:
    check(call("docker", "run", "--rm", "--network", "none", "--env-file", str(app_env), IMAGE, "env", "-0"), app_env)


@pytest.mark.stack
def test_compose_loads_it(app_env: Path, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(
        f"services: {{ one: {{ image: '{IMAGE}', env_file: ['{app_env}'], network_mode: none,"
        " command: [env, '-0'] } }"
    )
    check(call("docker", "compose", "-f", str(tmp_path / "compose.yaml"), "run", "--rm", "-T", "one"), app_env)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bare host with systemd, as a container."""
    environment = os.environ | LAB | {"HOLDFAST_LAB_DIR": str(tmp_path_factory.mktemp("lab"))}
    call(str(ROOT / "scripts/lab"), "up", "data1", environment=environment)
    yield f"{LAB['HOLDFAST_LAB']}-data1"
    call(str(ROOT / "scripts/lab"), "down", "data1", environment=environment)


@pytest.mark.stack
def test_systemd_loads_it(app_env: Path, host: str) -> None:
    call("docker", "exec", "--interactive", host, "tee", "/root/app.env", text=app_env.read_text())
    unit = ("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--property=EnvironmentFile=/root/app.env")
    check(call("docker", "exec", host, *unit, "env", "-0"), app_env)


@pytest.mark.parametrize("written", [False, True], ids=["inherited", "written into its own file"])
def test_supervisor_hands_it_to_its_programs(app_env: Path, tmp_path: Path, written: bool) -> None:
    """Supervisor loads no such file: it inherits the variables, or has them in its own, quoted and with % doubled."""
    seen = tmp_path / "seen"
    pairs = ",".join(f'{name}="{value.replace("%", "%%")}"' for name, value in read_file(app_env).items())
    (tmp_path / "supervisord.conf").write_text(
        f"[supervisord]\nnodaemon = true\npidfile = {tmp_path}/pid\nlogfile = {tmp_path}/log\n"
        f"[program:one]\ncommand = sh -c 'env -0 >{seen}.new && mv {seen}.new {seen}; exec sleep 60'\n"
        + (f"environment = {pairs}\n" if written else "")
    )
    load = "" if written else f"set -a; . {app_env}; "
    supervisord = f"exec {ROOT}/.venv/bin/supervisord -c {tmp_path}/supervisord.conf"
    with subprocess.Popen(
        ["env", "-i", "PATH=/usr/bin:/bin", "sh", "-euc", load + supervisord],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(seen.exists, "the program has run", 60)
        finally:
            process.terminate()
    check(seen.read_text(), app_env)
