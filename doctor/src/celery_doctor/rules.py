"""What a rule is, what it finds, and the families that the rules are registered in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, TypeVar, Union

from celery_doctor.dialect import Value, needs

if TYPE_CHECKING:
    from collections.abc import Iterator

Found = Union[str, "Iterable[str]", None]
Check = Callable[[Any], Found]
Answer = Callable[[Any], "Mapping[str, Value]"]
Thing = TypeVar("Thing")
LONGEST_REASON = 300  # characters; an exception may carry a whole server answer or document


class Severity(IntEnum):
    """How bad a finding is; a worker with a fatal one does not start under ``holdfast.install``."""

    ADVICE = 1
    WARNING = 2
    FATAL = 3


class State(Enum):
    """What became of a rule that did not pass."""

    FOUND = "found"
    UNJUDGED = "could not judge"
    SKIPPED = "skipped"


class NotAllowedError(Exception):
    """The login may not read what a rule needs: the rule is skipped, and said to be."""


@dataclass(frozen=True)
class Rule:
    """One thing to look at.

    Attributes:
        id: stable name, for instance ``HF101-confirm-publish``; the number alone names it too.
        severity: how bad it is.
        loss: what happens to tasks or results, in words.
        fix: what to write, exactly.
        see: upstream issue, ``project#number``, or an empty text.
        check: returns what was found, one text or several; None when all is well or the rule does not apply.
        sets: the settings that are the whole answer, as Python writes their values; a dictionary is put into what the
            application has there.
        answer: returns the settings for one application where they depend on it; none when no setting alone helps.
    """

    id: str
    severity: Severity
    loss: str
    fix: str
    see: str
    check: Check
    sets: Mapping[str, Value] = field(default_factory=dict)
    answer: Answer | None = None

    @property
    def number(self) -> str:
        """The short name, for instance ``HF101``."""
        return self.id[:5]


@dataclass(frozen=True)
class Finding:
    """What a rule says of one application, program or server.

    Attributes:
        rule: which.
        found: what there is now, or why the rule could not judge.
        state: whether it found something, could not judge, or was not allowed to look.
        sets: the settings that answer it, as those of a rule.
    """

    rule: Rule
    found: str
    state: State = State.FOUND
    sets: Mapping[str, Value] = field(default_factory=dict)

    def fix(self, spell: Callable[[str], str] = str) -> str:
        """Return what to write, and the release of Celery that it needs when the installed one is older.

        Args:
            spell: as for :meth:`as_json`.
        """
        return "; ".join([spell(self.rule.fix), *map(spell, needs(self.rule.fix))])

    def as_json(self, spell: Callable[[str], str] = str) -> dict[str, str]:
        """Return the finding as values of JSON.

        Args:
            spell: puts the names of settings into the form that the application uses.
        """
        rule = self.rule
        return {
            "rule": rule.id,
            "severity": rule.severity.name.lower(),
            "state": self.state.value,
            "found": spell(self.found),
            "loss": rule.loss,
            "fix": self.fix(spell),
            "see": rule.see,
        }


class Rules:
    """A family of rules that judge the same kind of subject; calling it registers a check.

    Args:
        about: what its rules judge, in words.
    """

    def __init__(self, about: str) -> None:
        self.about = about
        self._rules: dict[str, Rule] = {}

    def __call__(
        self,
        name: str,
        severity: Severity,
        *,
        loss: str,
        fix: str = "",
        see: str = "",
        sets: Mapping[str, Value] | None = None,
        answer: Answer | None = None,
    ) -> Callable[[Check], Check]:
        """Register a check as a rule; the parameters are those of :class:`Rule`. ``fix`` may be left to ``sets``.

        Raises:
            ValueError: there is a rule of that name already.
        """

        def register(check: Check) -> Check:
            if name in self._rules:
                raise ValueError(f"rule {name} is defined twice")
            self._rules[name] = Rule(name, severity, loss, fix or _written(sets or {}), see, check, sets or {}, answer)
            return check

        return register

    def __iter__(self) -> Iterator[Rule]:
        return iter(sorted(self._rules.values(), key=lambda one: one.id))

    def examine(self, subject: Any, only: Callable[[Rule], bool] = lambda _: True) -> Iterator[Finding]:
        """Ask every rule about a subject; one that fails says so and stops no other.

        Args:
            subject: what the checks of this family take.
            only: chooses rules; by default all are asked.
        """
        for rule in self:
            if only(rule):
                yield from _ask(rule, subject)


def _written(sets: Mapping[str, Value]) -> str:
    """Return settings as the text of a fix; of a dictionary only the part that matters is known."""
    return ", ".join(
        f"{name} = {value}"
        if isinstance(value, str)
        else f"{name} = {{" + ", ".join([*(f'"{key}": {part}' for key, part in value.items()), "..."]) + "}"
        for name, value in sets.items()
    )


def _ask(rule: Rule, subject: Any) -> Iterator[Finding]:
    try:
        found = rule.check(subject)
        for text in [found] if isinstance(found, str) else found or ():
            yield Finding(rule, text, sets=rule.answer(subject) if rule.answer else rule.sets)
    except NotAllowedError as error:
        yield Finding(rule, str(error), State.SKIPPED)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a rule runs code of the application; none may end the rest
        yield Finding(rule, reason(error), State.UNJUDGED)


def each(things: Iterable[Thing], look: Callable[[Thing], Iterable[str]]) -> Iterator[str]:
    """Yield what is found in each of several things; one that cannot be looked at hides none of the others.

    Args:
        things: what to look at.
        look: yields what it finds in one.

    Raises:
        Exception: the first error, after all have been looked at.
    """
    errors: list[Exception] = []
    for thing in things:
        try:
            yield from look(thing)
        except Exception as error:  # noqa: BLE001 - raised below, when the others have been looked at
            errors.append(error)
    if errors:
        raise errors[0]


def reason(error: BaseException) -> str:
    """Say in one line what an exception says, with its kind when its text alone would not tell."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and text:  # raised by the doctor's own readers, whose text is whole
        return text[:LONGEST_REASON]
    return f"{type(error).__name__}: {text}"[:LONGEST_REASON] if text else type(error).__name__


settings_rules = Rules("the settings of an application")
process_rules = Rules("how a worker or beat is started and stopped: supervisor, systemd and compose files")
broker_rules = Rules("a running RabbitMQ, with the application's login")
management_rules = Rules("a running RabbitMQ, over its management API")
redis_rules = Rules("a running Redis")
sentinel_rules = Rules("the running Sentinels")
SERVER_FAMILIES = (broker_rules, management_rules, redis_rules, sentinel_rules)
FAMILIES = (settings_rules, process_rules, *SERVER_FAMILIES)


def every_rule() -> list[Rule]:
    """Return the rules of all families, by id."""
    return sorted((rule for family in FAMILIES for rule in family), key=lambda one: one.id)
