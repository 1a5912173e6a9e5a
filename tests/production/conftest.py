"""The lab hosts, and the order of the verbs: each needs what those before it have left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..lab.lab import INVENTORY
from .lab import LOGS, Lab

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

WITHOUT_HOSTS = {"hosts", "gone", "elsewhere"}  # the verbs that need none


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--steps", default="", help="the verbs to run, in this order; all of them by default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the verbs of ``--steps``."""
    chosen: list[str] = config.getoption("--steps").split()
    verbs = {item.name.removeprefix("test_"): item for item in items}
    unknown = [step for step in chosen if step not in verbs]
    if unknown:
        raise pytest.UsageError(
            f"found the steps {', '.join(unknown)}; allowed: {', '.join(verbs)}; next: choose of these"
        )
    items[:] = [verbs[step] for step in chosen] or items


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Lab:
    """The hosts of INVENTORY, six by default: the verb ``hosts`` makes them, ``gone`` removes them."""
    if not (INVENTORY / "hosts.yml").exists():
        pytest.fail(f"found no {INVENTORY}/hosts.yml; allowed is an inventory of lab hosts; next: leave INVENTORY out")
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def tell(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", end="", flush=True)

    return Lab(INVENTORY, tell)


@pytest.fixture(autouse=True)
def _log(request: pytest.FixtureRequest, lab: Lab) -> Iterator[None]:
    step = request.node.name.removeprefix("test_")
    missing = [] if step in WITHOUT_HOSTS else [host for host in lab.hosts if not lab.exists(host)]
    if missing:
        pytest.fail(f"found no {', '.join(missing)}; next: make test-production STEPS='hosts site {step}'")
    with lab.logged(step):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """End at the first verb that fails, and leave the hosts for a look."""
    report = yield
    if report.failed:
        item.session.shouldfail = f"{item.name}: the hosts are left as they are; the logs are in {LOGS}"
    return report
