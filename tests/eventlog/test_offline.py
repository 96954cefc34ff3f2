"""Pruning a log that no server runs on: ``eventlog.offline``."""

from pathlib import Path

import pytest

from archibald_rt.errors import LogInUseError, LogOpenError
from archibald_rt.eventlog import Retention
from archibald_rt.eventlog.checking import check
from archibald_rt.eventlog.offline import prune
from logfiles import append, emission, folder, held, tables, users


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def test_what_is_beyond_the_limits_goes(path: Path) -> None:
    append(path, *users(*"uvu", None, *"uw"))
    told: list[str] = []
    limits = Retention(max_events_per_user=1)
    assert prune(path, limits, progress=lambda what, *_: told.append(what)) == 2
    assert [row[0] for row in tables(path)["commits"]] == [2, 4, 5, 6]
    assert told == ["pruning", "pruning: 2 events deleted"]
    assert prune(path, limits) == 0
    assert list(check(path)) == []


def test_room_is_given_back(path: Path) -> None:
    append(path, *(emission("u", '"' + "x" * 3000 + '"') for _ in range(2000)))
    before = path.stat().st_size
    assert prune(path, Retention(max_size=before // 4)) > 1000
    assert path.stat().st_size <= before // 4
    assert set(folder(path.parent)) == {"events.db", "events.db.lock"}


def test_a_log_that_is_in_use_stays_as_it_is(path: Path) -> None:
    append(path, *users(*"uu"))
    with held(path), pytest.raises(LogInUseError):
        prune(path, Retention(max_events_per_user=1))
    assert len(tables(path)["events"]) == 2


def test_no_log_is_made_where_there_is_none(tmp_path: Path, path: Path) -> None:
    with pytest.raises(LogOpenError, match="no such file"):
        prune(path, Retention())
    assert list(tmp_path.iterdir()) == []
