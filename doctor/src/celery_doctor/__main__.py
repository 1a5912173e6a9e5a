"""The command, also as ``python -m celery_doctor``: an environment without a working Celery ends it in one line."""

from __future__ import annotations

import sys


def main(name: str = "celery-doctor") -> None:
    """Run the command.

    Args:
        name: how messages call it.

    Raises:
        SystemExit: always; 2 when Celery cannot be imported here.
    """
    try:
        from celery_doctor import cli  # noqa: PLC0415 - imports Celery
    except Exception as error:  # noqa: BLE001 - an old Celery on a new Python fails in many ways
        sys.stderr.write(
            f"Error: Celery cannot be imported here ({type(error).__name__}: {error}). Install celery-doctor into the"
            " environment of the application.\n"
        )
        sys.exit(2)
    cli.main(name=name)


if __name__ == "__main__":
    main("python -m celery_doctor")
