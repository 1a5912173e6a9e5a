"""Signing keys of package repositories: ``text | key_fingerprints`` says which keys a file has."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = re.compile(
    r"\s*-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\r?\n"
    r"(?:[A-Za-z]+: [^\n]*\n)*[ \t]*\r?\n"  # headers, and the empty line that ends them
    r"(?P<data>[A-Za-z0-9+/=\s]+?)"
    r"(?:\n=[A-Za-z0-9+/]{4}\s*)?"  # a checksum, which finds transmission errors alone
    r"\n-----END PGP PUBLIC KEY BLOCK-----\s*"
)
# RFC 9580, section 5: kinds of packets in a file of public keys
PRIMARY = 6
BESIDE = {2, 12, 13, 14, 17, 21}  # signature, trust, name, subkey, picture, padding


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of each packet (RFC 9580, section 4.2).

    Raises:
        ValueError: this is no sequence of whole packets.
    """
    at = 0

    def number(size: int) -> int:
        nonlocal at
        if at + size > len(data):
            raise ValueError("the end is missing")
        at += size
        return int.from_bytes(data[at - size : at], "big")

    while at < len(data):
        head = number(1)
        if head & 0xC0 == 0xC0:
            kind, length = head & 0x3F, number(1)
            if length == 255:
                length = number(4)
            elif length >= 224:
                raise ValueError("a key in parts")
            elif length >= 192:
                length = (length - 192 << 8) + number(1) + 192
        elif head & 0xC0 == 0x80 and head & 3 != 3:
            kind, length = head >> 2 & 0xF, number(1 << (head & 3))
        else:
            raise ValueError("not a packet with a length")
        if at + length > len(data):
            raise ValueError("the end is missing")
        yield kind, data[at : at + length]
        at += length


def _fingerprint(body: bytes) -> str:
    """Return the fingerprint of a public key (RFC 9580, section 5.5.4).

    Raises:
        ValueError: a version of keys that apt does not take.
    """
    if body[:1] == b"\x04":
        return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()
    if body[:1] == b"\x06":
        return hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest().upper()
    raise ValueError("a key of an unknown version")


def key_fingerprints(text: str) -> list[str]:
    """Tell which keys apt would trust with this file.

    Args:
        text: what should be an armoured file of public keys.

    Returns:
        The fingerprint of each primary key, in capitals without spaces. Empty for anything but one block of public keys
        and nothing beside it: what is not understood here must not be trusted by apt.
    """
    found = []
    try:
        if not (block := BLOCK.fullmatch(text)):
            return []
        for kind, body in _packets(base64.b64decode("".join(block["data"].split()), validate=True)):
            if kind == PRIMARY:
                found.append(_fingerprint(body))
            elif kind not in BESIDE or not found:
                return []
    except (ValueError, binascii.Error):
        return []
    return found


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[[str], list[str]]]:
        """Return the filters by name."""
        return {"key_fingerprints": key_fingerprints}
