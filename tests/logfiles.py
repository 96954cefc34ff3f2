"""Log files as tests make, change and compare them, without a server."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from archibald_rt.eventlog import files, revoked, schema, statements
from archibald_rt.events import Emission, make_tail
from archibald_rt.revocations import Revocation
from archibald_rt.timestamps import parse

STAMP = "2026-01-01T00:00:00Z"
COMMITTED = 1_767_225_600_000

NOBODY = 65534
"""The user that may write nothing."""


def emission(user: str | None = "u", payload: str = "1", *, key: str | None = None) -> Emission:
    """Return a durable emission."""
    tail = make_tail(b'"T"', payload.encode(), STAMP)
    return Emission(user, tail, STAMP, parse(STAMP), durable=True, key=key)


@contextmanager
def somebody_else() -> Iterator[None]:
    """Go on without root's power to write anywhere, where there is one."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def held(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold a log as a server does, and yield the connection that writes."""
    with files.exclusive(path), closing(schema.open_writer(path)) as connection:
        yield connection


def downgrade(connection: sqlite3.Connection) -> None:
    """Make a log one of version 1, which knew of no revocations."""
    connection.execute("DROP TABLE revoked_users")
    connection.execute("DROP TABLE revoked_tokens")
    connection.execute("PRAGMA user_version = 1")


def revoke(path: Path, *revocations: Revocation) -> None:
    """Commit revocations in a log that is closed."""
    with closing(schema.open_writer(path)) as connection:
        for each in revocations:
            revoked.write(connection, each)


def append(path: Path, *emissions: Emission, committed: int = COMMITTED) -> None:
    """Commit emissions in a log that is made where there is none, and close it."""
    with closing(schema.open_writer(path)) as connection:
        append_by(connection, *emissions, committed=committed)


def append_by(
    connection: sqlite3.Connection, *emissions: Emission, committed: int = COMMITTED
) -> None:
    """Commit emissions by a connection that writes."""
    head = schema.read_head(connection)
    statements.append(connection, head, [list(emissions)], committed, 0)


def users(*names: str | None) -> list[Emission]:
    """Return an emission for each, with its number as the payload."""
    return [emission(name, str(number)) for number, name in enumerate(names, 1)]


def delete(
    connection: sqlite3.Connection, user: str, through: int, *, commits: bool = True
) -> None:
    """Delete a user's events up to a seq as pruning does, at first without what tells of them."""
    with connection:
        connection.execute("BEGIN")
        seqs = connection.execute(
            "DELETE FROM events WHERE user = ? AND seq <= ? RETURNING seq", (user.encode(), through)
        ).fetchall()
        if seqs:
            highest = max(seq for (seq,) in seqs)
            connection.execute(
                "INSERT OR REPLACE INTO watermarks VALUES (?, ?)", (user.encode(), highest)
            )
        if commits:
            connection.executemany("DELETE FROM commits WHERE seq = ?", seqs)


def tables(path: Path) -> dict[str, list[Any]]:
    """Return all rows of a log that is closed, but for what a copy has of its own."""
    with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        rows = {
            name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr)  # noqa: S608 - its own names
            for name in names
        }
    rows["meta"] = [row for row in rows["meta"] if row[0] not in ("backup", "probe", "counted")]
    return rows


def by_hand(path: Path, *script: str) -> None:
    """Do something to the file of a log that is closed."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in script:
            connection.execute(statement)


def leave_hot(path: Path, *emissions: Emission) -> None:
    """Commit emissions by a process that ends without a word, so that they are in the WAL only."""
    child = os.fork()
    if not child:
        append_by(schema.open_writer(path), *emissions)
        os._exit(0)
    os.waitpid(child, 0)
    assert files.wal_path(path).stat().st_size > 0


def folder(path: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {each.name: each.read_bytes() for each in sorted(path.iterdir())}
