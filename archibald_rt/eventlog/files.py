"""The files of a log: their names, who may use them, and what the system says of them."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from archibald_rt.errors import LogInUseError, LogOpenError

_ADVICE = {
    sqlite3.SQLITE_BUSY: "another program holds it",
    sqlite3.SQLITE_CANTOPEN: "check that the folder and the file may be written",
    sqlite3.SQLITE_CORRUPT: "restore a backup, or move the file away to begin a new log",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_NOTADB: "restore a backup, or move the file away to begin a new log",
    sqlite3.SQLITE_READONLY: "check that the folder and the file may be written",
}


def lock_path(place: Path) -> Path:
    """Return the file whose lock holds the log at `place`, a path without links."""
    return place.with_name(place.name + ".lock")


def wal_path(place: Path) -> Path:
    """Return the file of what was committed and is not yet in the database at `place`."""
    return place.with_name(place.name + "-wal")


def shm_path(place: Path) -> Path:
    """Return the file of SQLite's memory of that WAL, shared between processes."""
    return place.with_name(place.name + "-shm")


def is_empty(path: Path) -> bool:
    """Whether a file has no byte, or isn't there."""
    return not path.exists() or path.stat().st_size == 0


def sizes(path: Path) -> tuple[int, int]:
    """Return how many bytes the database and the WAL of the log at `path` have."""
    place = path.resolve()
    wal = wal_path(place)
    return place.stat().st_size, wal.stat().st_size if wal.exists() else 0


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the log at `path` for this process alone.

    Two writers would give the same seqs, and SQLite before 3.51.3 can corrupt a WAL that two
    connections checkpoint at once. The lock is on a file beside the log, since it has to be
    held before there is one, and on the log itself, which may have several names (hard links)
    and then has a WAL for each. Raises `LogOpenError`, also where only the WAL of a log is
    left, which SQLite would throw away.
    """
    with explained(path), contextlib.ExitStack() as locks:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By one name, however many links lead to it.
        place = path.resolve()
        _lock(path, locks.enter_context(lock_path(place).open("wb")))
        wal = wal_path(place)
        # Making a log never leaves this: the file is synced before it has a WAL.
        if is_empty(place) and not is_empty(wal):
            raise LogOpenError(
                f"log {path}: nothing is in it, but {wal.name} holds what was committed last; "
                "put the file back, or move both away to begin a new log"
            )
        log = os.open(place, os.O_RDONLY | os.O_CREAT, 0o600)
        # Open until the end: closing it would drop SQLite's own locks on the file.
        _lock(path, locks.enter_context(os.fdopen(log, "rb")))
        held = locks.pop_all()
    with held:
        yield


@contextlib.contextmanager
def shared(path: Path) -> Iterator[bool]:
    """Keep servers from starting on the log at `path` until the block ends, if none runs.

    Yields whether that is so; if not, a server (or a command that writes) holds the log. Any
    number of readers may do so at once. Makes no file: one of ours might be in the way of a
    server of another user. Raises `LogOpenError`, also where the log is held under another
    name (a hard link), by which alone all of it can be read.
    """
    with explained(path), contextlib.ExitStack() as locks:
        place = path.resolve()
        # Open until the end: closing it would drop SQLite's own locks on the file.
        log = locks.enter_context(place.open("rb"))
        alone = _is_shared(log)
        # Asked once more, since a server may have ended between the two questions.
        if not alone and not _is_held(lock_path(place)) and not (alone := _is_shared(log)):
            raise LogOpenError(f"log {path}: a server is running on it under another name")
        held = locks.pop_all()
    with held:
        yield alone


def _lock(path: Path, file: IO[bytes]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LogInUseError(
            f"log {path}: another server is running on it, or a log command"
        ) from None


def _is_shared(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            return not _is_shared(file)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system say of a file into one line for the operator."""
    try:
        yield
    except sqlite3.Error as error:
        raise open_error(path, error) from error
    except OSError as error:
        raise LogOpenError(f"log {path}: {error.strerror}; check [log] path") from error
    except ValueError as error:
        raise LogOpenError(f"log {path}: {error}; check [log] path") from error


def open_error(path: Path, error: sqlite3.Error) -> LogOpenError:
    """Return what SQLite says of a file as one line for the operator."""
    code = getattr(error, "sqlite_errorcode", 0)
    advice = _ADVICE.get(code & 0xFF, "check the file and [log] path")
    return LogOpenError(f"log {path}: {error}; {advice}")
