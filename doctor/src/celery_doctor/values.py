"""Values as supervisor, systemd and compose write them."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SECOND_NAMES = {"": 1, "s": 1, "sec": 1, "second": 1, "seconds": 1}
MINUTE_NAMES = {"m": 60, "min": 60, "minute": 60, "minutes": 60, "h": 3600, "hr": 3600, "hour": 3600, "hours": 3600}
PART_NAMES = {"us": 1e-6, "µs": 1e-6, "usec": 1e-6, "ns": 1e-9, "ms": 1e-3, "msec": 1e-3}
DAY_NAMES = {"d": 86400, "day": 86400, "days": 86400, "w": 604800, "week": 604800, "weeks": 604800}
UNITS = {**SECOND_NAMES, **MINUTE_NAMES, **PART_NAMES, **DAY_NAMES}  # seconds of each


def seconds(value: str, name: str) -> float:
    """Return a time span such as ``35``, ``1m30s`` or ``1min 30s`` in seconds.

    Args:
        value: numbers, each with a unit; a bare number counts in seconds; ``infinity``.
        name: how the message names it.

    Raises:
        ValueError: it is no time span.
    """
    text = value.strip()
    if text == "infinity":
        return float("inf")
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-zA-Zµ]*)\s*", text)
    if "".join(re.split(r"\s+", text)) != "".join(amount + unit for amount, unit in parts) or not parts:
        raise ValueError(f"{name} is {value!r}, a time such as 35s is needed")
    if any(unit not in UNITS for _, unit in parts):
        raise ValueError(f"{name} is {value!r}, whose unit is unknown")
    return sum(float(amount) * UNITS[unit] for amount, unit in parts)


def switch(value: object, name: str) -> bool:
    """Return a switch.

    Raises:
        ValueError: it is none.
    """
    text = str(value).strip().lower()
    if text in ("true", "yes", "on", "1", "y", "t"):
        return True
    if text in ("false", "no", "off", "0", "n", "f"):
        return False
    raise ValueError(f"{name} is {value!r}, true or false is needed")


def signal_name(value: object, name: str) -> str:
    """Return the name of a signal without SIG, given by name or number.

    Raises:
        ValueError: there is no such signal.
    """
    text = str(value).strip().upper().strip("\"'")
    if text.isdecimal():
        try:
            return signal.Signals(int(text)).name[3:]
        except ValueError:
            raise ValueError(f"{name} is {value!r}, which is not a signal") from None
    short = text.removeprefix("SIG")
    if f"SIG{short}" not in signal.Signals.__members__:
        raise ValueError(f"{name} is {value!r}, which is not a signal")
    return short


def pairs(text: str) -> dict[str, str]:
    """Return what supervisor's ``environment`` sets: ``A="b",C=d``."""
    found = re.findall(r"""(\w+)\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*'|[^,]*)""", text)
    return {name: value.strip().strip("\"'") for name, value in found}


def assignments(words: Iterable[str]) -> dict[str, str]:
    """Return what the words that are ``NAME=value`` set."""
    return {match.group(1): match.group(2) for word in words if (match := re.match(r"(?s)([A-Za-z_]\w*)=(.*)", word))}


def lines(text: str) -> dict[str, str]:
    """Return what a file of variables sets, one ``NAME=value`` a line, as systemd and compose read it."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, given, value = line.strip().partition("=")
        if given and not name.startswith(("#", ";")):
            found[name.removeprefix("export ").strip()] = value.strip().strip("\"'")
    return found


def interpolate(text: str, known: Mapping[str, str]) -> str:
    """Put variables into a text, ``$NAME``, ``${NAME}`` and ``${NAME:-default}``; an unknown one stays as it is."""

    def put(match: re.Match[str]) -> str:
        if match.group() == "$$":
            return "$"
        name, operator, alternative = match.group("bare") or match.group("name"), match.group("how"), match.group("or")
        value = known.get(name)
        if operator and "+" in operator:
            return alternative if value else ""
        if value is None or (not value and operator and operator.startswith(":")):
            return alternative if operator and "-" in operator else match.group() if value is None else value
        return value

    pattern = r"\$\$|\$(?P<bare>[A-Za-z_]\w*)|\$\{(?P<name>[A-Za-z_]\w*)(?:(?P<how>:?[-+?])(?P<or>[^}]*))?\}"
    return re.sub(pattern, put, text)
