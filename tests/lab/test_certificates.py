"""A certificate is good for one side of a connection: a host's server shows one, its clients show another.

What verify tries at every port that asks for a certificate is tried here where it cannot: between RabbitMQ's nodes, and
from the side of a client.
"""

from __future__ import annotations

import pytest

from .lab import hosts, on

TRY = """
import contextlib, socket, ssl
FOLDER = "/etc/holdfast/tls"
context = ssl.create_default_context(cafile=f"{{FOLDER}}/ca.pem")
context.load_cert_chain(f"{{FOLDER}}/{shown}.pem", f"{{FOLDER}}/{shown}.key")
try:
    with socket.create_connection(("127.0.0.1", {port}), 5) as link:
        with context.wrap_socket(link, server_hostname="localhost") as tls:
            tls.settimeout(1)  # with TLS 1.3 a server refuses after the handshake, in what it sends next
            with contextlib.suppress(TimeoutError):
                tls.recv(1)
    print("accepted")
except ssl.SSLError as error:
    print("refused:", error.reason)
"""
SERVER = """
cd /etc/holdfast/tls
openssl s_server -accept 127.0.0.1:4433 -cert {shown}.pem -key {shown}.key -quiet >/dev/null 2>&1 &
trap "kill $!" EXIT
for _ in $(seq 50); do ss -Hltn 'sport = 4433' | grep -q . && break; sleep 0.1; done
python3 - <<'END'
{client}
END
"""


def said(host: str, script: str) -> str:
    return on(host, script).strip()


@pytest.mark.parametrize(("shown", "answer"), [("client", "accepted"), ("server", "refused")])
def test_a_node_of_rabbitmq_takes_the_certificate_of_a_client_alone(shown: str, answer: str) -> None:
    script = f"python3 - <<'END'\n{TRY.format(shown=shown, port=25672)}\nEND"
    assert said(hosts("rabbitmq")[0], script).partition(":")[0] == answer


@pytest.mark.parametrize(("shown", "answer"), [("server", "accepted"), ("client", "refused")])
def test_a_client_takes_the_certificate_of_a_server_alone(shown: str, answer: str) -> None:
    client = TRY.format(shown="client", port=4433)
    assert said(hosts("all")[0], SERVER.format(shown=shown, client=client)).partition(":")[0] == answer
