"""The stack's service ``init``: makes passwords once, and gives each role the files that it may know.

Without arguments it prepares the stack: every role's volume, below ``/roles``, gets the role's filled files and nothing
else; passwords are kept in a volume of their own, ``/passwords``. Running it again changes nothing that is right.

``passwords`` shows the logins, or with ``--laptop`` the environment of a program on this machine; it changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fill import Secrets, UserError, load, network, write

PASSWORDS = Path("/passwords")
ROLES = Path("/roles")
TEMPLATES = Path("/stack/config/secret")
BUILD = Path("/build")  # the checkout's folder of that name
CHECKOUT = Path("/checkout")  # only to see whose it is
BROKERS = {"rabbitmq": [], "redis": ["redis-broker.env"]}  # which files say so
PAGES = (
    ("RabbitMQ", 15672, "RABBITMQ_ADMIN"),
    ("Flower", 5555, "FLOWER"),
    ("Prometheus", 9090, "PROMETHEUS"),
    ("Alertmanager", 9093, "ALERTMANAGER"),
    ("Grafana", 3000, "GRAFANA"),
)
AMQP = {"11": 5681, "12": 5682, "13": 5683}  # last number of a broker's address, its port on this machine


@dataclass(frozen=True)
class Role:
    """What the containers of a role may know.

    Attributes:
        files: templates, or the folder of them.
        passwords: passwords that they read as files of their own.
    """

    files: tuple[str, ...] = ()
    passwords: tuple[str, ...] = ()


KNOWN = {
    "rabbitmq": Role(
        ("rabbitmq/erlang.cookie", "rabbitmq/definitions/20-users.json"),
        ("RABBITMQ_MONITOR_PASSWORD",),
    ),
    "redis": Role(("redis",), ("REDIS_MONITOR_PASSWORD",)),
    "sentinel": Role(("sentinel",), ("REDIS_MONITOR_PASSWORD",)),
    "app": Role(("app.env",)),  # whoever publishes, waits for results, or takes deliveries
    "worker": Role(("app.env", "login-worker.env")),
    "beat": Role(("app.env", "login-beat.env")),
    "operator": Role(("app.env", "login-operator.env")),  # a person who handles dead letters, or controls workers
    "flower": Role(("flower.env",)),
    "redis-exporter": Role(("redis-exporter.json",)),
    "prometheus": Role(("prometheus",)),
    "alertmanager": Role(("alertmanager",)),
    "grafana": Role(("grafana.env",)),
    "postgres": Role((), ("POSTGRES_PASSWORD", "POSTGRES_SUPERUSER_PASSWORD")),
}
SPEAK_TO_THE_BROKER = ("app", "worker", "beat", "operator", "flower")


def broker() -> str:
    """Return which server carries the tasks.

    Raises:
        UserError: it is none that the stack knows.
    """
    chosen = os.environ.get("BROKER") or "rabbitmq"
    if chosen not in BROKERS:
        raise UserError(f"BROKER={chosen}", " or ".join(BROKERS), "unset BROKER, or name one of these")
    return chosen


def files_of(name: str, role: Role) -> dict[str, Path]:
    """Return the templates of a role by the name that its containers see."""
    found = {}
    for one in (*role.files, *(BROKERS[broker()] if name in SPEAK_TO_THE_BROKER else ())):
        path = TEMPLATES / one
        for template in sorted(path.iterdir()) if path.is_dir() else [path]:
            found[template.name] = template
    return found


def prepare() -> None:
    """Fill the volumes; passwords are saved before the first file that uses them.

    Raises:
        UserError: a setting or a kept password is not usable.
    """
    known = Secrets(PASSWORDS)
    wanted = {
        name: {file: known.fill(path.read_text(encoding="utf-8")) for file, path in files_of(name, role).items()}
        | {password: known.password(password) + "\n" for password in role.passwords}
        for name, role in KNOWN.items()
    }
    known.password("RABBITMQ_ADMIN_PASSWORD")
    PASSWORDS.chmod(0o700)
    for name in known.made:
        write(PASSWORDS / name, known.passwords[name])
    changed = 0
    for role, files in wanted.items():
        folder = ROLES / role
        for stale in {path.name for path in folder.iterdir()} - files.keys():
            (folder / stale).unlink()
            changed += 1
        for file, text in files.items():
            changed += write(folder / file, text)
    print(f"{len(known.made)} new password(s), {changed} changed file(s) for {len(wanted)} roles")


def prepare_host() -> None:
    """Make the folders of the checkout that containers share with it, for the user whose checkout it is.

    Docker makes a missing folder for root; the drill, which runs as that user, keeps its ledgers and reports there.
    """
    owner = CHECKOUT.stat()
    ledger, drill, scrape = BUILD / "ledger", BUILD / "drill", BUILD / "drill/scrape"
    for folder in (BUILD, ledger, drill, scrape):
        folder.mkdir(exist_ok=True)
        os.chown(folder, owner.st_uid, owner.st_gid)
    ledger.chmod(0o1777)  # the drill's tasks write there as the user of their container


def environment(text: str) -> dict[str, str]:
    """Return the variables of an environment file."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, sign, value in pairs if sign}


def laptop(inside: dict[str, str]) -> dict[str, str]:
    """Return the environment of a program that reaches the brokers through their ports on 127.0.0.1.

    Args:
        inside: environment of the same program inside the stack.
    """
    address = os.environ.get("HOLDFAST_ADDRESS") or "127.0.0.1"
    urls = inside["HOLDFAST_BROKER_URL"]
    for number, port in AMQP.items():
        urls = urls.replace(f"@{network()}.{number}:5672", f"@{address}:{port}")
    kept = {name: value for name, value in inside.items() if name.startswith("HOLDFAST_")}
    for only_there in ("HOLDFAST_APP", "HOLDFAST_IMPORTS", "HOLDFAST_OUTBOX_URL"):
        kept.pop(only_there, None)
    return kept | {"HOLDFAST_BROKER_URL": urls}


def show() -> dict[str, Any]:
    """Return all that was made: for the programs that test, measure and break the stack.

    Raises:
        UserError: nothing was made yet.
    """
    if not (ROLES / "app/app.env").exists():
        raise UserError("no passwords: this stack was never started", "a stack that was", "docker compose up")
    files = {
        f"{role}/{path.name}": path.read_text(encoding="utf-8")
        for role in KNOWN
        for path in sorted((ROLES / role).iterdir())
    }
    app, worker, beat, operator = (
        {name: value for file in KNOWN[role].files for name, value in environment(files[f"{role}/{file}"]).items()}
        for role in ("app", "worker", "beat", "operator")
    )
    redis = environment(Secrets(PASSWORDS).fill((TEMPLATES / "redis-broker.env").read_text(encoding="utf-8")))
    return {
        "passwords": load(PASSWORDS),
        "files": files,
        "environment": {"app": app, "worker": worker, "beat": beat, "operator": operator, "redis-broker": redis},
    }


def logins(passwords: dict[str, str]) -> str:
    """Return where a person logs in, as a table."""
    address = os.environ.get("HOLDFAST_ADDRESS") or "127.0.0.1"
    lines = [
        f"{page:<12} http://{address}:{port:<6} user admin, password {passwords[f'{name}_PASSWORD']}"
        for page, port, name in PAGES
    ]
    return "\n".join([*lines, "To publish from this machine, use what --laptop prints: docs/tutorials/local-stack.md"])


def main() -> None:
    """Prepare the stack, or show what was made."""
    parser = argparse.ArgumentParser(prog="init", description="Prepares the stack, or shows what was made.")
    parser.add_argument("command", nargs="?", default="prepare", choices=["prepare", "passwords"])
    parser.add_argument(
        "--laptop",
        nargs="?",
        const="app",
        choices=["app", "worker", "beat", "operator"],
        help="the environment of a program on this machine: one that publishes (app, the default), a worker, beat, an "
        "operator's shell",
    )
    parser.add_argument("--json", action="store_true", help="everything that was made, for a program")
    options = parser.parse_args()
    if options.command == "prepare":
        prepare()
        prepare_host()
        return
    made = show()
    if options.json:
        print(json.dumps(made))
    elif options.laptop:
        values = laptop(made["environment"][options.laptop])
        print("\n".join(f"{name}={value}" for name, value in values.items()))
    else:
        print(logins(made["passwords"]))


if __name__ == "__main__":
    try:
        main()
    except UserError as problem:
        sys.exit(str(problem))
