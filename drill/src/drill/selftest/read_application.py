"""Prints the settings of somebody's application, and what the doctor proposes, as JSON on the standard output.

It runs with the Python of that application, from the standard input, with the doctor on the path: so it knows nothing
of the drill, and keeps to Python 3.9.
"""

from __future__ import annotations

import ast
import json
import sys
from typing import Any

import celery

from celery_doctor import application, rules
from celery_doctor.dialect import OPTIONS
from celery_doctor.load import CouldNotLoadError, load, own_output
from celery_doctor.report import Report

LEFT = "~/"  # stands for a value that JSON cannot hold


def plain(value: Any) -> Any:
    """Return a value as JSON holds it, or ``LEFT``."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return LEFT


with own_output() as output:
    try:
        subject = load(sys.argv[1])
    except CouldNotLoadError as error:
        sys.exit(str(error))
    report = Report(sys.argv[1], subject, list(application.examine(subject.app)), [], {}, rules.Severity.WARNING)
    own = {name: plain(subject.get(name)) for name in OPTIONS if subject.dialect.has(name)}
    answers: dict[str, Any] = {}  # to what the application sets itself; the library's defaults answer the rest
    for finding in report.of(rules.State.FOUND):
        for name, value in finding.rule.sets.items():
            if name in own:
                kept = answers.get(name, own[name])
                parts = {key: ast.literal_eval(part) for key, part in value.items()} if isinstance(value, dict) else {}
                answers[name] = {**kept, **parts} if isinstance(value, dict) else ast.literal_eval(value)
    queues = [queue.queue_arguments or {} for queue in subject.app.amqp.queues.values()]
    answer = {
        "celery": celery.__version__,
        "broker": subject.broker,
        "quorum": any(arguments.get("x-queue-type") == "quorum" for arguments in queues),
        "settings": {name: value for name, value in own.items() if value != LEFT},
        "answers": answers,
        "names": {name: subject.spell(name) for name in answers},
    }
    print(json.dumps(answer), file=output)
