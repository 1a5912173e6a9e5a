"""When a task was published, as its message says."""

from time import time

PUBLISHED_AT = "published_at"  # header of a task: when the caller published it, as seconds since the epoch, in text


def now() -> str:
    """Return the value of :data:`PUBLISHED_AT` for a message that is published now."""
    return f"{time():.6f}"
