"""The commands of the drill's own test: set-ups of the application that lack a safeguard, or have all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from drill.cli.group import known, main
from drill.cli.places import ours
from drill.cli.show import Lines
from drill.faults import REGISTRY
from drill.judge import checker
from drill.selftest import set_up
from drill.selftest.mutants import MUTANTS, POWER, SETUPS
from drill.selftest.registry import find
from drill.selftest.spare_servers import SpareServers, images
from drill.selftest.virtual_host import use_redis, use_vhost
from drill.targets.compose import Compose

if TYPE_CHECKING:
    from drill.cli.places import Places


POWER_ROUND = (
    "power-all",
    "power-single",
    "power-all",
    "power-majority",
    "power-failover",
    "power-all",
    "power-twice",
    "power-roll-over",
)
SHOWN = ("acknowledged", "lost", "result_lost", "effect_lost", "unknown", "extra")


@main.command()
@click.argument("names", nargs=-1)
@click.option("--seed", default=1, show_default=True)
@click.option("--controls/--no-controls", default=True, help="Run each scenario with all safeguards on, too.")
@click.pass_obj
def mutants(places: Places, names: tuple[str, ...], seed: int, *, controls: bool) -> None:
    """Switch off one safeguard at a time: each drill must fail, and pass with all safeguards on."""
    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        raise click.UsageError(f"There is no mutant {', '.join(unknown)}; there are {', '.join(MUTANTS)}.")
    if any(spare and spare.images for spare in (MUTANTS[name].spare for name in names or MUTANTS)):
        images(_spare_folder(places)).check()  # before anything starts, not an hour later
    table = Table(box=None)
    for column in ("mutant", "what is switched off", "drill", "with all safeguards"):
        table.add_column(column)
    blind = 0
    for name in names or MUTANTS:
        word = run_set_up(places, name, seed)["verdict"]
        control = run_set_up(places, name, seed, control=True)["verdict"] if controls else "-"
        blind += word == checker.PASS or control not in {checker.PASS, "-"}
        table.add_row(name, MUTANTS[name].removes, word, control)
        click.echo(f"{name}: {word}, with all safeguards {control}", err=True)
    Console().print(table)
    sys.exit(bool(blind))


@main.command()
@click.argument("faults", nargs=-1, required=True, callback=known)
@click.option("--seed", default=1, show_default=True)
@click.pass_obj
def compare(places: Places, faults: tuple[str, ...], seed: int) -> None:
    """Inject FAULTS, each in a run of its own, into stock Celery, Redis as the broker, and Holdfast on one cluster."""
    table = Table(box=None)
    for column in ("fault", "set-up", "acknowledged", "lost", "result lost", "duplicated", "in `dead`", "verdict"):
        table.add_column(column)
    for fault in faults:
        for name, setup in SETUPS.items():
            if setup.redis_broker and "rabbit" in REGISTRY[fault].needs:
                continue
            report = run_set_up(places, name, seed, faults=(fault,))
            counts = report["counts"]
            shown = [counts[key] for key in ("acknowledged", "lost", "result_lost", "duplicated", "innocent_dead")]
            row = [fault, {"control": "Holdfast"}.get(name, name), *map(str, shown), report["verdict"]]
            table.add_row(*row)
            click.echo(": ".join(row[:2]) + f" {', '.join(row[2:])}", err=True)
    Console().print(table)


@main.command("small-disk")
@click.option("--seed", default=1, show_default=True)
@click.pass_obj
def small_disk(places: Places, seed: int) -> None:
    """Fill the disk of a broker to its last byte, on brokers of the drill's own with small disks in memory."""
    _tell(run_set_up(places, "small-disk", seed))


@main.command()
@click.option("--rounds", default=1, show_default=True, help="How often the sequence of cuts is made.")
@click.option("--rate", default=POWER.rate, show_default=True, help="Tasks a second.")
@click.option("--calm", default=POWER.calm, show_default=True, help="Seconds of load before and after each cut.")
@click.option("--seed", default=1, show_default=True)
@click.pass_obj
def power(places: Places, rounds: int, rate: float, calm: float, seed: int) -> None:
    """Cut the power of brokers, Redis nodes and database, on servers of the drill's own; needs root and loop devices.

    One round is nine cuts: all nodes, the leaders, all, a majority, all during a failover, all, twice within a minute,
    and all while the write-ahead logs roll over.
    """
    report = run_set_up(places, "power", seed, faults=POWER_ROUND * rounds, rate=rate, calm=calm)
    _tell(report)


def _tell(report: dict[str, Any]) -> NoReturn:
    """Print the verdict, its reasons and the counts, and exit with the verdict's code."""
    counts = report["counts"]
    shown = ", ".join(f"{counts[key]} {key.replace('_', ' ')}" for key in SHOWN)
    for line in [f"{report['verdict'].upper()}: {shown}", *report["reasons"]]:
        click.echo(line)
    sys.exit(checker.EXIT[report["verdict"]])


@main.command("set-up", hidden=True)
@click.argument("name")
@click.option("--seed", default=1)
@click.option("--control", is_flag=True)
@click.option("--fault", "faults", multiple=True)
@click.option("--rate", type=float)
@click.option("--calm", type=float)
@click.pass_obj
def set_up_(
    places: Places,
    name: str,
    seed: int,
    faults: tuple[str, ...],
    *,
    control: bool,
    rate: float | None,
    calm: float | None,
) -> None:
    """Run one set-up in this process and print the folder of its report."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    target = Compose(places.project)
    with places.journal.alone():
        folder = set_up.execute(
            name,
            target,
            places.ledgers,
            places.journal,
            seed,
            control=control,
            faults=faults,
            rate=rate,
            calm=calm,
            spare_folder=_spare_folder(places),
            show=Lines(len(faults)) if len(faults) > 1 else lambda _: None,  # one fault is announced by the caller
        )
    click.echo(folder)


def _spare_folder(places: Places) -> Path:
    return places.build / "drill/spare"


def run_set_up(
    places: Places,
    name: str,
    seed: int,
    *,
    control: bool = False,
    faults: tuple[str, ...] = (),
    rate: float | None = None,
    calm: float | None = None,
) -> dict[str, Any]:
    """Run one set-up in a process of its own, because its workers get the environment; return its report.

    Raises:
        click.ClickException: it did not get as far as a report, or published nothing.
    """
    target = Compose(places.project)
    logins = target.logins()
    variables = ours(os.environ) | dict(logins.worker)  # its workers run here, with its publishers
    variables |= {"DRILL_VARIANT": "control" if control else name, "DRILL_LEDGER": str(places.ledgers)}
    variables["C_FORCE_ROOT"] = "1"  # Celery starts no worker of root that reads pickle; all messages are the drill's
    scenario = find(name)
    variables["HOLDFAST_AUDIT_SHARE"] = str(int(scenario.audit))
    if scenario.redis_broker:
        use_redis(variables, dict(logins.redis_broker))
    else:
        use_vhost(variables)
    command = [sys.executable, "-m", "drill", "--project", places.project, "--build", str(places.build)]
    command += ["set-up", name, "--seed", str(seed)]
    command += [word for key, value in (("--rate", rate), ("--calm", calm)) if value for word in (key, str(value))]
    command += ["--control"] * control + [word for fault in faults for word in ("--fault", fault)]
    with ExitStack() as servers:
        if scenario.spare:
            net = target.nodes["redis1"].address.rpartition(".")[0]
            spare = replace(scenario.spare, edits=(), no_fsync=()) if control else scenario.spare
            own = SpareServers(_spare_folder(places), net, spare, logins.files)
            servers.enter_context(own).use(variables)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the child must be told in any case
        child = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            said, _ = child.communicate()
        except BaseException:
            child.send_signal(signal.SIGTERM)  # it heals and ends its workers; a shell's background job ignores SIGINT
            child.wait()
            raise
    if child.returncode:
        raise click.ClickException(f"The set-up {name} did not run; see above.")
    report: dict[str, Any] = json.loads((Path(said.split()[-1]) / "report.json").read_text())
    if not report["counts"]["acknowledged"]:  # red for a reason that proves nothing
        raise click.ClickException(f"The set-up {name} published nothing: {'; '.join(report['reasons'])}")
    return report
