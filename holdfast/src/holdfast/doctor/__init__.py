"""``holdfast doctor``: finds what any Celery application would lose, says so, and names the fix."""

from __future__ import annotations

from holdfast.doctor import consume, publish, redis_broker, results, schedule, versions  # noqa: F401 - they register their rules
from holdfast.doctor.rules import Finding, Rule, Severity, all_rules, examine

__all__ = ["Finding", "Rule", "Severity", "all_rules", "examine"]
