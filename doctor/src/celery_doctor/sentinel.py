"""What the running Sentinels show: whether they would fail over, and after how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_doctor.rules import NotAllowedError, Severity, each
from celery_doctor.rules import sentinel_rules as rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_doctor.subject import Subject
    from celery_doctor.urls import Address

PORT = 26379
SECONDS = 5  # that a Sentinel has for its answer
SLOWEST = 15_000  # ms; no write is possible while a primary is not yet called down. Sentinel's default is 30000
FASTEST = 1000  # ms; below it a fork or a busy machine is taken for a death


class Sentinels:
    """The Sentinels of a list of addresses.

    Args:
        role: whose primary they watch: ``result store`` or ``broker``.
        addresses: where they are.
        options: the transport options, with ``master_name`` and ``sentinel_kwargs``.
    """

    def __init__(self, role: str, addresses: list[Address], options: dict[str, Any]) -> None:
        self.role = role
        self.addresses = sorted({(one.parts.hostname or "localhost", one.parts.port or PORT) for one in addresses})
        self.name = str(options.get("master_name") or "")
        self._login = {
            "socket_timeout": SECONDS,
            "socket_connect_timeout": SECONDS,
            **(options.get("sentinel_kwargs") or {}),
        }
        self._kept: dict[tuple[str, int], Any] = {}

    def state(self, address: tuple[str, int]) -> dict[str, Any] | None:
        """Return what a Sentinel says of the primary, None when it does not know the name.

        Raises:
            NotAllowedError: the login may not ask.
            redis.exceptions.RedisError: it does not answer.
        """
        from redis import Redis  # noqa: PLC0415 - only for Redis
        from redis.exceptions import NoPermissionError, ResponseError  # noqa: PLC0415 - as above

        if address not in self._kept:
            try:
                with Redis(*address, **self._login) as client:  # sentinel_master() of redis-py 7.0.1 fails
                    self._kept[address] = client.execute_command("SENTINEL MASTER", self.name)
            except NoPermissionError as error:
                self._kept[address] = NotAllowedError(f"Sentinel {_text(address)}: {error}")
            except ResponseError as error:
                self._kept[address] = None if "No such master" in str(error) else error
            except Exception as error:  # noqa: BLE001 - raised below, each time
                self._kept[address] = error
        if isinstance(self._kept[address], Exception):
            raise self._kept[address]
        found: dict[str, Any] | None = self._kept[address]
        return found


def of_results(subject: Subject) -> Sentinels:
    """Return the Sentinels of the result store."""
    return Sentinels("result store", subject.stores, subject.mapping("result_backend_transport_options"))


def of_broker(subject: Subject) -> Sentinels:
    """Return the Sentinels of the broker."""
    return Sentinels("broker", subject.read_brokers, subject.transport)


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


@rule(
    "HF907-sentinel-quorum",
    Severity.WARNING,
    loss="no failover when one Sentinel is down, or one that a single cut-off Sentinel decides",
    fix="three Sentinels, quorum 2",
)
def quorum(sentinels: Sentinels) -> Iterator[str]:
    def look(address: tuple[str, int]) -> Iterator[str]:
        state = sentinels.state(address)
        if state is None:
            return
        known, needed = int(state["num-other-sentinels"]) + 1, int(state["quorum"])
        if known < 3 or not 1 < needed < known:
            yield f"{sentinels.role}: Sentinel {_text(address)} knows {known} Sentinel(s), quorum {needed}"

    return each(sentinels.addresses, look)


@rule(
    "HF908-sentinel-down-after",
    Severity.WARNING,
    loss="too long: every write waits that long for a failover; too short: a pause of the machine causes a failover",
    fix="sentinel down-after-milliseconds NAME 3000",
)
def down_after(sentinels: Sentinels) -> Iterator[str]:
    def look(address: tuple[str, int]) -> Iterator[str]:
        state = sentinels.state(address)
        value = int(state["down-after-milliseconds"]) if state else SLOWEST
        if not FASTEST <= value <= SLOWEST:
            yield f"{sentinels.role}: Sentinel {_text(address)} has down-after-milliseconds {value}"

    return each(sentinels.addresses, look)


@rule(
    "HF909-sentinel-primary",
    Severity.FATAL,
    loss="clients of this Sentinel find no primary, or another one than the other clients",
    fix="sentinel monitor NAME ADDRESS 6379 2 on every Sentinel, with the name of master_name",
)
def primary(sentinels: Sentinels) -> Iterator[str]:
    named: set[str] = set()

    def look(address: tuple[str, int]) -> Iterator[str]:
        state = sentinels.state(address)
        if state is None:
            yield f"{sentinels.role}: Sentinel {_text(address)} does not know {sentinels.name!r}"
        else:
            named.add(f"{state['ip']}:{state['port']}")

    yield from each(sentinels.addresses, look)
    if len(named) > 1:
        yield f"{sentinels.role}: the Sentinels name {' and '.join(sorted(named))}"
