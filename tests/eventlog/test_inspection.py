"""What a log says of itself: ``eventlog.inspection``."""

from pathlib import Path

import pytest

from archibald_rt.eventlog import files, schema
from archibald_rt.eventlog.copying import back_up
from archibald_rt.eventlog.inspection import Stats, read_stats
from logfiles import append, delete, emission, folder, held, leave_hot, users


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def test_the_figures_are_those_of_the_log(tmp_path: Path, path: Path) -> None:
    append(path, *users(*"uvu", None), committed=5)
    append(path, *users("w", None), committed=9)
    before = folder(tmp_path)
    found = read_stats(path)
    with held(path) as connection:
        epoch = schema.read_epoch(connection)
    assert found == Stats(
        epoch=epoch,
        head=6,
        events=6,
        broadcasts=2,
        users=3,
        oldest_commit=5,
        newest_commit=9,
        database_bytes=path.stat().st_size,
        wal_bytes=0,
        free_bytes=0,
        backup_made=None,
    )
    assert {name: folder(tmp_path)[name] for name in before} == before


def test_a_log_without_events_has_no_times(path: Path) -> None:
    append(path)
    found = read_stats(path)
    assert (found.head, found.events, found.users) == (0, 0, 0)
    assert found.oldest_commit is found.newest_commit is None


def test_only_broadcasts_are_nobody_s(path: Path) -> None:
    append(path, *users(None, None))
    found = read_stats(path)
    assert (found.events, found.broadcasts, found.users) == (2, 2, 0)


def test_pages_that_are_free_are_told_in_bytes(path: Path) -> None:
    append(path, *(emission("u", '"' + "x" * 3000 + '"') for _ in range(20)))
    with held(path) as connection:
        delete(connection, "u", 20)
        assert read_stats(path).free_bytes >= 20 * 3000
        assert read_stats(path).free_bytes % 4096 == 0
        assert read_stats(path).head == 20


def test_the_wal_counts_beside_a_server_and_after_a_crash(path: Path) -> None:
    append(path, emission())
    with held(path) as connection:
        connection.execute("INSERT INTO meta VALUES ('probe', 1)")
        assert read_stats(path).wal_bytes == files.wal_path(path).stat().st_size > 0
    leave_hot(path, *users(*"vw"))
    found = read_stats(path)
    assert found.events == 3
    assert found.wal_bytes > 0


def test_a_backup_is_known_until_it_is_started(path: Path) -> None:
    append(path, emission())
    copy = path.with_name("copy.db")
    back_up(path, copy)
    assert read_stats(path).backup_made is None
    assert read_stats(copy).backup_made is not None
    with held(copy):
        pass
    assert read_stats(copy).backup_made is None
