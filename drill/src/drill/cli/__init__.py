"""The ``drill`` command."""

from drill.cli import runs, selftest
from drill.cli.group import main
from drill.cli.places import Places

__all__ = ["Places", "main", "runs", "selftest"]
