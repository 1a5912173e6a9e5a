"""How a worker or beat is started and stopped: the model that supervisor, systemd and compose files are read into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_doctor.command import Command
    from celery_doctor.subject import Subject


@dataclass
class Program:
    """One program of a file; a fact that cannot be read raises when it is asked for, and spoils no other.

    Attributes:
        name: how messages name it, with its file.
        command: the Celery program, None when the file does not show it.
        subject: the application.
        stop_signal: returns the name of the signal that stops it, without SIG.
        patience: returns the seconds until it is killed.
        signals_group: returns whether the stop signal goes to its children as well.
        kills_group: returns whether the kill takes its children along.
        no_restart: returns the setting under which it stays away after it has left, an empty text when it comes back.
        copies: returns how many run.
        variable: returns the value of an environment variable, an empty text when it is not set.
        follows_daemon: whether it is expected to leave a daemon behind.
        peers: every program of the files that are examined together.
    """

    name: str
    command: Command | None
    subject: Subject
    stop_signal: Callable[[], str]
    patience: Callable[[], float]
    signals_group: Callable[[], bool]
    kills_group: Callable[[], bool]
    no_restart: Callable[[], str]
    copies: Callable[[], int]
    variable: Callable[[str], str]
    follows_daemon: bool = False
    peers: list[Program] = field(default_factory=list, repr=False)

    @property
    def works(self) -> bool:
        """Whether it runs a worker."""
        return self.command is not None and self.command.program in ("worker", "multi")

    @property
    def ticks(self) -> bool:
        """Whether it runs a beat, alone or inside a worker."""
        alone = self.command is not None and self.command.program == "beat"
        return alone or (self.works and self.has("beat"))

    def has(self, name: str) -> bool:
        """Say whether its command has an option."""
        return self.command is not None and name in self.command.options

    def option(self, name: str) -> str:
        """Return an option of its command, an empty text without one."""
        return self.command.options.get(name, "") if self.command else ""

    @property
    def pool(self) -> str:
        """The pool of the worker: the option's, else the setting's."""
        return self.option("pool") or str(self.subject.get("worker_pool") or "prefork")

    @property
    def shell(self) -> str:
        """The shell between it and its keeper, an empty text without one."""
        return self.command.shell if self.command else ""

    def environment(self, name: str) -> str:
        """Return a variable: the command line's, else the file's."""
        given = (self.command.environment if self.command else {}).get(name)
        return self.variable(name) if given is None else given
