"""What runs in the threads of the SQLite connections to keep revocations."""

import contextlib
import sqlite3
import time

from archibald_rt.errors import LogBrokenError
from archibald_rt.eventlog.retention import CHUNK
from archibald_rt.eventlog.schema import read_version
from archibald_rt.eventlog.transactions import explained, reading, writing
from archibald_rt.revocations import Revocation, TokenRevocation, UserRevocation

# The version of the tables that first had them.
_SINCE = 2

USERS = "SELECT user, before FROM revoked_users ORDER BY user"
TOKENS = "SELECT token, expires FROM revoked_tokens ORDER BY token"
INSERT_USER = """
INSERT INTO revoked_users VALUES (?, ?)
ON CONFLICT (user) DO UPDATE SET before = max(before, excluded.before)
"""
INSERT_JTI = """
INSERT INTO revoked_tokens VALUES (?, ?)
ON CONFLICT (token) DO UPDATE SET expires = max(expires, excluded.expires)
"""
ANY_EXPIRED = "SELECT 1 FROM revoked_tokens WHERE expires < ? LIMIT 1"
FORGET = """
DELETE FROM revoked_tokens
WHERE token IN (SELECT token FROM revoked_tokens WHERE expires < ? LIMIT ?)
"""


def read(connection: sqlite3.Connection) -> list[Revocation]:
    """Return all of them."""
    with explained(), reading(connection):
        return stored(connection)


def stored(connection: sqlite3.Connection) -> list[Revocation]:
    """Return all of them, within a transaction; of a log of before there were any, none.

    Raises `LogBrokenError` for one that is damaged: who it was for is not to be guessed.
    """
    if read_version(connection) < _SINCE:
        return []
    users, tokens = connection.execute(USERS), connection.execute(TOKENS)
    found: list[Revocation] = [UserRevocation(*_checked(*row)) for row in users]
    return found + [TokenRevocation(*_checked(*row)) for row in tokens]


def _checked(name: object, moment: object) -> tuple[str, int]:
    if isinstance(name, bytes) and isinstance(moment, int):
        with contextlib.suppress(UnicodeDecodeError):
            return name.decode(), moment
    raise LogBrokenError("the log failed: a revocation in it is damaged")


def write(connection: sqlite3.Connection, revocation: Revocation) -> None:
    """Commit one; the later moment counts."""
    with explained(), writing(connection):
        insert(connection, revocation)


def insert(connection: sqlite3.Connection, revocation: Revocation) -> None:
    """Put one in; the transaction is the caller's."""
    match revocation:
        case UserRevocation(user, before):
            connection.execute(INSERT_USER, (user.encode(), before))
        case TokenRevocation(token_id, expires):
            connection.execute(INSERT_JTI, (token_id.encode(), expires))


def any_expired(connection: sqlite3.Connection, before: int) -> bool:
    """Whether there is one of a token that expired before a moment."""
    with explained():
        return connection.execute(ANY_EXPIRED, (before,)).fetchone() is not None


def forget(connection: sqlite3.Connection, before: int, seconds: float) -> int:
    """Delete some of those, as many as that time allows; returns how many."""
    deadline = time.perf_counter() + seconds
    deleted = 0
    with explained(), writing(connection):
        while count := connection.execute(FORGET, (before, CHUNK)).rowcount:
            deleted += count
            if time.perf_counter() >= deadline:
                break
    return deleted
