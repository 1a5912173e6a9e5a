"""Column types of the library's tables that mean the same on PostgreSQL, MySQL, MariaDB and SQLite."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, String, Text, TypeDecorator
from sqlalchemy.dialects import mysql

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from sqlalchemy.types import TypeEngine

MYSQL = ("mysql", "mariadb")  # SQLAlchemy's names of one dialect
TABLE: dict[str, Any] = {  # options of a table: InnoDB has transactions, utf8mb4 every character
    f"{dialect}_{name}": value for dialect in MYSQL for name, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
}
LONG_TEXT = Text().with_variant(mysql.LONGTEXT(), *MYSQL)  # TEXT ends at 64 KiB there


class Instant(TypeDecorator[datetime]):
    """A point in time with its zone; SQLite, MySQL and MariaDB store none, so they get and return UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Ask MySQL for microseconds: its DATETIME rounds to whole seconds, which may be in the future."""
        return dialect.type_descriptor(mysql.DATETIME(fsp=6) if dialect.name in MYSQL else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn a time into UTC without a zone where the database has no zones: some drivers drop it, others fail."""
        if value is None or dialect.name not in MYSQL:
            return value
        return value.astimezone(timezone.utc).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Add the zone that the database dropped."""
        return value.replace(tzinfo=timezone.utc) if value is not None and value.tzinfo is None else value


class Key(TypeDecorator[str]):
    """A text of at most 255 characters that equals only itself.

    MySQL's collations call 'a', 'A' and 'a ' equal, and none that tells them apart exists on both MySQL and MariaDB. So
    it is stored there as its bytes, up to four for each character; an index of InnoDB takes 3072.
    """

    impl = String(255)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose bytes on MySQL."""
        return dialect.type_descriptor(mysql.VARBINARY(4 * 255) if dialect.name in MYSQL else String(255))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """Encode it where it is stored as bytes."""
        return value.encode() if value is not None and dialect.name in MYSQL else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Decode it again."""
        return value.decode() if isinstance(value, bytes) else value
