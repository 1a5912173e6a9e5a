"""The forms of a report: text to read, JSON, and SARIF and JUnit for CI."""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

from celery_doctor.rules import Finding, Rule, Severity, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from celery_doctor.report import Report

RED, YELLOW, CYAN, MAGENTA = 31, 33, 36, 35  # colours of a terminal
COLOURS = {Severity.FATAL: RED, Severity.WARNING: YELLOW, Severity.ADVICE: CYAN}
LEVELS = {Severity.FATAL: "error", Severity.WARNING: "warning", Severity.ADVICE: "note"}  # of SARIF


def text(report: Report) -> str:
    """Return a report to read."""
    return "\n".join(_text(report))


def _text(report: Report) -> Iterator[str]:
    for one in report.of(State.FOUND, State.UNJUDGED):
        rule = one.rule
        if one.state is State.UNJUDGED:
            head = _bold(State.UNJUDGED.value.upper(), MAGENTA, colour=report.colour)
            yield f"{head} {rule.id}: {report.spell(one.found)}"
            continue
        see = f"    ({rule.see})" if rule.see else ""
        yield f"{_bold(rule.severity.name, COLOURS[rule.severity], colour=report.colour)} {rule.id}: " + report.spell(
            one.found
        )
        yield f"    loses: {rule.loss}"
        yield f"    fix:   {one.fix(report.spell)}{see}"
    if report.fix:
        yield from _settings(report)
    yield from (f"ignored {name}: {reason}" for name, reason in report.ignored.items())
    yield from (f"skipped {entry}" for entry in report.skipped)
    found = report.of(State.FOUND)
    counts = [sum(one.rule.severity is severity for one in found) for severity in sorted(Severity, reverse=True)]
    unjudged = len(report.of(State.UNJUDGED))
    yield "{} fatal, {} warnings, {} advice".format(*counts) + (f", {unjudged} could not judge" if unjudged else "")


def _settings(report: Report) -> Iterator[str]:
    if report.settings:
        yield "\n# The settings, once each task may safely run twice. A number is a beginning: see its rule."
        yield from report.settings
    if report.unset:
        yield f"# No setting alone answers {', '.join(report.unset)}."
    yield ""


def _bold(word: str, number: int, *, colour: bool) -> str:
    return f"\x1b[1;{number}m{word}\x1b[0m" if colour else word


def as_json(report: Report) -> str:
    """Return a report as one JSON object."""
    content: dict[str, Any] = {
        "app": report.app,
        "findings": [one.as_json(report.spell) for one in report.of(State.FOUND, State.UNJUDGED)],
        "skipped": report.skipped,
        "ignored": dict(report.ignored),
    }
    if report.fix:
        content["settings"] = report.settings
    return json.dumps(content, indent=2)


def sarif(report: Report) -> str:
    """Return a report as SARIF 2.1.0, which code hosts show beside the lines of a change."""
    rules = _by_id(one.rule for one in report.findings)
    places = _Places(report)
    results = [
        {
            "ruleId": one.rule.id,
            "level": LEVELS[one.rule.severity] if one.state is State.FOUND else "note",
            "message": {"text": _sentence(one, report)},
            "locations": [{"physicalLocation": places.of(one)}],
        }
        for one in report.of(State.FOUND, State.UNJUDGED)
    ]
    driver = {
        "name": "celery-doctor",
        "version": metadata.version("celery-doctor"),
        "rules": [_sarif_rule(rule, report) for rule in rules],
    }
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2)


def _by_id(rules: Iterable[Rule]) -> list[Rule]:
    return sorted({rule.id: rule for rule in rules}.values(), key=lambda rule: rule.id)


def _sarif_rule(rule: Rule, report: Report) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.loss},
        "help": {"text": report.spell(rule.fix)},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
    }


def _sentence(one: Finding, report: Report) -> str:
    if one.state is not State.FOUND:
        return f"{one.state.value}: {report.spell(one.found)}"
    return f"{report.spell(one.found)}. Loses: {one.rule.loss}. Fix: {one.fix(report.spell)}"


class _Places:
    """Where a finding belongs: the line that sets what its rule would set, else the first of the application's file."""

    def __init__(self, report: Report) -> None:
        self._report = report
        name = report.app.partition(":")[0]
        source = getattr(report.subject.app, "_config_source", None)
        modules = [
            source.partition(":")[0] if isinstance(source, str) else "",
            os.environ.get("DJANGO_SETTINGS_MODULE"),
        ]
        names = [found for found in (*modules, f"{name}.celery", name) if found]
        self._files = list(dict.fromkeys(path for found in names if (path := _file_of(found))))

    def of(self, one: Finding) -> dict[str, Any]:
        for setting in one.rule.sets:
            name = self._report.subject.dialect.name(setting)
            for file in self._files:
                for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                    if name in line:
                        return _place(file, number)
        return _place(self._files[-1] if self._files else Path(self._report.app.partition(".")[0]), 1)


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file and Path(file).is_file() else None


def _place(file: Path, line: int) -> dict[str, Any]:
    here = Path.cwd()
    path = file.relative_to(here) if here in file.parents else file
    return {"artifactLocation": {"uri": path.as_posix()}, "region": {"startLine": line}}


def junit(report: Report) -> str:
    """Return a report as JUnit's XML: a test case for each rule that was asked."""
    found: dict[str, list[Finding]] = {}
    for one in report.findings:
        found.setdefault(one.rule.id, []).append(one)
    failed = len({one.rule.id for one in report.failures})
    errors = len({one.rule.id for one in report.of(State.UNJUDGED)})
    skipped = len({one.rule.id for one in report.of(State.SKIPPED)})
    rules = _by_id([*report.asked, *(one.rule for one in report.findings)])
    head = f'tests="{len(rules)}" failures="{failed}" errors="{errors}" skipped="{skipped}"'
    cases = [_case(rule, found.get(rule.id, []), report) for rule in rules]
    return "\n".join(
        [
            '<?xml version="1.0" encoding="utf-8"?>',
            f'<testsuites><testsuite name="celery-doctor" {head}>',
            *cases,
            "</testsuite></testsuites>",
        ]
    )


def _case(rule: Rule, found: list[Finding], report: Report) -> str:
    body = "".join(_outcome(one, report) for one in found)
    return f"<testcase classname={quoteattr(report.app)} name={quoteattr(rule.id)}>{body}</testcase>"


def _outcome(one: Finding, report: Report) -> str:
    said = _sentence(one, report)
    if one.state is State.SKIPPED:
        return f"<skipped message={quoteattr(one.found)}/>"
    if one.state is State.UNJUDGED:
        return f"<error message={quoteattr(said)}/>"
    if one.rule.severity < report.fails_on:
        return f"<system-out>{escape(said)}</system-out>"
    return f"<failure type={quoteattr(one.rule.severity.name.lower())} message={quoteattr(said)}/>"


FORMATS: dict[str, Callable[[Report], str]] = {"text": text, "json": as_json, "sarif": sarif, "junit": junit}
