"""Transactions on the SQLite file, and what its errors mean for a running server."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from archibald_rt.errors import LogBrokenError, LogUnavailableError

# After these, nothing was stored and the same connection works again once the cause is gone.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
    }
)


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block does, or nothing of it if it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # What a failed statement left in the open transaction must not commit later.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """Let several statements see the log at one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        # After some errors SQLite has rolled back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def explained() -> Iterator[None]:
    """Tell the errors after which the log works again from those after which nothing is sure.

    An fsync that failed may have stored the rows all the same, and a damaged page can't be
    served: both end in a restart, which reads the truth.
    """
    try:
        yield
    except MemoryError as error:
        # What Python makes of SQLITE_NOMEM; nothing was stored.
        raise LogUnavailableError("the log is unavailable: out of memory") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if code & 0xFF in _PASSING:
            raise LogUnavailableError(f"the log is unavailable: {error} ({name})") from error
        raise LogBrokenError(f"the log failed: {error} ({name})") from error
