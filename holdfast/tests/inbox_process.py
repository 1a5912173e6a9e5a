"""A process that races for inbox keys: ``inbox_process.py URL COUNT``, or ``hang`` to stay inside of an effect."""

from __future__ import annotations

import signal
import sys
from functools import partial

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from holdfast import inbox


def main(url: str, count: str) -> None:
    """Run the effects."""
    engine = create_engine(url, connect_args={"timeout": 60} if url.startswith("sqlite") else {})

    def book(session: Session, name: str) -> list[object]:
        insert = text("INSERT INTO booking (name) VALUES (:name) RETURNING id")
        number = session.execute(insert, {"name": name}).scalar_one()
        if count == "hang":
            print("in the effect", flush=True)
            signal.pause()
        return [number, name]

    if count != "hang":
        print("ready", flush=True)
        sys.stdin.readline()
    for number in range(1 if count == "hang" else int(count)):
        with Session(engine) as session, session.begin():
            print(inbox.once(session, f"key {number}", partial(book, session, f"guest {number}")))


if __name__ == "__main__":
    main(*sys.argv[1:])
