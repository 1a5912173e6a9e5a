"""A real browser for the pages of the running stack."""

from __future__ import annotations

import shutil
import subprocess
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import pytest

from .stack import wait_until

if TYPE_CHECKING:
    from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """Opens pages in headless Chromium and returns what is on them after their scripts ran."""

    def __init__(self, profile: Path) -> None:
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None:
            pytest.fail(f"found none of {', '.join(BROWSERS)}; run `make test-all`, or `apt-get install chromium`")
        self.profile = profile
        self.profile.mkdir()
        self.command = [
            found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update",
            "--virtual-time-budget=8000",  # milliseconds that the page's scripts believe to have
            "--dump-dom",
        ]  # fmt: skip

    def page(self, address: str) -> str:
        """Return the document at ``address`` as the scripts have left it."""
        # a profile for each visit: with what the last one has cached, a page with a login may never be done
        own = f"--user-data-dir={mkdtemp(dir=self.profile)}"
        done = subprocess.run([*self.command, own, address], capture_output=True, text=True, timeout=90, check=True)
        return done.stdout

    def wait_for(self, address: str, *words: str) -> None:
        """Open a page until it shows all the words."""

        def seen() -> bool:
            page = self.page(address)
            if missing := [word for word in words if word not in page]:
                raise ValueError(f"{missing} not on the page")
            return True

        wait_until(seen, f"{words} on the page", 240)
