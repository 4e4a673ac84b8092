"""Who may connect: anybody on the same machine, or whoever knows the token."""

import hmac
import ipaddress
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from embodied.types import InputError

SHORTEST_TOKEN = 16  # characters


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name: what it resolves to may change
        return False


def read_token(path: Path) -> str:
    """The token in a file. Raises InputError where others may read the file, or it holds no usable token."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(4096)
    except OSError as error:
        raise InputError(f"token file: {path} cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"token file: {path} is not a plain file")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise InputError(
            f"token file: {path} has mode {stat.S_IMODE(status.st_mode):04o}, so others may use it; "
            f"run: chmod 600 {path}"
        )
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise InputError(
            f"token file: {path} must hold one word of at least {SHORTEST_TOKEN} ASCII characters; make one with: "
            f"(umask 077; openssl rand -hex 32 > {path})"
        )
    return token


def permits(token: str | None, authorization: Sequence[str]) -> bool:
    """Whether the Authorization headers of a request carry the token; without a token everybody is permitted."""
    if token is None:
        return True
    given = authorization[0] if len(authorization) == 1 else ""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), f"Api-Key {token}".encode())
