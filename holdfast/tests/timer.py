"""A timer of a worker, for tests: nothing is called until it is told."""

from __future__ import annotations

from typing import Any


class Timer:
    """Notes what is asked for."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def call_after(self, seconds: float, function: Any) -> Any:
        self.entries.append((seconds, function))
        return self.entries[-1]

    def cancel(self, entry: Any) -> None:
        self.entries.remove(entry)

    def run(self) -> float:
        """Call the only function that is asked for, and return its seconds."""
        (entry,), self.entries = self.entries, []
        entry[1]()
        return float(entry[0])
