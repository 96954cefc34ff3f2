"""The log's epoch, and when another takes its place: ``eventlog.epochs``."""

import re
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from archibald_rt.eventlog import schema
from archibald_rt.eventlog.epochs import backup_made_ms, mark_backup, new_epoch, replace_epoch
from archibald_rt.eventlog.sqlite import open_sqlite
from logfiles import append, emission


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


async def started(path: Path) -> str:
    """Start a log as a server does; returns its epoch."""
    async with open_sqlite(path) as log:
        assert log.head == 1
        return log.epoch


def test_an_epoch_can_be_a_part_of_a_cursor_and_is_another_each_time() -> None:
    epochs = {new_epoch() for _ in range(1000)}
    assert len(epochs) == 1000
    assert all(re.fullmatch("[0-9a-f]{12}", epoch) for epoch in epochs)


@pytest.mark.gen_test
async def test_a_log_keeps_its_epoch_over_starts_until_it_is_replaced(path: Path) -> None:
    append(path, emission())
    first = await started(path)
    assert await started(path) == first
    with closing(schema.open_writer(path)) as connection:
        second = replace_epoch(connection)
    assert second != first
    assert await started(path) == second


@pytest.mark.gen_test
async def test_a_backup_gets_a_new_epoch_at_its_first_start_and_never_again(path: Path) -> None:
    append(path, emission())
    with closing(schema.open_writer(path)) as connection:
        before = schema.read_epoch(connection)
        assert backup_made_ms(connection) is None
        mark_backup(connection)
        made = backup_made_ms(connection)
        assert made is not None
        assert schema.read_epoch(connection) == before
    with capture_logs() as entries:
        after = await started(path)
        assert await started(path) == after
    assert after != before
    (entry,) = entries
    assert (entry["log_level"], entry["epoch"], entry["made"]) == ("info", after, made)
    with closing(schema.open_reader(path)) as connection:
        assert backup_made_ms(connection) is None
