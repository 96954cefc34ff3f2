"""An import of an exported log: every line checked, all of it or nothing, in bounded memory."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from archibald_rt.errors import EmissionError, LogCopyError, LogOpenError
from archibald_rt.eventlog import files, revoked, schema
from archibald_rt.eventlog.access import Progress, permissions, unheard
from archibald_rt.eventlog.copying import drop_what_is_gone, fast_and_new, finish, set_head
from archibald_rt.eventlog.ndjson import Header, Line, read_event, read_header
from archibald_rt.eventlog.staging import explained, staged
from archibald_rt.eventlog.statements import BY_KEY, INSERT, INSERT_COMMIT

MAX_LINE = 1_000_000_000
"""How many bytes a line may have; SQLite takes no longer value."""

HEARD_EVERY = 1000
"""After how many lines progress is told."""

_CACHE = "PRAGMA cache_size = -262144"  # 256 MiB: neighbours by seq lie far apart in the table


@dataclass(frozen=True, slots=True)
class Import:
    """What became of an import: how many events the log holds, its head and its new epoch."""

    events: int
    head: int
    epoch: str


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
                result = _Importing(connection, file, progress).run()
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


class _Importing:
    """One import under way, into a file that is nobody's log yet."""

    def __init__(self, connection: sqlite3.Connection, file: BinaryIO, progress: Progress) -> None:
        self._connection = connection
        self._file = file
        self._progress = progress
        # The number of the line that was read last, and how many bytes were read.
        self._number = 0
        self._read = 0

    def run(self) -> Import:
        """Read all of the file."""
        self._connection.execute(_CACHE)
        self._connection.execute("BEGIN")
        try:
            header = self._header()
            watermarks = self._events(header)
        except EmissionError as error:
            raise LogCopyError(f"line {self._number}: {error.detail}") from None
        self._connection.executemany("INSERT INTO watermarks VALUES (?, ?)", watermarks.items())
        for revocation in header.revocations:
            revoked.insert(self._connection, revocation)
        drop_what_is_gone(self._connection)
        set_head(self._connection, header.head)
        self._connection.execute("COMMIT")
        (events,) = self._connection.execute("SELECT count(*) FROM commits").fetchone()
        return Import(events, header.head, schema.read_epoch(self._connection))

    def _header(self) -> Header:
        for data in self._lines():
            return read_header(data)
        raise LogCopyError("the input is empty: expected the line about a log")

    def _events(self, header: Header) -> dict[bytes, int]:
        """Store all events; returns the watermarks as they are after the last."""
        watermarks = dict(header.watermarks)
        total = _size(self._file)
        at_end = Line(0, b"", 0, None, b"")
        for data in self._lines():
            if at_end.watermarks:
                raise _bad("watermarks", f"only the last line has them, not {self._number - 1}")
            line = read_event(data, header.head)
            _check_place(line, at_end, header, watermarks)
            self._store(line)
            at_end = line
            if self._number % HEARD_EVERY == 0:
                self._progress("importing", self._read, total)
        if at_end.seq != header.last and not at_end.watermarks:
            raise LogCopyError(
                f"the input is cut off after line {self._number}: it says that seq {header.last}"
                " is the last"
            )
        for user, seq in at_end.watermarks:
            watermarks[user] = max(seq, watermarks.get(user, 0))
        return watermarks

    def _store(self, line: Line) -> None:
        try:
            row = (line.user, line.seq, line.instant, line.key, line.tail)
            self._connection.execute(INSERT, row)
        except sqlite3.IntegrityError:
            (first, _) = self._connection.execute(BY_KEY, (line.user, line.key)).fetchone()
            raise _bad("key", f"this user's event {first} has the same") from None
        self._connection.execute(INSERT_COMMIT, (line.seq, line.user, line.committed))

    def _lines(self) -> Iterator[bytes]:
        with explained(self._file.name):
            while data := self._file.readline(MAX_LINE + 1):
                self._number += 1
                self._read += len(data)
                if len(data) > MAX_LINE:
                    raise EmissionError(f"longer than {MAX_LINE} bytes, which no log can hold")
                yield data


def _check_place(line: Line, before: Line, header: Header, watermarks: dict[bytes, int]) -> None:
    if line.seq <= before.seq:
        raise _bad("seq", f"expected one above {before.seq}, the line before's")
    if line.seq > header.last:
        raise _bad("seq", f"expected none above {header.last}, the last as line 1 has it")
    if line.committed < before.committed:
        raise _bad("committed", f"expected none before {before.committed}, the line before's")
    if line.seq <= watermarks.get(line.user, 0):
        raise _bad("seq", "expected one above the user's watermark in line 1")


def _bad(field: str, expected: str) -> EmissionError:
    return EmissionError(f"{field}: {expected}", field=field)


def _size(file: BinaryIO) -> int | None:
    """Return how many bytes a file has; None for what has no end yet, such as a pipe."""
    with explained(file.name):
        status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None
