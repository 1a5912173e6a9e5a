"""Reads the Celery services of a compose file."""

from __future__ import annotations

import json
import os
import shlex
from typing import TYPE_CHECKING, Any

from celery_doctor import command, values
from celery_doctor.process import Program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from celery_doctor.subject import Subject


def read(file: Path, subject: Subject) -> list[Program]:
    """Return the services of a compose file that run Celery, or may.

    Args:
        file: YAML, which needs PyYAML, or the JSON of ``docker compose config --format json``.
        subject: the application they run.

    Raises:
        ValueError: it is no compose file, or is YAML and PyYAML is not installed.
        OSError: it cannot be read.
    """
    content = _content(file)
    services = content.get("services") if isinstance(content, dict) else None
    if not isinstance(services, dict):
        raise ValueError(f"{file} has no services, so it is no compose file")  # noqa: TRY004 - about the file's content
    known = {**_variables(file.parent / ".env"), **os.environ}
    programs = []
    for name in services:
        service = _put(_extended(services, str(name)), known)
        program = _program(file, str(name), service, subject)
        if program:
            programs.append(program)
    return programs


def _content(file: Path) -> Any:
    text = file.read_text(encoding="utf-8-sig")
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        import yaml  # noqa: PLC0415 - the doctor needs it for this alone
    except ImportError:
        raise ValueError(
            f"{file} is YAML, which PyYAML reads: pip install pyyaml, or docker compose config --format json > FILE"
        ) from None

    class Loader(yaml.SafeLoader):
        """Takes compose's own tags, ``!reset`` and ``!override``, for plain values."""

    def plain(loader: Any, _tag: str, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node)

    Loader.add_multi_constructor("!", plain)
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error


def _extended(services: dict[str, Any], name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a service with what it takes from another one of the same file."""
    own = services.get(name)
    own = own if isinstance(own, dict) else {}
    parent = own.get("extends")
    other = parent.get("service") if isinstance(parent, dict) and "file" not in parent else parent
    if not isinstance(other, str) or other in (*seen, name) or other not in services:
        return dict(own)
    base = _extended(services, other, (*seen, name))
    merged = {**base, **own}
    merged["environment"] = {**_named(base.get("environment")), **_named(own.get("environment"))}
    return merged


def _put(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return values.interpolate(value, known)
    if isinstance(value, dict):
        return {key: _put(one, known) for key, one in value.items()}
    return [_put(one, known) for one in value] if isinstance(value, list) else value


def _named(value: Any) -> dict[str, str]:
    """Return variables that are given as a dictionary or as a list of ``NAME=value``; without a value the caller's."""
    if isinstance(value, dict):
        return {str(name): "" if one is None else str(one) for name, one in value.items()}
    entries = [str(entry).partition("=") for entry in value or ()]
    return {name: text if given else os.environ.get(name, "") for name, given, text in entries}


def _variables(file: Path) -> dict[str, str]:
    try:
        return values.lines(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _words(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(word) for word in value]
    try:
        return shlex.split(str(value or ""))
    except ValueError:
        return str(value).split()


def _program(file: Path, name: str, service: dict[str, Any], subject: Subject) -> Program | None:
    words = _words(service.get("entrypoint")) + _words(service.get("command"))
    found = command.find(words, file.parent)
    running = [one for one in found if one.program in ("worker", "beat", "multi")]
    if not running and (found or not command.may_run_celery(f"service {name}", words)):
        return None
    deploy = service.get("deploy") if isinstance(service.get("deploy"), dict) else {}
    environment = _named(service.get("environment"))

    def variable(wanted: str) -> str:
        if wanted in environment:
            return environment[wanted]
        files = service.get("env_file") or []
        for one in reversed(files if isinstance(files, list) else [files]):
            path = file.parent / str(one.get("path") if isinstance(one, dict) else one)
            if not path.is_file():
                raise ValueError(f"{wanted} may be set in {path.name}, which cannot be read here")
            if wanted in _variables(path):
                return _variables(path)[wanted]
        return ""

    return Program(
        name=f"service {name} of {file.name}",
        command=running[0] if running else None,
        subject=subject,
        stop_signal=lambda: values.signal_name(service.get("stop_signal") or "TERM", "stop_signal"),
        patience=lambda: values.seconds(str(service.get("stop_grace_period", "10s")), "stop_grace_period"),
        signals_group=lambda: False,  # docker signals the container's first process alone
        kills_group=lambda: True,  # and the end of that process ends the container
        no_restart=lambda: _no_restart(service, deploy or {}),
        copies=lambda: int((deploy or {}).get("replicas") or service.get("scale") or 1),
        variable=variable,
    )


def _no_restart(service: dict[str, Any], deploy: dict[str, Any]) -> str:
    policy = deploy.get("restart_policy")
    if isinstance(policy, dict):
        return "restart_policy: condition: none" if policy.get("condition") == "none" else ""
    value = service.get("restart", "no")
    return "no restart" if value in ("no", False, None) else ""
