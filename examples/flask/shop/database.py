import os

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from holdfast import outbox

engine = create_engine(os.environ["DATABASE_URL"])


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
