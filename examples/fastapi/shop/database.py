import os

from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from holdfast import outbox

url = make_url(os.environ["DATABASE_URL"])
engine = create_engine(url)  # for the tasks, which are plain functions
async_engine = create_async_engine(url.set(drivername="sqlite+aiosqlite"))


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    invoice: Mapped[str | None]


if __name__ == "__main__":
    Base.metadata.create_all(engine)
    outbox.metadata.create_all(engine)
