"""Runs one set-up of the application: a mutant, its control, or a system to compare with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from drill import ROOT
from drill.run.drill import Drill, Options
from drill.selftest import application
from drill.selftest.mutants import CONTROL
from drill.selftest.registry import find
from drill.selftest.spare_servers import PROJECT, images
from drill.selftest.virtual_host import VirtualHost
from drill.targets.compose import Compose
from drill.targets.local import LocalWorkers
from drill.targets.stack import STACK, RedisBrokerStack, Stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from drill.faults.journal import Journal
    from drill.run.drill import Progress

TOPOLOGY = ROOT / "compose/config/rabbitmq/definitions/10-topology.json"
VARIANT = "drill.selftest.variants"  # module of the application that the environment chooses


def execute(
    name: str,
    target: Compose,
    ledgers: Path,
    journal: Journal,
    seed: int,
    *,
    control: bool,
    faults: tuple[str, ...],
    rate: float | None = None,
    calm: float | None = None,
    spare_folder: Path,
    show: Callable[[Progress], None],
) -> Path:
    """Run a set-up with workers of its own; the environment is that of its application already.

    Args:
        name: of the set-up.
        target: the stack whose servers it uses.
        ledgers: folder of all runs.
        journal: for healing after a crash.
        seed: of the targets and the load.
        control: leave all safeguards on.
        faults: to inject; those of the set-up if empty.
        rate: tasks per second, in place of the set-up's.
        calm: seconds of load before and after each fault, in place of the set-up's.
        spare_folder: with the files of its own servers.
        show: told about progress.

    Returns:
        The folder of its report.
    """
    scenario = find(name)
    mutant = CONTROL if control else scenario
    logins = target.logins()
    spare = Compose(PROJECT) if scenario.spare else None
    own = spare.nodes if spare else {}
    host = VirtualHost((target.nodes | own)["rabbit1"].address, logins.password("RABBITMQ_ADMIN_PASSWORD"), TOPOLOGY)
    options = Options(
        seed,
        rate or scenario.rate,
        mix=scenario.mix,
        ways={"single": 1},
        calm=scenario.calm if calm is None else calm,
        drain=60,
        recovery=60,
        app=f"{VARIANT}:app",
        ledger=mutant.ledger,
        audit=scenario.audit,
    )
    ledgers.mkdir(parents=True, exist_ok=True)  # the logs of the workers are there, too
    disks = images(spare_folder) if scenario.spare and scenario.spare.images else None
    host.make(mutant)
    if disks:
        disks.settle()
    try:
        with LocalWorkers(target, VARIANT, ledgers, dict(os.environ), spare, disks=disks) as place:
            kind = RedisBrokerStack if mutant.redis_broker else Stack
            stack = kind(place, logins.password, application.make(mutant))
            stack.rules = STACK  # one yardstick for all: a mutant must not loosen its own bounds
            drill = Drill(stack, options, ledgers, journal, show)
            drill.execute(faults or scenario.faults)
    finally:
        if "rabbit1" not in own:  # brokers of its own go as a whole
            host.remove()
    return drill.folder
