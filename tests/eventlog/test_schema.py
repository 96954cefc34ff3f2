"""Which files are taken for a log, and how one is set up: ``eventlog.schema``."""

# ruff: noqa: ASYNC240 - the files are small, and nobody else waits for the loop

import asyncio
import multiprocessing
import os
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from archibald_rt.errors import LogOpenError
from archibald_rt.eventlog import files, revoked, schema
from archibald_rt.eventlog.sqlite import open_sqlite
from archibald_rt.events import Emission, make_tail
from logfiles import downgrade, somebody_else, tables
from support import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def emission() -> Emission:
    stamp = "2026-01-01T00:00:00Z"
    return Emission("u", make_tail(b'"T"', b"1", stamp), stamp, 0, durable=True)


async def filled(path: Path) -> str:
    """Make a log with an event; returns its epoch."""
    async with open_sqlite(path) as log:
        await log.append([[emission()]])
        return log.epoch


def of_the_log() -> set[threading.Thread]:
    # The loop's own threads wait for other work until the loop is closed.
    return {each for each in threading.enumerate() if not each.name.startswith("asyncio_")}


async def refusal(path: Path) -> str:
    """Open what is no log; returns the line that says so."""
    before = of_the_log()
    with pytest.raises(LogOpenError) as caught:
        async with open_sqlite(path):
            pass
    await eventually(lambda: of_the_log() <= before)
    message = str(caught.value)
    assert message.startswith(f"log {path}: ")
    assert "\n" not in message
    assert "None" not in message
    return message


async def refused_as_it_is(path: Path) -> str:
    """Open what is no log; returns the line that says so, with the file's bytes unchanged."""
    before, times = path.read_bytes(), path.stat().st_mtime_ns
    message = await refusal(path)
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == times
    assert not path.with_name(path.name + "-journal").exists()
    return message


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


# Setting up


def check_writer(connection: sqlite3.Connection) -> None:
    assert pragma(connection, "synchronous") == 2  # FULL
    assert pragma(connection, "journal_mode") == "wal"
    assert pragma(connection, "auto_vacuum") == 2  # INCREMENTAL
    assert pragma(connection, "application_id") == schema.APPLICATION_ID == 0x41525431
    assert pragma(connection, "user_version") == schema.VERSION == 2
    assert pragma(connection, "journal_size_limit") == 64 * 2**20
    assert pragma(connection, "busy_timeout") == 250


def test_the_writer_syncs_every_commit_whether_the_file_is_new_or_not(path: Path) -> None:
    for _ in range(2):
        with closing(schema.open_writer(path)) as connection:
            check_writer(connection)


def test_a_reader_can_not_write(path: Path) -> None:
    with closing(schema.open_writer(path)), closing(schema.open_reader(path)) as reader:
        assert pragma(reader, "query_only") == 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM events")


def test_a_reader_makes_no_file(path: Path) -> None:
    with pytest.raises(LogOpenError):
        schema.open_reader(path)
    assert not path.exists()


def test_the_folders_of_the_log_are_made(tmp_path: Path) -> None:
    path = tmp_path / "var" / "lib" / "events.db"
    with files.exclusive(path):
        assert path.parent.is_dir()
    other = tmp_path / "other" / "lib" / "events.db"
    with closing(schema.open_writer(other)):
        assert other.exists()


@pytest.mark.gen_test
@pytest.mark.parametrize("name", ["with space.db", "50%.db", "what?.db", "a#b.db", "é.db", "';.db"])
async def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    epoch = await filled(tmp_path / name)
    async with open_sqlite(tmp_path / name) as log:
        assert (log.epoch, log.head) == (epoch, 1)
    assert {each.name for each in tmp_path.iterdir()} == {name, f"{name}.lock"}


def test_a_user_s_seq_and_key_are_found_once() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema._TABLES)  # noqa: SLF001 - what the tables hold to
        insert = "INSERT INTO events (user, seq, instant, key, tail) VALUES (?, ?, 1, ?, '')"
        for row in ((b"u", 1, b"k"), (b"v", 2, b"k"), (b"u", 3, None), (b"u", 4, None)):
            connection.execute(insert, row)
        for taken in ((b"u", 5, b"k"), (b"u", 3, None)):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(insert, taken)


def test_what_a_crash_left_in_the_write_ahead_log_is_in_the_file_once_it_is_open(
    path: Path,
) -> None:
    with closing(schema.open_writer(path)):
        pass
    # A commit by a process that never closed the file.
    crashing = multiprocessing.get_context("spawn").Process(target=commit_and_die, args=(path,))
    crashing.start()
    crashing.join()
    wal = path.with_name("events.db-wal")
    assert wal.stat().st_size > 0
    with closing(schema.open_writer(path)) as connection:
        assert wal.stat().st_size == 0
        assert schema.read_head(connection) == 7


def commit_and_die(path: Path) -> None:
    """Commit an event and end as `kill -9` does."""
    connection = schema.open_writer(path)
    connection.execute("INSERT INTO commits (seq, user, committed) VALUES (7, x'75', 1)")
    os._exit(0)


# What a crash leaves of making one


def leave_empty(path: Path) -> None:
    path.touch()


def leave_header(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")


def leave_before_commit(path: Path) -> None:
    crashing = multiprocessing.get_context("spawn").Process(target=die_creating, args=(path,))
    crashing.start()
    crashing.join()


class Dying(sqlite3.Connection):
    """A connection whose process ends before the first commit."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "COMMIT":
            os._exit(0)
        return super().execute(sql, parameters)


def die_creating(path: Path) -> None:
    schema.create(sqlite3.connect(path, isolation_level=None, factory=Dying))


@pytest.mark.gen_test
@pytest.mark.parametrize("leave", [leave_empty, leave_header, leave_before_commit])
async def test_what_a_crash_left_of_making_a_log_is_made_one(
    path: Path, leave: Callable[[Path], None]
) -> None:
    leave(path)
    assert path.exists()
    epoch = await filled(path)
    with closing(schema.open_writer(path)) as connection:
        check_writer(connection)
        assert schema.read_epoch(connection) == epoch
        assert schema.read_head(connection) == 1


# What an earlier release left


@pytest.mark.gen_test
async def test_a_log_of_before_there_were_revocations_is_given_them_and_keeps_all_it_has(
    path: Path,
) -> None:
    epoch = await filled(path)
    with closing(schema.open_writer(path)) as connection:
        downgrade(connection)
    before = {name: rows for name, rows in tables(path).items() if name != "sqlite_sequence"}
    for _ in range(2):
        with closing(schema.open_writer(path)) as connection:
            check_writer(connection)
            assert schema.read_epoch(connection) == epoch
            assert schema.read_head(connection) == 1
    after = tables(path)
    assert after.pop("revoked_users") == after.pop("revoked_tokens") == []
    assert {name: rows for name, rows in after.items() if name != "sqlite_sequence"} == before


def test_a_crash_in_the_middle_of_an_upgrade_leaves_a_log_of_before(path: Path) -> None:
    with closing(schema.open_writer(path)) as connection:
        downgrade(connection)
    child = os.fork()
    if not child:
        connection = sqlite3.connect(path, isolation_level=None)
        # What the upgrade does, up to the commit.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE revoked_users (x)")
        os._exit(0)
    os.waitpid(child, 0)
    with closing(schema.open_writer(path)) as connection:
        check_writer(connection)
        assert revoked.read(connection) == []


# What is no log


@pytest.mark.gen_test
@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_a_sqlite_file_of_another_program_is_refused(path: Path, journal: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute("INSERT INTO theirs VALUES (1)")
        connection.commit()
    assert "another program" in await refused_as_it_is(path)


@pytest.mark.gen_test
async def test_a_sqlite_file_marked_by_another_program_is_refused_even_without_tables(
    path: Path,
) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 12345")
    assert "another program" in await refused_as_it_is(path)


@pytest.mark.gen_test
@pytest.mark.parametrize("version", [0, 3, 1000])
async def test_a_log_of_another_version_is_refused(path: Path, version: int) -> None:
    await filled(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    message = await refused_as_it_is(path)
    assert f"version {version}" in message
    assert "reads 2" in message


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "content",
    [b"x", b"some notes\n" * 1000, b"SQLite format 2\x00" * 100, b"SQLite format", bytes(4096)],
    ids=["a byte", "text", "an older SQLite", "cut short", "zeros"],
)
async def test_a_file_that_is_no_sqlite_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "not a SQLite file" in await refused_as_it_is(path)


@pytest.mark.gen_test
@pytest.mark.parametrize("kept", [16, 50, 100, 2000])
async def test_a_file_that_is_damaged_behind_its_first_bytes_is_refused(
    path: Path, kept: int
) -> None:
    await filled(path)
    path.write_bytes(path.read_bytes()[:kept] + os.urandom(50_000))
    assert await refused_as_it_is(path)


@pytest.mark.gen_test
async def test_a_log_without_its_tables_is_refused(path: Path) -> None:
    await filled(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE commits")
    assert "no such table" in await refused_as_it_is(path)


@pytest.mark.gen_test
async def test_a_log_that_was_cut_short_is_refused(path: Path) -> None:
    await filled(path)
    path.write_bytes(path.read_bytes()[:4096])
    message = await refused_as_it_is(path)
    assert "backup" in message


@pytest.mark.gen_test
@pytest.mark.parametrize("emptied", [True, False], ids=["emptied", "gone"])
async def test_a_write_ahead_log_whose_file_is_lost_is_not_thrown_away(
    path: Path, *, emptied: bool
) -> None:
    await filled(path)
    wal = path.with_name(path.name + "-wal")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET value = 'x' WHERE name = 'epoch'")
        connection.commit()
        kept = wal.read_bytes()
    path.unlink()
    if emptied:
        path.touch()
    wal.write_bytes(kept)
    assert f"{wal.name} holds" in await refusal(path)
    assert wal.read_bytes() == kept
    assert path.exists() is emptied
    if emptied:
        assert path.read_bytes() == b""


@pytest.mark.gen_test
async def test_a_folder_is_refused(path: Path) -> None:
    path.mkdir()
    assert "irectory" in await refusal(path)
    assert list(path.iterdir()) == []


@pytest.mark.gen_test
async def test_a_path_behind_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert await refusal(tmp_path / "file" / "events.db")
    assert (tmp_path / "file").read_text() == "x"


# What may not be written


@pytest.fixture
def readonly() -> Iterator[Path]:
    """A folder that everybody may read; pytest's own are for their owner alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder
        folder.chmod(0o700)


@pytest.mark.gen_test
async def test_a_folder_that_may_not_be_written_is_refused(readonly: Path) -> None:
    readonly.chmod(0o555)
    with somebody_else():
        assert "denied" in await refusal(readonly / "events.db")
        assert "denied" in await refusal(readonly / "var" / "events.db")
    assert list(readonly.iterdir()) == []


@pytest.mark.gen_test
async def test_a_log_that_may_not_be_written_is_refused_and_stays_as_it_is(readonly: Path) -> None:
    path = readonly / "events.db"
    epoch = await filled(path)
    before = path.read_bytes()
    path.chmod(0o444)
    path.with_name("events.db.lock").chmod(0o666)
    readonly.chmod(0o555)
    with somebody_else():
        assert "may be written" in await refusal(path)
    assert path.read_bytes() == before
    readonly.chmod(0o700)
    path.chmod(0o644)
    async with open_sqlite(path) as log:
        assert (log.epoch, log.head) == (epoch, 1)


@pytest.mark.gen_test
async def test_a_log_that_may_not_be_read_is_refused(readonly: Path) -> None:
    path = readonly / "events.db"
    await filled(path)
    path.chmod(0o000)
    path.with_name("events.db.lock").chmod(0o666)
    readonly.chmod(0o777)
    with somebody_else():
        assert "denied" in await refusal(path)
    path.chmod(0o644)
    assert await filled(path)


# One at a time


@pytest.mark.gen_test
async def test_a_second_server_on_the_same_log_is_refused(path: Path) -> None:
    async with open_sqlite(path) as log:
        assert "another server" in await refusal(path)
        (result,) = await log.append([[emission()]])
        assert isinstance(result, list)
    async with open_sqlite(path) as log:
        assert log.head == 1


@pytest.mark.gen_test
async def test_a_second_process_on_the_same_log_is_refused(path: Path) -> None:
    async with open_sqlite(path):
        program = (
            "import asyncio, pathlib, sys\n"
            "from archibald_rt.errors import LogOpenError\n"
            "from archibald_rt.eventlog.sqlite import open_sqlite\n"
            "async def main():\n"
            "    async with open_sqlite(pathlib.Path(sys.argv[1])): pass\n"
            "try: asyncio.run(main())\n"
            "except LogOpenError as error: print(error)\n"
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(path)),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert b"another server" in output


@pytest.mark.gen_test
async def test_a_log_is_free_again_after_an_open_that_failed(path: Path) -> None:
    path.write_bytes(b"some notes")
    with suppress(LogOpenError):
        async with open_sqlite(path):
            pass
    path.unlink()
    assert await filled(path)
