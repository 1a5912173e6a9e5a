"""The documentation points at things that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, check=True, text=True, capture_output=True
    ).stdout.splitlines()
]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
VERB = re.compile(r"(?:`|^|\$ )make ([a-z][a-z-]*)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_verb_named_is_a_verb(page: Path) -> None:
    verbs = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    assert set(VERB.findall(page.read_text(encoding="utf-8"))) <= verbs


def test_the_site_loads_nothing_from_another_host(tmp_path: Path) -> None:
    mkdocs = Path(sys.executable).with_name("mkdocs")
    subprocess.run([mkdocs, "build", "--quiet", "--site-dir", tmp_path], cwd=ROOT, check=True)
    loads = re.compile(r"<(?:script|link|img|iframe|source)[^>]*?(?:src|href)=\"?(?:https?:)?//[^\s>\"]+")
    pages = {page.name: loads.findall(page.read_text(encoding="utf-8")) for page in tmp_path.rglob("*.html")}

    assert len(pages) > 20
    assert {name: found for name, found in pages.items() if found} == {}
