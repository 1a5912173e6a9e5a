"""The ``drill`` command."""

from drill.cli import certify, runs, selftest
from drill.cli.group import main
from drill.cli.places import Places

__all__ = ["Places", "certify", "main", "runs", "selftest"]
