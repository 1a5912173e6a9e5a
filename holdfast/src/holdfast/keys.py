"""The key of an effect that happens once, for every inbox."""

from __future__ import annotations


def text(key: str | tuple[str, ...]) -> str:
    """Return a key as it is stored.

    Args:
        key: a text, or a tuple of texts.

    Raises:
        ValueError: it is empty, longer than 255 characters, or has a NUL.
        TypeError: it is neither text nor tuple.
    """
    if not isinstance(key, (str, tuple)):
        raise TypeError(
            f"the key is {key!r}; allowed is a text or a tuple of texts. A task that is called directly, as map, "
            "starmap and chunks do, has no id: make its key from its arguments"
        )
    name = key if isinstance(key, str) else "/".join(part.replace("/", "//") for part in key)
    if not 0 < len(name) <= 255:
        raise ValueError(f"the key {name[:60]!r} has {len(name)} characters; 1 to 255 are allowed, use the task's id")
    if "\x00" in name:
        raise ValueError(f"the key {name[:60]!r} has a NUL, which PostgreSQL does not store; use the task's id")
    return name
