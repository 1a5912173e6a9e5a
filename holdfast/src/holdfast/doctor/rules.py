"""What a rule is, and the list of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, TypeAlias

from holdfast.doctor.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from celery import Celery

    Check: TypeAlias = Callable[[Subject], str | None]


class Severity(IntEnum):
    """How bad a finding is; a worker with a fatal one does not start under ``holdfast.install``."""

    ADVICE = 1
    WARNING = 2
    FATAL = 3


@dataclass(frozen=True)
class Rule:
    """One thing to look at.

    Attributes:
        id: stable name, for instance ``HF101-confirm-publish``; the number alone names it too.
        severity: how bad it is.
        loss: what happens to tasks or results, in words.
        fix: what to write, exactly.
        see: upstream issue, ``project#number``, or an empty text.
        check: returns what was found, or None when all is well or the rule does not apply.
    """

    id: str
    severity: Severity
    loss: str
    fix: str
    see: str
    check: Check


@dataclass(frozen=True)
class Finding:
    """A rule that found something.

    Attributes:
        rule: which.
        found: what there is now.
    """

    rule: Rule
    found: str

    def as_json(self) -> dict[str, str]:
        """Return the finding as values of JSON."""
        rule = self.rule
        return {
            "rule": rule.id,
            "severity": rule.severity.name.lower(),
            "found": self.found,
            "loss": rule.loss,
            "fix": rule.fix,
            "see": rule.see,
        }


_rules: dict[str, Rule] = {}


def rule(name: str, severity: Severity, *, loss: str, fix: str, see: str = "") -> Callable[[Check], Check]:
    """Register a check as a rule; the parameters are those of :class:`Rule`."""

    def register(check: Check) -> Check:
        if name in _rules:
            raise ValueError(f"rule {name} is there twice")
        _rules[name] = Rule(name, severity, loss, fix, see, check)
        return check

    return register


def all_rules() -> list[Rule]:
    """Return every rule on the settings of an application, by id."""
    return [_rules[name] for name in sorted(_rules)]


def examine(app: Celery, rules: Iterable[Rule] | None = None) -> Iterator[Finding]:
    """Look at the settings of an application; no server is asked.

    Args:
        app: any Celery application.
        rules: which rules; by default all.
    """
    subject = Subject(app)
    for one in all_rules() if rules is None else rules:
        found = one.check(subject)
        if found is not None:
            yield Finding(one, found)
