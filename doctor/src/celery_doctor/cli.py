"""``holdfast doctor``: the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from celery_doctor import compose, live, process_rules, report, supervisor, systemd
from celery_doctor.load import CouldNotLoadError, load, own_output
from celery_doctor.rules import Finding, Severity, State, every_rule, settings_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_doctor.process import Program
    from celery_doctor.subject import Subject

READERS = {"supervisor": supervisor.read, "systemd": systemd.read, "compose": compose.read}
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class CouldNotLookError(click.ClickException):
    """The application cannot be checked."""

    exit_code = 2


@click.command()
@click.option("-A", "--app", "path", envvar="HOLDFAST_APP", show_envvar=True, help="The Celery application.")
@click.option(
    "--live", "asks", is_flag=True, help="Also query the broker and the result store that the application uses."
)
@click.option("--management", envvar="HOLDFAST_MANAGEMENT_URL", help="http://user:password@host:15672, with --live.")
@click.option(
    "--redis",
    "store",
    envvar="HOLDFAST_REDIS_URL",
    help="redis:// or rediss://user:password@host of a login that may read the configuration, with --live.",
)
@click.option("--supervisor", multiple=True, type=FILE, help="Also check this supervisor configuration; repeatable.")
@click.option("--systemd", multiple=True, type=FILE, help="Also check this systemd unit; repeatable.")
@click.option("--compose", multiple=True, type=FILE, help="Also check this compose file; repeatable.")
@click.option("--ignore", "ignored", multiple=True, metavar="RULE=REASON", help="Skip a rule, with the reason.")
@click.option(
    "--fail-on",
    type=click.Choice(["fatal", "warning", "advice"]),
    default="warning",
    show_default=True,
    help="The exit code is 1 from this severity on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--list", "list_rules", is_flag=True, help="List every rule and exit.")
def command(
    path: str | None,
    management: str | None,
    store: str | None,
    *,
    asks: bool,
    supervisor: tuple[Path, ...],
    systemd: tuple[Path, ...],
    compose: tuple[Path, ...],
    ignored: tuple[str, ...],
    fail_on: str,
    as_json: bool,
    list_rules: bool,
) -> None:
    """Report what a Celery application can lose.

    Exit code 0: nothing found; 1: findings; 2: the application could not be loaded, or a rule could not judge it.
    """
    if list_rules:
        _list(as_json=as_json)
        return
    if path is None:
        raise click.UsageError("Say which application: -A package.module")
    reasons = _reasons(ignored)
    files = {"supervisor": supervisor, "systemd": systemd, "compose": compose}
    with own_output() as output:
        try:
            subject = load(path)
        except CouldNotLoadError as error:
            raise CouldNotLookError(str(error)) from error
        findings = [*settings_rules.examine(subject), *_processes(subject, files)]
        if asks:
            findings += live.examine(subject, management, store)
        findings = [one for one in findings if not {one.rule.id, one.rule.number} & reasons.keys()]
        report.write(output, report.Report(path, findings, reasons, subject.spell), as_json=as_json)
    if any(one.state is State.UNJUDGED for one in findings):
        raise SystemExit(2)
    if any(one.state is State.FOUND and one.rule.severity >= Severity[fail_on.upper()] for one in findings):
        raise SystemExit(1)


def _processes(subject: Subject, files: dict[str, tuple[Path, ...]]) -> Iterator[Finding]:
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


def _reasons(ignored: tuple[str, ...]) -> dict[str, str]:
    known = {name for rule in every_rule() for name in (rule.id, rule.number)}
    reasons = {}
    for entry in ignored:
        name, _, why = entry.partition("=")
        if name not in known:
            raise click.UsageError(f"--ignore {name}: there is no such rule; holdfast doctor --list shows all.")
        if not why.strip():
            raise click.UsageError(f"--ignore {name}: add the reason, --ignore '{name}=why it is safe here'.")
        reasons[name] = why
    return reasons


def _list(*, as_json: bool) -> None:
    for rule in every_rule():
        if as_json:
            click.echo(json.dumps(Finding(rule, "").as_json()))
        else:
            click.echo(f"{rule.id:34}{rule.severity.name.lower():9}{rule.loss}")
