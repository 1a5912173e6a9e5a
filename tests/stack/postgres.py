"""A schema of its own in the stack's PostgreSQL, for one test."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import Engine, create_engine, make_url, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def for_django(engine: Engine) -> dict[str, object]:
    """Return the database of an engine as Django's setting ``DATABASES`` describes it."""
    url = engine.url
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.database,
        "USER": url.username,
        "PASSWORD": url.password,
        "HOST": url.host,
        "PORT": url.port or "",
        "OPTIONS": {"options": url.query["options"]},
    }


@contextmanager
def scratch_schema(settings: Mapping[str, str]) -> Iterator[Engine]:
    """Open an engine whose tables live in a new schema, which is dropped in the end."""
    url = make_url(settings["WEBHOOKS_DATABASE_URL"])
    name = f"test_{uuid4().hex[:12]}"
    owner = create_engine(url)
    with owner.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    engine = create_engine(url.update_query_dict({"options": f"-csearch_path={name}"}))
    try:
        yield engine
    finally:
        engine.dispose()
        with owner.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
        owner.dispose()
