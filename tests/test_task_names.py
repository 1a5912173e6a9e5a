"""A task's name says in a log, read alone, what was done to what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from .commands import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

POINTING = {
    "it",
    "its",
    "them",
    "they",
    "both",
    "those",
    "this",
    "that",
    "one",
    "ones",
    "these",
    "there",
    "who",
    "what",
}


def named(items: list[dict[str, Any]] | None) -> Iterator[str]:
    """Yield the names of plays and tasks, also of those inside of plays and blocks."""
    for item in items or ():
        if not isinstance(item, dict):
            continue
        yield str(item.get("name", "(no name)"))
        for part in ("pre_tasks", "tasks", "post_tasks", "handlers", "block", "rescue", "always"):
            yield from named(item.get(part))


def names() -> Iterator[tuple[str, str]]:
    """Yield every file of tasks or plays with each name in it."""
    for path in sorted((ROOT / "ansible").glob("**/*.yml")):
        if {"tasks", "handlers", "playbooks"} & set(path.relative_to(ROOT).parts):
            for name in named(yaml.safe_load(path.read_text())):
                yield str(path.relative_to(ROOT)), name


def test_a_name_stands_alone() -> None:
    """It has a verb and an object, and its last word points to nothing before it."""
    found = list(names())
    assert len(found) > 400, "the names are found"
    alone = [
        (path, name) for path, name in found if len(name.split()) < 2 or name.lower().split()[-1] in POINTING
    ]  # fmt: skip
    assert alone == []


def arguments(found: object) -> Iterator[object]:
    """Yield what the lists of arguments inside of a file hold."""
    if isinstance(found, dict):
        if isinstance(found.get("argv"), list):
            yield from found["argv"]
        for value in found.values():
            yield from arguments(value)
    elif isinstance(found, list):
        for value in found:
            yield from arguments(value)


def test_every_argument_of_a_command_is_a_text() -> None:
    """``--only-binary=:all: # why`` without quotes is a mapping to YAML, and a strange argument to the program."""
    assert list(arguments(yaml.safe_load("- command: {argv: [a, --b=:all: ]}"))) == ["a", {"--b=:all": None}]
    files = sorted((ROOT / "ansible").glob("*/**/*.yml"))
    found = [(path.name, one) for path in files for one in arguments(yaml.safe_load(path.read_text(encoding="utf-8")))]
    assert len(found) > 50
    assert [one for one in found if isinstance(one[1], dict | list)] == []
