"""Prints what the doctor found, as text or as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import click

from celery_doctor.rules import Finding, Severity, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

COLOURS = {Severity.FATAL: "red", Severity.WARNING: "yellow", Severity.ADVICE: "cyan"}


@dataclass(frozen=True)
class Report:
    """What there is to print.

    Attributes:
        app: the application as it was named.
        findings: of all rules that were asked and not ignored.
        ignored: reasons by rule.
        spell: puts the names of settings into the form that the application uses.
    """

    app: str
    findings: list[Finding]
    ignored: Mapping[str, str]
    spell: Callable[[str], str]

    def of(self, *states: State) -> list[Finding]:
        """Return the findings of some states, the worst first."""
        chosen = [one for one in self.findings if one.state in states]
        return sorted(chosen, key=lambda one: (one.state is State.UNJUDGED, -one.rule.severity, one.rule.id))

    @property
    def skipped(self) -> list[str]:
        """What was not allowed or not asked, one text each."""
        return [f"{one.rule.id}: {one.found}" for one in self.of(State.SKIPPED)]


def write(output: TextIO, report: Report, *, as_json: bool) -> None:
    """Print a report.

    Args:
        output: where to.
        report: what.
        as_json: one JSON object instead of text.
    """
    if as_json:
        rows = [one.as_json(report.spell) for one in report.of(State.FOUND, State.UNJUDGED)]
        content = {"app": report.app, "findings": rows, "skipped": report.skipped, "ignored": dict(report.ignored)}
        click.echo(json.dumps(content, indent=2), file=output)
        return
    colour = None if "NO_COLOR" not in os.environ else False
    for one in report.of(State.FOUND, State.UNJUDGED):
        click.echo(_text(one, report.spell), file=output, color=colour)
    for name, reason in report.ignored.items():
        click.echo(f"ignored {name}: {reason}", file=output)
    for text in report.skipped:
        click.echo(f"skipped {text}", file=output)
    found = report.of(State.FOUND)
    counts = [sum(one.rule.severity is severity for one in found) for severity in sorted(Severity, reverse=True)]
    unjudged = len(report.of(State.UNJUDGED))
    end = f", {unjudged} could not judge" if unjudged else ""
    click.echo("{} fatal, {} warnings, {} advice".format(*counts) + end, file=output)


def _text(one: Finding, spell: Callable[[str], str]) -> str:
    rule = one.rule
    if one.state is State.UNJUDGED:
        head = click.style(State.UNJUDGED.value.upper(), fg="magenta", bold=True)
        return f"{head} {rule.id}: {spell(one.found)}"
    head = click.style(rule.severity.name, fg=COLOURS[rule.severity], bold=True)
    see = f"    ({rule.see})" if rule.see else ""
    return f"{head} {rule.id}: {spell(one.found)}\n    loses: {rule.loss}\n    fix:   {spell(rule.fix)}{see}"
