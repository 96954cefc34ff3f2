"""An import of an exported log: every line checked, all of it or nothing, in bounded memory."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from archibald_rt.errors import LogCopyError, LogOpenError
from archibald_rt.eventlog import files, revoked, schema
from archibald_rt.eventlog.access import Progress, permissions, unheard
from archibald_rt.eventlog.copying import drop_what_is_gone, fast_and_new, finish, set_head
from archibald_rt.eventlog.exported import Exported, repeated_key
from archibald_rt.eventlog.ndjson import Line
from archibald_rt.eventlog.staging import staged
from archibald_rt.eventlog.statements import BY_KEY, INSERT, INSERT_COMMIT

_CACHE = "PRAGMA cache_size = -262144"  # 256 MiB: neighbours by seq lie far apart in the table


@dataclass(frozen=True, slots=True)
class Import:
    """What became of an import: how many events the log holds, its head and its new epoch.

    ``beyond`` is how many more there were, which the log's limits took at once.
    """

    events: int
    head: int
    epoch: str
    beyond: int = 0


def import_(path: Path, file: BinaryIO, *, progress: Progress = unheard) -> Import:
    """Read an export from `file` into a log at `path` that is new or empty.

    Seqs, commit times, keys, bytes and watermarks are kept; the epoch is a new one. Nothing
    is there before all of it is, on disk. Raises `LogOpenError` for a log that is in use or
    holds something, and `LogCopyError`, which names the line, for what can't be read.
    """
    with files.explained(path):
        place = path.resolve()
        new = not place.exists()
    with files.exclusive(path):
        try:
            return _import(path, place, file, progress)
        except BaseException:
            # What was locked had to be there, and is no log.
            if new and files.is_empty(place):
                place.unlink(missing_ok=True)
            raise


def _import(path: Path, place: Path, file: BinaryIO, progress: Progress) -> Import:
    with files.explained(path):
        _require_empty(path)
    with staged(place, mode=permissions(path), replace=True) as beside:
        with closing(sqlite3.connect(beside, isolation_level=None)) as connection:
            try:
                fast_and_new(connection)
                result = _read_in(connection, Exported(file, progress))
                finish(connection)
            except sqlite3.Error as error:
                raise LogCopyError(f"{path}: {error}") from error
        # The empty log's WAL must not be taken for the new one's. Nothing is in it.
        for companion in (files.wal_path(place), files.shm_path(place)):
            companion.unlink(missing_ok=True)
    return result


def _require_empty(path: Path) -> None:
    """Check that there is nothing at `path` to lose."""
    if schema.is_blank(path):
        return
    with closing(schema.open_writer(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            # Of a log that was never used `meta` says its epoch, and nothing else has a row.
            if table != "meta" and connection.execute(f'SELECT 1 FROM "{table}"').fetchone():  # noqa: S608 - its own
                raise LogOpenError(
                    f"log {path}: is not empty; import into a new one and set [log] path to it"
                )


def _read_in(connection: sqlite3.Connection, exported: Exported) -> Import:
    """Read all of an export into a file that is nobody's log yet."""
    connection.execute(_CACHE)
    connection.execute("BEGIN")
    header = exported.header()
    with exported.numbered():
        for line in exported.events():
            _store(connection, line)
    watermarks = exported.watermarks
    connection.executemany("INSERT INTO watermarks VALUES (?, ?)", watermarks.items())
    for revocation in header.revocations:
        revoked.insert(connection, revocation)
    drop_what_is_gone(connection)
    set_head(connection, header.head)
    connection.execute("COMMIT")
    (events,) = connection.execute("SELECT count(*) FROM commits").fetchone()
    return Import(events, header.head, schema.read_epoch(connection))


def _store(connection: sqlite3.Connection, line: Line) -> None:
    try:
        row = (line.user, line.seq, line.instant, line.key, line.tail)
        connection.execute(INSERT, row)
    except sqlite3.IntegrityError:
        (first, _) = connection.execute(BY_KEY, (line.user, line.key)).fetchone()
        raise repeated_key(first) from None
    connection.execute(INSERT_COMMIT, (line.seq, line.user, line.committed))
