"""How commands get at a log: reading beside a running server or without one, writing alone.

Where a server holds the log, a reader is one more of its read-only connections. Where none
does, a reader keeps any from starting for as long as it reads, so that nothing is recovered,
checkpointed or replaced under its eyes.
"""

import fcntl
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from stat import S_IMODE
from typing import BinaryIO

from archibald_rt.errors import LogOpenError
from archibald_rt.eventlog import schema

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
            yield connection


class _Lock(Enum):
    OURS = 1
    """No server runs, and none can start."""

    A_SERVERS = 2
    """A server runs, or is about to."""

    MISSING = 3
    """No server ever ran on this file at this place."""


@contextmanager
def read_access(path: Path) -> Iterator[Source]:
    """Let the log at `path` be read until the block ends, whether a server runs on it or not.

    Changes nothing and makes no file, except the shared memory of a WAL that a crash left.
    Raises `LogOpenError`, also for what SQLite says within the block.
    """
    with ExitStack() as stack:
        with schema.explained(path):
            _require_file(path)
            # By one name, however many links lead to it.
            place = path.resolve()
            lock_path = schema.lock_path(place)
            lock = _share(lock_path, stack)
            # Only without a WAL does the file alone say all. SQLite would make one then, with
            # us as its owner, and could not in a folder that may not be written.
            immutable = lock is not _Lock.A_SERVERS and _size(schema.wal_path(place)) == 0
            if schema.is_blank(path, immutable=immutable):
                raise LogOpenError(f"log {path}: there is no log in this file yet")
        try:
            yield Source(path, immutable)
        except sqlite3.Error as error:
            raise schema.open_error(path, error) from error
        if lock is _Lock.MISSING and lock_path.exists():
            raise LogOpenError(f"log {path}: a server was started on it meanwhile; try again")


@contextmanager
def write_access(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a log that is there, for this process alone, until the block ends.

    What a crash left is recovered first, as at a server's start. Raises `LogOpenError`, also
    for what SQLite says within the block.
    """
    require_log(path)
    with schema.exclusive(path), closing(schema.open_writer(path)) as connection:
        try:
            yield connection
        except sqlite3.Error as error:
            raise schema.open_error(path, error) from error


def require_log(path: Path) -> None:
    """Raise `LogOpenError` unless a log is there. Makes no file, nor does it change one."""
    with read_access(path):
        pass


def permissions(path: Path) -> int:
    """Return the permissions of the log's file, for a copy of it. Raises `LogOpenError`."""
    with schema.explained(path):
        _require_file(path)
        return S_IMODE(path.stat().st_mode)


def _require_file(path: Path) -> None:
    if not path.exists():
        raise LogOpenError(f"log {path}: no such file; check [log] path")


def _share(lock_path: Path, stack: ExitStack) -> _Lock:
    """Keep servers from starting, together with other readers, where none runs."""
    try:
        file: BinaryIO = stack.enter_context(lock_path.open("rb"))
    except FileNotFoundError:
        # Not made here: a server of another user could not open it.
        return _Lock.MISSING
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _Lock.A_SERVERS
    return _Lock.OURS


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
