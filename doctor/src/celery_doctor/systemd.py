"""Reads the Celery programs of a systemd unit file, with its drop-ins."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from celery_doctor import command, values
from celery_doctor.process import Program

if TYPE_CHECKING:
    from celery_doctor.subject import Subject

COMES_BACK = ("always", "on-failure", "on-abnormal")
TAKES_GROUP = ("control-group", "mixed")
_Unit = tuple[dict[str, list[str]], dict[str, str], list[str]]  # [Service], its environment, files that are missing


def read(file: Path, subject: Subject) -> list[Program]:
    """Return the programs of a unit that run Celery, or may.

    Args:
        file: the unit; the drop-ins in the folder ``NAME.service.d`` beside it count, too.
        subject: the application they run.

    Raises:
        ValueError: it is no unit file.
        OSError: it cannot be read.
    """
    service: dict[str, list[str]] = {}
    for one in (file, *sorted(Path(f"{file}.d").glob("*.conf"))):
        _merge(service, one)
    if not service:
        raise ValueError(f"{file} has no [Service] section")
    environment, missing = _environment(service, file.parent)
    unit = (service, environment, missing)
    started = [_words(line, environment) for line in service.get("ExecStart", [])]
    found = [one for words in started for one in command.find(words, file.parent)]
    running = [one for one in found if one.program in ("worker", "beat", "multi")]
    if not running and (
        found or not command.may_run_celery(f"unit {file.name}", [word for words in started for word in words])
    ):
        return []
    return [_program(file, unit, one, subject) for one in running] or [_program(file, unit, None, subject)]


def _merge(service: dict[str, list[str]], file: Path) -> None:
    """Add the settings of a file; an empty assignment forgets what was there, as in systemd."""
    section = ""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a unit file: {error}") from error
    for line in map(str.strip, text.replace("\\\n", " ").splitlines()):
        if line.startswith("["):
            section = line.strip("[]")
        elif section == "Service" and "=" in line and not line.startswith(("#", ";")):
            name, _, value = (part.strip() for part in line.partition("="))
            service[name] = [*service.get(name, []), value] if value else []


def _environment(service: dict[str, list[str]], folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return what the unit sets, and the files with more that cannot be read here."""
    found: dict[str, str] = {}
    missing: list[str] = []
    for line in service.get("Environment", []):
        found.update(values.assignments(_split(line)))
    for name in service.get("EnvironmentFile", []):
        try:
            found.update(values.lines((folder / name.lstrip("-")).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            missing.append(name)
    return found, missing


def _words(line: str, environment: dict[str, str]) -> list[str]:
    text = line.lstrip("-:+!|")
    second = text.startswith("@")  # then the second word is only the name that the process shows
    words = _split(text.lstrip("@-:+!|"))
    words = words[:1] + words[2:] if second else words
    return [part for word in words for part in _put(word, environment)]


def _put(word: str, environment: dict[str, str]) -> list[str]:
    text = values.interpolate(word, environment)
    return text.split() if word.startswith("$") and not word.startswith("${") else [text]


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _program(file: Path, unit: _Unit, running: command.Command | None, subject: Subject) -> Program:
    service, environment, missing = unit

    def value(name: str, default: str) -> str:
        return (service.get(name) or [default])[-1]

    waits = any("stopwait" in line for line in service.get("ExecStop", []))

    def patience() -> float:
        return values.seconds(value("TimeoutStopSec", value("TimeoutSec", "90")), "TimeoutStopSec") or float("inf")

    def variable(name: str) -> str:
        if name not in environment and missing:
            raise ValueError(f"{name} may be set in {', '.join(missing)}, which cannot be read here")
        return environment.get(name, "")

    kill_mode = value("KillMode", "control-group")
    return Program(
        name=file.name,
        command=running,
        subject=subject,
        stop_signal=lambda: values.signal_name(value("KillSignal", "SIGTERM"), "KillSignal"),
        patience=patience,
        signals_group=lambda: kill_mode == "control-group" and not waits,
        kills_group=lambda: kill_mode in TAKES_GROUP and values.switch(value("SendSIGKILL", "yes"), "SendSIGKILL"),
        no_restart=lambda: "" if value("Restart", "no") in COMES_BACK else f"Restart={value('Restart', 'no')}",
        copies=lambda: 2 if file.stem.endswith("@") else 1,  # a template is there to be started more than once
        variable=variable,
        follows_daemon=value("Type", "simple") == "forking",
    )
