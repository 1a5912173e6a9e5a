"""Reads the Celery programs of a supervisor configuration, with the files that it includes."""

from __future__ import annotations

import os
import platform
import re
import shlex
from configparser import Error, RawConfigParser, SectionProxy
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from celery_doctor import command, values
from celery_doctor.process import Program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_doctor.subject import Subject

EXPANSION = re.compile(r"%(?:\((\w+)\)0?\d*[sd]|%)")


def read(file: Path, subject: Subject) -> list[Program]:
    """Return the programs of a configuration that run Celery, or may.

    Args:
        file: the main file, or one that it includes.
        subject: the application they run.

    Raises:
        ValueError: it is no supervisor configuration.
        OSError: it, or a file that it includes, cannot be read.
    """
    parser = _parser()
    _load(parser, file)
    known = {f"ENV_{name}": value for name, value in os.environ.items()}
    known.update(here=str(file.resolve().parent), host_node_name=platform.node())
    if parser.has_section("include"):
        for pattern in _expand(parser.get("include", "files", fallback=""), known, "files").split():
            for included in sorted(glob(str(file.parent / pattern))):  # noqa: PTH207 - Path.glob refuses absolute ones
                _load(parser, Path(included))
    shared = values.pairs(
        _expand(parser.get("supervisord", "environment", fallback=""), known, "environment", keep=True)
    )
    known.update({f"ENV_{name}": value for name, value in shared.items()})
    programs = (_program(file, parser[name], subject, known, shared) for name in parser.sections())
    return [program for program in programs if program]


def _parser() -> RawConfigParser:
    return RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)


def _load(parser: RawConfigParser, file: Path) -> None:
    try:
        parser.read_string(file.read_text(encoding="utf-8-sig"), str(file))
    except (Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a supervisor configuration: {error}") from error


def _expand(text: str, known: Mapping[str, str], name: str, *, keep: bool = False) -> str:
    """Put values in for ``%(ENV_HOME)s`` and its like.

    Raises:
        ValueError: one has no value here, and ``keep`` does not let it stand.
    """

    def put(match: re.Match[str]) -> str:
        if match.group(1) is None:
            return "%"
        if match.group(1) in known:
            return known[match.group(1)]
        if keep:
            return match.group()
        raise ValueError(f"{name} is {text}, and {match.group(1)} is not set here")

    return EXPANSION.sub(put, text)


def _program(
    file: Path, section: SectionProxy, subject: Subject, known: Mapping[str, str], shared: Mapping[str, str]
) -> Program | None:
    kind, _, title = section.name.partition(":")
    if kind not in ("program", "fcgi-program"):
        return None
    known = {
        **known,
        "program_name": title,
        "group_name": title,
        "process_num": "0",
        "numprocs": section.get("numprocs", "1"),
    }
    text = _expand(section.get("command", ""), known, "command", keep=True)
    found = command.find(_split(text), file.parent)
    running = [one for one in found if one.program in ("worker", "beat", "multi")]
    if not running and (found or not command.may_run_celery(f"program {title}", _split(text))):
        return None

    def value(option: str, default: str) -> str:
        return _expand(section.get(option, default), known, option)

    def on(option: str) -> bool:
        return values.switch(value(option, "false"), option)

    def no_restart() -> str:
        wanted = value("autorestart", "unexpected").lower()
        if wanted != "unexpected" and not values.switch(wanted, "autorestart"):
            return "autorestart = false"
        return "" if values.switch(value("autostart", "true"), "autostart") else "autostart = false"

    def variable(name: str) -> str:
        raw = values.pairs(section.get("environment", "")).get(name)
        return shared.get(name, "") if raw is None else _expand(raw, known, "environment")

    return Program(
        name=f"[{section.name}] of {file.name}",
        command=running[0] if running else None,
        subject=subject,
        stop_signal=lambda: values.signal_name(value("stopsignal", "TERM"), "stopsignal"),
        patience=lambda: values.seconds(value("stopwaitsecs", "10"), "stopwaitsecs"),
        signals_group=lambda: on("stopasgroup"),
        kills_group=lambda: on("killasgroup") if "killasgroup" in section else on("stopasgroup"),
        no_restart=no_restart,
        copies=lambda: int(value("numprocs", "1")),
        variable=variable,
    )


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an open quote: supervisor refuses it, and the words still tell what was meant
        return text.split()
