"""Finds Celery's programs in a command line: behind wrappers, in shells and their scripts."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from celery_doctor import values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHELLS = {"sh", "bash", "dash", "ash", "zsh", "ksh"}
SWITCHES = {"su", "runuser"}  # they take a command for a shell after -c, too
PROGRAMS = {
    "worker", "beat", "multi", "flower", "events", "inspect", "control", "status", "purge", "call", "shell", "amqp",
    "migrate", "graph", "logtool", "report", "result", "list", "upgrade", "help",
}  # fmt: skip
OLD = {"celeryd": "worker", "celerybeat": "beat", "celeryd-multi": "multi"}
SHORT = {
    "A": "app", "b": "broker", "c": "concurrency", "n": "hostname", "Q": "queues", "X": "exclude-queues",
    "I": "include", "O": "optimization", "l": "loglevel", "f": "logfile", "P": "pool", "s": "schedule",
    "S": "scheduler", "B": "beat", "D": "detach", "E": "task-events", "C": "no-color", "q": "quiet",
}  # fmt: skip
FLAGS = {
    "beat", "detach", "task-events", "events", "no-color", "quiet", "purge", "discard", "without-gossip",
    "without-mingle", "without-heartbeat", "disable-prefetch", "skip-checks", "help", "version",
}  # fmt: skip
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)
VARIABLE = re.compile(r"\$\{?\w*CELERY\w*\}?")  # "${CELERY_BIN}" of Celery's own unit file
NEIGHBOURS = re.compile(r"exporter|flower|insights|metrics|\.(log|pid|db|env)$")  # tools and files around it
KEYWORDS = {"then", "else", "do", "{", "(", "!", "time", "if", "elif", "while", "until"}
PIPED, BEHIND = {"|", "|&"}, {"&"}
SEPARATORS = {";", "&&", "||", "\n", ")", "}", ";;", *PIPED, *BEHIND}


@dataclass(frozen=True)
class Command:
    """A Celery program that a command line starts.

    Attributes:
        program: ``worker``, ``beat``, ``multi`` or another subcommand.
        options: its options by long name; a flag has an empty value.
        words: what follows the subcommand, options included.
        shell: the shell that stays between it and whoever started it, an empty text without one.
        environment: variables that the command line itself sets.
    """

    program: str
    options: dict[str, str]
    words: tuple[str, ...] = ()
    shell: str = ""
    environment: dict[str, str] = field(default_factory=dict)


def find(words: Sequence[str], folder: Path | None = None) -> list[Command]:
    """Return the Celery programs that a command line starts.

    Args:
        words: the command line, split.
        folder: where a relative path of a script starts; a script that is readable here is looked into.
    """
    return list(_find(list(words), _Place(folder or Path()), {}))


def may_run_celery(name: str, words: Sequence[str]) -> bool:
    """Say whether a program in which nothing was found may run Celery all the same, judged by what it is called.

    Args:
        name: of the program.
        words: its command line, split.
    """
    called = [name, *(PurePath(word).name for word in words if not word.startswith("-"))]
    return any("celery" in one.lower() and one != "celery" and not NEIGHBOURS.search(one) for one in called)


@dataclass(frozen=True)
class _Place:
    """Where a command line stands: the folder of its relative paths, the shell around it, the scripts around that."""

    folder: Path
    shell: str = ""
    scripts: frozenset[str] = frozenset()


def _find(words: list[str], place: _Place, environment: dict[str, str]) -> Iterator[Command]:
    seen = dict(environment)
    for index, word in enumerate(words):
        rest = words[index + 1 :]
        name = PurePath(word).name
        if ASSIGNMENT.match(word):
            seen.update(values.assignments([word]))
        elif name in SHELLS or name in SWITCHES:
            script = _script_of(rest, everywhere=name in SWITCHES)
            if script is not None:
                yield from _in_script(script, replace(place, shell="sh" if name in SWITCHES else name), seen)
                return
        elif name in OLD:
            yield Command(OLD[name], _options(rest), tuple(rest), place.shell, seen)
            return
        elif name == "celery" or VARIABLE.fullmatch(word):
            command = _celery(rest, place.shell, seen)
            if command:
                yield command
                return
        elif word not in place.scripts:
            script = _readable(word, place.folder)
            if script is not None:
                yield from _in_script(script, replace(place, shell=name, scripts=place.scripts | {word}), seen)
                return


def _script_of(words: list[str], *, everywhere: bool) -> str | None:
    for place, word in enumerate(words[:-1]):
        if re.fullmatch(r"-[A-Za-z]*c|--command", word):
            return words[place + 1]
        if not word.startswith("-") and not everywhere:
            return None
    return None


def _readable(word: str, folder: Path) -> str | None:
    """Return the text of a shell script, None for everything else."""
    if "/" not in word and not word.endswith(".sh"):
        return None
    path = folder / word
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
            return file.read() if re.match(r"#!.*\b(ba|da|a|z|k)?sh\b", first) else None
    except (OSError, ValueError):
        return None


def _in_script(script: str, place: _Place, environment: dict[str, str]) -> Iterator[Command]:
    lexer = shlex.shlex(script.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars="();&|")
    lexer.whitespace_split = True
    lexer.commenters = ""  # a # in a URL would end the command
    exported = dict(environment)
    words: list[str] = []
    for token in [*lexer, ";"]:
        if token not in SEPARATORS:
            words.append(token)
            continue
        while words and words[0] in KEYWORDS:
            words.pop(0)
        if words and words[0] in ("export", "set", "declare"):
            exported.update(values.assignments(words[1:]))
        elif words and all(ASSIGNMENT.match(word) for word in words):
            exported.update(values.assignments(words))
        elif words:
            replaced = next((word for word in words if not ASSIGNMENT.match(word)), "") == "exec"
            gone = replaced and token not in PIPED | BEHIND
            yield from _find(words, replace(place, shell="") if gone else place, exported)
        words = []


def _celery(words: list[str], shell: str, environment: dict[str, str]) -> Command | None:
    """Read what follows the word ``celery``; None when it is no call of Celery's command."""
    rest = list(words)
    before: list[str] = []
    while rest:
        word = rest.pop(0)
        if word in PROGRAMS:
            options = {**_options(before), **_options(rest)}
            return Command(word, options, tuple(rest), shell, environment)
        before.append(word)
        if word.startswith("-") and _wants_value(word) and rest:
            before.append(rest.pop(0))
        elif not word.startswith(("-", "$")):
            return None
    return None


def _wants_value(word: str) -> bool:
    if word.startswith("--"):
        return "=" not in word and word[2:] not in FLAGS
    return len(word) == 2 and SHORT.get(word[1], word[1]) not in FLAGS


def _options(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            if not given and name not in FLAGS and rest and not rest[0].startswith("-"):
                value = rest.pop(0)
            found[name] = value
        elif len(word) > 1 and word[0] == "-":
            letters = word[1:]
            while letters:
                name = SHORT.get(letters[0], letters[0])
                letters = letters[1:]
                if name in FLAGS:
                    found[name] = ""
                    continue
                found[name] = letters or (rest.pop(0) if rest else "")
                letters = ""
    return found
