"""Up to where events were deleted: ``eventlog.deleted``."""

import asyncio
from pathlib import Path

import pytest

from archibald_rt.eventlog import Retention
from archibald_rt.eventlog.base import Step
from archibald_rt.eventlog.deleted import Deleted
from archibald_rt.eventlog.sqlite import SQLiteLog, open_sqlite
from archibald_rt.events import Emission, make_tail


def test_each_user_s_own_is_known_and_what_was_anybody_s_is_everybody_s() -> None:
    deleted = Deleted()
    deleted.note(b"ann", 5)
    deleted.note(b"ann", 3)
    assert [deleted.through(user) for user in (b"ann", b"bob")] == [5, 0]
    deleted.note(None, 4)
    deleted.note(None, 2)
    assert [deleted.through(user) for user in (b"ann", b"bob")] == [5, 4]


def test_of_more_users_than_are_remembered_what_is_said_is_never_too_low() -> None:
    deleted = Deleted(users=2)
    for seq, user in enumerate([b"ann", b"bob", b"ann", b"eve"], 1):
        deleted.note(user, seq)
    assert [deleted.through(user) for user in (b"ann", b"bob", b"eve", b"zoe")] == [3, 2, 4, 2]


async def filled(log: SQLiteLog) -> None:
    tail = make_tail(b'"T"', b"1", "2026-01-01T00:00:00Z")
    owners = ["ann", "ann", None, "ann", "bob", None]
    await log.append([[Emission(user, tail, "", 0, durable=True) for user in owners]])


async def at_once(step: Step) -> int:
    return await step()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("retention", "through"),
    [
        (Retention(), (0, 0, 0)),
        (Retention(max_events_per_user=2), (1, 0, 0)),
        (Retention(max_events_per_user=1), (3, 3, 3)),
        (Retention(max_age_ms=1), (6, 6, 6)),
    ],
)
async def test_what_is_pruned_is_known_to_be_deleted(
    tmp_path: Path, retention: Retention, through: tuple[int, int, int]
) -> None:
    async with open_sqlite(
        tmp_path / "events.db", clock=lambda _: iter(range(0, 10**6, 1000)).__next__
    ) as log:
        await filled(log)
        await log.prune(retention, at_once, lambda _: None)
        said = tuple(log.deleted_through(user) for user in ("ann", "bob", "nobody"))
        lost = []
        for user in ("ann", "bob", "nobody"):
            read = await log.page(user, after=0, through=6, max_events=9, max_bytes=999)
            lost.append(read.lost)
        assert all(each <= known for each, known in zip(lost, said, strict=True))
    assert said == through


@pytest.mark.gen_test
async def test_an_erasure_is_known_before_it_is_done(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "events.db") as log:
        await filled(log)
        begun = asyncio.Event()

        async def turn(step: Step) -> int:
            done = asyncio.ensure_future(step())
            await asyncio.sleep(0)
            assert log.deleted_through("ann") == 6
            begun.set()
            return await done

        assert await log.erase("ann", turn) == 3
        assert begun.is_set()
        assert log.deleted_through("bob") == 0
