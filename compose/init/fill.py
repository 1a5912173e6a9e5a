"""Makes passwords and fills them into files that hold ``${NAME}`` where one goes.

The stack's service ``init`` uses it, and ``scripts/secrets`` for the files of one's own hosts. What a name stands for
follows from its end:

- ``X_SHA256``: sha256 of the password ``X``, as Redis keeps it
- ``X_RABBITMQ_HASH``: salted hash of the password ``X``, as RabbitMQ keeps it
- ``X_BCRYPT``: bcrypt hash of the password ``X``, as Prometheus and Alertmanager keep it
- ``X_URLENCODED``: the password ``X``, percent-encoded for a URL or an environment file
- ``HOLDFAST_NET``: first three numbers of the stack's network, from the environment (172.30.77)
- any other: a random password, kept in the file ``passwords/NAME`` and never made anew

A file that is there before holds a password of your own, of any length.

Runs with the Python of any machine (3.9 or newer), without packages.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import hashlib
import ipaddress
import os
import re
import secrets
import sys
from pathlib import Path
from urllib.parse import quote

PLACEHOLDER = re.compile(r"\$\{([A-Z0-9_]+)\}")
PLAIN = re.compile(r"[A-Za-z0-9_.-]+")  # what every configuration file and every reader of it takes unquoted
NETWORK = "HOLDFAST_NET"
SHA256 = "_SHA256"
RABBITMQ_HASH = "_RABBITMQ_HASH"
BCRYPT = "_BCRYPT"
URLENCODED = "_URLENCODED"


class UserError(Exception):
    """Something the caller can repair: what was found, what is allowed, the next step."""

    def __init__(self, found: str, allowed: str, next_step: str) -> None:
        super().__init__(f"found:   {found}\nallowed: {allowed}\nnext:    {next_step}")


def load(folder: Path) -> dict[str, str]:
    """Read the kept passwords; none when the folder does not exist yet.

    Raises:
        UserError: a file cannot be read, or holds something else than a password.
    """
    kept = {}
    for path in sorted(folder.glob("[A-Z]*")) if folder.exists() else []:
        try:
            value = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} cannot be read: {error}",
                "a text file that the user who runs this can read",
                f"give it back (sudo chown -R $(id -un) {folder}) or restore it from a copy",
            ) from error
        if not value.isprintable() or not value.strip():
            raise UserError(
                f"{path} holds no password: {'nothing' if not value.strip() else 'more than one line of text'}",
                "one line of printable characters",
                "restore it from a copy, or write the password that its server knows into it",
            )
        kept[path.name] = value
    return kept


def network() -> str:
    """Return the first three numbers of the stack's network.

    Raises:
        UserError: the environment names something else than three numbers of an IPv4 network.
    """
    prefix = os.environ.get(NETWORK) or "172.30.77"
    try:
        ipaddress.IPv4Network(f"{prefix}.0/24")
    except ValueError as error:
        raise UserError(
            f"{NETWORK}={prefix}",
            "the first three numbers of an IPv4 network, such as 172.30.77",
            f"unset {NETWORK} or name a free network",
        ) from error
    return prefix


def rabbitmq_hash(password: str) -> str:
    """Return what RabbitMQ stores for ``password``: base64 of a salt and of the sha256 of salt and password.

    The salt comes from the password, which is random itself: so the same password gives the same file, and RabbitMQ
    sees changed definitions only when a password has changed.
    """
    salt = hashlib.sha256(b"salt:" + password.encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def bcrypt_hash(password: str) -> str:
    """Return the bcrypt hash of ``password``, made by the library with which Linux checks its own logins.

    The salt comes from the password, as that of :func:`rabbitmq_hash`; 2 to the power of 10 rounds take 50 ms.

    Raises:
        UserError: this machine has no such library.
    """
    salt = hashlib.sha256(b"salt:" + password.encode()).hexdigest()[:21] + "u"  # the last of 22 is one of four
    for name in ("libcrypt.so.2", "libcrypt.so.1"):  # both are libxcrypt; distributions differ in the number
        try:
            crypt = ctypes.CDLL(name).crypt
        except OSError:
            continue
        crypt.restype = ctypes.c_char_p
        made = crypt(password.encode(), f"$2b$10${salt}".encode()) or b""
        if made.startswith(b"$2b$10$"):
            return str(made.decode())
    raise UserError(
        "no library on this machine that computes bcrypt, which the pages of Prometheus and Alertmanager need",
        "Linux with libcrypt.so of libxcrypt, as Debian, Ubuntu and Fedora have it",
        "run this on such a machine, or in a container of one",
    )


def url_encoded(password: str) -> str:
    """Return ``password`` percent-encoded; also ``~``, which a shell that loads the file may expand."""
    return quote(password, safe="").replace("~", "%7E")


class Secrets:
    """The passwords, and everything that is computed from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.passwords = load(folder)
        self.made: list[str] = []

    def password(self, name: str) -> str:
        """Return the password ``name``; a new random one when there is none."""
        if name not in self.passwords:
            self.passwords[name] = secrets.token_hex(24)
            self.made.append(name)
        return self.passwords[name]

    def value(self, name: str) -> str:
        """Return what the placeholder ``name`` stands for."""
        if name == NETWORK:
            return network()
        if name.endswith(SHA256):
            return hashlib.sha256(self.password(name[: -len(SHA256)]).encode()).hexdigest()
        if name.endswith(RABBITMQ_HASH):
            return rabbitmq_hash(self.password(name[: -len(RABBITMQ_HASH)]))
        if name.endswith(BCRYPT):
            return bcrypt_hash(self.password(name[: -len(BCRYPT)]))
        if name.endswith(URLENCODED):
            return url_encoded(self.password(name[: -len(URLENCODED)]))
        return self.plain(name)

    def plain(self, name: str) -> str:
        """Return the password ``name`` for a place that takes it as it is.

        Raises:
            UserError: it holds a character that some reader of such a file takes for something else.
        """
        value = self.password(name)
        if not PLAIN.fullmatch(value):
            raise UserError(
                f"{self.folder / name}, which a configuration file needs unquoted, has other characters than it takes",
                "A-Z a-z 0-9 _ . - (in a URL any: write ${" + name + URLENCODED + "} in its template)",
                "give its server a password of these characters, and write it into that file",
            )
        return value

    def fill(self, text: str) -> str:
        """Return ``text`` with its placeholders filled in."""
        return PLACEHOLDER.sub(lambda match: self.value(match[1]), text)


def write(path: Path, text: str) -> bool:
    """Write ``text`` unless it is there already, and say whether it was not; never leaves half a file behind."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".new")
    half.write_text(text, encoding="utf-8")
    half.chmod(0o644)  # the folder above is for its owner alone; the servers read single files as other users
    half.replace(path)
    return True


def main() -> None:
    """Fill every template; passwords are saved before the first file that uses them."""
    parser = argparse.ArgumentParser(prog="scripts/secrets", description="Makes passwords and fills them into files.")
    parser.add_argument("--templates", type=Path, required=True, help="folder of files with ${NAME}")
    parser.add_argument("--to", type=Path, required=True, help="folder for the filled files, and passwords/")
    options = parser.parse_args()

    if not options.templates.is_dir():
        raise UserError(f"no folder {options.templates}", "the folder that 'make render' writes", "run 'make render'")
    options.to.mkdir(mode=0o700, parents=True, exist_ok=True)
    options.to.chmod(0o700)
    passwords = options.to / "passwords"
    known = Secrets(passwords)

    filled = {
        path.relative_to(options.templates): known.fill(path.read_text(encoding="utf-8"))
        for path in sorted(options.templates.rglob("*"))
        if path.is_file()
    }
    for name in known.made:
        write(passwords / name, known.passwords[name])
    for name, text in filled.items():
        write(options.to / name, text)
    print(f"{options.to}: {len(known.made)} new password(s), {len(known.passwords)} in all, {len(filled)} files")


if __name__ == "__main__":
    try:
        main()
    except UserError as problem:
        sys.exit(str(problem))
    except OSError as problem:
        sys.exit(
            f"found:   {problem.filename}: {problem.strerror}\n"
            "allowed: a folder that the user who runs this can read and write\n"
            "next:    give it back to this user (sudo chown -R $(id -un) FOLDER), then run this again"
        )
