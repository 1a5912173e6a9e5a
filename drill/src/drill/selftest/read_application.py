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
ADDRESSES = ("broker_url", "broker_read_url", "broker_write_url", "broker_use_ssl", "result_backend")
QUEUES = ("task_queues", "task_default_queue", "task_default_exchange", "task_default_routing_key")
OF_TASKS = ("acks_late", "ignore_result", "reject_on_worker_lost")  # what a task or its class may decide by itself


def plain(value: Any) -> Any:
    """Return a value as JSON holds it, or ``LEFT``; a dictionary without the entries that JSON would change."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return LEFT
        kept = {key: plain(part) for key, part in value.items()}
        return {key: part for key, part in kept.items() if part != LEFT}
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return LEFT


def decided(tasks: list[Any]) -> dict[str, Any]:
    """Return the settings in whose place all tasks of the application have one and the same value."""
    found = {f"task_{name}": {getattr(task, name, None) for task in tasks} for name in OF_TASKS}
    return {name: values.pop() for name, values in found.items() if len(values) == 1 and None not in values}


with own_output() as output:
    try:
        subject = load(sys.argv[1])
    except CouldNotLoadError as error:
        sys.exit(str(error))
    report = Report(sys.argv[1], subject, list(application.examine(subject.app)), [], {}, rules.Severity.WARNING)
    layered = subject.durable_publisher
    maps: Any = subject.app.conf.maps
    given = maps[-2] if layered else {}  # the layer's defaults, which are no settings of its own
    mine = [name for name in OPTIONS if subject.dialect.has(name) and (name, subject.get(name)) not in given.items()]
    own = {name: plain(subject.get(name)) for name in mine}
    by_tasks = {name: value for name, value in decided(subject.tasks).items() if value != subject.get(name)}
    replaced = {"broker_transport_options"} if subject.broker == "redis" else set()  # they go with the broker
    asked = own.keys() - by_tasks.keys() - replaced  # what the application sets; the library's defaults answer the rest
    written = {name: value for name, value in report.values.items() if name in asked and value != repr(own[name])}
    answers = {
        name: {key: ast.literal_eval(part) for key, part in value.items()}
        if isinstance(value, dict)
        else ast.literal_eval(value)
        for name, value in written.items()
    }
    named = {"broker_url", "result_backend"}  # an argument of Celery or the environment gives them, too
    removed = {name for name in own.keys() | named if subject.get(name) and name not in given}
    if subject.results != "redis":
        removed.discard("result_backend")  # it may stay: the runs do not look at it
    settings = {**own, **by_tasks}
    queues = [queue.queue_arguments or {} for queue in subject.app.amqp.queues.values()]
    answer = {
        "celery": celery.__version__,
        "broker": subject.broker,
        "quorum": any(arguments.get("x-queue-type") == "quorum" for arguments in queues),
        "settings": {name: value for name, value in settings.items() if value != LEFT},
        "answers": answers,
        "lines": list(subject.dialect.block(written)),
        "addresses": [subject.spell(name) for name in (*ADDRESSES, *replaced) if name in removed],
        "queues": [subject.spell(name) for name in QUEUES if name in removed],
        "layered": layered,
        "results": "" if settings.get("task_ignore_result") else subject.results,
    }
    print(json.dumps(answer), file=output)
