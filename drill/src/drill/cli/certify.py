"""``drill certify``: what somebody's application loses, before and after the changes that the doctor proposes."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from drill.cli.group import known, main
from drill.cli.selftest import run_set_up
from drill.faults import REGISTRY
from drill.report.certificate import Certificate, Row, Run, write
from drill.selftest import yours
from drill.targets import TargetError

if TYPE_CHECKING:
    from drill.cli.places import Places

FAULTS = (  # one of each kind; most lose with Celery's own settings
    "worker-child-kill", "worker-host-kill", "broker-outage", "broker-replace", "redis-primary-kill",
    "redis-primary-isolate",
)  # fmt: skip


@main.command()
@click.option("-A", "--app", required=True, help="Your Celery application, as for celery -A.")
@click.option(
    "--python", default=sys.executable, help="The Python that it runs with, such as ../shop/.venv/bin/python."
)
@click.option(
    "--workdir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="Where its workers start; the environment is the one of this shell.",
)
@click.option("--fault", "faults", multiple=True, callback=known, help="Inject this one; repeatable.")
@click.option("--seed", default=1, show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the certificate.")
@click.pass_obj
def certify(
    places: Places, *, app: str, python: str, workdir: Path, faults: tuple[str, ...], seed: int, out: Path | None
) -> None:
    """Inject faults into your settings on the stack's servers, then into the same with the doctor's changes.

    Exit code: 0 your settings lose nothing, 1 they lose and the changes do not, 2 a run proves nothing.
    """
    found = yours.read(app, python, workdir)
    chosen = faults or FAULTS
    unused = {"rabbit"} if found.broker == "redis" else set() if found.uses_redis else {"redis"}
    chosen = tuple(name for name in chosen if not unused & set(REGISTRY[name].needs))
    if not chosen:
        raise TargetError(f"These faults break {' '.join(unused)}, which {app} does not use: choose others.")
    folder = out or places.build / "certificate"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "application.json"
    file.write_text(json.dumps(asdict(found), indent=2), encoding="utf-8")
    os.environ[yours.FILE] = str(file.resolve())
    rows = []
    for number, name in enumerate(chosen, 1):
        click.echo(f"{number}/{len(chosen)} {REGISTRY[name].does}", err=True)
        runs: dict[str, Run] = {}
        for set_up in ("yours", "changed"):
            same = set_up == "changed" and found.before == found.after
            runs[set_up] = runs["yours"] if same else Run.of(run_set_up(places, set_up, seed, faults=(name,)))
            click.echo(f"  {set_up}: {runs[set_up]}{', the same set-up' if same else ''}", err=True)
        rows.append(Row(name, REGISTRY[name].does, runs["yours"], runs["changed"]))
    certificate = Certificate(app, found.celery, rows, found.changes, found.notes)
    write(certificate, folder)
    click.echo(f"{certificate.summary}.")
    for line in [*found.notes, *found.changes]:
        click.echo(f"  {line}")
    click.echo(folder / "certificate.html")
    sys.exit(certificate.code)
