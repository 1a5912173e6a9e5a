"""A release of somebody's own application, made from each shape a project has, and installed as the hosts do it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PATH = f"{os.environ['PATH']}{os.pathsep}{ROOT / 'build/uv/bin'}"  # where scripts/env puts uv
TASKS = 'from celery import Celery\n\nimport holdfast\n\napp = holdfast.install(Celery("{0}"))\n'
BUILT = """
[build-system]
requires = ["hatchling>=1.27,<2"]
build-backend = "hatchling.build"

[project]
name = "own-shop"
version = "1.0"
dependencies = ["markupsafe"]

[project.optional-dependencies]
pages = ["flask"]

[tool.hatch.build.targets.wheel]
packages = ["shop"]
"""
LOCK = """
[[package]]
name = "own-shop"
version = "0.9"
source = { editable = "." }

[[package]]
name = "markupsafe"
version = "3.0.2"
"""
POETRY = """
[tool.poetry]
name = "own-shop"
package-mode = false

[tool.poetry.dependencies]
python = "^3.12"
markupsafe = "^3.0"

[build-system]
requires = ["poetry-core"]
build-backend = "poetry.core.masonry.api"
"""


def release(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts/release", "--project", project, *arguments],
        env=os.environ | {"PATH": PATH},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a package that has tasks and a template."""
    folder = tmp_path / "own-shop"
    (folder / "shop/templates").mkdir(parents=True)
    (folder / "tests").mkdir()
    (folder / "shop/__init__.py").touch()
    (folder / "shop/tasks.py").write_text(TASKS.format("shop"))
    (folder / "shop/templates/page.html").write_text("a page")
    (folder / "tests/test_shop.py").touch()
    return folder


@pytest.fixture
def made() -> Iterator[list[Path]]:
    """Where releases were made; they are gone after the test."""
    folders: list[Path] = []
    yield folders
    for folder in set(folders):
        shutil.rmtree(folder)


def succeeds(project: Path, made: list[Path], *arguments: str) -> tuple[Path, str]:
    """Return the folder of the release and its requirements."""
    done = release(project, *arguments)
    assert done.returncode == 0, done.stderr
    made.append(Path(done.stdout.strip()))
    return made[-1], (made[-1] / "requirements.txt").read_text()


def test_a_project_with_a_lock_file_keeps_its_pins(shop: Path, made: list[Path]) -> None:
    (shop / "pyproject.toml").write_text(BUILT)
    (shop / "uv.lock").write_text(LOCK)
    folder, requirements = succeeds(shop, made, "--extra", "pages")
    assert "\nmarkupsafe==3.0.2" in requirements
    for name in ("celery", "flower", "supervisor", "celery-redbeat", "prometheus-client", "flask"):
        assert f"\n{name}==" in requirements, name
    for name in ("celery-holdfast", "celery-doctor", "own-shop"):
        assert f"\n{name}==" not in requirements, name
    assert {path.name.split("-")[0] for path in folder.glob("*.whl")} == {
        "own_shop",
        "celery_holdfast",
        "celery_doctor",
    }


def test_a_project_of_poetry_that_is_no_package_is_packed(shop: Path, made: list[Path]) -> None:
    (shop / "pyproject.toml").write_text(POETRY)
    (shop / "poetry.lock").write_text(LOCK.replace('source = { editable = "." }\n', "").replace("own-shop", "kombu"))
    done = release(shop)
    assert done.returncode, "its lock file pins a kombu that is too old"
    for word in ("found:", "kombu==0.9", "allowed:", "next:", "lock file"):
        assert word in done.stderr, done.stderr
    (shop / "poetry.lock").write_text(LOCK)
    assert "\nmarkupsafe==3.0.2" in succeeds(shop, made)[1]


def test_a_plain_tree_is_installed_as_hosts_do_it(shop: Path, made: list[Path], tmp_path: Path) -> None:
    (shop / "requirements.txt").write_text("-r more.txt\n")
    (shop / "more.txt").write_text("markupsafe==3.0.2  # as it was tested\n")
    (shop / "manage.py").write_text("")
    folder, requirements = succeeds(shop, made)
    assert "\nmarkupsafe==3.0.2" in requirements
    assert release(shop).stdout.strip() == str(folder), "the same release has the same name"
    (shop / "requirements.txt").write_text("-r more.txt\nflask\n")
    assert succeeds(shop, made)[0].name.rpartition("-")[0] != folder.name.rpartition("-")[0], "other files"

    target = tmp_path / "venv"
    pip: list[str | Path] = ["uv", "pip", "install", "--quiet", "--python", target, "--no-deps"]
    commands: list[list[str | Path]] = [
        ["uv", "venv", "--quiet", "--python", sys.executable, target],
        [*pip, "--require-hashes", "--requirement", folder / "requirements.txt"],
        [*pip, "--no-index", *folder.glob("*.whl")],
        [target / "bin/python", "-c", "import manage, shop.tasks; assert shop.tasks.app.amqp"],
    ]
    for command in commands:
        done = subprocess.run(
            command, env=os.environ | {"PATH": PATH}, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    (page,) = target.rglob("shop/templates/page.html")
    assert page.read_text() == "a page"
    assert not list(target.rglob("test_shop.py"))


def test_a_commit_names_the_release_and_what_is_not_committed_is_told(shop: Path, made: list[Path]) -> None:
    git = ["git", "-C", str(shop), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for command in (["init", "--quiet"], ["add", "shop"], ["commit", "--quiet", "--message", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "log", "--format=%H"], capture_output=True, text=True, check=True).stdout[:12]
    done = release(shop)
    assert done.returncode == 0, done.stderr
    made.append(Path(done.stdout.strip()))
    assert made[0].name.rpartition("-")[0] == f"own-shop-{commit}"
    assert "not committed:\n?? tests/" in done.stderr
    wheel = shop.parent / "tools-1.0-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("tools.py", "")
    other, _ = succeeds(shop, made, "--wheel", str(wheel))
    assert (other.name.startswith(f"own-shop-{commit}-"), other == made[0]) == (True, False), "it holds more"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--wheel", "shop.tar.gz"], "a file that ends with .whl"),
        ([], "no Python package or module at its top"),
    ],
)
def test_what_is_no_application_is_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = release(tmp_path, *arguments)
    assert done.returncode
    assert words in done.stderr
    assert "Traceback" not in done.stderr
