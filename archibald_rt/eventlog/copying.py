"""A backup of a log: row by row into a fresh file, in steps, beside a running server.

A step is one short read transaction, since a long one would keep the WAL growing. Between two
of them events may be appended and deleted, and the copy comes out exact all the same: nothing
above the head that was read first is copied; what is deleted is always the oldest that a user
has left, and the watermarks, copied last, say up to where.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from archibald_rt.errors import LogCopyError
from archibald_rt.eventlog import schema
from archibald_rt.eventlog.access import Progress, permissions, read_access, unheard
from archibald_rt.eventlog.epochs import mark_backup
from archibald_rt.eventlog.staging import staged

STEP = 1000
"""How many rows are copied in one read transaction."""

# Events in the order of the user, as both files have them: a step reads and writes neighbours.
_EVENTS = """
INSERT INTO main.events
SELECT * FROM source.events
WHERE (user, seq) > (:user, :seq) AND seq <= :head ORDER BY user, seq LIMIT :step
"""
_LAST_EVENT = "SELECT user, seq FROM main.events ORDER BY user DESC, seq DESC LIMIT 1"
_COMMITS = """
INSERT INTO main.commits
SELECT * FROM source.commits WHERE seq > :seq AND seq <= :head ORDER BY seq LIMIT :step
"""
_LAST_COMMIT = "SELECT seq FROM main.commits ORDER BY seq DESC LIMIT 1"
_HEAD = "SELECT seq FROM source.sqlite_sequence WHERE name = 'commits'"
_COUNT = "SELECT count(*) FROM source.commits WHERE seq <= ?"
# Without what the server noted of its own work: it has not done it on the copy.
_META = """
INSERT OR REPLACE INTO main.meta
SELECT * FROM source.meta WHERE name NOT IN ('probe', 'counted')
"""
_WATERMARKS = "UPDATE main.watermarks SET seq = min(seq, ?)"
_DROP_EVENTS = """
DELETE FROM main.events WHERE (user, seq) IN (
    SELECT events.user, events.seq FROM main.watermarks
    CROSS JOIN main.events ON events.user = watermarks.user AND events.seq <= watermarks.seq
)
"""
# More than those: commits may tell of events that had gone before these were copied.
_DROP_COMMITS = """
DELETE FROM main.commits WHERE seq <= (
    SELECT watermarks.seq FROM main.watermarks WHERE watermarks.user = commits.user
)
"""
# Copied by themselves; all other tables are small and copied whole, watermarks among them.
_APART = frozenset({"meta", "events", "commits", "sqlite_sequence"})

# What only the file that is written can answer with.
_OF_WRITING = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_TRUNCATE}
)


@dataclass(frozen=True, slots=True)
class Backup:
    """What became of a backup: how many events it holds, and the log's head when it began."""

    events: int
    head: int


def back_up(path: Path, destination: Path, *, progress: Progress = unheard) -> Backup:
    """Copy the log at `path` to `destination`, whether a server runs on it or not.

    All that was committed before the call is in the copy, less what was deleted meanwhile. It
    is marked: its first start as a server's log gives it a new epoch. Raises `LogOpenError`
    for the log and `LogCopyError` for the copy, which is then not there.
    """
    mode = permissions(path)
    with staged(destination, mode=mode) as beside, read_access(path) as source:
        uri = f"{beside.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        with closing(connection):
            try:
                fast_and_new(connection)
                connection.execute("ATTACH ? AS source", (source.uri,))
                backup = _copied(connection, progress)
                connection.execute("DETACH source")
                finish(connection)
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) in _OF_WRITING:
                    raise LogCopyError(f"{destination}: {error}") from error
                raise
    return backup


def fast_and_new(connection: sqlite3.Connection) -> None:
    """Make an empty log of a file that counts for nothing before it is whole."""
    schema.create(connection)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")


def finish(connection: sqlite3.Connection) -> None:
    """Leave a log as a server does; it still has to be synced."""
    connection.execute("PRAGMA journal_mode = WAL")


def set_head(connection: sqlite3.Connection, head: int) -> None:
    """Let the seqs of new events begin after `head`."""
    connection.execute("DELETE FROM main.sqlite_sequence WHERE name = 'commits'")
    if head:
        connection.execute("INSERT INTO main.sqlite_sequence VALUES ('commits', ?)", (head,))


def drop_what_is_gone(connection: sqlite3.Connection) -> None:
    """Delete the events that the watermarks say are gone, and leave nothing of them."""
    connection.execute("PRAGMA main.secure_delete = ON").fetchone()
    connection.execute(_DROP_EVENTS)
    connection.execute(_DROP_COMMITS)


def _copied(connection: sqlite3.Connection, progress: Progress) -> Backup:
    row = connection.execute(_HEAD).fetchone()
    head: int = 0 if row is None else row[0]
    total: int = connection.execute(_COUNT, (head,)).fetchone()[0]
    _copy_events(connection, head, total, progress)
    _copy_commits(connection, head, total, progress)
    # At one moment, and the last: all that is to be known of what was deleted since.
    connection.execute("BEGIN")
    for table in _others(connection):
        connection.execute(f'INSERT INTO main."{table}" SELECT * FROM source."{table}"')  # noqa: S608 - our tables
    connection.execute(_META)
    connection.execute("COMMIT")
    connection.execute("BEGIN")
    # What was deleted above the head is of no account to a log that ends there.
    connection.execute(_WATERMARKS, (head,))
    drop_what_is_gone(connection)
    set_head(connection, head)
    mark_backup(connection)
    connection.execute("COMMIT")
    events: int = connection.execute("SELECT count(*) FROM main.commits").fetchone()[0]
    return Backup(events, head)


def _copy_events(connection: sqlite3.Connection, head: int, total: int, heard: Progress) -> None:
    user, seq, done = b"", 0, 0
    values = {"head": head, "step": STEP}
    while copied := connection.execute(_EVENTS, {**values, "user": user, "seq": seq}).rowcount:
        user, seq = connection.execute(_LAST_EVENT).fetchone()
        done += copied
        heard("copying events", done, total)


def _copy_commits(connection: sqlite3.Connection, head: int, total: int, heard: Progress) -> None:
    seq, done = 0, 0
    values = {"head": head, "step": STEP}
    while copied := connection.execute(_COMMITS, {**values, "seq": seq}).rowcount:
        (seq,) = connection.execute(_LAST_COMMIT).fetchone()
        done += copied
        heard("copying their order", done, total)


def _others(connection: sqlite3.Connection) -> list[str]:
    # A log that no server of this release has run on may lack some.
    tables = connection.execute(
        "SELECT name FROM main.sqlite_master WHERE type = 'table'"
        " INTERSECT SELECT name FROM source.sqlite_master"
    )
    return [name for (name,) in tables if name not in _APART]
