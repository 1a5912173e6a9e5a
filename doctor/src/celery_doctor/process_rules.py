"""Rules on how workers and beats are started and stopped; the same ones for supervisor, systemd and compose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_doctor.consume import UNLIMITED, ignored_limits
from celery_doctor.rules import Finding, Rule, Severity, State, reason
from celery_doctor.rules import process_rules as rule
from celery_doctor.schedule import scheduler, shared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_doctor.process import Program

MARGIN = 10  # seconds that a worker needs besides its soft shutdown: to notice the stop, give messages back and leave
STOPS = ("TERM", "QUIT", "INT")  # the signals on which a worker shuts down in order


def examine(programs: list[Program]) -> Iterator[Finding]:
    """Ask the rules about programs whose files are used together."""
    for program in programs:
        program.peers = programs
        yield from rule.examine(program)


def unreadable(file: object, error: Exception) -> Finding:
    """Return what is said of a file that cannot be read."""
    return Finding(_command_rule(), f"{file}: {reason(error)}", State.UNJUDGED)


def without_programs(file: object) -> Finding:
    """Return what is said of a file in which nothing runs Celery: it passes nothing."""
    return Finding(_command_rule(), f"{file}: no Celery worker or beat is in it", State.SKIPPED)


def _command_rule() -> Rule:
    return next(one for one in rule if one.number == "HF611")


@rule(
    "HF601-stopasgroup",
    Severity.FATAL,
    loss="a stop signals the pool's children, too, and they die in the middle of their tasks",
    fix="supervisor: stopasgroup = false, killasgroup = true; systemd: KillMode=mixed",
    see="celery#6541",
)
def group_stop(program: Program) -> str | None:
    if not program.works or program.pool in UNLIMITED:  # those pools have no children
        return None
    return f"{program.name}: the stop signal goes to the whole group" if program.signals_group() else None


@rule(
    "HF602-killasgroup",
    Severity.WARNING,
    loss="when the parent is killed, its children keep running as orphans while their tasks are redelivered",
    fix="supervisor: killasgroup = true; systemd: KillMode=mixed, SendSIGKILL=yes",
)
def orphans(program: Program) -> str | None:
    if not program.works or program.pool in UNLIMITED:
        return None
    return None if program.kills_group() else f"{program.name}: the kill reaches the parent alone"


@rule(
    "HF603-stopwaitsecs",
    Severity.WARNING,
    loss="the worker is killed before its soft shutdown is over",
    fix="supervisor: stopwaitsecs, systemd: TimeoutStopSec, compose: stop_grace_period above"
    " worker_soft_shutdown_timeout by 10 s or more",
)
def killed_early(program: Program) -> str | None:
    soft = program.subject.number("worker_soft_shutdown_timeout") or 0
    patience = program.patience() if program.works else float("inf")
    if patience >= soft + MARGIN:
        return None
    return f"{program.name} is killed after {patience:g} s, its soft shutdown takes {soft:g} s"


@rule(
    "HF604-remap-sigterm",
    Severity.ADVICE,
    loss="SIGTERM waits for every task without a limit, and the remaining tasks are then killed",
    fix="REMAP_SIGTERM=SIGQUIT in the worker's environment",
)
def warm_stop(program: Program) -> str | None:
    if not program.works or program.stop_signal() != "TERM":
        return None
    value = program.environment("REMAP_SIGTERM")
    if value == "SIGQUIT":
        return None
    return f"{program.name} " + (f"sets REMAP_SIGTERM to {value}" if value else "does not set REMAP_SIGTERM")


@rule(
    "HF605-stop-signal",
    Severity.FATAL,
    loss="a stop ends the tasks at once, or does not stop the worker at all",
    fix="the stop signal TERM, with REMAP_SIGTERM=SIGQUIT; or QUIT",
)
def stop_signal(program: Program) -> str | None:
    wrong = program.works and program.stop_signal() not in STOPS
    return f"{program.name} is stopped by {program.stop_signal()}" if wrong else None


@rule(
    "HF606-interrupt",
    Severity.WARNING,
    loss="INT waits for every task without a limit, despite REMAP_SIGTERM, and the remaining tasks are then killed",
    fix="the stop signal TERM, with REMAP_SIGTERM=SIGQUIT; or QUIT",
)
def interrupt(program: Program) -> str | None:
    return f"{program.name} is stopped by INT" if program.works and program.stop_signal() == "INT" else None


@rule(
    "HF607-restart",
    Severity.WARNING,
    loss="a program that exited is not restarted, and nothing consumes or sends the schedule",
    fix="supervisor: autorestart = true; systemd: Restart=always; compose: restart: unless-stopped",
)
def restart(program: Program) -> str | None:
    if not (program.works or program.ticks):
        return None
    return f"{program.name} has {program.no_restart()}" if program.no_restart() else None


@rule(
    "HF608-several-beats",
    Severity.WARNING,
    loss="each beat sends every tick",
    fix='one beat in all, none inside workers (-B); or beat_scheduler = "holdfast.beat:Scheduler" and its lock',
)
def several_beats(program: Program) -> str | None:
    if not program.ticks or shared(_scheduler(program)):
        return None
    count = sum(one.copies() for one in program.peers if one.ticks)
    return f"{program.name} is one of {count} beats" if count > 1 else None


def _scheduler(program: Program) -> str:
    alone = program.command is not None and program.command.program == "beat"
    given = program.option("scheduler") if alone else ""  # a worker's -S is its state file
    return given or scheduler(program.subject)


@rule(
    "HF609-shell-between",
    Severity.WARNING,
    loss="a stop may end only the shell: the worker keeps running unnoticed, or is killed in the middle of its tasks",
    fix="exec before celery, as the last command",
)
def shell_between(program: Program) -> str | None:
    between = (program.works or program.ticks) and program.shell
    return f"{program.name}: {program.shell} stands between, celery is started without exec" if between else None


@rule(
    "HF610-detached",
    Severity.FATAL,
    loss="the program exits at once, and nothing stops, restarts or counts its workers",
    fix="celery worker in the foreground, one program per worker",
)
def detached(program: Program) -> str | None:
    if program.follows_daemon or not (program.works or program.ticks):
        return None
    multi = program.command is not None and program.command.program == "multi"
    how = "celery multi" if multi else "--detach" if program.has("detach") else ""
    return f"{program.name} runs {how}" if how else None


@rule(
    "HF611-hidden-command",
    Severity.WARNING,
    loss="no rule on processes was checked for this program",
    fix="name the file that starts Celery, or write celery worker into the command",
)
def hidden_command(program: Program) -> str | None:
    if program.command is None:
        raise ValueError(f"{program.name} does not show which Celery command it runs")
    return None


@rule(
    "HF612-limits-without-effect",
    Severity.WARNING,
    loss="the limit does nothing in this pool: a task that hangs is never stopped",
    fix="--pool=prefork for tasks with limits, or a timeout inside the task",
)
def limits_without_effect(program: Program) -> str | None:
    if not program.works or not program.option("pool"):  # the setting's pool is HF223's
        return None
    given = [f"--{name}" for name in ("time-limit", "soft-time-limit") if program.has(name)]
    ignored = [name for name in given if name[2:].replace("-", "_") in UNLIMITED.get(program.pool, ())]
    if ignored:
        return f"{program.name}: the pool is {program.pool}, which ignores {', '.join(ignored)}"
    found = ignored_limits(program.subject, program.pool)
    return f"{program.name}: {found}" if found else None


@rule(
    "HF613-autoscale",
    Severity.ADVICE,
    loss="the prefetch count stays at the highest concurrency: after scaling in, messages wait behind busy children",
    fix="--concurrency instead of --autoscale",
    see="celery#9512",
)
def autoscale(program: Program) -> str | None:
    scaled = program.works and program.has("autoscale") and program.subject.amqp
    return f"{program.name} has --autoscale" if scaled else None


@rule(
    "HF614-beat-option",
    Severity.WARNING,
    loss="only one beat may run, and a tick that could not be published is forgotten",
    fix='beat_scheduler = "holdfast.beat:Scheduler" and no --scheduler (see HF401 on entries kept elsewhere)',
)
def beat_option(program: Program) -> str | None:
    alone = program.command is not None and program.command.program == "beat"
    given = program.option("scheduler") if alone else ""
    return f"{program.name} has --scheduler {given}" if given and "holdfast.beat" not in given else None


@rule(
    "HF615-purge",
    Severity.FATAL,
    loss="every start of the worker deletes all waiting tasks of its queues",
    fix="remove --purge",
)
def purge(program: Program) -> str | None:
    purges = program.works and (program.has("purge") or program.has("discard"))
    return f"{program.name} has --purge" if purges else None
