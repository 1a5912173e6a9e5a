"""The distributions as somebody gets them: built, looked into, and installed into an empty environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).resolve().parents[1]
PATH = f"{os.environ['PATH']}{os.pathsep}{ROOT / 'build/uv/bin'}"  # where scripts/env puts uv
PARTS = {  # distribution: its package and where that lies
    "celery-doctor": ("celery_doctor", "doctor/src"),
    "celery-holdfast": ("holdfast", "holdfast/src"),
    "holdfast-webhooks": ("webhooks", "app/src"),
    "holdfast-drill": ("drill", "drill/src"),
}
PROMISES = {  # extra: what works with it, and without it says how to get it
    "django": ("import holdfast.django.apps",),
    "beat": ("import holdfast; holdfast.beat.Scheduler",),
    "metrics": ("import holdfast.metrics.server",),
    "outbox": ("import holdfast; holdfast.outbox.enqueue, holdfast.inbox.once", "import holdfast.outbox.cli"),
    "tracing": ("import celery, holdfast; holdfast.tracing.instrument(holdfast.install(celery.Celery()))",),
}
ALWAYS = (
    "import celery, holdfast; app = holdfast.install(celery.Celery()); app.amqp; holdfast.results, holdfast.logs",
    "from holdfast.cli import main; main(['dead', '--help'])",
    "from holdfast.cli import main; main(['doctor', '--help'])",
)


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        | {"PATH": PATH}
        | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive of each part."""
    folder = tmp_path_factory.mktemp("dist")
    done = run("uv", "build", "--quiet", "--all-packages", "--python", sys.executable, "--out-dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def file_of(folder: Path, name: str, ending: str) -> Path:
    (found,) = folder.glob(f"{name.replace('-', '_')}-*{ending}")
    return found


def install(python: Path, built: Path, target: str) -> subprocess.CompletedProcess[str]:
    """Install a package as from an index that has the other parts, too."""
    return run("uv", "pip", "install", "--quiet", "--python", python, "--find-links", built, target)


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.parametrize("name", PARTS)
def test_a_wheel_holds_its_own_package_and_nothing_else(built: Path, name: str) -> None:
    package, source = PARTS[name]
    with zipfile.ZipFile(file_of(built, name, ".whl")) as archive:
        names = {entry for entry in archive.namelist() if ".dist-info/" not in entry}
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", f"{source}/{package}").stdout.split()
    assert names == {path.removeprefix(f"{source}/") for path in listed}


@pytest.mark.parametrize("name", PARTS)
def test_a_source_archive_has_what_a_build_needs(built: Path, name: str) -> None:
    package, _ = PARTS[name]
    with tarfile.open(file_of(built, name, ".tar.gz")) as archive:
        top, *_ = archive.getnames()
        names = {entry.removeprefix(top.partition("/")[0] + "/") for entry in archive.getnames()}
    assert {"pyproject.toml", f"src/{package}/__init__.py"} <= names
    assert not [entry for entry in names if re.match(r"(?!src/|tests/)\w+/", entry)]


@pytest.mark.slow
def test_the_library_says_what_it_is(built: Path) -> None:
    about = metadata_of(file_of(built, "celery-holdfast", ".whl"))
    assert about["Requires-Python"] == ">=3.10"
    assert {value.partition(",")[0] for value in about.get_all("Project-URL", [])} >= {"Homepage", "Documentation"}
    assert "Typing :: Typed" in about.get_all("Classifier", [])
    assert set(about.get_all("Provides-Extra", [])) == {"all", *PROMISES}
    assert "pip install celery-holdfast" in about.get_payload()


def test_the_doctor_brings_nothing(built: Path, tmp_path: Path) -> None:
    wheel = file_of(built, "celery-doctor", ".whl")
    assert metadata_of(wheel)["Requires-Python"] == ">=3.9"
    python = tmp_path / "venv/bin/python"
    run("uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    run("uv", "pip", "install", "--quiet", "--python", python, "--no-index", wheel)
    listed = run("uv", "pip", "list", "--python", python, "--format", "freeze").stdout.split()
    assert [entry.partition("=")[0] for entry in listed] == ["celery-doctor"]


@pytest.mark.parametrize("name", ["holdfast-webhooks", "holdfast-drill"])
def test_what_is_not_meant_for_an_index_is_refused_by_it(built: Path, name: str) -> None:
    assert "Private :: Do Not Upload" in metadata_of(file_of(built, name, ".whl")).get_all("Classifier", [])


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("extra", [None, *PROMISES])
def test_an_empty_environment_gets_what_the_extra_promises(built: Path, tmp_path: Path, extra: str | None) -> None:
    wheel = file_of(built, "celery-holdfast", ".whl")
    target = f"celery-holdfast[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
    python = tmp_path / "venv/bin/python"
    assert run("uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "venv").returncode == 0
    done = install(python, built, target)
    assert done.returncode == 0, done.stderr
    for code in (*ALWAYS, *PROMISES.get(extra or "", ())):
        done = run(python, "-I", "-c", code)
        assert done.returncode == 0, (code, done.stderr)
    relays = {"django", "outbox"}  # a relay has a page of its own
    brought = {extra, "metrics"} if extra in relays else {extra}
    for other, codes in PROMISES.items():
        for code in codes if other not in brought else ():
            done = run(python, "-I", "-c", code)
            assert f"pip install 'celery-holdfast[{other}]'" in done.stderr, (code, done.stderr)


@pytest.mark.slow
def test_a_port_for_metrics_without_the_extra_is_an_error(built: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv/bin/python"
    run("uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    install(python, built, str(file_of(built, "celery-holdfast", ".whl")))
    done = run(python, "-c", ALWAYS[0], HOLDFAST_METRICS_PORT="9549")
    assert "pip install 'celery-holdfast[metrics]'" in done.stderr


def test_a_command_without_its_extra_ends_in_one_sentence(built: Path, tmp_path: Path) -> None:
    run("uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    install(python, built, str(file_of(built, "celery-holdfast", ".whl")))
    done = run(tmp_path / "venv/bin/holdfast", "relay", "--help")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "pip install 'celery-holdfast[outbox]'" in done.stderr


NOT_OURS = re.compile(r"""(?<![\w/-])holdfast\[(?:\w+,?)+\]|pip install (?:-\S+ )*["']?holdfast\b(?!/)""")


def test_nobody_is_told_to_install_the_package_of_a_stranger() -> None:
    """The name ``holdfast`` on the index is not ours."""
    found = []
    for name in run(
        "git", "ls-files", "*.md", "*.py", "*.j2", "*.yml", "*.toml", "scripts/*", "Makefile"
    ).stdout.split():
        text = (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).exists() else ""
        # this file has the examples that must be found: the controls below
        found += [(name, hit) for hit in NOT_OURS.findall(text) if name != "tests/test_packages.py"]
    assert not found


@pytest.mark.parametrize(
    "line", ["pip install 'holdfast[tracing]'", "pip install -U holdfast", "holdfast[beat,outbox]"]
)
def test_the_check_of_names_can_say_no(line: str) -> None:
    assert NOT_OURS.search(line)


@pytest.mark.parametrize(
    "line", ["pip install 'celery-holdfast[all]'", "pip install './holdfast[beat,outbox]' django", 'conf["holdfast"]']
)
def test_the_check_of_names_lets_ours_pass(line: str) -> None:
    assert not NOT_OURS.search(line)


EXPORT = ("--frozen", "--only-group", "build-tools", "--format", "requirements.txt", "--no-header")
INSTALLS = [  # files in which something is installed by pip as root, or for the whole checkout
    ROOT / "ansible/roles/app/tasks/install.yml",
    ROOT / "compose/images/app/Dockerfile",
    ROOT / "scripts/env",
]


def test_the_build_tools_are_those_of_the_lock_file() -> None:
    locked = run("uv", "export", "--quiet", *EXPORT).stdout
    file = ROOT / "scripts/build-tools.txt"
    assert file.read_text(encoding="utf-8") == locked, f"next: uv export {' '.join(EXPORT)} --output-file {file}"
    assert {"uv", "hatchling"} <= set(re.findall(r"^([a-z-]+)==", locked, re.MULTILINE))


def unproven(text: str) -> list[str]:
    """Return the installations by pip of a text that take a file without its hash, or build one."""
    joined = re.sub(r"\\\n\s*|\n\s+- ", " ", text)
    found = re.findall(r"^.*\bpip(?:\"|'|,)?,? ?'?install\b.*$", joined, re.MULTILINE)
    return [
        line
        for line in found
        if not ("--require-hashes" in line and "--only-binary" in line)
        and "--no-index" not in line
        and "--offline" not in line
    ]


@pytest.mark.parametrize("file", INSTALLS, ids=lambda file: file.name)
def test_what_is_installed_has_its_hash_and_is_not_built_here(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "--require-hashes" in text
    assert unproven(text) == []


@pytest.mark.parametrize("taken", ["--require-hashes", "--only-binary"])
@pytest.mark.parametrize("file", INSTALLS, ids=lambda file: file.name)
def test_the_check_of_installations_can_say_no(file: Path, taken: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(unproven(text.replace(taken, ""))) == 1
