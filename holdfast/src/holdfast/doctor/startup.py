"""A worker or beat with a fatal finding does not start."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from holdfast.doctor.rules import Severity, all_rules, examine
from holdfast.startup import at_start

if TYPE_CHECKING:
    from celery import Celery

OPT_OUT = "HOLDFAST_ALLOW_UNSAFE"


def refuse(app: Celery) -> None:
    """Look at the settings; no server is asked.

    Raises:
        SystemExit: a fatal rule finds something and the environment does not allow it.
    """
    allowed = {name.strip() for name in os.environ.get(OPT_OUT, "").split(",")}
    fatal = [rule for rule in all_rules() if rule.severity is Severity.FATAL]
    found = [finding for finding in examine(app, fatal) if not {finding.rule.id, finding.rule.id[:5]} & allowed]
    if found:
        lines = [f"  {one.rule.id}: {one.found}. {one.rule.loss}. Fix: {one.rule.fix}" for one in found]
        names = ",".join(one.rule.id[:5] for one in found)
        raise SystemExit("\n".join(["holdfast refuses to start:", *lines, f"To start all the same: {OPT_OUT}={names}"]))


def install(app: Celery) -> None:
    """Check the application when one of its workers or beats starts."""
    at_start(app, refuse)
