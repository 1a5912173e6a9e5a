"""A path of the receiver that belongs to one test: what was sent there is counted at the far end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from .stack import Stack, http_json, wait_until

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Hook:
    """Sends deliveries to a fresh path and reads the receiver's own log of it."""

    stack: Stack
    folder: Path
    path: str = field(default_factory=lambda: f"/test-{uuid4().hex}")

    @property
    def base(self) -> str:
        """The receiver's address."""
        return self.stack.settings["WEBHOOKS_RECEIVER_URL"].rsplit("/", 1)[0]

    @property
    def url(self) -> str:
        """The address to deliver to."""
        return self.base + self.path

    def answers(self, *, fail_next: int = 0, status: int = 503, delay: float = 0) -> None:
        """Tell the receiver how to answer on this path from now on."""
        http_json(f"{self.base}/control", {"path": self.path, "fail_next": fail_next, "status": status, "delay": delay})

    def send(self, *options: str) -> str:
        """Send one delivery and return its id, which is also its task's id."""
        return self.stack.webhooks("send", self.url, '{"n": 1}', *options).splitlines()[0]

    def send_many(self, count: int, queue: str = "default") -> None:
        """Send a batch of ``count`` deliveries; returns when they are accepted."""
        file = self.folder / f"{uuid4().hex}.jsonl"
        lines = (json.dumps({"url": self.url, "payload": {"n": n}, "queue": queue}) for n in range(count))
        file.write_text("\n".join(lines), encoding="utf-8")
        self.stack.webhooks("send-many", str(file))

    def counts(self) -> dict[str, int]:
        """Return the receiver's counts for this path."""
        answer: dict[str, int] = http_json(f"{self.base}/counts?path={self.path}")
        return answer

    def wait_delivered(self, count: int, deadline: float = 120) -> dict[str, int]:
        """Wait until ``count`` different deliveries were accepted, by the receiver's own log."""
        wait_until(lambda: self.counts()["unique"] >= count, f"{count} deliveries at {self.path}", deadline)
        return self.counts()
