"""Runs Celery's own integration suite twice on the same servers, stock and with the layer, and compares test by test.

``python -m tests.stack.celery_suite [--file test_canvas.py] [pytest arguments, such as -k chord]``. It needs Docker, uv
and about an hour; the tests of the installed Celery come from the package index.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree as ET

from .servers import OwnRig, Servers, running
from .stack import ROOT

EXTRA = ("django", "pydantic", "cryptography", "tblib", "pip")  # what the suite imports beside this workspace
STOCK = "celery-suite"  # a virtual host of its own: stock Celery declares the same queue in another way
KINDS = ("stock", "layer")
LEFT_OUT = ("test_backend.py",)  # of Azure's store alone
Outcomes = dict[str, tuple[str, str]]  # by test: passed, failed or skipped, and why


def uv_run(*command: str) -> list[str]:
    """Return a command line for a command inside of the workspace's environment and what the suite needs more."""
    extra = [part for name in EXTRA for part in ("--with", name)]
    return ["uv", "run", "--project", str(ROOT), "--no-sync", *extra, *command]


def sources(folder: Path) -> Path:
    """Return the folder with the tests of the installed Celery; its own package is not used."""
    celery = f"celery-{version('celery')}"
    found = folder / celery
    if not found.exists():
        download = ("python", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "celery")
        subprocess.run(uv_run(*download, "--dest", str(folder), celery.replace("-", "==")), check=True)
        with tarfile.open(folder / f"{celery}.tar.gz") as archive:
            wanted = (f"{celery}/t/", f"{celery}/pyproject.toml")
            archive.extractall(folder, [one for one in archive if one.name.startswith(wanted)], filter="data")
        for path in (found / "t/integration").glob("*.py"):  # the layer's backend is one on Redis
            text = path.read_text(encoding="utf-8")
            for quote in "'\"":
                text = text.replace(f"startswith({quote}redis{quote})", "startswith(('redis', 'holdfast'))")
            path.write_text(text, encoding="utf-8")
    return found


def environment(kind: str, servers: Servers, folder: Path) -> dict[str, str]:
    """Return the variables of a run, of a kind ``stock`` or ``layer``, on queues that are ready for it."""
    own = OwnRig(cast("Any", None), folder, queue="celery", servers=servers)
    found = {
        **os.environ,
        **own.servers_environment(),
        "HOLDFAST_QUEUES": own.queue,
        "HOLDFAST_SUITE": kind,
        "HOLDFAST_PULSE_DIR": str(folder / "pulse"),
        "PYTHONPATH": str(Path(__file__).parent),
        "PYTHONUNBUFFERED": "1",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(servers.primary),
    }
    if kind == "stock":
        own.api("PUT", f"vhosts/{STOCK}")
        return found | {
            "TEST_BROKER": servers.broker_url.rpartition("/")[0] + f"/{STOCK}",
            "TEST_BACKEND": f"redis://127.0.0.1:{servers.primary}/0",
        }
    own.declare()
    return found | {
        "TEST_BROKER": servers.broker_url,
        "TEST_BACKEND": f"holdfast.results:DurableSentinelBackend+{found['HOLDFAST_RESULT_URL']}",
    }


def run(test: Path, kind: str, servers: Servers, folder: Path, arguments: list[str]) -> Outcomes:
    """Run a file of the suite in a process of its own and return how each of its tests ended."""
    report = folder / f"{test.stem}.{kind}.xml"
    plugins = ("-p", "celery.contrib.pytest", "-p", "celery_suite_plugin", "-p", "no:cacheprovider")
    options = ("--color", "no", "-rsf", "--tb", "short", f"--junitxml={report}", *arguments)
    with report.with_suffix(".log").open("w") as log:
        subprocess.run(
            uv_run("python", "-m", "pytest", *plugins, str(test), *options),
            cwd=test.parents[2],
            env=environment(kind, servers, folder),
            stdout=log,
            stderr=log,
            check=False,
        )
    servers.redis.flushall()
    return outcomes(report)


def outcomes(report: Path) -> Outcomes:
    """Return how each test of a report ended."""
    found: Outcomes = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - written by pytest, just now
        name = f"{case.get('classname', '').removeprefix('t.integration.')}::{case.get('name')}"
        ends = {child.tag: child.get("message") or "" for child in case}
        for tag, end in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped"), ("", "passed")):
            if tag in ends or not tag:
                found[name] = end, ends.get(tag, "").partition("\n")[0][:200]
                break
    return found


def table(stock: Outcomes, layer: Outcomes) -> str:
    """Return the counts of each file and each test that ended differently, as Markdown."""
    rows = ["| File | Stock | Layer |", "|---|---|---|"]
    for file in sorted({name.partition("::")[0].partition(".")[0] for name in stock | layer}):
        counts = []
        for ends in (stock, layer):
            mine = Counter(end for name, (end, _) in ends.items() if name.startswith((f"{file}.", f"{file}::")))
            counts.append(" / ".join(str(mine[end]) for end in ("passed", "failed", "skipped")))
        rows.append(f"| `{file}.py` | {counts[0]} | {counts[1]} |")
    rows.append("")
    for name in sorted(stock | layer):
        (was, why), (now, reason) = (ends.get(name, ("missing", "")) for ends in (stock, layer))
        if was != now:
            rows.append(f"- {name}: {was} {why} -> {now} {reason}")
    return "\n".join(rows)


def main() -> None:
    """Run both, file by file, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/celery-suite")
    parser.add_argument("--file", action="append", help="a file such as test_canvas.py; by default all")
    options, arguments = parser.parse_known_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tests = sources(folder) / "t/integration"
    files = [tests / name for name in options.file or sorted(path.name for path in tests.glob("test_*.py"))]
    found: dict[str, Outcomes] = {kind: {} for kind in KINDS}
    with running(folder) as servers:
        for path in files:
            if path.name not in LEFT_OUT:
                for kind in KINDS:
                    found[kind] |= run(path, kind, servers, folder, arguments)
    print(table(*found.values()))


if __name__ == "__main__":
    main()
