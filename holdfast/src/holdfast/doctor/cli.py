"""``holdfast doctor``: the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from amqp.exceptions import AMQPError
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from holdfast.dead import load_app
from holdfast.doctor import rabbitmq, redis, supervisor
from holdfast.doctor.rules import Finding, Rule, Severity, all_rules, examine
from holdfast.doctor.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

COLOURS = {Severity.FATAL: "red", Severity.WARNING: "yellow", Severity.ADVICE: "cyan"}


class CouldNotLookError(click.ClickException):
    """The application or a server could not be looked at."""

    exit_code = 2


LIVE = (*rabbitmq.AMQP, *rabbitmq.MANAGEMENT, *redis.ALL)


@click.command()
@click.option("-A", "--app", "path", help="The Celery application, as for celery -A.")
@click.option("--live", is_flag=True, help="Also look at the broker and the result store that the application names.")
@click.option("--management", envvar="HOLDFAST_MANAGEMENT_URL", help="http://user:password@host:15672, with --live.")
@click.option(
    "--redis",
    "store",
    envvar="HOLDFAST_REDIS_URL",
    help="redis:// or rediss://user:password@host of a login that may read the configuration, with --live.",
)
@click.option(
    "--supervisor",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also look at this supervisor configuration; may be given several times.",
)
@click.option("--ignore", "ignored", multiple=True, metavar="RULE=REASON", help="Leave a rule out, and say why.")
@click.option(
    "--fail-on",
    type=click.Choice(["fatal", "warning", "advice"]),
    default="warning",
    show_default=True,
    help="The exit code is 1 from this severity on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--list", "list_rules", is_flag=True, help="List every rule and end.")
def command(
    path: str | None,
    management: str | None,
    store: str | None,
    files: tuple[Path, ...],
    *,
    ignored: tuple[str, ...],
    fail_on: str,
    live: bool,
    as_json: bool,
    list_rules: bool,
) -> None:
    """Find what a Celery application would lose. Exit code 0: nothing, 1: findings, 2: it could not look."""
    if list_rules:
        _list(as_json=as_json)
        return
    if path is None:
        raise click.UsageError("Say which application: -A package.module")
    reasons = _reasons(ignored)
    skipped: list[str] = []
    try:
        subject = Subject(load_app(path))
        findings = list(examine(subject.app))
        for file in files:
            findings += supervisor.examine_supervisor(file, float(subject.get("worker_soft_shutdown_timeout") or 0))
        if live:
            findings += _live(subject, management, store, skipped)
    except click.ClickException as error:
        raise CouldNotLookError(error.message) from error
    except (OSError, ValueError, AMQPError, OperationalError, RedisError) as error:
        raise CouldNotLookError(f"Could not look: {error}") from error
    findings = [one for one in findings if not {one.rule.id, one.rule.id[:5]} & reasons.keys()]
    findings.sort(key=lambda one: (-one.rule.severity, one.rule.id))
    if as_json:
        content = {"app": path, "findings": [one.as_json() for one in findings], "skipped": skipped, "ignored": reasons}
        click.echo(json.dumps(content, indent=2))
    else:
        _print(findings, skipped, reasons)
    if any(one.rule.severity >= Severity[fail_on.upper()] for one in findings):
        raise SystemExit(1)


def _live(subject: Subject, management: str | None, store: str | None, skipped: list[str]) -> Iterator[Finding]:
    for one in _look(subject, management, store):
        if isinstance(one, Finding):
            yield one
        else:
            skipped.append(one)


def _look(subject: Subject, management: str | None, store: str | None) -> Iterator[Finding | str]:
    if subject.amqp:
        yield from rabbitmq.examine_amqp(subject)
        if management:
            yield from rabbitmq.examine_management(subject, rabbitmq.Management(management, subject.tls))
        else:
            names = f"{rabbitmq.MANAGEMENT[0].id[:5]} to {rabbitmq.MANAGEMENT[-1].id[:5]}"
            yield f"{names}: need --management http://user:password@host:15672"
    if subject.redis_results:
        yield from redis.examine_redis(subject, store)
    else:
        yield f"{redis.ALL[0].id[:5]} to {redis.ALL[-1].id[:5]}: results are not in Redis"


def _reasons(ignored: tuple[str, ...]) -> dict[str, str]:
    known = {name for rule in _every_rule() for name in (rule.id, rule.id[:5])}
    reasons = {}
    for entry in ignored:
        name, _, reason = entry.partition("=")
        if name not in known:
            raise click.UsageError(f"--ignore {name}: there is no such rule; holdfast doctor --list shows all.")
        if not reason.strip():
            raise click.UsageError(f"--ignore {name}: add the reason, --ignore '{name}=why it is safe here'.")
        reasons[name] = reason
    return reasons


def _every_rule() -> list[Rule]:
    return [*all_rules(), *supervisor.ALL, *LIVE]


def _list(*, as_json: bool) -> None:
    for rule in _every_rule():
        if as_json:
            click.echo(json.dumps(Finding(rule, "").as_json()))
        else:
            click.echo(f"{rule.id:34}{rule.severity.name.lower():9}{rule.loss}")


def _print(findings: list[Finding], skipped: list[str], reasons: dict[str, str]) -> None:
    colour = None if "NO_COLOR" not in os.environ else False
    for one in findings:
        rule = one.rule
        head = click.style(rule.severity.name, fg=COLOURS[rule.severity], bold=True)
        click.echo(f"{head} {rule.id}: {one.found}", color=colour)
        click.echo(f"    loses: {rule.loss}")
        click.echo(f"    fix:   {rule.fix}" + (f"    ({rule.see})" if rule.see else ""))
    for name, reason in reasons.items():
        click.echo(f"ignored {name}: {reason}")
    for text in skipped:
        click.echo(f"skipped {text}")
    counts = [sum(one.rule.severity is severity for one in findings) for severity in sorted(Severity, reverse=True)]
    click.echo("{} fatal, {} warnings, {} advice".format(*counts))
