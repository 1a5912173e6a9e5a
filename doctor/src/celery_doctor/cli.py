"""``celery-doctor``: the command line, with the standard library's parser: Celery before 5 brings no other."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from celery_doctor import application, compose, live, process_rules, rules, supervisor, systemd
from celery_doctor.formats import FORMATS
from celery_doctor.load import CouldNotLoadError, load, own_output
from celery_doctor.report import Report
from celery_doctor.rules import Finding, Severity, State, every_rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from celery_doctor.process import Program
    from celery_doctor.subject import Subject

READERS = {"supervisor": supervisor.read, "systemd": systemd.read, "compose": compose.read}
READ = {"supervisor": "supervisor configuration", "systemd": "systemd unit", "compose": "compose file"}
EXITS = "Exit code 0: nothing found; 1: findings; 2: the application could not be loaded, or a rule could not judge it."


def main(argv: Sequence[str] | None = None, *, name: str = "celery-doctor", prefix: str = "CELERY_DOCTOR") -> None:
    """Run the command.

    Args:
        argv: what follows the command's name; by default that of the process.
        name: how messages call the command.
        prefix: what the names of its environment variables begin with.

    Raises:
        SystemExit: always, with the exit code.
    """
    command = parser(name, prefix)
    given = command.parse_args(argv)
    if given.list:
        _list(as_json=given.format == "json")
        sys.exit(0)
    if not given.app:
        command.error("Say which application: -A package.module")
    try:
        reasons = _reasons(given.ignore, name)
    except ValueError as error:
        command.error(str(error))
    with own_output() as output:
        try:
            subject = load(given.app)
        except CouldNotLoadError as error:
            sys.stderr.write(f"Error: {error}\n")
            sys.exit(2)
        sys.exit(_examine(subject, given, reasons, output))


def parser(name: str, prefix: str) -> argparse.ArgumentParser:
    """Return the parser of the command line; the parameters are those of :func:`main`."""
    made = argparse.ArgumentParser(
        prog=name,
        description="Report what a Celery application can lose.",
        epilog=EXITS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=100),
    )
    add = made.add_argument
    variables = {key: f"{prefix}_{key}" for key in ("APP", "MANAGEMENT_URL", "REDIS_URL")}
    default = {key: os.environ.get(variable) for key, variable in variables.items()}
    add("-A", dest="app", metavar="APP", default=default["APP"], help=f"The application, or {variables['APP']}.")
    add("--app", help=argparse.SUPPRESS, default=argparse.SUPPRESS)
    add("--live", action="store_true", help="Also query the broker and the result store that the application uses.")
    add(
        "--management",
        metavar="URL",
        default=default["MANAGEMENT_URL"],
        help=f"http://user:password@host:15672, with --live; or {variables['MANAGEMENT_URL']}.",
    )
    add(
        "--redis",
        metavar="URL",
        default=default["REDIS_URL"],
        help="redis:// or rediss://user:password@host of a login that may read the configuration, with --live; or "
        f"{variables['REDIS_URL']}.",
    )
    for kind, what in READ.items():
        text = f"Also check this {what}; repeatable."
        add(f"--{kind}", action="append", default=[], type=Path, metavar="FILE", help=text)
    add("--ignore", action="append", default=[], metavar="RULE=REASON", help="Skip a rule, with the reason.")
    add("--fix", action="store_true", help="Also print the settings to write, in the application's own form.")
    add(
        "--fail-on",
        choices=[one.name.lower() for one in sorted(Severity, reverse=True)],
        default="warning",
        help="The exit code is 1 from this severity on; by default warning.",
    )
    add("--format", choices=sorted(FORMATS), default="text", help="By default text; junit and sarif are read by CI.")
    add("--json", dest="format", action="store_const", const="json", help="The same as --format json.")
    add("--list", action="store_true", help="List every rule and exit.")
    return made


def _examine(subject: Subject, given: argparse.Namespace, reasons: dict[str, str], output: TextIO) -> int:
    files = {kind: getattr(given, kind) for kind in READERS}
    asked = application.all_rules()
    findings = [*rules.settings_rules.examine(subject), *_processes(subject, files)]
    if any(files.values()):
        asked += rules.process_rules
    if given.live:
        findings += live.examine(subject, given.management, given.redis)
        asked += [one for family in rules.SERVER_FAMILIES for one in family]
    report = Report(
        app=given.app,
        subject=subject,
        findings=[one for one in findings if not {one.rule.id, one.rule.number} & reasons.keys()],
        asked=[one for one in asked if not {one.id, one.number} & reasons.keys()],
        ignored=reasons,
        fails_on=Severity[given.fail_on.upper()],
        fix=given.fix,
        colour=output.isatty() and "NO_COLOR" not in os.environ,
    )
    print(FORMATS[given.format](report), file=output)
    return 2 if report.of(State.UNJUDGED) else int(bool(report.failures))


def _processes(subject: Subject, files: dict[str, list[Path]]) -> Iterator[Finding]:
    programs: list[Program] = []
    for kind, given in files.items():
        for file in given:
            try:
                found = READERS[kind](file, subject)
            except (OSError, ValueError) as error:
                yield process_rules.unreadable(file, error)
                continue
            programs += found
            if not found:
                yield process_rules.without_programs(file)
    yield from process_rules.examine(programs)


def _reasons(ignored: list[str], command: str) -> dict[str, str]:
    known = {name for rule in every_rule() for name in (rule.id, rule.number)}
    reasons = {}
    for entry in ignored:
        name, _, why = entry.partition("=")
        if name not in known:
            raise ValueError(f"--ignore {name}: there is no such rule; {command} --list shows all.")
        if not why.strip():
            raise ValueError(f"--ignore {name}: add the reason, --ignore '{name}=why it is safe here'.")
        reasons[name] = why
    return reasons


def _list(*, as_json: bool) -> None:
    for rule in every_rule():
        if as_json:
            print(json.dumps(Finding(rule, "").as_json()))
        else:
            print(f"{rule.id:34}{rule.severity.name.lower():9}{rule.loss}")
