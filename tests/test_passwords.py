"""Passwords of any kind pass through the URLs of the environment and come out of every client unchanged."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from redis.connection import parse_url
from sqlalchemy import make_url

from holdfast import environment

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
FILTERS = runpy.run_path(str(ROOT / "ansible/plugins/filter/passwords.py"))
SETTINGS = str(Path(environment.__file__).with_name("settings.py"))
NASTY = (
    "p%41ss#word", "p@s/w", " two  spaces ", "pässwörd€", "a'b\"c", "a;b,c|d&e", "~home:~", "$HOME`id`", "\\", "%",
    "a+b", "[::1]:5", "?q=1&x#y", "*!(){}<>", "=", "😀",
)  # fmt: skip
url_encoded: Callable[[str], str] = FILTERS["url_encoded"]
bcrypt_hash: Callable[[str, str], str] = FILTERS["bcrypt_hash"]


def values(password: str) -> dict[str, str]:
    """Return the environment that Ansible writes for two nodes and this password."""
    encoded = url_encoded(password)
    return {
        "HOLDFAST_BROKER_URL": ",".join(f"amqp://app:{encoded}@192.0.2.{host}:5672/holdfast" for host in (1, 2)),
        "HOLDFAST_RESULT_URL": ",".join(f"sentinel://app:{encoded}@192.0.2.{host}:26379/0" for host in (3, 4)),
        "HOLDFAST_SENTINEL_MASTER": "results",
        "HOLDFAST_SENTINEL_USERNAME": "app",
        "HOLDFAST_SENTINEL_PASSWORD": encoded,
    }


def check(password: str) -> None:
    """Compare what each client would log in with."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values(password).items():
            patch.setenv(name, value)
        settings: dict[str, Any] = runpy.run_path(SETTINGS)["read"]()
    app = Celery(broker=settings["broker_url"], backend=settings["result_backend"], set_as_current=False)
    app.conf.result_backend_transport_options = settings["result_backend_transport_options"]
    connection = app.connection_for_write()
    assert (connection.userid, connection.password) == ("app", password)
    assert [Connection(url).password for url in connection.alt] == [password] * 2, "after a failover, too"
    assert [node["password"] for node in app.backend.connparams["hosts"]] == [password] * 2
    assert settings["redbeat_redis_options"]["password"] == password
    assert settings["redbeat_redis_options"]["sentinels"] == [("192.0.2.3", 26379), ("192.0.2.4", 26379)]
    assert settings["result_backend_transport_options"]["sentinel_kwargs"]["password"] == password
    assert make_url(f"postgresql+psycopg://app:{url_encoded(password)}@db.example.com:5432/app").password == password
    assert parse_url(f"redis://app:{url_encoded(password)}@192.0.2.3:6379/0").get("password") == password


@pytest.mark.parametrize("password", NASTY)
def test_a_nasty_password_comes_out_as_it_went_in(password: str) -> None:
    check(password)


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=40))
def test_any_password_comes_out_as_it_went_in(password: str) -> None:
    check(password)


def test_the_check_can_say_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that nobody encoded is another one to kombu."""
    monkeypatch.setitem(globals(), "url_encoded", lambda password: password)
    with pytest.raises(AssertionError):
        check("p%41ss")


def test_a_placeholder_stays_one_that_is_filled_in_encoded() -> None:
    assert url_encoded("${DATABASE_PASSWORD}") == "${DATABASE_PASSWORD_URLENCODED}"


def test_both_separators_mean_the_same() -> None:
    urls = ["amqp://a:b@192.0.2.1:5672/x", "amqp://a:b@[2001:db8::1]:5672/x"]
    assert environment.split_urls(",".join(urls)) == environment.split_urls(";".join(urls)) == urls
    assert urlsplit(urls[1]).hostname == "2001:db8::1"


def test_the_page_of_a_server_gets_a_hash_and_never_goes_without() -> None:
    assert bcrypt_hash("${PROMETHEUS_PASSWORD}", "prometheus@a") == "${PROMETHEUS_PASSWORD_BCRYPT}"
    made = bcrypt_hash("a password", "prometheus@a")
    assert re.fullmatch(r"\$2[by]\$10\$[./A-Za-z0-9]{53}", made)
    assert bcrypt_hash("a password", "prometheus@a") == made, "a second run changes nothing"
    assert bcrypt_hash("another", "prometheus@a") != made
    with pytest.raises(FILTERS["AnsibleFilterError"], match="no password for the page prometheus@a"):
        bcrypt_hash("", "prometheus@a")
