"""Columns that mean the same on every database, and the same as those that SQLAlchemy makes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from django.conf import settings
from django.db import models
from django.utils.timezone import get_default_timezone, make_aware
from typing_extensions import override


class Instant(models.DateTimeField):
    """A point in time in UTC, whatever ``USE_TZ`` is: local time is ambiguous for an hour each autumn.

    Stored and compared it is exact. Read without ``USE_TZ`` on PostgreSQL it may be an hour off in that hour, because
    Django's driver then gives local time; only pages and metrics show it.
    """

    @override
    def get_db_prep_value(self, value: datetime | None, connection: Any, prepared: bool = False) -> Any:
        if value is not None and not settings.USE_TZ and connection.vendor != "postgresql":
            return connection.ops.adapt_datetimefield_value(value.astimezone(timezone.utc).replace(tzinfo=None))
        return connection.ops.adapt_datetimefield_value(value)

    @override
    def get_prep_value(self, value: Any) -> Any:
        return self.to_python(value)

    def from_db_value(self, value: datetime | None, _: Any, connection: Any) -> datetime | None:
        """Return the time with its zone.

        Args:
            value: as the database's driver gives it.
            connection: the database.
        """
        if value is None or value.tzinfo is not None:
            return value
        if connection.vendor == "postgresql":  # the driver gives the time of the connection's zone, settings.TIME_ZONE
            return make_aware(value, get_default_timezone())
        return value.replace(tzinfo=timezone.utc)


class Key(models.CharField):
    """A text of at most 255 characters that equals only itself; on MySQL its bytes (see :mod:`holdfast.columns`)."""

    @override
    def db_type(self, connection: Any) -> str | None:
        return "varbinary(1020)" if connection.vendor == "mysql" else super().db_type(connection)

    @override
    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        text = super().get_db_prep_value(value, connection, prepared)
        return text.encode() if isinstance(text, str) and connection.vendor == "mysql" else text

    def from_db_value(self, value: Any, *_: Any) -> Any:
        """Return the text.

        Args:
            value: as the database stores it.
        """
        return value.decode() if isinstance(value, bytes) else value
