"""What the doctor found in one application, in the order in which it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_doctor.dialect import too_new
from celery_doctor.rules import Finding, Rule, Severity, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_doctor.dialect import Value
    from celery_doctor.subject import Subject


@dataclass(frozen=True)
class Report:
    """What there is to print.

    Attributes:
        app: the application as it was named.
        subject: the application as the rules saw it.
        findings: of all rules that were asked and not ignored.
        asked: those rules.
        ignored: reasons by rule.
        fails_on: the lowest severity that is a failure.
        fix: whether to print the settings to write.
        colour: whether the text has colours.
    """

    app: str
    subject: Subject
    findings: list[Finding]
    asked: list[Rule]
    ignored: Mapping[str, str]
    fails_on: Severity
    fix: bool = False
    colour: bool = False

    def of(self, *states: State) -> list[Finding]:
        """Return the findings of some states, the worst first."""
        chosen = [one for one in self.findings if one.state in states]
        return sorted(chosen, key=lambda one: (one.state is State.UNJUDGED, -one.rule.severity, one.rule.id))

    @property
    def failures(self) -> list[Finding]:
        """What was found and is bad enough to fail."""
        return [one for one in self.of(State.FOUND) if one.rule.severity >= self.fails_on]

    @property
    def skipped(self) -> list[str]:
        """What was not allowed or not asked, one text each."""
        return [f"{one.rule.id}: {one.found}" for one in self.of(State.SKIPPED)]

    def spell(self, text: str) -> str:
        """Put the names of settings in a text into the application's form."""
        return self.subject.spell(text)

    @property
    def values(self) -> dict[str, Value]:
        """The settings that answer what was found; two answers to one dictionary are one dictionary."""
        found: dict[str, Value] = {}
        for one in self.of(State.FOUND):
            for name, value in one.sets.items():
                kept = found.get(name, {})
                found[name] = value if isinstance(value, str) or isinstance(kept, str) else {**kept, **value}
        return found

    @property
    def settings(self) -> list[str]:
        """These settings as lines of Python in the application's form."""
        usable = {name: value for name, value in self.values.items() if not too_new(name)}
        late = {name: value for name, value in self.values.items() if too_new(name)}
        return [*self.subject.dialect.block(usable), *self.subject.dialect.block(late)]

    @property
    def unset(self) -> list[str]:
        """The numbers of the rules that found something which no setting alone answers."""
        return sorted({one.rule.number for one in self.of(State.FOUND) if not one.sets})
