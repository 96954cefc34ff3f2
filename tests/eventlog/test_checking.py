"""Whether a log is whole: ``eventlog.checking``."""

import itertools
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from archibald_rt.errors import LogOpenError
from archibald_rt.eventlog import checking, schema
from archibald_rt.eventlog.access import Source
from archibald_rt.eventlog.checking import check
from archibald_rt.events import make_tail
from logfiles import (
    append,
    append_by,
    by_hand,
    delete,
    emission,
    folder,
    held,
    leave_hot,
    users,
)

PATIENCE = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def filled(path: Path) -> None:
    append(path, emission("u", key="k"), *users(*"uvwu", None, None), committed=5)
    append(path, *users("v", None, "w\u00e9"), committed=6)
    with closing(schema.open_writer(path)) as connection:
        delete(connection, "u", 2)
        delete(connection, "v", 3, commits=False)


def faults(path: Path, *, full: bool = False) -> list[str]:
    """Check a log; returns what is wrong, with nothing changed."""
    before = folder(path.parent)
    found = list(check(path, full=full))
    assert folder(path.parent) == before
    return found


@pytest.mark.parametrize("full", [False, True])
def test_nothing_is_wrong_with_a_good_log(path: Path, *, full: bool) -> None:
    append(path)
    assert faults(path, full=full) == []
    filled(path)
    assert faults(path, full=full) == []
    with closing(schema.open_writer(path)) as connection:
        for user in ("", "u", "v", "w", "w\u00e9"):
            delete(connection, user, 10)
    assert faults(path, full=full) == []


def test_a_log_is_checked_as_a_crash_left_it(path: Path) -> None:
    filled(path)
    leave_hot(path, *users(*"uvw"))
    assert list(check(path)) == []


def test_a_log_is_checked_beside_the_server_that_writes_it(path: Path) -> None:
    filled(path)
    with pytest.MonkeyPatch.context() as patch, held(path) as connection:
        patch.setattr(checking, "STEP", 2)

        told = itertools.count()

        def go_on(*_told: object) -> None:
            # Each step finds more than it took away; there has to be an end all the same.
            assert next(told) < 100
            append_by(connection, *users("u", "zoe", None), committed=7)
            delete(connection, "u", schema.read_head(connection) - 4, commits=False)

        assert list(check(path, progress=go_on)) == []


def test_progress_is_told_by_rows(path: Path) -> None:
    filled(path)
    told: list[tuple[str, int, int | None]] = []
    list(check(path, progress=lambda *each: told.append(each)))
    assert told[0][1:] == (0, None)
    assert told[1:] == [("checking commits", 8, 8), ("checking events", 7, 8)]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("DELETE FROM events WHERE seq = 8", "commit 8: its event, of user 'v', is missing"),
        ("DELETE FROM events WHERE seq = 6", "commit 6: its event, of the broadcasts, is missing"),
        ("DELETE FROM commits WHERE seq = 9", "event 9 of the broadcasts: it has no commit"),
        ("UPDATE commits SET user = x'7a' WHERE seq = 10", "event 10 of user 'wé': it has no comm"),
        ("UPDATE commits SET committed = 'x' WHERE seq = 7", "commit 7: its time 'x' is none"),
        ("UPDATE commits SET committed = -1 WHERE seq = 7", "commit 7: its time -1 is none"),
        (
            "UPDATE commits SET committed = 4 WHERE seq = 7",
            "commit 7: its time 4 is before the last one's, 5",
        ),
        (
            "UPDATE watermarks SET seq = 8 WHERE user = x'76'",
            "event 8 of user 'v': it was to be deleted, together with all up to 8",
        ),
        (
            "UPDATE sqlite_sequence SET seq = 9",
            "seq 10 was given, but the next would be 10",
        ),
        (
            "INSERT INTO watermarks VALUES (x'78', 12)",
            "seq 12 was given, but the next would be 11",
        ),
        ("DELETE FROM meta WHERE name = 'epoch'", "the log has no epoch"),
        ("UPDATE meta SET value = 'a:b'", "the epoch 'a:b' can't be a part of a cursor"),
        (
            "UPDATE events SET instant = 7 WHERE seq = 9",
            "event 9 of the broadcasts: its instant is 7, its timestamp says 1767225600000000000",
        ),
        (
            "UPDATE events SET tail = x'00' WHERE seq = 9",
            "event 9 of the broadcasts: its message can't be read: JSON is malformed",
        ),
        (
            "UPDATE events SET tail = x'ff' WHERE seq = 9",
            "event 9 of the broadcasts: it is not UTF-8: ",
        ),
        ("UPDATE events SET tail = 7 WHERE seq = 9", "event 9 of the broadcasts: it is not UTF-8"),
        (
            "INSERT INTO revoked_users VALUES (x'ff', 7)",
            "the log failed: a revocation in it is damaged",
        ),
        (
            "INSERT INTO revoked_tokens VALUES (x'61', 'x')",
            "the log failed: a revocation in it is damaged",
        ),
        (
            "UPDATE events SET key = x'ff' WHERE seq = 9",
            "event 9 of the broadcasts: it is not UTF-8: ",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(path: Path, script: str, said: str) -> None:
    filled(path)
    by_hand(path, script)
    found = faults(path)
    assert len(found) <= 2
    assert any(line.startswith(said) for line in found), found
    assert not any("\n" in line for line in found)


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (b'"type":"T","payload":1}', "its message can't be read: Object missing required field"),
        (b'"type":"T","payload":1,"timestamp":"now"}', "timestamp: expected an RFC 3339"),
        (
            b'"type":"T", "payload":1,"timestamp":"2026-01-01T00:00:00Z"}',
            "its message is not written as the server writes it",
        ),
        (
            make_tail(b'"T"', b"[1,\n2]", "2026-01-01T00:00:00Z"),
            "its message is not written as the server writes it",
        ),
        (
            make_tail(b'"T"', b"[" * 100_000 + b"]" * 100_000, "2026-01-01T00:00:00Z"),
            "its message can't be read: ",
        ),
    ],
    ids=["no timestamp", "a bad one", "a space", "a line break", "deep"],
)
def test_a_message_that_can_not_be_served_is_found(path: Path, tail: bytes, said: str) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE events SET tail = ? WHERE seq = 9", (tail,))
    (fault,) = faults(path)
    assert fault.startswith(f"event 9 of the broadcasts: {said}")


def test_only_a_full_check_compares_indexes_with_tables(path: Path) -> None:
    filled(path)
    append(path, emission("u", key="k"), emission("u", key="l"))
    with closing(sqlite3.connect(path)) as connection, connection:
        # As a fault of SQLite or of the disk might leave it: an index that lacks an entry.
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'events_by_key'"
        ).fetchone()
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    start = (page - 1) * page_size
    cells = int.from_bytes(content[start + 3 : start + 5])
    assert cells == 2
    content[start + 3 : start + 5] = (cells - 1).to_bytes(2)
    path.write_bytes(content)
    assert any("events_by_key" in line for line in faults(path, full=True))


def test_a_damaged_file_is_told_from_a_good_one_by_sqlite(path: Path) -> None:
    append(path, *users(*"uvw" * 2000))
    content = path.read_bytes()
    path.write_bytes(content[:40_960] + bytes(8192) + content[49_152:])
    found = faults(path)
    # Nothing of ours: where pages are wrong, rows are no news.
    assert 1 <= len(found) <= checking.SQLITES_OWN + 1
    assert not any(line.startswith(("event", "commit")) for line in found)


def test_a_file_that_can_not_be_read_at_all_is_refused(path: Path) -> None:
    append(path, emission())
    path.write_bytes(path.read_bytes()[:4096])
    with pytest.raises(LogOpenError, match="malformed"):
        list(check(path))


def test_the_check_of_pages_can_be_interrupted(path: Path) -> None:
    interrupted, over = threading.Event(), threading.Event()

    class Slow(Source):
        """A log whose check does not come to an end."""

        @contextmanager
        def connected(self) -> Iterator[sqlite3.Connection]:
            """Interrupt the main thread, as Ctrl-C does, and wait until that had an effect."""
            with super().connected() as connection:
                os.kill(os.getpid(), signal.SIGINT)
                assert interrupted.wait(PATIENCE)
                yield connection
            over.set()

    append(path, emission())
    with pytest.raises(KeyboardInterrupt):
        checking._of_the_file(Slow(path, immutable=True), full=False)  # noqa: SLF001 - by itself
    assert not over.is_set()
    interrupted.set()
    assert over.wait(PATIENCE)
