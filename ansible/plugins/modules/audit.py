"""Looks at one host of a live deployment and says, check by check, whether it is as designed. Changes nothing."""

from __future__ import annotations

import base64
import errno
import grp
import hashlib
import json
import os
import pwd
import re
import socket
import ssl
import stat
import struct
import subprocess
import sys
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

TIMEOUT = 10  # seconds for one connection
# Doors are tried by hand: most of these questions are about what happens before a login, which a client library hides,
# and a host needs nothing but Python to be looked at
HELLO = b"AMQP\x00\x00\x09\x01"
TUNE = b"\x00\x0a\x00\x1e"  # class and method of the frame that a broker sends to whom it has let in
# Ciphers that prove no server, encrypt nothing, or can be broken; the client's own limits are off
WEAK_CIPHERS = "aNULL:eNULL:PSK:RC4:3DES:DES:EXPORT:MD5:@SECLEVEL=0"
# What no user of Redis, and of Sentinel, but the administrator may do; the administrator may do the first of each
REDIS_REFUSED = ("config get masterauth", "scan 0", "flushall", "acl list", "slowlog get")
SENTINEL_REFUSED = ("sentinel failover x", "sentinel set x quorum 1", "sentinel reset x", "acl list", "shutdown")


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


def knock(address: str, port: int, seconds: float = 2) -> str:
    """Return how a port answers: ``open``, ``refused``, ``silent``, or the name of the error of the way to it."""
    try:
        socket.create_connection((address, port), seconds).close()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silent"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return "open"


def settings(path: str) -> dict[str, str]:
    """Return the variables of an environment file; none when the host has no such file."""
    file = Path(path)
    lines = file.read_text().splitlines() if file.exists() else []
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def rules(text: str) -> dict[str, list[str]]:
    """Return the rules of each user of Redis, from its file or from ``ACL LIST``, without what says nothing."""
    implied = {"", "sanitize-payload", "resetchannels", "resetpass", "-@all", "nocommands"}
    users = (line.split() for line in text.splitlines() if line.startswith("user "))
    return {user[1]: sorted({rule.strip("()") for rule in user[2:]} - implied) for user in users}


def fingerprints(pem: str) -> list[str]:
    """Return the SHA-256 fingerprint of each certificate of a PEM text, as ``openssl x509 -fingerprint`` shows it."""
    blocks = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", pem, re.DOTALL)
    digests = (hashlib.sha256(ssl.PEM_cert_to_DER_cert(block)) for block in blocks)
    return sorted(digest.digest().hex(":").upper() for digest in digests)


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
        except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
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
        context = ssl.create_default_context(cafile=self.tls.get("clients", self.tls["ca"]))
        if certificate:
            context.load_cert_chain(*certificate)
        return context

    def talk(
        self,
        port: int,
        words: bytes,
        certificate: tuple[str, str] | None,
        *,
        plain: bool = False,
        address: str = "",
    ) -> str:
        """Send ``words`` to a port, of this host by default, and return the first answer, or what stopped it."""
        address = address or self.address
        try:
            with socket.create_connection((address, port), TIMEOUT) as link:
                if plain:
                    return answer(link, words)
                with self.context(certificate).wrap_socket(link, server_hostname=address) as tls:
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
        running = {node["rabbitmq_version"] for node in status["versions"].values()}
        least, *others = (
            [int(part) for part in re.findall(r"\d+", text)[:3]] for text in (want["minimum_version"], *running)
        )
        allowed = f">= {want['minimum_version']}"
        self.check("versions without known losses", sorted(running), allowed, all(least <= other for other in others))
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
        defined = json.loads(self.run("rabbitmqctl", "--silent", "export_definitions", "-"))
        live = {item["name"]: item["definition"] for item in defined["policies"] if item["vhost"] == want["vhost"]}
        self.check("policies are those of the files", sorted(live), sorted(written), live == written)
        missing = {item["name"] for item in json.loads(file.read_text())["queues"]} - {
            queue["name"] for queue in queues
        }
        self.check("no queue is missing", sorted(missing), [])
        self.rabbitmq_users(defined)

    def rabbitmq_users(self, live: dict[str, Any]) -> None:
        """Compare names, passwords, tags and permissions of every user with the file that defines them."""
        written = json.loads(Path("/etc/rabbitmq/definitions/20-users.json").read_text())

        def users(file: dict[str, Any]) -> dict[str, Any]:
            return {user["name"]: (user["password_hash"], sorted(user["tags"])) for user in file["users"]}

        def permissions(file: dict[str, Any]) -> set[tuple[str, ...]]:
            names = ("user", "vhost", "configure", "write", "read")
            return {tuple(entry[name] for name in names) for entry in file["permissions"]}

        want, have = users(written), users(live)
        self.check("no user beside the designed ones, and no guest", sorted(have), sorted(want))
        changed = sorted(name for name in want.keys() & have.keys() if want[name] != have[name])
        self.check("RabbitMQ users with another password or tag", changed, [])
        other = {entry[0] for entry in permissions(live) ^ permissions(written)}
        self.check("RabbitMQ users with other permissions", sorted(other), [])

    def rabbitmq_doors(self) -> None:
        """Who gets in to the broker."""
        own = (self.tls["cert"], self.tls["key"])
        port = self.options["rabbitmq"]["port"]
        self.check("AMQP answers a client with a certificate", self.talk(port, HELLO, own)[:1], "\x01")
        self.closed("AMQP", port, HELLO)
        self.check("AMQP as guest", self.logs_in(self.address, port, "guest", "guest"), False)
        for plain in (5672, 15672, 15692):
            self.check(f"no plaintext port {plain}", self.talk(plain, HELLO, None, plain=True)[:6], "closed")
        api = f"https://{self.address}:{self.options['rabbitmq']['management_port']}/api"
        self.check("management without a login", self.get(f"{api}/overview", None), 401)
        self.check("management as guest", self.get(f"{api}/overview", ("guest", "guest")), 401)
        self.modern("management", self.options["rabbitmq"]["management_port"])
        metrics, words = self.options["rabbitmq"]["metrics_port"], b"GET /metrics HTTP/1.0\r\n\r\n"
        self.check("RabbitMQ's metrics for a certificate", self.talk(metrics, words, own)[:6], "HTTP/1")
        self.closed("RabbitMQ's metrics", metrics, words)

    def logs_in(self, address: str, port: int, user: str, password: str) -> bool:
        """Say whether a broker lets somebody in who shows a certificate, a name and a password."""
        said = b""
        own = (self.tls["cert"], self.tls["key"])
        with (
            socket.create_connection((address, port), TIMEOUT) as link,
            self.context(own).wrap_socket(link, server_hostname=address) as tls,
        ):
            tls.sendall(HELLO + start_ok(user, password))
            while TUNE not in said and (part := tls.recv(4096)):
                said += part
        return TUNE in said

    def closed(self, name: str, port: int, words: bytes) -> None:
        """A TLS port lets nobody in who has no certificate of the authority, or one that is not for clients."""
        self.check(f"{name} without a certificate", self.talk(port, words, None)[:6], "closed")
        with tempfile.TemporaryDirectory() as folder:
            key, certificate = f"{folder}/key.pem", f"{folder}/cert.pem"
            self.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-subj", "/CN=stranger", "-days", "1", "-keyout", key, "-out", certificate)  # fmt: skip
            said = self.talk(port, words, (certificate, key))
        self.check(f"{name} with a stranger's certificate", said[:6], "closed")
        if "server_cert" in self.tls:
            said = self.talk(port, words, (self.tls["server_cert"], self.tls["server_key"]))
            self.check(f"{name} with a server's certificate", said[:6], "closed")
        self.modern(name, port)

    def modern(self, name: str, port: int) -> None:
        """A TLS port speaks 1.2 or 1.3 with strong ciphers, and nothing older or weaker."""
        self.check(f"{name} speaks TLS 1.2 or 1.3", self.shakes(port, "TLSv1_2", "TLSv1_3"), "yes")
        self.check(f"{name} speaks TLS 1.0 or 1.1", self.shakes(port, "TLSv1", "TLSv1_1"), "no")
        weak = self.shakes(port, "TLSv1_2", "TLSv1_2", WEAK_CIPHERS)
        self.check(f"{name} takes a weak cipher", weak, "no")

    def shakes(self, port: int, oldest: str, newest: str, ciphers: str = "ALL:@SECLEVEL=0") -> str:
        """Return whether the server takes such a handshake: ``yes``, ``no``, or that this host cannot try it.

        A server refuses with an alert or closes. Any other error is this side's: the server had agreed, and OpenSSL's
        client did not go on, for example with a server that has no certificate and asks for one.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # what is offered, not by whom: a server of the wrong kind is found as well
        context.load_cert_chain(self.tls["cert"], self.tls["key"])
        context.set_ciphers(ciphers)
        context.minimum_version, context.maximum_version = ssl.TLSVersion[oldest], ssl.TLSVersion[newest]
        try:
            with socket.create_connection((self.address, port), TIMEOUT) as link, context.wrap_socket(link):
                return "yes"
        except ssl.SSLError as error:
            if error.reason == "NO_PROTOCOLS_AVAILABLE":
                return "cannot be tried"
            refused = isinstance(error, ssl.SSLEOFError) or "ALERT" in (error.reason or "")
            return "no" if refused else "yes"
        except ConnectionResetError:
            return "no"

    def redis(self) -> None:
        """Role, replication, durability and doors of this Redis node."""
        want = self.options["redis"]
        folder = Path("/etc", want["server"])
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
        settings = Path(folder, f"{want['server']}.conf").read_text().splitlines()
        designed = dict(line.split(" ", 1) for line in settings if line[:1].isalpha())
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
        self.redis_users("Redis", "/usr/local/sbin/holdfast-redis", folder / "users.acl", REDIS_REFUSED)
        monitor = (folder / "monitor.password").read_text().strip()
        self.redis_login("Redis", self.address, want["port"], "monitor", monitor)
        self.redis_login("Redis", self.address, want["port"], "replica", designed["masterauth"])

    def redis_users(self, server: str, tool: str, file: Path, refused: tuple[str, ...]) -> None:
        """Compare every user of a Redis or a Sentinel with the file, and ask the server what each may do."""
        written, live = rules(file.read_text()), rules(self.run(tool, "acl", "list"))
        self.check(f"users of {server}", sorted(live), sorted(written))
        other = sorted(name for name in written.keys() & live.keys() if written[name] != live[name])
        self.check(f"users of {server} with other rules or passwords", other, [])
        may = [
            f"{user}: {command}"
            for user in sorted(live.keys() - {"admin", "default"})
            for command in refused
            if self.run(tool, "acl", "dryrun", user, *command.split()).strip() == "OK"
        ]
        self.check(f"users of {server} who may administer", may, [])
        said = self.run(tool, "acl", "dryrun", "admin", *refused[0].split()).strip()
        self.check(f"{server} tells who may administer", said, "OK")

    def redis_login(self, server: str, address: str, port: int, user: str, password: str) -> None:
        """A login of Redis lets in, and administers nothing; with another password it does not let in."""
        own = (self.tls["cert"], self.tls["key"])
        login = f"AUTH {user} {password}\r\n".encode()
        where = f"{server} {address} as {user}"
        self.check(where, self.talk(port, login + b"PING\r\n", own, address=address).split(), ["+OK", "+PONG"])
        wrong = self.talk(port, f"AUTH {user} wrong\r\n".encode(), own, address=address)
        self.check(f"{where} with a wrong password", wrong[:10], "-WRONGPASS")
        said = self.talk(port, login + b"ACL LIST\r\n", own, address=address)
        self.check(f"{where}, to administer", "-NOPERM" in said, True)

    def sentinel(self) -> None:
        """Agreement and doors of this Sentinel."""
        want = self.options["sentinel"]
        said = self.run("/usr/local/sbin/holdfast-sentinel", "sentinel", "ckquorum", want["name"])
        self.check("a failover could be decided", said[:2], "OK")
        own = (self.tls["cert"], self.tls["key"])
        self.closed("Sentinel", want["port"], b"PING\r\n")
        self.check("Sentinel without TLS", "+PONG" in self.talk(want["port"], b"PING\r\n", None, plain=True), False)
        self.check("Sentinel without a login", self.talk(want["port"], b"PING\r\n", own)[:7], "-NOAUTH")
        self.redis_users("Sentinel", "/usr/local/sbin/holdfast-sentinel", Path(want["acl"]), SENTINEL_REFUSED)
        lines = [line.split() for line in Path("/etc", want["server"], "sentinel.conf").read_text().splitlines()]
        logins = {line[1]: line[-1] for line in lines if line[:1] == ["sentinel"]}
        self.redis_login("Sentinel", self.address, want["port"], logins["sentinel-user"], logins["sentinel-pass"])

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
        self.supervisor()
        for file in want["environments"]:
            self.app_logins(settings(file))

    def supervisor(self) -> None:
        """Who may start and stop programs: root and the application's user, nobody else on this host."""
        path = self.options["app"]["socket"]
        program = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
        for user, allowed in ((self.options["app"]["user"], True), ("nobody", False)):
            done = subprocess.run(
                [sys.executable, "-c", program], user=user, group=user if allowed else "nogroup", extra_groups=[],
                capture_output=True, check=False, cwd="/"
            )  # fmt: skip
            self.check(f"{user} opens supervisor's socket", done.returncode == 0, allowed)

    def app_logins(self, file: dict[str, str]) -> None:
        """Every login of an environment file lets in, and administers nothing."""
        for name, value in file.items():
            if not name.startswith("HOLDFAST_") or not name.endswith("_URL") or "@" not in value:
                continue
            url = urllib.parse.urlsplit(value.split(",")[0])
            user, password = urllib.parse.unquote(url.username or ""), urllib.parse.unquote(url.password or "")
            host, port = url.hostname or "", url.port or 5671
            if url.scheme.startswith("amqp"):
                self.check(f"AMQP {host} as {user}", self.logs_in(host, port, user, password), True)
                self.check(f"AMQP {host} as {user} with a wrong password", self.logs_in(host, port, user, "x"), False)
                api = self.options["rabbitmq"]["api"].replace("HOST", host)
                if api:  # none where a service has given one login for all
                    self.check(
                        f"management of {host} as {user}", self.get(f"{api}/api/overview", (user, password)), 401
                    )
            elif url.scheme == "sentinel":
                for node in self.options["redis"]["addresses"]:
                    self.redis_login("Redis", node, self.options["redis"]["port"], user, password)
        if "HOLDFAST_SENTINEL_USERNAME" in file:
            password = urllib.parse.unquote(file["HOLDFAST_SENTINEL_PASSWORD"])
            for node in self.options["sentinel"]["addresses"]:
                port = self.options["sentinel"]["port"]
                self.redis_login("Sentinel", node, port, file["HOLDFAST_SENTINEL_USERNAME"], password)

    def watch(self) -> None:
        """What Prometheus sees, and who is told."""
        want = self.options["watch"]
        password = Path("/etc/prometheus/prometheus.password").read_text().strip()

        def prometheus(path: str, **query: str) -> Any:
            url = f"{want['url']}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            return json.loads(self.ask(url, (want["user"], password), "GET", None)[1])["data"]

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
        if want["alertmanagers"] > 1:
            known = {int(each["value"][1]) for each in values("alertmanager_cluster_members")}
            self.check("Alertmanagers that know each other", sorted(known), [want["alertmanagers"]])
        inside, outside = (
            self.talk(9121, b"GET / HTTP/1.0\r\n\r\n", None, plain=True, address=address)[:6]
            for address in ("127.0.0.1", self.address)
        )
        self.check("the Redis exporter from this host", inside, "HTTP/1")
        self.check("the Redis exporter from outside", outside, "closed")

    def flower(self) -> None:
        """Flower's API is for whom Flower's page is."""
        want = self.options["flower"]
        api = f"https://{self.address}:{want['port']}/api"
        login = settings(want["environment"])["FLOWER_BASIC_AUTH"]
        user, _, password = login.partition(":")
        self.check("Flower's API with its login", self.get(f"{api}/workers", (user, password)), 200)
        for name, path, method in (("to read", "workers", "GET"), ("to stop a worker", "worker/shutdown/x", "POST")):
            for whose, given in (("without a login", None), ("with a wrong password", (user, "wrong"))):
                said = self.get(f"{api}/{path}", given, method, b"" if method == "POST" else None)
                self.check(f"Flower's API {whose}, {name}", said, 401)
        self.modern("Flower", want["port"])

    def certificates(self) -> None:
        """Compare the authorities that this host trusts with those of the controller; they signed its certificates."""
        want = self.options["authorities"]
        trusted = fingerprints(Path(self.tls["ca"]).read_text())
        self.check("authorities that this host trusts", trusted, fingerprints(want))
        with tempfile.NamedTemporaryFile("w") as bundle:
            bundle.write(want)
            bundle.flush()
            for file in self.options["certificates"]:
                # it may bring the authorities between itself and one that is trusted
                verify = ("openssl", "verify", "-CAfile", bundle.name, "-untrusted", file, file)
                said = self.run(*verify, check=False).strip()
                self.check(f"{file} is of an authority that all hosts trust", said, f"{file}: OK")

    def metrics(self) -> None:
        """Who may read the metrics of this host, and of its programs."""
        words, own = b"GET /metrics HTTP/1.0\r\n\r\n", (self.tls["cert"], self.tls["key"])
        for name, port in self.options["metrics"].items():
            self.check(f"metrics of {name} for a certificate", self.talk(port, words, own)[:6], "HTTP/1")
            self.closed(f"metrics of {name}", port, words)

    def command_lines(self) -> None:
        """Secrets that every user of this host could read in the list of processes."""
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(path.read_bytes())
            except OSError:  # the process has ended
                continue
        secrets = self.options["secrets"]
        shown = [name for name, secret in secrets.items() if any(secret.encode() in line for line in lines)]
        self.check("secrets on a command line", shown, [])

    def files(self) -> None:
        """Secrets and units: each is there, has its owner, and gives nobody more rights than designed."""
        for want in self.options["files"]:
            path = Path(want["path"])
            if not path.exists():
                if not want.get("optional"):
                    self.check(f"{path} is there", "missing", "a file")
                continue
            found = path.stat()  # of what a link leads to: that is what is read
            mode, most = stat.S_IMODE(found.st_mode), int(want["mode"], 8)
            owner = f"{name_of(pwd.getpwuid, found.st_uid)}:{name_of(grp.getgrgid, found.st_gid)}"
            fine = owner in (want["owner"], f"{want['owner']}:{owner.split(':')[1]}") and not mode & ~most
            self.check(f"owner and mode of {path}", f"{owner} {mode:04o}", f"{want['owner']} {most:04o} or less", fine)
            if "contains" in want:
                self.check(f"{path} is encrypted", want["contains"] in path.read_text()[:200], True)

    def pages(self) -> None:
        """Pages that ask for a login."""
        for page in self.options["pages"]:
            status = self.get(page, None)
            self.check(f"{page} without a login", status, "401 or 403", status in (401, 403))

    def door(self, door: dict[str, Any]) -> str:
        """Return how a port answers; one of this host may be for this host alone."""
        said = knock(door["address"], int(door["port"]))
        return knock("127.0.0.1", int(door["port"])) if door["address"] == self.address and said != "open" else said

    def ports(self) -> None:
        """Ports of every host: those that are for this one are open; the others are closed, on a host that answers."""
        doors = self.options["doors"]
        with ThreadPoolExecutor(32) as pool:  # a port that is dropped answers by silence
            answers = pool.map(self.door, doors)
            found = list(zip(doors, answers, strict=True))
        for host, address in self.options["neighbours"].items():
            alive = any(said in ("open", "refused") for door, said in found if door["host"] == host) or (
                knock(address, self.options["answering_port"]) in ("open", "refused")
            )
            self.check(f"{host} answers from here", alive, True)
        for door, said in found:
            name = f"{door['host']}:{door['port']}" + (" over IPv6" if ":" in door["address"] else "")
            if door["open"]:
                self.check(f"{name} from here, which may", said, "open")
            else:
                self.check(f"{name} from here", "closed" if said != "open" else said, "closed")


def name_of(lookup: Callable[[int], Any], number: int) -> str:
    """Return the name of a user or a group, or the number of one that has none."""
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def main() -> None:
    """Run the checks that this host's groups ask for."""
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "audits": {"type": "list", "elements": "str", "required": True},
            "tls": {"type": "dict", "default": {}},
            "authorities": {"type": "str", "default": ""},
            "certificates": {"type": "list", "elements": "str", "default": []},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "rabbitmq": {"type": "dict", "default": {}},
            "redis": {"type": "dict", "default": {}},
            "sentinel": {"type": "dict", "default": {}},
            "app": {"type": "dict", "default": {}},
            "watch": {"type": "dict", "default": {}},
            "flower": {"type": "dict", "default": {}},
            "metrics": {"type": "dict", "default": {}},
            "files": {"type": "list", "elements": "dict", "default": []},
            "pages": {"type": "list", "elements": "str", "default": []},
            "doors": {"type": "list", "elements": "dict", "default": []},
            "neighbours": {"type": "dict", "default": {}},
            "answering_port": {"type": "int", "default": 22},
        },
        supports_check_mode=True,
    )

    def looked(name: str) -> list[dict[str, Any]]:
        audit = Audit(module.params)
        audit.attempt(getattr(audit, name))
        return audit.checks

    with ThreadPoolExecutor() as pool:  # most of them wait for an answer
        found = list(pool.map(looked, module.params["audits"]))
    module.exit_json(changed=False, checks=[check for checks in found for check in checks])


if __name__ == "__main__":
    main()
