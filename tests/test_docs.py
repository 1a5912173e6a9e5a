"""The documentation points at things that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, text=True, capture_output=True
    ).stdout.splitlines()
]
PAGES = [path for path in FILES if path.suffix == ".md"]
ARCHITECTURE = ROOT / "docs/explanation/architecture.md"
LIBRARY = ROOT / "holdfast/src/holdfast"
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


def too_long(text: str) -> list[str]:
    """Return the lines above 120 columns that people write or type: no table, no JSON that a program printed."""
    written = re.sub(r"^( *)```json\n.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for line in written.splitlines() if len(line) > 120 and not line.startswith("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_and_commands_fit_into_120_columns(page: Path) -> None:
    assert too_long(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{}", True),
        ("```sh\n{}\n```", True),
        ("```text\n{}\n```", True),
        ("```json\n{}\n```", False),
        ("| {} |", False),
    ],
)
def test_a_long_line_is_found_in_a_sentence_and_in_a_command(text: str, found: bool) -> None:
    assert bool(too_long(text.format(121 * "x"))) is found


def test_the_code_map_names_every_folder_and_every_package() -> None:
    code_map = ARCHITECTURE.read_text(encoding="utf-8").partition("## Code map")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in code_map.splitlines() if line.startswith("| `")]
    named = {ROOT / name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    folders = {ROOT / path.relative_to(ROOT).parts[0] for path in FILES if path.parent != ROOT}
    packages = {path.parent for path in FILES if path.name == "__init__.py" and "src" in path.parts}

    assert {path for path in named if not path.is_dir()} == set()
    assert {path for path in folders if not any(name.is_relative_to(path) for name in named)} == set()
    assert packages - named == set()


def test_the_way_of_a_task_leads_through_files_that_exist() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8").partition("## The way of one task")[2]
    files = re.findall(r"`([\w./]+\.(?:py|yml|j2))`", text)

    assert len(files) > 10
    assert [name for name in files if not (LIBRARY / name).exists() and not (ROOT / name).exists()] == []


def test_the_site_loads_nothing_from_another_host(tmp_path: Path) -> None:
    mkdocs = Path(sys.executable).with_name("mkdocs")
    subprocess.run([mkdocs, "build", "--quiet", "--site-dir", tmp_path], cwd=ROOT, check=True)
    loads = re.compile(r"<(?:script|link|img|iframe|source)[^>]*?(?:src|href)=\"?(?:https?:)?//[^\s>\"]+")
    pages = {page.name: loads.findall(page.read_text(encoding="utf-8")) for page in tmp_path.rglob("*.html")}

    assert len(pages) > 20
    assert {name: found for name, found in pages.items() if found} == {}


@pytest.mark.parametrize(
    ("page", "some"),
    [
        ("threat-model", {"test_doors.py", "test_logins_are_logged"}),
        ("local-users", {"test_doors.py", "test_nobody_mutes_an_alert_without_a_login"}),
    ],
)
def test_every_test_that_a_page_on_attackers_names_exists(page: str, some: set[str]) -> None:
    named = set(re.findall(r"\b(test_\w+(?:\.py)?)[`\[]", (ROOT / f"docs/explanation/{page}.md").read_text()))
    files = [path for part in ("tests", "app/tests") for path in (ROOT / part).rglob("test_*.py")]
    defined = {
        name
        for path in files
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert some <= named
    assert named - defined - {path.name for path in files} == set()


def test_every_setting_has_its_reason() -> None:
    rows = [line for line in (ROOT / "docs/reference/settings.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row for row in rows if row.endswith("|  |")] == []
