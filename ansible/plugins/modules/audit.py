"""Looks at one host of a live deployment and says, check by check, whether it is as designed. Changes nothing."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import ssl
import stat
import struct
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 5  # seconds for one connection
HELLO = b"AMQP\x00\x00\x09\x01"
TUNE = b"\x00\x0a\x00\x1e"  # class and method of the frame that a broker sends to whom it has let in


def answer(link: socket.socket, words: bytes) -> str:
    """Send ``words`` and return what comes back: as many lines as were sent, or what there is."""
    link.sendall(words)
    said = b""
    while part := link.recv(200):
        said += part
        if said.count(b"\n") >= words.count(b"\n"):
            break
    return said.decode(errors="replace") or "closed"


def start_ok(user: str, password: str) -> bytes:
    """Return AMQP's frame ``connection.start-ok``: a name and a password."""
    secret = f"\0{user}\0{password}".encode()
    content = struct.pack(">HHI", 10, 11, 0) + b"\x05PLAIN" + struct.pack(">I", len(secret)) + secret + b"\x05en_US"
    return struct.pack(">BHI", 1, 0, len(content)) + content + b"\xce"


class Audit:
    """The checks of one host; each adds a line to ``checks``."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.address: str = options["address"]
        self.tls: dict[str, str] = options["tls"]
        self.checks: list[dict[str, Any]] = []

    def check(self, name: str, found: object, allowed: object, ok: bool | None = None) -> None:
        """Note one check; it is fine when ``found`` equals ``allowed``, unless ``ok`` says it."""
        fine = found == allowed if ok is None else ok
        self.checks.append({"check": name, "ok": bool(fine), "found": found, "allowed": allowed})

    def attempt(self, group: Callable[[], None]) -> None:
        """Run some checks; what stops them is a finding itself."""
        try:
            group()
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            self.check(f"{group.__name__} could be looked at", f"{type(error).__name__}: {error}", "no error")

    # --- Tools

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        """Return what a command printed; with ``check`` it must succeed."""
        done = subprocess.run(
            command, check=check, capture_output=True, text=True, timeout=60, env=os.environ | environment
        )
        return done.stdout

    def context(self, certificate: tuple[str, str] | None) -> ssl.SSLContext:
        """Return a client's TLS settings, with a certificate or without."""
        context = ssl.create_default_context(cafile=self.tls["ca"])
        if certificate:
            context.load_cert_chain(*certificate)
        return context

    def talk(self, port: int, words: bytes, certificate: tuple[str, str] | None, *, plain: bool = False) -> str:
        """Send ``words`` to a port of this host and return the first answer, or what stopped it."""
        try:
            with socket.create_connection((self.address, port), TIMEOUT) as link:
                if plain:
                    return answer(link, words)
                with self.context(certificate).wrap_socket(link, server_hostname=self.address) as tls:
                    return answer(tls, words)
        except (ssl.SSLError, ConnectionError) as error:
            return f"closed: {error.__class__.__name__}"
        except TimeoutError:
            return "silent"

    def get(self, url: str, login: tuple[str, str] | None, method: str = "GET", body: bytes | None = None) -> int:
        """Return the status of a page."""
        return self.ask(url, login, method, body)[0]

    def ask(self, url: str, login: tuple[str, str] | None, method: str, body: bytes | None) -> tuple[int, bytes]:
        """Return status and content of a page."""
        request = urllib.request.Request(url, method=method, data=body)  # noqa: S310 - an address of this host
        request.add_header("Content-Type", "application/json")
        if login:
            request.add_header("Authorization", "Basic " + base64.b64encode(":".join(login).encode()).decode())
        own = (self.tls["cert"], self.tls["key"])
        try:
            context = self.context(own) if url.startswith("https") else None
            with urllib.request.urlopen(request, timeout=TIMEOUT, context=context) as answer:  # noqa: S310 - as above
                return int(answer.status), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""

    # --- What a tier is asked

    def rabbitmq(self) -> None:
        """Cluster, queues, policies, users, doors of this broker."""
        want = self.options["rabbitmq"]
        status = json.loads(self.run("rabbitmqctl", "--silent", "cluster_status", "--formatter", "json"))
        self.check("all brokers run", sorted(status["running_nodes"]), sorted(want["nodes"]))
        self.check("no alarm", status["alarms"], [])
        version = self.run("rabbitmqctl", "--silent", "version").strip()
        numbers = [[int(part) for part in re.findall(r"\d+", text)[:3]] for text in (version, want["minimum_version"])]
        self.check("version without known losses", version, f">= {want['minimum_version']}", numbers[0] >= numbers[1])
        listing = ("rabbitmqctl", "--silent", "list_queues", "-p", want["vhost"], "--formatter", "json")
        listed = json.loads(self.run(*listing, "name", "type", "members", "online", "policy", "exclusive"))
        # an exclusive one is gone with its connection: remote control and events of a worker
        queues = [queue for queue in listed if queue["exclusive"] is not True]
        weak = [
            queue["name"]
            for queue in queues
            if queue["type"] != "quorum" or not len(queue["members"]) == len(queue["online"]) == len(want["nodes"])
        ]
        self.check("every queue has a member in step on every broker", weak, [])
        self.check("every queue has a policy", [queue["name"] for queue in queues if not queue["policy"]], [])
        file = Path("/etc/rabbitmq/definitions/10-topology.json")
        written = {item["name"]: item["definition"] for item in json.loads(file.read_text())["policies"]}
        said = json.loads(
            self.run("rabbitmqctl", "--silent", "list_policies", "-p", want["vhost"], "--formatter", "json")
        )
        live = {item["name"]: json.loads(item["definition"]) for item in said}
        self.check("policies are those of the files", sorted(live), sorted(written), live == written)
        missing = {item["name"] for item in json.loads(file.read_text())["queues"]} - {
            queue["name"] for queue in queues
        }
        self.check("no queue is missing", sorted(missing), [])
        users = json.loads(self.run("rabbitmqctl", "--silent", "list_users", "--formatter", "json"))
        powerless = [want["app_user"], want["worker_user"], "operator", "flower"]
        self.check("no user beside the designed ones, and no guest", sorted(user["user"] for user in users),
                   sorted([*powerless, "admin", "monitor"]))  # fmt: skip
        tags = {user["user"]: user["tags"] for user in users}
        for name in powerless:
            self.check(f"the user {name} administers nothing", tags.get(name), [])

    def rabbitmq_doors(self) -> None:
        """Who gets in to the broker."""
        passwords = self.options["passwords"]
        own = (self.tls["cert"], self.tls["key"])
        port = self.options["rabbitmq"]["port"]
        self.check("AMQP answers a client with a certificate", self.talk(port, HELLO, own)[:1], "\x01")
        self.closed("AMQP", port, HELLO)
        app = (self.options["rabbitmq"]["app_user"], passwords["rabbitmq_app"])
        self.check("AMQP as app", self.logs_in(*app), True)
        self.check("AMQP as app with a wrong password", self.logs_in(app[0], "wrong"), False)
        self.check("AMQP as guest", self.logs_in("guest", "guest"), False)
        for plain in (5672, 15672, 15692):
            self.check(f"no plaintext port {plain}", self.talk(plain, HELLO, None, plain=True)[:6], "closed")
        api = f"https://{self.address}:{self.options['rabbitmq']['management_port']}/api"
        self.check("management without a login", self.get(f"{api}/overview", None), 401)
        self.check("management as guest", self.get(f"{api}/overview", ("guest", "guest")), 401)
        self.check("management as app", self.get(f"{api}/overview", app), 401)
        monitor = ("monitor", passwords["rabbitmq_monitor"])
        self.check("management as monitor, to read", self.get(f"{api}/overview", monitor), 200)
        policy = b'{"pattern":"^$","definition":{"expires":1000},"apply-to":"queues"}'
        refused = self.get(f"{api}/policies/{self.options['rabbitmq']['vhost']}/audit", monitor, "PUT", policy)
        self.check("management as monitor, to change", refused, "401 or 403", refused in (401, 403))

    def logs_in(self, user: str, password: str) -> bool:
        """Say whether this host's broker lets somebody in who shows a certificate, a name and a password."""
        said = b""
        own = (self.tls["cert"], self.tls["key"])
        with (
            socket.create_connection((self.address, self.options["rabbitmq"]["port"]), TIMEOUT) as link,
            self.context(own).wrap_socket(link, server_hostname=self.address) as tls,
        ):
            tls.sendall(HELLO + start_ok(user, password))
            while TUNE not in said and (part := tls.recv(4096)):
                said += part
        return TUNE in said

    def closed(self, name: str, port: int, words: bytes) -> None:
        """A TLS port lets nobody in who has no certificate of the authority."""
        self.check(f"{name} without a certificate", self.talk(port, words, None)[:6], "closed")
        with tempfile.TemporaryDirectory() as folder:
            key, certificate = f"{folder}/key.pem", f"{folder}/cert.pem"
            self.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-subj", "/CN=stranger", "-days", "1", "-keyout", key, "-out", certificate)  # fmt: skip
            said = self.talk(port, words, (certificate, key))
        self.check(f"{name} with a stranger's certificate", said[:6], "closed")

    def redis(self) -> None:
        """Role, replication, durability and doors of this Redis node."""
        want = self.options["redis"]
        info = dict(
            line.split(":", 1)
            for line in self.run("/usr/local/sbin/holdfast-redis", "info").splitlines()
            if ":" in line
        )
        if info["role"] == "master":
            self.check("the primary has its replicas", int(info["min_slaves_good_slaves"]), want["nodes"] - 1)
        else:
            self.check("the replica follows", info["master_link_status"], "up")
        self.check("the log is written", info["aof_last_write_status"], "ok")
        designed = dict(
            line.split(" ", 1) for line in Path("/etc/redis/redis.conf").read_text().splitlines() if line[:1].isalpha()
        )
        for name in ("appendonly", "appendfsync", "min-replicas-to-write", "min-replicas-max-lag", "maxmemory-policy"):
            self.check(
                f"redis {name}",
                self.run("/usr/local/sbin/holdfast-redis", "config", "get", name).split()[-1],
                designed[name],
            )
        own = (self.tls["cert"], self.tls["key"])
        self.closed("Redis", want["port"], b"PING\r\n")
        self.check("Redis without TLS", "+PONG" in self.talk(want["port"], b"PING\r\n", None, plain=True), False)
        self.check("Redis without a login", self.talk(want["port"], b"PING\r\n", own)[:7], "-NOAUTH")
        app = f"AUTH app {self.options['passwords']['redis_app']}\r\n".encode()
        said = self.talk(want["port"], app + b"CONFIG GET maxmemory\r\n", own)
        self.check("Redis as app, to administer", "-NOPERM" in said, True)

    def sentinel(self) -> None:
        """Agreement and doors of this Sentinel."""
        want = self.options["sentinel"]
        said = self.run("/usr/local/sbin/holdfast-sentinel", "sentinel", "ckquorum", want["name"])
        self.check("a failover could be decided", said[:2], "OK")
        own = (self.tls["cert"], self.tls["key"])
        self.closed("Sentinel", want["port"], b"PING\r\n")
        self.check("Sentinel without TLS", "+PONG" in self.talk(want["port"], b"PING\r\n", None, plain=True), False)
        self.check("Sentinel without a login", self.talk(want["port"], b"PING\r\n", own)[:7], "-NOAUTH")
        app = f"AUTH app {self.options['passwords']['sentinel_app']}\r\n".encode()
        said = self.talk(want["port"], app + b"SENTINEL FAILOVER " + want["name"].encode() + b"\r\n", own)
        self.check("Sentinel as app, to fail over", "-NOPERM" in said, True)

    def app(self) -> None:
        """Programs of this host: all of them run, from the release in force, and do their work."""
        want = self.options["app"]
        lines = [line.split() for line in self.run("supervisorctl", "status", check=False).splitlines()]
        running = {line[0]: line[3].rstrip(",") for line in lines if line[1] == "RUNNING"}
        self.check("programs that run", sorted(running), sorted([*want["programs"], "watch"]))
        release = f"{Path(want['dir'], 'current').resolve()}/"
        started = {name: Path(f"/proc/{pid}/cmdline").read_text() for name, pid in running.items()}
        self.check("programs of another release", [n for n, c in started.items() if not c.startswith(release)], [])
        for kind in ("worker", "beat"):
            names = [name for name, its in want["programs"].items() if its == kind]
            if names:
                probe = (f"{want['dir']}/current/bin/holdfast", "probe", kind, *names)
                said = self.run(*probe, check=False, HOLDFAST_PULSE_DIR=want["pulse_dir"]).splitlines()
                self.check(f"each {kind} does its work", said, [f"{name}: ok" for name in names])

    def watch(self) -> None:
        """What Prometheus sees, and who is told."""
        want = self.options["watch"]

        def prometheus(path: str, **query: str) -> Any:
            url = f"{want['url']}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            return json.loads(self.ask(url, (want["user"], self.options["passwords"]["prometheus"]), "GET", None)[1])[
                "data"
            ]

        def values(expression: str) -> list[Any]:
            return list(prometheus("query", query=expression)["result"])

        absent = [f"{each['metric']['job']} of {each['metric']['instance']}" for each in values("up == 0")]
        self.check("what Prometheus cannot read", sorted(absent), [])
        self.check("what Prometheus reads", len(values("up == 1")), "1 or more", bool(values("up == 1")))
        self.check("beats that send", len(values("holdfast_beat_active == 1")), 1)
        idle = [f"{each['metric']['queue']} on {each['metric']['instance']}"
                for each in values("holdfast_worker_consuming == 0")]  # fmt: skip
        self.check("workers that do not consume", sorted(idle), [])
        rules = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
        self.check("rules that fail", [rule["name"] for rule in rules if rule["health"] == "err"], [])
        firing = {each["metric"]["alertname"] for each in values('ALERTS{alertstate="firing",severity="critical"}')}
        self.check("critical alerts", sorted(firing), [])
        told = len(prometheus("alertmanagers")["activeAlertmanagers"])
        self.check("Alertmanagers that are told", told, want["alertmanagers"])
        self.check("the Redis exporter from outside", self.talk(9121, b"GET / HTTP/1.0\r\n\r\n", None, plain=True)[:6],
                   "closed")  # fmt: skip

    def metrics(self) -> None:
        """Who may read the metrics of this host itself."""
        self.closed("node_exporter", 9100, b"GET /metrics HTTP/1.0\r\n\r\n")

    def command_lines(self) -> None:
        """Secrets that every user of this host could read in the list of processes."""
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(path.read_bytes())
            except OSError:  # the process has ended
                continue
        shown = [name for name, secret in self.options["passwords"].items() if any(secret.encode() in x for x in lines)]
        self.check("secrets on a command line", shown, [])

    def files(self) -> None:
        """Secrets that only their server reads."""
        for name in self.options["secret_files"]:
            path = Path(name)
            if path.exists():
                mode = stat.S_IMODE(path.stat().st_mode)
                self.check(f"{name} is not for everybody", oct(mode), "no right for others", not mode & 0o007)

    def pages(self) -> None:
        """Pages that ask for a login."""
        for page in self.options["pages"]:
            status = self.get(page, None)
            self.check(f"{page} without a login", status, "401 or 403", status in (401, 403))

    def ports(self) -> None:
        """Ports of other hosts that are not for this one."""

        def knock(door: list[Any]) -> str:
            try:
                socket.create_connection((door[0], int(door[1])), 2).close()
            except OSError:
                return "closed"
            return "open"

        doors = self.options["forbidden_ports"]
        with ThreadPoolExecutor(32) as pool:  # a port that is dropped answers by silence
            for door, found in zip(doors, pool.map(knock, doors), strict=True):
                self.check(f"{door[0]}:{door[1]} from here", found, "closed")


def main() -> None:
    """Run the checks that this host's groups ask for."""
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "audits": {"type": "list", "elements": "str", "required": True},
            "tls": {"type": "dict", "required": True},
            "passwords": {"type": "dict", "required": True, "no_log": True},
            "rabbitmq": {"type": "dict", "default": {}},
            "redis": {"type": "dict", "default": {}},
            "sentinel": {"type": "dict", "default": {}},
            "app": {"type": "dict", "default": {}},
            "watch": {"type": "dict", "default": {}},
            "secret_files": {"type": "list", "elements": "str", "default": []},
            "pages": {"type": "list", "elements": "str", "default": []},
            "forbidden_ports": {"type": "list", "elements": "list", "default": []},
        },
        supports_check_mode=True,
    )
    audit = Audit(module.params)
    for name in module.params["audits"]:
        audit.attempt(getattr(audit, name))
    module.exit_json(changed=False, checks=audit.checks)


if __name__ == "__main__":
    main()
