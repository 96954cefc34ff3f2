"""The log's epoch, and when another takes its place: what tells a log from all others.

A log that lost events which devices have seen must not go on under its epoch: new events
would get the seqs of the lost ones, and devices would skip them.
"""

import secrets
import sqlite3
import time

import structlog

from archibald_rt.eventlog.transactions import writing

_MARK = "backup"

_logger = structlog.stdlib.get_logger("archibald_rt.eventlog")


def new_epoch() -> str:
    """Make a name for a log: short, and not to be guessed or met twice."""
    return secrets.token_hex(6)


def replace_epoch(connection: sqlite3.Connection) -> str:
    """Give the log a new epoch, in one transaction, and return it: no cursor of before holds.

    A backup is one no more.
    """
    epoch = new_epoch()
    with writing(connection):
        connection.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (epoch,))
        connection.execute("DELETE FROM meta WHERE name = ?", (_MARK,))
    return epoch


def mark_backup(connection: sqlite3.Connection) -> None:
    """Mark the file as a backup made now."""
    made = time.time_ns() // 1_000_000
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_MARK, made))


def backup_made_ms(connection: sqlite3.Connection) -> int | None:
    """Return when the file was made as a backup, in milliseconds since 1970; None if it is none.

    One that was started as a server's log is none any more.
    """
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (_MARK,)).fetchone()
    return None if row is None else int(row[0])


def start_backup(connection: sqlite3.Connection) -> None:
    """Give a backup that is started as the log its new epoch; does nothing to any other log."""
    made = backup_made_ms(connection)
    if made is not None:
        epoch = replace_epoch(connection)
        _logger.info("a backup is started as the log, under a new epoch", epoch=epoch, made=made)
