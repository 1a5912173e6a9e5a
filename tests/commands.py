"""What pages tell people to type, taken out of them and held against the programs that it names."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from celery_doctor import cli as doctor
from drill import cli as drill
from holdfast import cli as holdfast
from webhooks import cli as webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
OURS = {"drill": drill.main, "holdfast": holdfast.main, "webhooks": webhooks.main}
PLACES = drill.Places.of_project("holdfast", ROOT / "build")  # what the options of the drill look into
COMPOSE = {"up", "down", "ps", "stop", "start", "restart", "logs", "exec", "run", "config", "pull", "build"}
SUPERVISOR = {"status", "start", "stop", "restart", "signal", "update"}
PROGRAMS = {  # taken at their word here; those of the servers are asked for their commands on the running stack
    "$EDITOR", ".", "ansible", "ansible-galaxy", "ansible-vault", "cat", "cd", "celery", "curl", "date", "df",
    "django-admin", "done", "du", "echo", "export", "flask", "for", "git", "journalctl", "kubectl", "mv", "openssl",
    "python3", "rabbitmq-diagnostics", "rabbitmq-queues", "rabbitmq-upgrade", "rabbitmqctl", "redis-check-aof",
    "redis-cli", "set", "ssh", "systemctl", "uvicorn",
}  # fmt: skip


def fences(page: Path) -> Iterator[tuple[int, str, str]]:
    """Yield each fenced block of a page: the number of its first line, its language, its text without indentation."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        body = "\n".join(line.removeprefix(found[1]) for line in found[3].splitlines())
        yield text.count("\n", 0, found.start()) + 2, found[2], body


def files(page: Path) -> dict[str, str]:
    """Return the Python files that a page tells to write, by the path that the first line of a block names."""
    blocks = (text for _, language, text in fences(page) if language == "python")
    named = ((re.match(r"# (\S+\.py)\n", text), text) for text in blocks)
    return {found[1]: text + "\n" for found, text in named if found}


def lines(page: Path) -> Iterator[tuple[int, str]]:
    """Yield each line that a page tells to type, with its number; a line that goes on after a backslash is one."""
    for begin, language, text in fences(page):
        if language not in {"sh", "bash", "console"}:
            continue
        whole, first = "", begin
        for number, line in enumerate(text.splitlines(), begin):
            if language == "console" and not whole and not line.startswith("$ "):
                continue
            first = first if whole else number
            whole += line.removeprefix("$ ") if language == "console" and not whole else line
            if whole.endswith("\\"):
                whole = whole[:-1]
                continue
            if whole.strip() and not whole.lstrip().startswith("#"):
                yield first, whole
            whole = ""


def inline(page: Path) -> Iterator[tuple[int, str]]:
    """Yield each line of our own commands that stands in a sentence, with its number."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(rf"`((?:{'|'.join(OURS)}) [^`\n]+)`", text):
        yield text.count("\n", 0, found.start()) + 1, found[1]


def problem(line: str) -> str | None:
    """Say what is wrong with a line, None when the program that it names takes it."""
    shell = subprocess.run(["bash", "-n"], input=line, text=True, capture_output=True, check=False)
    if shell.returncode and not line.lstrip().startswith(("for ", "done")):
        return shell.stderr.strip()
    words = shlex.split(re.sub(r"\$\([^()]*\)", "VALUE", line), comments=True)
    while words and (words[0] == "sudo" or re.fullmatch(r"[A-Z_]+=.*", words[0])):
        words = words[1:]
    tool, rest = words[0].removeprefix(".venv/bin/").removeprefix("/opt/holdfast/current/bin/"), words[1:]
    if (tool, *rest[:1]) == ("holdfast", "doctor"):
        tool, rest = "celery-doctor", rest[1:]  # which takes the options that follow
    if tool in OURS:
        return _parse(OURS[tool], tool, rest)
    if tool in CHECKS:
        return CHECKS[tool](rest)
    if tool.startswith("scripts/"):
        return None if (ROOT / tool).stat().st_mode & 0o100 else f"{tool} cannot be run"
    return None if tool in PROGRAMS else f"{tool} is a program that no page has named before"


def _parse(command: click.Command, name: str, words: list[str], parent: click.Context | None = None) -> str | None:
    """Parse a line by the command line's own parser, without running anything."""
    try:
        context = command.make_context(name, list(words), parent=parent, **({} if parent else {"obj": PLACES}))
        if not isinstance(command, click.Group):
            return None
        rest = [*context._protected_args, *context.args]
        found, inner, left = command.resolve_command(context, rest)
        return _parse(inner, found, left, context) if inner and found else f"{name}: which command?"
    except click.exceptions.NoArgsIsHelpError:
        return f"{name}: which command?"
    except click.ClickException as error:
        return f"{name}: {error.format_message()}"


def _make(words: list[str]) -> str | None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, assigned, value = word.partition("=")
        if not assigned:
            if f"\n{name}:" not in text:
                return f"make has no verb {name}"
        elif f"$({name})" not in text and f"$(or $({name})" not in text:
            return f"make does not know {name}"
        elif name == "PLAYBOOK" and not (ROOT / f"ansible/playbooks/{value}.yml").exists():
            return f"there is no playbook {value}"
        elif name == "ARGS" and (wrong := _playbook_arguments(value)):
            return wrong
    return None


def _playbook(words: list[str]) -> str | None:
    """Say what is wrong with a line of ansible-playbook; an inventory may be one that the reader has yet to make."""
    name = words[0].removeprefix("holdfast.stack.")
    if not (ROOT / f"ansible/playbooks/{name}.yml").exists():
        return f"there is no playbook {words[0]}"
    if words[1:2] != ["-i"] or len(words) < 3:
        return "ansible-playbook NAME -i INVENTORY, then options"
    return _playbook_arguments(shlex.join(words[3:]))


def _playbook_arguments(value: str) -> str | None:
    ansible = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "ansible").rglob("*") if path.suffix in {".yml", ".j2"}
    )
    words = shlex.split(value)
    while words:
        option, *words = words
        if option in {"-e", "--extra-vars", "--tags"} and words:
            given, *words = words
            name = given.partition("=")[0]
            if not re.search(rf"\b{re.escape(name)}\b", ansible):
                return f"no playbook uses {name}"
        elif option not in {"--check", "--diff"}:
            return f"ARGS: {option}"
    return None


def _docker(words: list[str]) -> str | None:
    if words[0] != "compose":
        return (
            None if words[0] in {"ps", "restart", "stop", "start", "inspect", "run", "info"} else f"docker {words[0]}"
        )
    file, rest = ROOT / "compose.yaml", words[1:]
    while rest and rest[0].startswith("-"):
        if rest[0] == "-f":
            file = ROOT / rest[1]
        rest = rest[2:] if rest[0] in {"-f", "--profile"} else rest[1:]
    if not file.exists() or rest[0] not in COMPOSE:
        return f"docker compose: {file if not file.exists() else rest[0]}"
    services = yaml.safe_load((ROOT / "compose/compose.yaml").read_text(encoding="utf-8"))["services"]
    named = [word for word in rest[1:] if not word.startswith("-")][:1]
    return None if set(named) <= services.keys() else f"there is no service {named[0]}"


def _doctor(words: list[str]) -> str | None:
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            doctor.parser("celery-doctor", "CELERY_DOCTOR").parse_args(words)
    except SystemExit as end:
        return said.getvalue() if end.code else None
    return None


def _first(allowed: set[str], skip: str = "") -> Callable[[list[str]], str | None]:
    def check(words: list[str]) -> str | None:
        rest = words[2:] if words[:1] == [skip] else words
        return None if rest and rest[0] in allowed else f"{' '.join(words)}: allowed is {', '.join(sorted(allowed))}"

    return check


def _module(words: list[str]) -> str | None:
    """Check what python runs: a module of the checkout, by the name after ``-m``."""
    if words[:1] != ["-m"] or len(words) < 2:
        return f"python {' '.join(words)} names no module with -m"
    file = ROOT.joinpath(*words[1].split("."))
    known = file.with_suffix(".py").exists() or (file / "__main__.py").exists()
    return None if known else f"there is no module {words[1]}"


def _exists(words: list[str]) -> str | None:
    """Check paths of the project; those below ``build`` are made by commands."""
    paths = [
        word.partition("[")[0]
        for word in words
        if "/" in word and word[0] not in "-/~" and not word.startswith("build/")
    ]
    missing = [path for path in paths if not (ROOT / path).exists()]
    return f"{missing[0]} does not exist" if missing else None


CHECKS: dict[str, Callable[[list[str]], str | None]] = {
    "celery-doctor": _doctor,
    "amtool": lambda words: (
        None
        if words[0] == "check-config" or [word for word in words if word[0] != "-"][:2] == ["alert", "query"]
        else " ".join(words)
    ),
    "ansible-playbook": _playbook,
    "cp": lambda words: _exists([words[-2]]),
    "docker": _docker,
    "make": _make,
    "pip": lambda words: _exists(words[1:]),
    "promtool": _first({"query", "test", "check"}),
    "pytest": _exists,
    "python": _module,
    "supervisorctl": _first(SUPERVISOR, "-c"),
}
