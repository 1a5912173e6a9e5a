"""Two Alertmanagers with the files of two hosts: a cluster over TLS, for those with the certificate of a client."""

from __future__ import annotations

import re
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.test_inventory import example
from tests.test_watchers import render

from ..servers import image
from ..stack import wait_until
from .test_rendered_files import certificate, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.stack  # needs the engine and the images that `make up` provides

ADDRESSES = {"ops": "198.51.100.31", "node1": "198.51.100.11"}
NETWORK = "holdfast-test-alertmanagers"
TLS = "/etc/holdfast/tls"
AMTOOL = ("amtool", "--http.config.file=/etc/prometheus/amtool-http.yml", "--alertmanager.url=https://127.0.0.1:9093")


class Cluster(NamedTuple):
    """Both."""

    containers: dict[str, str]  # ids by the names of the hosts
    tls: Path  # folder of the certificates


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two Alertmanagers in a network of their own."""
    folder = tmp_path_factory.mktemp("cluster")
    passwords = dict.fromkeys(example()[0]["ops"]["holdfast_passwords"], "a-password-of-thirty-characters")
    out = render(folder, ADDRESSES, {"holdfast_passwords": passwords})
    certificate(folder / "tls", "127.0.0.1", *ADDRESSES.values())
    run("docker", "network", "create", "--subnet", "198.51.100.0/24", NETWORK)
    containers: dict[str, str] = {}
    try:
        for host, address in ADDRESSES.items():
            files = {
                out / host / "cluster.yml": "/etc/prometheus/alertmanager-cluster.yml",
                out / host / "secret/alertmanager/alertmanager.yml": "/etc/prometheus/alertmanager.yml",
                out / host / "secret/alertmanager/web.yml": "/etc/prometheus/alertmanager-web.yml",
                out / host / "secret/alertmanager/amtool-http.yml": "/etc/prometheus/amtool-http.yml",
                folder / "tls": TLS,
            }
            for path in (*(path for path in files if path.is_file()), *(folder / "tls").iterdir()):
                path.chmod(0o644)  # the server runs as a user of its own
            volumes = [word for source, there in files.items() for word in ("--volume", f"{source}:{there}:ro")]
            options = re.findall(r"--[^\s\"]+", (out / host / "options").read_text().partition("ARGS=")[2])
            containers[host] = run(
                "docker", "run", "--detach", "--network", NETWORK, "--ip", address, *volumes,
                image("prom/alertmanager"), "--config.file=/etc/prometheus/alertmanager.yml",
                "--storage.path=/alertmanager", *options,
            ).strip()  # fmt: skip
        yield Cluster(containers, folder / "tls")
    finally:
        for name in containers.values():
            run("docker", "rm", "--force", "--volumes", name)
        run("docker", "network", "rm", NETWORK)


def asked(container: str, *words: str) -> str:
    """Return what amtool says in a container."""
    return run("docker", "exec", container, *AMTOOL, *words)


def complete(container: str) -> bool:
    """Tell whether an Alertmanager sees both members."""
    return asked(container, "cluster", "show", "--output=extended").count(":9094") == len(ADDRESSES)


def test_they_know_each_other_and_a_silence_of_one_is_valid_on_both(cluster: Cluster) -> None:
    for container in cluster.containers.values():
        wait_until(partial(complete, container), "it sees both members", 60)
    first, second = cluster.containers.values()
    made = asked(first, "silence", "add", "--comment=a test", "--author=a test", "alertname=None").strip()
    wait_until(lambda: made in asked(second, "silence", "query", "--quiet"), "the other one has it, too", 60)


@pytest.mark.parametrize(("profile", "taken"), [("client", True), ("server", False), (None, False)])
def test_the_cluster_asks_for_a_clients_certificate(cluster: Cluster, profile: str | None, *, taken: bool) -> None:
    """With TLS 1.3 a server refuses after the handshake, in what it sends next; one that takes us waits for words."""
    context = ssl.create_default_context(cafile=cluster.tls / "ca.pem")
    if profile:
        context.load_cert_chain(cluster.tls / f"{profile}.pem", cluster.tls / f"{profile}.key")
    address = ADDRESSES["ops"]
    with (
        socket.create_connection((address, 9094), 10) as link,
        context.wrap_socket(link, server_hostname=address) as tls,
    ):
        tls.settimeout(3)
        with pytest.raises(TimeoutError if taken else ssl.SSLError):
            tls.recv(1)
