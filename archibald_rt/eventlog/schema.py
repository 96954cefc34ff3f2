"""The SQLite file of the log: its tables, and what it takes to trust one."""

import contextlib
import sqlite3
from pathlib import Path

from archibald_rt.errors import LogOpenError
from archibald_rt.eventlog.epochs import new_epoch, start_backup
from archibald_rt.eventlog.files import explained

APPLICATION_ID = 0x41525431
"""Marks a SQLite file as a log of ours (``PRAGMA application_id``; the letters ``ART1``)."""

VERSION = 2
"""The version of the tables (``PRAGMA user_version``).

What was added since 1 a start adds; a release that can't heed it refuses the file.
"""

EVERYBODY = b""
"""The user of a broadcast. No id is empty, so no user's events can be mistaken for one."""

_MAGIC = b"SQLite format 3\x00"
_WAL_KEPT = 64 * 1024 * 1024
# How many pages of the WAL are moved into the file at a time, while a commit waits: with SQLite's
# 1000 one took 16 to 18 ms where each event's user lies in a page of its own, so with 3 ms. It
# costs 4 to 10 us of CPU an event where they go to a thousand users, less where they go to few.
_CHECKPOINT = 128
_LONGEST_WAIT_MS = 250

# Users, keys and tails are BLOBs: they are compared byte by byte, and read back as written.
_TABLES = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;

-- The events, each beside the others of its user: a page is a few neighbouring leaves however
-- large the log is (by commit order it cost four times as much at ten million as at a thousand).
CREATE TABLE events (
    user BLOB NOT NULL,          -- UTF-8; empty for a broadcast
    seq INTEGER NOT NULL,
    instant INTEGER NOT NULL,    -- nanoseconds since 1970, the event's own timestamp
    key BLOB,                    -- UTF-8; what makes it idempotent, if anything does
    tail BLOB NOT NULL,          -- the message from "type" on
    PRIMARY KEY (user, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_by_key ON events (user, key) WHERE key IS NOT NULL;

-- Their order: which event came when. AUTOINCREMENT keeps a seq from being used again after
-- the table was emptied.
CREATE TABLE commits (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    user BLOB NOT NULL,
    committed INTEGER NOT NULL   -- milliseconds since 1970
);

-- The highest seq ever deleted, by user; kept for good, and raised in the transaction that
-- deletes.
CREATE TABLE watermarks (
    user BLOB PRIMARY KEY,
    seq INTEGER NOT NULL
) WITHOUT ROWID;
"""

# Since version 2: tokens that are refused. All moments are in nanoseconds since 1970.
_REVOCATIONS = """
CREATE TABLE revoked_users (
    user BLOB PRIMARY KEY,
    before INTEGER NOT NULL      -- tokens issued earlier are refused
) WITHOUT ROWID;

CREATE TABLE revoked_tokens (
    token BLOB PRIMARY KEY,      -- its jti, in UTF-8
    expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX revoked_tokens_by_expiry ON revoked_tokens (expires);
"""


def open_writer(path: Path) -> sqlite3.Connection:
    """Open the one connection that writes, making the file and its folder where there is none.

    What is on disk is checked and checkpointed first, so that nothing is served that a power
    cut could take back. Raises `LogOpenError`, and leaves a file that is no log as it is.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        blank = is_blank(path)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            if blank:
                create(connection)
            _configure(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def open_reader(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """Open a connection that can only read; see `reader_uri`. Raises `LogOpenError`."""
    with explained(path):
        connection = sqlite3.connect(
            reader_uri(path, immutable=immutable),
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA query_only = ON")
    return connection


def reader_uri(path: Path, *, immutable: bool = False) -> str:
    """Return the URI by which SQLite opens the log to read it.

    ``immutable`` is for a file that nobody changes meanwhile and that has no WAL: then SQLite
    makes no files beside it, and needs no right to; what a WAL holds it would not see.
    """
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"


def read_epoch(connection: sqlite3.Connection) -> str:
    """Return the log's epoch."""
    return str(connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0])


def read_head(connection: sqlite3.Connection) -> int:
    """Return the last seq ever used, which is not always the last one retained."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'commits'").fetchone()
    return 0 if row is None else int(row[0])


def read_last_commit(connection: sqlite3.Connection) -> int:
    """Return when the last retained event was committed, in milliseconds since 1970."""
    row = connection.execute("SELECT committed FROM commits ORDER BY seq DESC LIMIT 1").fetchone()
    return 0 if row is None else int(row[0])


def read_last_stamp(connection: sqlite3.Connection) -> int:
    """Return what `statements.append` noted of stamps ahead of the commits; 0 without a note."""
    row = connection.execute("SELECT value FROM meta WHERE name = 'stamped'").fetchone()
    return 0 if row is None else int(row[0])


def create(connection: sqlite3.Connection) -> None:
    """Make an empty log of a file that holds nothing."""
    # auto_vacuum has an effect only before the first table.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript("BEGIN IMMEDIATE;" + _TABLES + _REVOCATIONS)
    connection.execute("INSERT INTO meta VALUES ('epoch', ?)", (new_epoch(),))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def read_version(connection: sqlite3.Connection) -> int:
    """Return the version of the tables, 0 for a file that is no log."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _upgrade(connection: sqlite3.Connection) -> None:
    """Add, in one transaction, what a log of an earlier version lacks."""
    if read_version(connection) < VERSION:
        connection.executescript("BEGIN IMMEDIATE;" + _REVOCATIONS)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL syncs the WAL at every commit. Anything less loses acknowledged events in a power
    # cut (eight of twelve tries), and with group commit it would gain nothing.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
    connection.execute("SELECT seq FROM commits ORDER BY seq DESC LIMIT 1").fetchone()
    _upgrade(connection)
    start_backup(connection)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    # While it serves, everything emitted waits behind a commit that waits for another program
    # (a shell, a tool that looks at the file), transient events as well.
    connection.execute(f"PRAGMA busy_timeout = {_LONGEST_WAIT_MS}")


def is_blank(path: Path, *, immutable: bool = False) -> bool:
    """Whether there is nothing at `path` yet, or only what a crash left of making it.

    Looks without writing; ``immutable`` is as in `reader_uri`. Raises `LogOpenError` for a
    file that holds something else.
    """
    try:
        with path.open("rb") as file:
            header = file.read(len(_MAGIC))
    except FileNotFoundError:
        return True
    if not header:
        return True
    if header != _MAGIC:
        raise LogOpenError(f"log {path}: not a SQLite file; check [log] path")
    with contextlib.closing(open_reader(path, immutable=immutable)) as connection:
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        version = read_version(connection)
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application_id == 0 and tables == 0:
        return True
    if application_id != APPLICATION_ID:
        raise LogOpenError(f"log {path}: a SQLite file of another program; check [log] path")
    if not 1 <= version <= VERSION:
        raise LogOpenError(
            f"log {path}: its format is version {version}, this release reads {VERSION}; "
            "start it with the release that wrote it"
        )
    return False
