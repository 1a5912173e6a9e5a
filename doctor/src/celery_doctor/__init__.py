"""Finds what any Celery application would lose, says so, and names the fix.

    from celery_doctor import examine

    for finding in examine(app):
        print(finding.rule.id, finding.found)

Each name is imported when it is first used, so that the command can say in one line that Celery is missing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_doctor.application import all_rules, examine
    from celery_doctor.rules import Finding, Rule, Severity, State

_MODULES = {"all_rules": "application", "examine": "application"}

__all__ = ["Finding", "Rule", "Severity", "State", "all_rules", "examine"]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use.

    Args:
        name: one of ``__all__``.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'rules')}"), name)
