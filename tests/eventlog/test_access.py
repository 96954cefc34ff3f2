"""How commands get at a log: ``eventlog.access``."""

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from archibald_rt.errors import LogInUseError, LogOpenError
from archibald_rt.eventlog import files, schema
from archibald_rt.eventlog.access import permissions, read_access, require_log, write_access
from archibald_rt.eventlog.sqlite import open_sqlite
from logfiles import (
    append,
    append_by,
    by_hand,
    emission,
    folder,
    held,
    leave_hot,
    somebody_else,
    users,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def readonly() -> Iterator[Path]:
    """A folder that everybody may read; pytest's own are for their owner alone."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        yield place
        place.chmod(0o700)


def head(path: Path) -> int:
    with read_access(path) as source, source.connected() as connection:
        return schema.read_head(connection)


def refusal(path: Path, access: Callable[[Path], object] = require_log) -> str:
    with pytest.raises(LogOpenError) as caught:
        access(path)
    message = str(caught.value)
    assert message.startswith(f"log {path}: ")
    assert "\n" not in message
    return message


# Without a server


@pytest.mark.parametrize("locked", [True, False], ids=["after a server", "without its lock"])
def test_a_log_that_is_stopped_is_read_without_any_file_being_made(
    tmp_path: Path, path: Path, *, locked: bool
) -> None:
    append(path, *users("u", "v"))
    if locked:
        with files.exclusive(path):
            pass
    before = folder(tmp_path)
    assert head(path) == 2
    assert folder(tmp_path) == before
    assert len(before) == (2 if locked else 1)


def test_a_log_is_read_in_a_folder_that_may_not_be_written(readonly: Path) -> None:
    path = readonly / "events.db"
    append(path, emission())
    readonly.chmod(0o555)
    with somebody_else():
        assert head(path) == 1
    assert set(folder(readonly)) == {"events.db"}


def test_what_a_crash_left_in_the_write_ahead_log_is_read_and_left_there(
    tmp_path: Path, path: Path
) -> None:
    append(path, emission())
    leave_hot(path, *users("u", "v"))
    before = folder(tmp_path)
    assert head(path) == 3
    after = folder(tmp_path)
    assert set(after) == set(before)
    for name in ("events.db", "events.db-wal"):
        assert after[name] == before[name]


def test_what_a_crash_left_is_read_even_if_its_index_is_gone(path: Path) -> None:
    append(path, emission())
    leave_hot(path, *users("u", "v"))
    files.shm_path(path).unlink()
    assert head(path) == 3


def test_what_a_crash_left_is_read_in_a_folder_that_may_not_be_written(readonly: Path) -> None:
    path = readonly / "events.db"
    append(path, emission())
    leave_hot(path, *users("u", "v"))
    readonly.chmod(0o555)
    with somebody_else():
        assert head(path) == 3
    readonly.chmod(0o755)
    files.shm_path(path).unlink()
    readonly.chmod(0o555)
    # What the file alone says is old: better nothing than that.
    with somebody_else():
        assert "unable to open" in refusal(path, head)


@pytest.mark.parametrize("locked", [True, False], ids=["after a server", "without its lock"])
def test_no_server_starts_while_a_log_that_was_stopped_is_read(path: Path, *, locked: bool) -> None:
    append(path, emission())
    if locked:
        with files.exclusive(path):
            pass
    with read_access(path), read_access(path):
        with pytest.raises(LogInUseError, match="a log command"), files.exclusive(path):
            pass
    with files.exclusive(path):
        pass


def test_a_log_that_a_server_holds_is_read_under_its_name_and_no_other(
    tmp_path: Path, path: Path
) -> None:
    append(path, emission())
    other = tmp_path / "other.db"
    other.hardlink_to(path)
    with held(path) as connection:
        append_by(connection, emission())
        assert head(path) == 2
        # The WAL belongs to the name.
        assert "under another name" in refusal(other, head)
        assert not files.wal_path(other).exists()
    assert head(other) == 2


def test_a_log_behind_a_link_is_the_one_that_is_held(tmp_path: Path, path: Path) -> None:
    append(path, emission())
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with files.exclusive(link):
        pass
    with read_access(link), pytest.raises(LogInUseError), files.exclusive(path):
        pass
    leave_hot(path, emission())
    assert head(link) == 2


# Beside a server


@pytest.mark.gen_test
async def test_a_log_is_read_beside_the_server_that_writes_it(path: Path) -> None:
    async with open_sqlite(path) as log:
        await log.append([users("u", "v")])
        with read_access(path) as source, source.connected() as connection:
            assert not source.immutable
            assert schema.read_head(connection) == 2
            await log.append([users("u")])
            assert schema.read_head(connection) == 3
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                connection.execute("DELETE FROM events")


@pytest.mark.gen_test
async def test_a_server_may_stop_and_start_beside_a_reader(path: Path) -> None:
    with ExitStack() as reading:
        async with open_sqlite(path) as log:
            await log.append([users("u", "v")])
            connection = reading.enter_context(reading.enter_context(read_access(path)).connected())
            assert schema.read_head(connection) == 2
        async with open_sqlite(path) as log:
            await log.append([users("u")])
            assert schema.read_head(connection) == 3
    # The reader kept SQLite from moving the WAL into the file, which is no loss.
    assert head(path) == 3
    async with open_sqlite(path) as log:
        assert log.head == 3


# What is no log


def written(path: Path) -> None:
    with write_access(path):
        pass


def leave_nothing(path: Path) -> None:
    assert not path.exists()


def leave_empty(path: Path) -> None:
    path.touch()


def leave_header(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")


def leave_foreign(path: Path) -> None:
    by_hand(path, "CREATE TABLE theirs (x)")


def leave_newer(path: Path) -> None:
    append(path, emission())
    by_hand(path, f"PRAGMA user_version = {schema.VERSION + 1}")


def leave_text(path: Path) -> None:
    path.write_text("some notes\n" * 1000)


def leave_damaged(path: Path) -> None:
    append(path, emission())
    path.write_bytes(path.read_bytes()[:100] + os.urandom(50_000))


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        (leave_nothing, "no such file"),
        (leave_empty, "no log in this file yet"),
        (leave_header, "no log in this file yet"),
        (leave_foreign, "another program"),
        (leave_newer, f"version {schema.VERSION + 1}"),
        (leave_text, "not a SQLite file"),
        (leave_damaged, ""),
    ],
)
@pytest.mark.parametrize("access", [require_log, written])
def test_what_is_no_log_is_refused_and_left_as_it_is(
    tmp_path: Path,
    path: Path,
    leave: Callable[[Path], None],
    said: str,
    access: Callable[[Path], object],
) -> None:
    leave(path)
    before = folder(tmp_path)
    assert said in refusal(path, access)
    assert folder(tmp_path) == before


def test_what_sqlite_says_while_it_is_read_is_one_line(path: Path) -> None:
    append(path, *users(*"uvw" * 2000))
    content = path.read_bytes()
    path.write_bytes(content[:8192] + os.urandom(len(content) - 8192))

    def read(path: Path) -> None:
        with read_access(path) as source, source.connected() as connection:
            connection.execute("SELECT sum(length(tail)) FROM events").fetchall()

    assert "malformed" in refusal(path, read)


def test_a_folder_is_refused(path: Path) -> None:
    path.mkdir()
    assert "irectory" in refusal(path)


def test_the_permissions_are_those_of_the_file(path: Path) -> None:
    append(path, emission())
    path.chmod(0o640)
    assert permissions(path) == 0o640
    assert "no such file" in refusal(path.with_name("none.db"), permissions)


# Writing


def test_a_command_writes_alone(path: Path) -> None:
    append(path, emission())
    with write_access(path) as connection:
        append_by(connection, emission("v"))
        with pytest.raises(LogInUseError):
            written(path)
        with pytest.raises(LogInUseError), files.exclusive(path):
            pass
    assert head(path) == 2


def test_what_sqlite_says_while_it_is_written_is_one_line(path: Path) -> None:
    append(path, emission())

    def write(path: Path) -> None:
        with write_access(path) as connection:
            connection.execute("DELETE FROM nowhere")

    assert "no such table" in refusal(path, write)
    assert head(path) == 1
