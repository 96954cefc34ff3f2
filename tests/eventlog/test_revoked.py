"""Revocations in the SQLite log: ``eventlog.revoked``, and what the log makes of it."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from archibald_rt.errors import LogBrokenError, LogUnavailableError
from archibald_rt.eventlog import revoked, schema
from archibald_rt.eventlog.base import Step
from archibald_rt.eventlog.sqlite import SQLiteLog, open_sqlite
from archibald_rt.revocations import Revocation, TokenRevocation, UserRevocation
from logfiles import by_hand, downgrade, held, revoke


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


async def at_once(step: Step) -> int:
    return await step()


async def kept(log: SQLiteLog) -> list[Revocation]:
    return list(await log.revocations())


@pytest.mark.gen_test
async def test_revocations_are_there_again_in_the_next_process(path: Path) -> None:
    everything: list[Revocation] = [
        UserRevocation("\u00e9'; DROP TABLE events; --", -(2**63)),
        UserRevocation("ann", 2**63 - 1),
        TokenRevocation("\x00\U0001f600" * 128, 5),
    ]
    async with open_sqlite(path) as log:
        assert await kept(log) == []
        for each in everything:
            await log.revoke(each, at_once)
    async with open_sqlite(path) as log:
        assert sorted(await kept(log), key=repr) == sorted(everything, key=repr)


@pytest.mark.gen_test
async def test_the_later_moment_counts_whichever_comes_first(path: Path) -> None:
    async with open_sqlite(path) as log:
        for moment in (5, 7, 6):
            await log.revoke(UserRevocation("ann", moment), at_once)
            await log.revoke(TokenRevocation("ann", moment), at_once)
        assert await kept(log) == [UserRevocation("ann", 7), TokenRevocation("ann", 7)]


@pytest.mark.gen_test
async def test_nothing_is_committed_before_its_turn_and_all_of_it_after(path: Path) -> None:
    seen: list[list[Revocation]] = []

    async def turn(step: Step) -> int:
        seen.append(await kept(log))
        done = await step()
        # As another process would find it after a power cut.
        with closing(schema.open_reader(path)) as connection:
            seen.append(revoked.read(connection))
        return done

    async with open_sqlite(path) as log:
        await log.revoke(UserRevocation("ann", 7), turn)
    assert seen == [[], [UserRevocation("ann", 7)]]


@pytest.mark.gen_test
async def test_only_tokens_that_expired_before_the_moment_are_forgotten(path: Path) -> None:
    turns = 0

    async def turn(step: Step) -> int:
        nonlocal turns
        turns += 1
        return await step()

    async with open_sqlite(path) as log:
        await log.revoke(UserRevocation("ann", 1), at_once)
        for moment in range(300):
            await log.revoke(TokenRevocation(f"t{moment:03}", moment), at_once)
        await log.forget_revoked(0, turn)
        assert turns == 0, "a commit without anything to forget"
        await log.forget_revoked(298, turn)
        assert turns > 0
        assert await kept(log) == [
            UserRevocation("ann", 1),
            TokenRevocation("t298", 298),
            TokenRevocation("t299", 299),
        ]


def test_a_step_of_forgetting_ends_when_its_time_is_up(path: Path) -> None:
    revoke(path, *(TokenRevocation(f"t{moment:03}", moment) for moment in range(200)))
    with held(path) as connection:
        first = revoked.forget(connection, 1000, 0.0)
        assert 0 < first < 200
        assert revoked.forget(connection, 1000, 30.0) == 200 - first
        assert not revoked.any_expired(connection, 1000)


@pytest.mark.gen_test
async def test_where_the_log_can_not_commit_nothing_is_revoked(path: Path) -> None:
    async with open_sqlite(path) as log:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LogUnavailableError):
                await log.revoke(UserRevocation("ann", 7), at_once)
        assert await kept(log) == []
        await log.revoke(UserRevocation("ann", 7), at_once)


@pytest.mark.gen_test
async def test_a_revocation_that_a_restart_would_not_find_is_none(path: Path) -> None:
    async with open_sqlite(path) as log:
        await asyncio.to_thread(path.rename, path.with_name("elsewhere.db"))
        with pytest.raises(LogBrokenError, match="moved"):
            await log.revoke(UserRevocation("ann", 7), at_once)


def test_a_log_that_no_server_of_this_release_has_run_on_has_none(path: Path) -> None:
    with held(path) as connection:
        downgrade(connection)
    with closing(schema.open_reader(path)) as reader:
        assert revoked.read(reader) == []


@pytest.mark.gen_test
async def test_a_damaged_table_is_said(path: Path) -> None:
    revoke(path, UserRevocation("ann", 7))
    by_hand(path, "DROP TABLE revoked_tokens")
    async with open_sqlite(path) as log:
        with pytest.raises(LogBrokenError):
            await log.revocations()
