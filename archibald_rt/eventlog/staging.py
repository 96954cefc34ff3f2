"""Files that are there whole or not at all: written beside their place, renamed into it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archibald_rt.errors import LogCopyError

# What SQLite may make beside a database.
_COMPANIONS = ("", "-journal", "-wal", "-shm")


@contextmanager
def staged(destination: Path, *, mode: int, replace: bool = False) -> Iterator[Path]:
    """Let a file be written that is at `destination` when the block has ended well.

    Yields the path of an empty file beside it, made with the permissions ``mode`` less the
    umask. On disk, name and all, when this returns; when the block raises, nothing is left.
    Raises `LogCopyError` if `destination` is there already, unless ``replace``, and for what
    the system says of the file.
    """
    beside = destination.with_name(f"{destination.name}.{secrets.token_hex(4)}.partial")
    with explained(destination):
        if not replace:
            _require_absent(destination)
        try:
            os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
            yield beside
            _sync(beside)
            if not replace:
                _require_absent(destination)
            beside.rename(destination)
            _sync(destination.parent)
        finally:
            for companion in _COMPANIONS:
                beside.with_name(beside.name + companion).unlink(missing_ok=True)


@contextmanager
def explained(name: object) -> Iterator[None]:
    """Turn what the system says of a file into one line for the operator."""
    try:
        yield
    except BrokenPipeError:
        # Whoever read it has seen enough: no fault of the file.
        raise
    except OSError as error:
        raise LogCopyError(f"{name}: {error.strerror}") from error


def _require_absent(path: Path) -> None:
    if os.path.lexists(path):
        raise LogCopyError(f"{path}: is there already; choose another name or move it away")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
