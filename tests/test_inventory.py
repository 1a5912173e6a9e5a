"""A wrong inventory ends every verb with an error that names what was found, and changes nothing."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .facts import FACTS

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "ansible/inventories/example"
PLUGIN = runpy.run_path(str(ROOT / "ansible/plugins/filter/inventory.py"))
faults: Callable[..., list[str]] = PLUGIN["inventory_faults"]


def example() -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Return variables and groups of the example as Ansible would."""
    hosts = yaml.safe_load((EXAMPLE / "hosts.yml").read_text())["all"]
    common = yaml.safe_load((EXAMPLE / "group_vars/all/main.yml").read_text())
    groups = {name: list(group.get("hosts") or ()) for name, group in hosts["children"].items()}
    groups["app"] = [*groups["workers"], *groups["beat"], *groups["relay"]]
    groups["all"] = list(hosts["hosts"])
    return {name: {**common, **values} for name, values in hosts["hosts"].items()}, groups


def found(**changes: object) -> str:
    """Return the faults of the example with other variables on its first host."""
    hostvars, groups = example()
    hostvars["node1"].update(changes)
    return "\n".join(faults(hostvars, groups))


def test_the_example_is_right() -> None:
    assert found() == ""


@pytest.mark.parametrize("name", ["example", "lab"])
def test_the_database_is_reached_over_tls_alone(name: str) -> None:
    """Without this variable PostgreSQL's client goes on in clear text; tests/lab/test_database.py has what it does."""
    main = yaml.safe_load((EXAMPLE.parent / name / "group_vars/all/main.yml").read_text())
    assert main["app_environment"]["PGSSLMODE"] == "verify-full"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("rabbitmq_memory_limt", "rabbitmq_memory_limit"),
        ("rabitmq_memory_limit", "rabbitmq_memory_limit"),
        ("rabbitmq-memory-limit", "rabbitmq_memory_limit"),
        ("Rabbitmq_Memory_Limit", "rabbitmq_memory_limit"),
        ("redis_max_memory", "redis_maxmemory"),
        ("worker_programs", "workers_programs"),
        ("app_enviroment", "app_environment"),
        ("holdfast_adress", "holdfast_address"),
        ("holdfast_password", "holdfast_passwords"),
        ("firewall_client", "firewall_clients"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_one_that_was_meant(written: str, meant: str) -> None:
    said = found(**{written: "1"})
    assert f"the variable {written}, which no role has" in said
    assert f"next:    write {meant}" in said


def test_a_variable_of_a_role_that_resembles_none_is_refused() -> None:
    assert "do not begin with the name of a role" in found(redis_zzzzzzzzzzzzzz="1")


@pytest.mark.parametrize("name", ["ansible_host", "ansible_port", "my_database", "team", "lab_net", "sentry_dsn"])
def test_a_variable_of_ones_own_is_taken(name: str) -> None:
    assert found(**{name: "1"}) == ""


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("fd00:3::11", "holdfast_address of node1 is fd00:3::11 (IPv6)"),
        ("[fd00:3::11]", "(IPv6)"),
        ("::ffff:192.0.2.1", "(IPv6)"),
        ("node1.example.com", "holdfast_address of node1 is node1.example.com"),
        ("192.0.2.300", "192.0.2.300"),
        ("192.0.2.11/24", "192.0.2.11/24"),
        ("", "holdfast_address of node1 is"),
        (None, "holdfast_address of node1 is missing"),
    ],
)
def test_an_address_that_is_none_names_the_host_and_the_remedy(address: str | None, part: str) -> None:
    said = found(holdfast_address=address)
    assert part in said
    assert "next:    write holdfast_address for node1" in said


@pytest.mark.parametrize("name", ["firewall_clients", "firewall_operators"])
def test_a_network_that_the_firewall_cannot_take_is_refused(name: str) -> None:
    assert found(**{name: ["192.0.2.0/24", "198.51.100.7"]}) == ""
    assert f"{name} has 2001:db8::/32 (IPv6)" in found(**{name: ["2001:db8::/32"]})


@pytest.mark.parametrize("name", ["firewall_clients", "firewall_operators"])
@pytest.mark.parametrize("written", ["192.0.2.0/24", 5, {"web": "192.0.2.0/24"}])
def test_networks_that_are_no_list_are_one_fault(name: str, written: object) -> None:
    said = found(**{name: written})
    assert said.count("found:") == 1
    assert f"{name} is {written}" in said


@pytest.mark.parametrize(
    "wrong",
    [
        "web",
        ["web"],
        [{"name": "web"}],
        [{"name": "web", "addresses": "192.0.2.0/24"}],
        [{"name": "web", "address": ["192.0.2.0/24"]}],
        [{"name": "web", "addresses": [], "days": 30}],
        [{"name": "web", "addresses": ["2001:db8::/32"]}],
        [{"name": "Web", "addresses": []}],
        [{"name": "web tier", "addresses": []}],
        [{"addresses": []}],
    ],
)
def test_a_client_that_is_not_well_described_is_refused(wrong: object) -> None:
    assert found(holdfast_clients=[{"name": "web-1", "addresses": ["192.0.2.0/24", "198.51.100.7"]}]) == ""
    assert "correct holdfast_clients" in found(holdfast_clients=wrong)


def test_a_login_that_no_client_has_is_removed_or_wanted() -> None:
    clients = [{"name": "web", "addresses": []}]
    said = found(holdfast_clients=clients, holdfast_client_passwords={"web": "x", "batch": "y"})
    assert said.count("found:") == 1
    assert "-e client_name=batch -e client_state=absent; or put it back" in said
    assert found(holdfast_clients=clients) == "", "its login comes with issue_client"
    assert found(holdfast_client_passwords={"batch": "y"}, client_name="batch") == "", "issue_client is at work"


def test_logins_of_clients_that_are_no_dictionary_are_not_shown() -> None:
    said = found(holdfast_client_passwords="s3cret")
    assert "holdfast_client_passwords is no dictionary" in said
    assert "s3cret" not in said


@pytest.mark.parametrize("name", PLUGIN["UNQUOTED"])
@pytest.mark.parametrize("password", ["p@s/w", "a b", 'a"b', "a'b", "a#b", "$a", "a%b", "ä", "a:b", "a,b", "a\\b"])
def test_a_password_that_a_file_cannot_hold_is_refused_by_name(name: str, password: str) -> None:
    hostvars, groups = example()
    for variables in hostvars.values():
        variables["holdfast_passwords"] = {**variables["holdfast_passwords"], name: password}
    said = "\n".join(faults(hostvars, groups))
    assert f"holdfast_passwords.{name} has characters" in said
    assert password not in said.replace(said[said.index("allowed:") :], ""), "it is not shown"


@pytest.mark.parametrize("name", ["rabbitmq_app", "redis_app", "sentinel_app", "rabbitmq_flower", "database"])
def test_a_password_in_a_url_may_be_anything(name: str) -> None:
    hostvars, groups = example()
    for variables in hostvars.values():
        variables["holdfast_passwords"] = {**variables["holdfast_passwords"], name: "p%41s s#w/ö'\""}
    assert faults(hostvars, groups) == []


def test_a_misspelt_password_is_named() -> None:
    passwords = example()[0]["node1"]["holdfast_passwords"]
    passwords["rabitmq_app"] = passwords.pop("rabbitmq_app")
    said = found(holdfast_passwords=passwords)
    assert "no rabbitmq_app in holdfast_passwords, but rabitmq_app" in said
    assert "next: rename rabitmq_app" in " ".join(said.split())


@pytest.mark.parametrize("name", PLUGIN["GROUPS"])
def test_a_group_without_hosts_is_refused(name: str) -> None:
    changes: list[dict[str, list[str]]] = [{name: []}, {name: [], f"{name}s": ["node1"]}]
    for change in changes:
        hostvars, groups = example()
        groups.update(change)
        said = faults(hostvars, groups)
        assert len(said) == 1
        assert f"no host in the group {name}" in said[0]
        assert "next:" in said[0]


def test_every_playbook_begins_with_the_check() -> None:
    for path in (ROOT / "ansible/playbooks").glob("*.yml"):
        plays = yaml.safe_load(path.read_text())
        assert path.name == "check.yml" or plays[0].get("ansible.builtin.import_playbook") == "check.yml", path.name


HOSTS = (EXAMPLE / "hosts.yml").read_text()


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """A copy of the example, as the documentation says."""
    shutil.copytree(EXAMPLE, tmp_path / "my-inventory")
    return tmp_path / "my-inventory"


def play(inventory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a verb on an inventory; without a verb the check alone."""
    return subprocess.run(
        [ROOT / "scripts" / (command or ("play",))[0], *(command[1:] or (() if command else ("check",)))],
        env=os.environ | {"INVENTORY": str(inventory), "OUT": str(inventory.parent / "out")},
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.parametrize(
    ("verb", "hosts", "part"),
    [
        (("play", "verify"), "all: {hosts: [", "Failed to parse"),
        (("play", "secrets"), "all:\n  hosts: {}\n", "no host in the group rabbitmq"),
        (("render",), "", "no host in the group rabbitmq"),
    ],
)
def test_a_hosts_file_that_names_nobody_ends_every_verb(
    inventory: Path, verb: tuple[str, ...], hosts: str, part: str
) -> None:
    (inventory / "hosts.yml").write_text(hosts)
    before = sorted(inventory.rglob("*"))
    done = play(inventory, *verb)
    assert done.returncode != 0, done.stdout
    assert part in done.stdout + done.stderr
    assert sorted(inventory.rglob("*")) == before, "nothing was made"
    assert not (inventory.parent / "out").exists()


def test_a_hosts_file_alone_is_an_inventory(inventory: Path) -> None:
    done = play(inventory / "hosts.yml", "play", "check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_pattern_without_hosts_is_an_error(inventory: Path) -> None:
    done = play(inventory, "play", "verify", "--limit", "nod1")
    assert done.returncode != 0


def test_an_inventory_that_is_not_there_is_named(tmp_path: Path) -> None:
    for verb in (("play", "verify"), ("render",)):
        done = play(tmp_path / "none", *verb)
        assert done.returncode == 1
        assert f"found:   no {tmp_path}/none" in done.stderr


COMPUTED = """
firewall_clients: ["{{ hostvars['ops'].holdfast_address }}/32"]
firewall_operators: "{{ groups['workers'] | map('extract', hostvars, 'holdfast_address') | list }}"
holdfast_clients: [{ name: web, addresses: ["{{ hostvars['ops'].outside }}"] }]
outside: 198.51.100.7
"""


@pytest.mark.parametrize(("outside", "fault"), [("198.51.100.7", ""), ("2001:db8::7", "correct holdfast_clients")])
def test_what_is_computed_from_other_hosts_is_judged_like_the_rest(inventory: Path, outside: str, fault: str) -> None:
    (inventory / "group_vars/all/zz.yml").write_text(COMPUTED.replace("198.51.100.7", outside))
    done = play(inventory)
    assert (done.returncode == 0) == (not fault), done.stdout + done.stderr
    assert fault in done.stdout


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("firewall_clients", "[\"{{ hostvars['ops'].nothing }}\"]"),
        ("firewall_operators", '["{{ ansible_facts.default_ipv4.address }}"]'),
        ("holdfast_clients", '[{ name: web, addresses: ["{{ nothing }}"] }]'),
        ("holdfast_client_passwords", '"{{ nothing }}"'),
        ("rabbitmq_external", '{ urls: ["{{ nothing }}"] }'),
        ("holdfast_passwords", '{ redis_app: "{{ nothing }}" }'),
    ],
)
def test_what_cannot_be_computed_is_named_with_its_host(inventory: Path, name: str, written: str) -> None:
    (inventory / "group_vars/all/zz.yml").write_text(f"{name}: {written}\n")
    done = play(inventory)
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert f"{name} of node1 cannot be computed: " in said, done.stdout
    assert f"next: correct {name}, or write the value itself" in said
    assert "caused by" not in done.stdout + done.stderr, "it is an answer, no trace of a template"


def test_an_address_that_only_its_own_host_can_compute_is_refused(inventory: Path) -> None:
    """The roles read it as a variable of another host, where Ansible has no hostvars."""
    hosts = inventory / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("192.0.2.11 }", "\"{{ hostvars['ops'].holdfast_address }}\" }"))
    done = play(inventory)
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert "holdfast_address of node1 cannot be computed by other hosts: 'hostvars' is undefined" in said
    assert "next: write holdfast_address for node1 into the hosts file" in said


def git(folder: Path, *command: str) -> str:
    """Run git in a repository of its own, without the settings of this machine."""
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    return subprocess.run(
        ["git", *command], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize(
    "name",
    [".vault-password", "tls/ca.key", "tls/node1.key", "backups/20261128T120000Z/redis.rdb", ".clients/web/key.pem",
     "verify.json",
     "group_vars/all/vault.yml"],
)  # fmt: skip
def test_a_secret_that_git_tracks_is_refused(inventory: Path, name: str) -> None:
    git(inventory.parent, "init", "--quiet")
    (inventory / name).parent.mkdir(parents=True, exist_ok=True)
    (inventory / name).write_text("holdfast_passwords: {}\n")
    git(inventory.parent, "add", "--force", "--all")
    for verb in (("play", "verify"), ("play", "secrets"), ("render",)):
        done = play(inventory, *verb)
        assert done.returncode == 1
        assert f"git tracks what only this controller may have: {name}" in done.stderr
        assert "git rm --cached" in done.stderr
    git(inventory.parent, "rm", "--quiet", "--cached", f"my-inventory/{name}")
    assert (inventory / name).exists()


def test_what_the_documented_way_makes_is_ignored_wherever_it_lies(inventory: Path, tmp_path: Path) -> None:
    """Once with the ignore file that the copy brings along, once in this checkout with its own alone."""
    made = (
        ".vault-password",
        "tls/ca.key",
        "backups/1/redis.rdb",
        "backups/1/rabbitmq-definitions.json",
        ".clients/web/client.env",
        "verify.json",
    )
    git(tmp_path, "init", "--quiet")
    for name in made:
        (inventory / name).parent.mkdir(parents=True, exist_ok=True)
        (inventory / name).touch()
    git(tmp_path, "add", "--all")
    staged = git(tmp_path, "ls-files")
    assert "my-inventory/hosts.yml" in staged
    assert not [name for name in made if name in staged]
    for folder in ("my-inventory", "docs/deep/inventory", "ansible/inventories/mine"):
        for name in made:
            git(ROOT, "check-ignore", "--quiet", f"{folder}/{name}")
    for name in ("my-files/secret/app.env", "my-secrets/passwords/X"):
        git(ROOT, "check-ignore", "--quiet", name)


@pytest.mark.slow
def test_render_opens_the_vault_and_keeps_what_it_writes_to_itself(inventory: Path) -> None:
    """The documented way: secrets into a vault, then files; what holds a password is for its owner alone."""
    assert play(inventory, "play", "secrets").returncode == 0
    assert (inventory / ".gitignore").exists()
    assert (inventory / ".vault-password").stat().st_mode & 0o777 == 0o600
    done = play(inventory, "render")
    assert done.returncode == 0, done.stdout + done.stderr
    secret = inventory.parent / "out/secret"
    files = [path for path in secret.rglob("*") if path.is_file() and path.name != ".gitignore"]
    assert len(files) > 8
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in [secret, *secret.rglob("*")] if path.is_dir()} == {0o700}
    text = (secret / "app.env").read_text()
    assert "${" not in text
    git(inventory.parent, "init", "--quiet")
    git(inventory.parent, "add", "--all")
    assert "secret/" not in git(inventory.parent, "ls-files")


# Where a default stands for something else: RabbitMQ's logins and the name of its cluster, a comment, a unit
ELSEWHERE = {
    "holdfast": r"/holdfast(?:,|$)|\"(?:name|vhost)\": \"holdfast\"",
    "app": r"(?:User|Group)=app$",
    "admin": r"(?:basicAuthUser: |\"username\": \")admin\b",
    "results": r"HOLDFAST_SENTINEL_MASTER=results|sentinel [a-z-]+ results\b",
    "3000": r":3000\b|PORT=3000\b",
    "10s": r"(?:interval|timeInterval): 10s",
}


# On Kubernetes the ports of brokers are those that the operator publishes
FIXED_THERE = {"5671", "15671", "15691"}


def holding(folder: Path, value: str) -> list[str]:
    """Return the lines of rendered files that hold a default: where it stands, and the line."""
    pattern = ELSEWHERE.get(value) or rf"(?<![\w.-]){re.escape(value)}(?![\w-])"
    return [
        f"{path.relative_to(folder)}: {line}"
        for path in sorted(folder.rglob("*")) if path.is_file()
        if not (value in FIXED_THERE and path.parent.name == "kubernetes")
        for line in path.read_text().splitlines() if re.search(pattern, line)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of the example with every default, and with every fact changed."""
    folders = []
    for facts in ({}, {name: other for name, (other, _) in FACTS.items()}):
        folder = tmp_path_factory.mktemp("rendered")
        copy = Path(shutil.copytree(EXAMPLE, folder / "inventory"))
        hosts = copy / "hosts.yml"
        hosts.write_text(hosts.read_text().replace("grafana: {}", "grafana: { hosts: { ops: {} } }"))
        main = copy / "group_vars/all/main.yml"
        written = {name: value for name, value in yaml.safe_load(main.read_text()).items() if name not in facts}
        main.write_text(yaml.safe_dump(written | facts))
        done = play(copy, "render")
        assert done.returncode == 0, done.stdout + done.stderr
        folders.append(folder / "out")
    return folders[0], folders[1]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "default"), [(name, default) for name, (_, default) in FACTS.items()])
def test_a_fact_is_changed_in_one_place(both: tuple[Path, Path], name: str, default: str) -> None:
    """No rendered file keeps the default of a fact that the inventory changes; the search finds it where it is kept."""
    assert holding(both[0], default), f"the search for {default} ({name}) finds nothing in the files of the defaults"
    assert holding(both[1], default) == []


@pytest.mark.slow
def test_a_changed_environment_is_one_that_programs_are_restarted_for(both: tuple[Path, Path]) -> None:
    unit = (both[0] / "workers/supervisor.service.conf").read_text()
    watched = runpy.run_path(str(ROOT / "ansible/roles/workers/files/roll.py"))["CONFIGURATION"]
    found = re.findall(r"^EnvironmentFile=-?(.+)$", unit, re.MULTILINE)
    assert len(found) == 3
    assert set(found) <= set(watched)


@pytest.mark.slow
def test_other_facts_reach_every_file(both: tuple[Path, Path]) -> None:
    out = both[1]
    text = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    for environment in ("secret/app.env", "secret/flower.env"):
        assert re.search(r"(@|//)192\.0\.2\.11:16380/0", text[environment])
        assert ":15673/tasks-of-ours" in text[environment]
        assert "HOLDFAST_SENTINEL_MASTER=store" in text[environment]
        assert "HOLDFAST_TLS_KEY=/srv/certificates/client.key" in text[environment]
    assert "sentinel monitor store 192.0.2.11 16379" in text["secret/sentinel/node1.conf"]
    assert "replicaof 192.0.2.11 16379" in text["secret/redis/node2.conf"]
    assert "/srv/application/current/bin/celery" in text["workers/programs/default.conf"]
    assert "User=celery\nGroup=celery" in text["workers/supervisor.service.conf"]
    assert "LogsDirectory=celery" in text["workers/supervisor.service.conf"]
    for target in ("node1:16379", "node1:16380", "node1:25691", "work1:19540", "work1:19538", "work1:19539",
                   "ops:19093", "node1:19100", "ops:15555"):  # fmt: skip
        assert f'"{target}"' in text["prometheus/prometheus.yml"], target


@pytest.mark.parametrize(
    "name", ["app_sentinel_port", "redis_sentinel_port", "app_broker_vhost", "rabbitmq_tls_enabled", "flower_app_dir"]
)
def test_a_second_home_of_a_fact_is_refused(name: str) -> None:
    assert f"the variable {name}, which no role has" in found(**{name: "1"})
