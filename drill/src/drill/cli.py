"""The ``drill`` command."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from drill import checker
from drill.logins import of_hosts, of_stack
from drill.target import Compose, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from drill.annotations import Annotations
    from drill.checker import Verdict
    from drill.history import History
    from drill.journal import Journal
    from drill.logins import Logins
    from drill.run import Options, Progress
    from drill.stack import Stack
    from drill.target import Target

ROOT = Path(__file__).resolve().parents[3]
SETS = ("smoke", "standard", "full", "soak")


class NotStartedError(click.ClickException):
    """What a target that refuses, or is not there, becomes for the user."""

    exit_code = checker.EXIT[checker.INCONCLUSIVE]


class Commands(click.Group):
    """The commands of the drill, which all end in words when the target refuses."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command.

        Raises:
            NotStartedError: the target refused, with its reason.
        """
        try:
            return super().invoke(context)
        except TargetError as error:
            raise NotStartedError(str(error)) from error


@click.group(cls=Commands)
@click.option(
    "--project",
    default="holdfast",
    envvar="COMPOSE_PROJECT_NAME",
    show_default=True,
    help="Name of the compose project.",
)
@click.option(
    "--build",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / "build",
    help="Folder for ledgers, reports and the heal journal.",
)
@click.pass_context
def main(context: click.Context, project: str, build: Path) -> None:
    """Break the running stack on purpose and count what was lost.

    Exit code: 0 pass, 1 fail, 2 inconclusive or not started.
    """
    context.obj = Environment(project, build)


class Environment:
    """Where things are; connects when it is asked to."""

    def __init__(self, project: str, build: Path) -> None:
        self.project, self.build = project, build
        self.ledgers = build / "ledger"
        self.state = build / "drill"

    def read(self) -> None:
        """Read addresses, environment and passwords of the target anew; those of compose never change."""

    def target(self) -> Target:
        """Return the target, once it has shown that it may be broken."""
        return Compose(self.project)

    def logins(self) -> Logins:
        """Return the logins of the target, which has been asked for before."""
        return of_stack(ROOT, self.project)

    def stack(self) -> Stack:
        """Return the stack on the target."""
        target = self.target()
        logins = self.logins()
        for name, value in logins.environment.items():
            os.environ.setdefault(name, value)
        from drill.stack import Stack  # noqa: PLC0415 - the application reads its environment on import
        from webhooks.app import app  # noqa: PLC0415 - as above

        return Stack(target, logins.password, app)

    def lab(self, name: str, seed: int, *, control: bool = False, faults: tuple[str, ...] = ()) -> dict[str, Any]:
        """Run one set-up in a process of its own, because an application is set up on import; return its report.

        Raises:
            click.ClickException: it did not get as far as a report, or published nothing.
        """
        from drill import mutants  # noqa: PLC0415 - only where a set-up is run
        from drill.lab import use_redis, use_vhost  # noqa: PLC0415 - as above
        from drill.second import Servers  # noqa: PLC0415 - as above

        logins = self.logins()
        variables = dict(os.environ) | dict(logins.environment)
        variables |= {"DRILL_VARIANT": "control" if control else name, "DRILL_LEDGER": str(self.ledgers)}
        if mutants.find(name).redis_broker:
            use_redis(variables, dict(logins.redis_broker))
        else:
            use_vhost(variables)
        command = [sys.executable, "-m", "drill", "--project", self.project, "lab", name, "--seed", str(seed)]
        command += ["--control"] * control + [word for fault in faults for word in ("--fault", fault)]
        with ExitStack() as places:
            second = mutants.find(name).second
            if second:
                net = Compose(self.project).nodes["redis1"].address.rpartition(".")[0]
                second = replace(second, edits=()) if control else second
                servers = Servers(ROOT, self.build / "drill/second", net, second, logins.files)
                places.enter_context(servers).use(variables)
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # the child must be told in any case
            child = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True, start_new_session=True)
            try:
                said, _ = child.communicate()
            except BaseException:
                child.send_signal(signal.SIGINT)  # it heals what it broke, and ends its workers
                child.wait()
                raise
        if child.returncode:
            raise click.ClickException(f"The set-up {name} did not run; see above.")
        report: dict[str, Any] = json.loads((Path(said.split()[-1]) / "report.json").read_text())
        if not report["counts"]["acknowledged"]:  # red for a reason that proves nothing
            raise click.ClickException(f"The set-up {name} published nothing: {'; '.join(report['reasons'])}")
        return report

    def annotations(self, stack: Stack) -> Annotations | None:
        """Return what shows the faults in the target's dashboards."""
        from drill.annotations import Annotations  # noqa: PLC0415 - only where a drill runs

        found = stack.tier("prometheus")
        return Annotations(self.build / "drill/scrape", found[0].address) if found else None

    def journal(self) -> Journal:
        """Return the heal journal."""
        from drill.journal import Journal  # noqa: PLC0415 - loads the faults, which not every command needs

        return Journal(self.state)


class Inventory(Environment):
    """The same for the hosts of an Ansible inventory.

    Args:
        inventory: its folder.
        build: folder for ledgers, reports and what is known of the hosts.
    """

    def __init__(self, inventory: Path, build: Path) -> None:
        self._inventory = inventory.resolve()
        super().__init__("", build)
        self.state = build.resolve() / "drill" / self._inventory.name

    @override
    def read(self) -> None:
        """Have Ansible write what it knows of the hosts now.

        Raises:
            TargetError: it cannot read the inventory.
        """
        command = [str(ROOT / "scripts/play"), "parts/describe", "--extra-vars", f"render_dir={self.state}"]
        variables = os.environ | {"INVENTORY": str(self._inventory)}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stdout + done.stderr)[-2000:].strip()
            raise TargetError(
                f"Ansible cannot read {self._inventory}:\n{said}\nAllowed is an inventory that site.yml takes, with "
                f"its vault. Next: make play INVENTORY={self._inventory} PLAYBOOK=verify"
            )

    @override
    def target(self) -> Target:
        """Return the hosts, as Ansible knows them now."""
        from drill.hosts import Hosts  # noqa: PLC0415 - only where a drill runs on hosts

        self.read()
        return Hosts(self.state / "hosts.json")

    @override
    def logins(self) -> Logins:
        """Return the logins that Ansible has written beside the list of hosts."""
        return of_hosts(self.state / "secret")

    def annotations(self, stack: Stack) -> None:
        """Return nothing: a Prometheus on another host does not see the file that announces a drill."""


def _take_inventory(context: click.Context, _: click.Parameter, folder: Path | None) -> None:
    if folder:
        context.obj = Inventory(folder, context.obj.build)


on_inventory = click.option(
    "--inventory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    callback=_take_inventory,
    expose_value=False,
    help="Folder of an Ansible inventory: break its hosts, not the compose project.",
)


def _known(_context: click.Context, _parameter: click.Parameter, faults: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse names that are no faults.

    Raises:
        UsageError: there are some.
    """
    from drill.faults import REGISTRY  # noqa: PLC0415 - as above

    unknown = [fault for fault in faults if fault not in REGISTRY]
    if unknown:
        raise click.UsageError(f"There is no fault {', '.join(unknown)}. drill list shows them all.")
    return faults


@main.command("list")
def list_() -> None:
    """List the faults and the sets that they belong to."""
    from drill.faults import REGISTRY  # noqa: PLC0415 - as above

    table = Table(box=None)
    for column in ("fault", "what it breaks", "sets"):
        table.add_column(column)
    for spec in REGISTRY.values():
        table.add_row(spec.name, spec.does, " ".join((*spec.sets, "full")))
    Console().print(table)


@main.command()
@click.argument("faults", nargs=-1, callback=_known)
@click.option("--set", "name", type=click.Choice(SETS[:3]), help="A named set of faults instead of single ones.")
@click.option("--seed", type=int, help="Fixes targets, order and load. Default: random.")
@click.option("--rate", default=12.0, show_default=True, help="Tasks per second.")
@click.option("--publishers", default=2, show_default=True, type=click.IntRange(1), help="Publisher processes.")
@click.option("--alerts", is_flag=True, help="Hold each fault until its alert is due, and report on it.")
@on_inventory
@click.pass_obj
def run(
    environment: Environment,
    *,
    faults: tuple[str, ...],
    name: str | None,
    seed: int | None,
    rate: float,
    publishers: int,
    alerts: bool,
) -> None:
    """Inject FAULTS, or those of a set, under load; judge and report."""
    from drill.faults import REGISTRY  # noqa: PLC0415 - as above
    from drill.run import Options  # noqa: PLC0415 - as above

    if bool(faults) == bool(name):
        raise click.UsageError("Name faults, or one set: drill run broker-leader-kill, or drill run --set smoke")
    seed = random.randrange(10_000) if seed is None else seed  # noqa: S311 - a label, not a secret
    chosen = list(faults)
    if name:
        chosen = [spec.name for spec in REGISTRY.values() if name == "full" or name in spec.sets]
        random.Random(seed).shuffle(chosen)  # noqa: S311 - repeatable on purpose
    sys.exit(checker.EXIT[_execute(environment, Options(seed, rate, publishers, alerts=alerts), chosen)[1].word])


@main.command()
@click.option("--hours", default=1.0, show_default=True, help="How long; ends after the fault that is under way.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--rate", default=12.0, show_default=True, help="Tasks per second.")
@click.option("--publishers", default=2, show_default=True, type=click.IntRange(1), help="Publisher processes.")
@on_inventory
@click.pass_obj
def soak(environment: Environment, hours: float, seed: int, rate: float, publishers: int) -> None:
    """Inject random faults for hours."""
    from drill.faults import REGISTRY  # noqa: PLC0415 - as above
    from drill.run import Options  # noqa: PLC0415 - as above

    names = [spec.name for spec in REGISTRY.values() if "soak" in spec.sets]
    rng, end = random.Random(seed), time.time() + hours * 3600  # noqa: S311 - repeatable on purpose

    def until_end() -> Iterator[str]:
        while True:
            for name in rng.sample(names, len(names)):  # every fault once before any comes again
                if time.time() > end:
                    return
                yield name

    _, verdict = _execute(environment, Options(seed, rate, publishers), until_end(), "any fault")
    sys.exit(checker.EXIT[verdict.word])


@main.command()
@click.option("--minutes", default=60.0, show_default=True, help="How long.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--rate", default=12.0, show_default=True, help="Tasks per second.")
@on_inventory
@click.pass_obj
def calm(environment: Environment, minutes: float, seed: int, rate: float) -> None:
    """Load without a fault and without poison: nothing may be lost, and no alert may fire."""
    from drill.load import MIX  # noqa: PLC0415 - as above
    from drill.run import Options  # noqa: PLC0415 - as above

    mix = {kind: weight for kind, weight in MIX.items() if kind != "poison"}
    options = Options(seed, rate, mix=mix, calm=minutes * 60, alerts=True)
    history, verdict = _execute(environment, options, [])
    for span in history.alerts:
        click.echo(f"{span.name} fired at {datetime.fromtimestamp(span.since, UTC):%H:%M:%S} UTC.", err=True)
    if history.alert_limits and not history.alerts:  # without limits nobody got as far as asking
        click.echo("No alert fired.")
    sys.exit(checker.EXIT[checker.FAIL] if history.alerts else checker.EXIT[verdict.word])


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--rate", default=12.0, show_default=True, help="Tasks per second.")
@click.option("--publishers", default=2, show_default=True, type=click.IntRange(1), help="Publisher processes.")
@on_inventory
@click.pass_obj
def beside(environment: Environment, command: tuple[str, ...], seed: int, rate: float, publishers: int) -> None:
    """Run COMMAND under load: it must succeed, nothing may be lost, and no publish may fail.

    For what an operator does to a stack in use: drill beside -- make play PLAYBOOK=rolling_restart
    """
    from drill.run import Options  # noqa: PLC0415 - as above

    if not shutil.which(command[0]):
        raise click.UsageError(f"There is no program {command[0]}. Next: drill beside -- COMMAND")
    code = 0

    def run_it() -> Iterator[str]:
        nonlocal code
        code = subprocess.run(command, check=False).returncode
        environment.read()  # the command may have changed passwords
        yield from ()

    plan = f"nothing by itself, but runs {shlex.join(command)}"
    options = Options(seed, rate, publishers, operated=True)
    _, verdict = _execute(environment, options, run_it(), plan, live=False)
    failed = len(verdict.counts.unknown)
    click.echo(f"The command ended with {code}. {failed} publishes failed.")
    sys.exit(checker.EXIT[checker.FAIL] if code or failed else checker.EXIT[verdict.word])


@main.command()
@on_inventory
@click.pass_obj
def heal(environment: Environment) -> None:
    """Undo what a killed drill has left: paused, killed, cut off."""
    from drill.journal import heal_everything  # noqa: PLC0415 - as above

    journal = environment.journal()
    with journal.alone():
        problems = heal_everything(environment.stack(), journal)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo("Still not healthy." if problems else "The stack is healthy.")
    sys.exit(bool(problems))


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(folder: Path) -> None:
    """Judge the ledger in FOLDER again and write its report again."""
    from drill.run import judge  # noqa: PLC0415 - as above

    _, verdict = judge(folder.resolve())
    _print(verdict, folder)
    sys.exit(checker.EXIT[verdict.word])


@main.command()
@click.argument("names", nargs=-1)
@click.option("--seed", default=1, show_default=True)
@click.option("--controls/--no-controls", default=True, help="Run each scenario with all safeguards on, too.")
@click.pass_obj
def mutants(environment: Environment, names: tuple[str, ...], seed: int, *, controls: bool) -> None:
    """Switch off one safeguard at a time: each drill must turn red, and green with all safeguards on."""
    from drill.mutants import MUTANTS  # noqa: PLC0415 - as above

    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        raise click.UsageError(f"There is no mutant {', '.join(unknown)}; there are {', '.join(MUTANTS)}.")
    table = Table(box=None)
    for column in ("mutant", "what is switched off", "drill", "with all safeguards"):
        table.add_column(column)
    blind = 0
    for name in names or MUTANTS:
        word = environment.lab(name, seed)["verdict"]
        control = environment.lab(name, seed, control=True)["verdict"] if controls else "-"
        blind += word == checker.PASS or control not in {checker.PASS, "-"}
        table.add_row(name, MUTANTS[name].removes, word, control)
        click.echo(f"{name}: {word}, with all safeguards {control}", err=True)
    Console().print(table)
    sys.exit(bool(blind))


@main.command()
@click.argument("faults", nargs=-1, required=True, callback=_known)
@click.option("--seed", default=1, show_default=True)
@click.pass_obj
def compare(environment: Environment, faults: tuple[str, ...], seed: int) -> None:
    """Inject FAULTS, each in a run of its own, into stock Celery, Redis as the broker, and Holdfast on one cluster."""
    from drill.faults import REGISTRY  # noqa: PLC0415 - as above
    from drill.mutants import SETUPS  # noqa: PLC0415 - as above

    table = Table(box=None)
    for column in ("fault", "set-up", "acknowledged", "lost", "result lost", "duplicated", "in `dead`", "verdict"):
        table.add_column(column)
    for fault in faults:
        for name, setup in SETUPS.items():
            if setup.redis_broker and "rabbit" in REGISTRY[fault].needs:
                continue
            report = environment.lab(name, seed, faults=(fault,))
            counts = report["counts"]
            shown = [counts[key] for key in ("acknowledged", "lost", "result_lost", "duplicated", "innocent_dead")]
            row = [fault, {"control": "Holdfast"}.get(name, name), *map(str, shown), report["verdict"]]
            table.add_row(*row)
            click.echo(": ".join(row[:2]) + f" {', '.join(row[2:])}", err=True)
    Console().print(table)


@main.command("small-disk")
@click.option("--seed", default=1, show_default=True)
@click.pass_obj
def small_disk(environment: Environment, seed: int) -> None:
    """Fill the disk of a broker to its last byte, on brokers of the drill's own with small disks in memory."""
    report = environment.lab("small-disk", seed)
    for line in [report["verdict"].upper(), *report["reasons"]]:
        click.echo(line)
    sys.exit(checker.EXIT[report["verdict"]])


@main.command(hidden=True)
@click.argument("name")
@click.option("--seed", default=1)
@click.option("--control", is_flag=True)
@click.option("--fault", "faults", multiple=True)
@click.pass_obj
def lab(environment: Environment, name: str, seed: int, faults: tuple[str, ...], *, control: bool) -> None:
    """Run one set-up in this process and print the folder of its report."""
    from drill import mutants  # noqa: PLC0415 - as above
    from drill.lab import Lab, VirtualHost  # noqa: PLC0415 - as above
    from drill.run import Drill, Options  # noqa: PLC0415 - as above
    from drill.second import PROJECT  # noqa: PLC0415 - as above
    from drill.stack import STACK, RedisBrokerStack, Stack  # noqa: PLC0415 - as above
    from drill.variants import app  # noqa: PLC0415 - as above

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scenario = mutants.find(name)
    mutant = mutants.CONTROL if control else scenario
    target = Compose(environment.project)
    logins = environment.logins()
    definitions = ROOT / "compose/config/rabbitmq/definitions/10-topology.json"
    second = Compose(PROJECT) if scenario.second else None
    own = second.nodes if second else {}
    host = VirtualHost(
        (target.nodes | own)["rabbit1"].address,
        logins.password("RABBITMQ_ADMIN_PASSWORD"),
        definitions,
    )
    journal = environment.journal()
    with journal.alone():
        host.make(mutant)
        try:
            with Lab(target, environment.ledgers, dict(os.environ), second) as place:
                options = Options(
                    seed,
                    scenario.rate,
                    mix=scenario.mix,
                    ways={"single": 1},
                    calm=scenario.calm,
                    drain=60,
                    recovery=60,
                    app="drill.variants:app",
                    ledger=mutant.ledger,
                )
                kind = RedisBrokerStack if mutant.redis_broker else Stack
                stack = kind(place, logins.password, app)
                stack.rules = STACK  # one yardstick for all: a mutant must not loosen its own bounds
                drill = Drill(stack, options, environment.ledgers, journal, lambda _: None)
                drill.execute(faults or scenario.faults)
        finally:
            if "rabbit1" not in own:  # brokers of its own go as a whole
                host.remove()
    click.echo(drill.folder)


def _execute(
    environment: Environment, options: Options, faults: Iterable[str], plan: str = "", *, live: bool = True
) -> tuple[History, Verdict]:
    """Run a drill; a target that refuses ends the command.

    Args:
        environment: where things are.
        options: what the user chose.
        faults: their names; those of a list are left out where the target has no node for them.
        plan: what the drill will break, in words; the list itself if empty.
        live: show the progress in place, which leaves the terminal to nobody else.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # heals on the way out, as Ctrl-C does
    from drill.run import Drill  # noqa: PLC0415 - as above

    console = Console()
    try:
        journal = environment.journal()
        with journal.alone(), ExitStack() as screen:
            stack = environment.stack()
            if faults and isinstance(faults, list):
                faults = _applicable(stack, faults, console)
            total = len(faults) if isinstance(faults, list) else 0
            if journal.steps():
                console.print("A drill was killed in the middle of a fault; healing first.")
                journal.heal(stack)
            console.print(f"Target: {stack.target.name}. Seed {options.seed}, {options.rate:g} tasks a second.")
            console.print(f"This will break, one after the other: {plan or ', '.join(faults) or 'nothing'}.")
            view = screen.enter_context(Live(console=console, refresh_per_second=4)) if live else None

            def show(progress: Progress) -> None:
                if view:
                    view.update(_view(progress, total))

            annotations = environment.annotations(stack)
            drill = Drill(stack, options, environment.ledgers, journal, show, annotations=annotations)
            history, verdict = drill.execute(faults)
    except TargetError as error:
        console.print(f"[red]Not started.[/] {error}")
        sys.exit(checker.EXIT[checker.INCONCLUSIVE])
    _print(verdict, drill.folder)
    return history, verdict


def _applicable(stack: Stack, faults: list[str], console: Console) -> list[str]:
    """Return the faults whose nodes the target has; say which are left out."""
    from drill.faults import REGISTRY  # noqa: PLC0415 - as above

    tiers = {node.tier for node in stack.target.nodes.values()}
    missing = {name: sorted(set(REGISTRY[name].needs) - tiers) for name in faults}
    for name in faults:
        if missing[name]:
            console.print(f"Left out: {name}, because this target has no {', '.join(missing[name])}.")
    found = [name for name in faults if not missing[name]]
    if not found:
        raise TargetError("None of these faults applies to this target.")
    return found


def _view(progress: Progress, total: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("fault", f"{progress.done}{f' of {total}' if total else ''} {progress.fault}")
    table.add_row("now", progress.phase)
    table.add_row("published", f"{progress.acknowledged} acknowledged, {progress.failed} failed")
    table.add_row("queues", progress.depth or "empty")
    return table


def _print(verdict: Verdict, folder: Path) -> None:
    console = Console()
    colour = {checker.PASS: "green", checker.FAIL: "red", checker.INCONCLUSIVE: "yellow"}[verdict.word]
    console.print(f"[bold {colour}]{verdict.word.upper()}[/]")
    for reason in [*verdict.reasons, *verdict.slow]:
        console.print(f"  {reason}")
    sizes = verdict.counts.sizes()
    console.print("  " + ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sizes.items()))
    if verdict.task_bound is not None:
        console.print(f"  With 95% confidence fewer than {verdict.task_bound:.2g} of all tasks are lost.")
    console.print(f"  Report: {folder / 'report.html'}")
