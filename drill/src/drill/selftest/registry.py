"""Every set-up by its name."""

from __future__ import annotations

import os

from drill.selftest import yours
from drill.selftest.mutants import MUTANTS, POWER, SETUPS, SMALL_DISK, Mutant


def find(name: str) -> Mutant:
    """Return one of ``SETUPS``, ``small-disk``, ``power``, a mutant, or ``yours`` or ``changed`` of an application."""
    return (SETUPS | MUTANTS | {"small-disk": SMALL_DISK, "power": POWER} | yours.set_ups(os.environ))[name]
