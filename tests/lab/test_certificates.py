"""A certificate is good for one side of a connection: a host's server shows one, its clients show another.

What verify tries at every port that asks for a certificate is tried here where it cannot: between RabbitMQ's nodes, and
from the side of a client.
"""

from __future__ import annotations

import pytest

from .lab import TLS, accepts, client, hosts, on

SERVER = """
cd /etc/holdfast/tls
openssl s_server -accept 127.0.0.1:4433 -cert {shown}.pem -key {shown}.key -quiet >/dev/null 2>&1 &
trap "kill $!" EXIT
for _ in $(seq 50); do ss -Hltn 'sport = 4433' | grep -q . && break; sleep 0.1; done
python3 - <<'END'
{client}
END
"""


@pytest.mark.parametrize(("shown", "taken"), [("client", True), ("server", False)])
def test_a_node_of_rabbitmq_takes_the_certificate_of_a_client_alone(shown: str, taken: bool) -> None:
    assert accepts(hosts("rabbitmq")[0], f"{TLS}/{shown}", 25672) == taken


@pytest.mark.parametrize(("shown", "answer"), [("server", "accepted"), ("client", "refused")])
def test_a_client_takes_the_certificate_of_a_server_alone(shown: str, answer: str) -> None:
    said = on(hosts("all")[0], SERVER.format(shown=shown, client=client(f"{TLS}/client", 4433)))
    assert said.strip().partition(":")[0] == answer
