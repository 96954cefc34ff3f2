"""How commands get at a log: reading beside a running server or without one, writing alone.

Where a server holds the log, a reader is one more of its read-only connections. Where none
does, a reader keeps any from starting for as long as it reads, so that nothing is recovered,
checkpointed or replaced under its eyes.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE

from archibald_rt.errors import LogOpenError
from archibald_rt.eventlog import files, schema

# 64 MiB: what are neighbours by seq lie far apart in the table, but not the way to them.
_CACHE = "PRAGMA cache_size = -65536"

Progress = Callable[[str, int, int | None], None]
"""Told by what takes long: what it is at, how much is done, and of how much (None: unknown)."""


def unheard(_what: str, _done: int, _total: int | None) -> None:
    """Hear of progress and do nothing."""


@dataclass(frozen=True, slots=True)
class Source:
    """A log that may be read; made by `read_access`."""

    path: Path
    immutable: bool

    @property
    def uri(self) -> str:
        """By what SQLite opens it, to read only."""
        return schema.reader_uri(self.path, immutable=self.immutable)

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """Connect to it for the length of a block."""
        with closing(schema.open_reader(self.path, immutable=self.immutable)) as connection:
            connection.execute(_CACHE)
            yield connection


@contextmanager
def read_access(path: Path) -> Iterator[Source]:
    """Let the log at `path` be read until the block ends, whether a server runs on it or not.

    Changes nothing and makes no file, except the shared memory of a WAL that a crash left.
    Connections are to be closed within the block. Raises `LogOpenError`, also for what SQLite
    says within the block.
    """
    _require_file(path)
    with files.shared(path) as alone:
        # Only without a WAL does the file alone say all. SQLite would make one then, with us
        # as its owner, and could not in a folder that may not be written.
        immutable = alone and files.is_empty(files.wal_path(path.resolve()))
        with files.explained(path):
            if schema.is_blank(path, immutable=immutable):
                raise LogOpenError(f"log {path}: there is no log in this file yet")
        try:
            yield Source(path, immutable)
        except sqlite3.Error as error:
            raise files.open_error(path, error) from error


@contextmanager
def write_access(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a log that is there, for this process alone, until the block ends.

    What a crash left is recovered first, as at a server's start. Raises `LogOpenError`, also
    for what SQLite says within the block.
    """
    require_log(path)
    with files.exclusive(path), closing(schema.open_writer(path)) as connection:
        try:
            yield connection
        except sqlite3.Error as error:
            raise files.open_error(path, error) from error


def require_log(path: Path) -> None:
    """Raise `LogOpenError` unless a log is there. Makes no file, nor does it change one."""
    with read_access(path):
        pass


def permissions(path: Path) -> int:
    """Return the permissions of the log's file, for a copy of it. Raises `LogOpenError`."""
    _require_file(path)
    with files.explained(path):
        return S_IMODE(path.stat().st_mode)


def _require_file(path: Path) -> None:
    with files.explained(path):
        if not path.exists():
            raise LogOpenError(f"log {path}: no such file; check [log] path")
